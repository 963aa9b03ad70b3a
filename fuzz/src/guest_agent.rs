//! What the agent inside a VM says.

use ferry_crossing::guest_agent::{Heard, Listener, Nonsense, WORDS_CHARS_MAX, is_frozen, outcome, pid};

/// What every connection of this body takes for the sign that the agent is in step.
pub const TOKEN: u64 = 7;

/// However what is said is cut into pieces, the same is heard; no more is shown of it than may be, and nothing that a terminal would obey.
pub fn run(bytes: &[u8]) {
    let whole = heard(&[bytes]);
    assert!(!matches!(whole, Some(Ok(Heard::Answer(_)))), "nothing is heard before the agent is in step");
    assert_eq!(heard(&bytes.chunks(1).collect::<Vec<_>>()), whole, "it depends on the pieces");
    let mut listener = Listener::new(TOKEN);
    let sync = format!("\n{{\"return\": {TOKEN}}}\n");
    assert_eq!(listener.hear(sync.as_bytes()), Ok(None), "an answer that is not marked is stale");
    assert_eq!(listener.hear(&[&[0xff], sync.trim_start().as_bytes()].concat()), Ok(Some(Heard::InStep)));
    match listener.hear(bytes) {
        Ok(Some(Heard::Answer(Ok(answer)))) => {
            let _ = (pid(&answer), is_frozen(&answer), outcome(answer));
        }
        Ok(Some(Heard::Answer(Err(why)))) => {
            assert!(why.chars().count() <= WORDS_CHARS_MAX && !why.chars().any(char::is_control), "{why:?}");
        }
        Ok(Some(Heard::InStep)) => panic!("it is in step already"),
        Ok(None) | Err(_) => {}
    }
}

/// The first thing that is heard, or that it is nonsense.
fn heard(pieces: &[&[u8]]) -> Option<Result<Heard, Nonsense>> {
    let mut listener = Listener::new(TOKEN);
    pieces.iter().find_map(|piece| listener.hear(piece).transpose())
}
