//! The fuzz body of what guests say on stable: seeds from what the agent in a guest says, and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/guest_agent.rs"]
mod guest_agent;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn any_guest_is_understood_or_refused_and_never_believed_to_be_in_step_before_it_is() {
    let exited = r#"{"return": {"exited": true, "exitcode": 3, "out-data": "b2sK", "err-data": "bm8K"}}"#;
    let in_step = format!("{{\"return\": 1}}\n\u{0}{{\"return\": {}}}\n", guest_agent::TOKEN);
    let in_step = in_step.bytes().map(|byte| if byte == 0 { 0xff } else { byte }).collect();
    let seeds = [
        ("in_step", in_step),
        ("pid", b"{\"return\": {\"pid\": 12}}\n".to_vec()),
        ("exited", format!("{exited}\n").into_bytes()),
        ("refusal", b"{\"error\": {\"class\": \"x\", \"desc\": \"no\\u001b[2J\"}}\n".to_vec()),
        ("frozen", b"{\"return\": \"frozen\"}\n".to_vec()),
    ];
    smoke::smoke("guest_agent", &seeds, guest_agent::run);
}
