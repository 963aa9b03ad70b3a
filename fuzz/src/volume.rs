//! JSON that a volume server reads: lines on its control socket, and its `volume.json`.

use ferry_volume::control::{Answer, Request};
use ferry_volume::directory::VolumeConfig;

/// Requests (read by the server) and answers (read by the agent) that are understood survive the way back.
pub fn control_socket(line: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(line) {
        let text = serde_json::to_vec(&request).expect("requests are plain data");
        assert!(!text.contains(&b'\n'), "a request is one line");
        assert_eq!(serde_json::from_slice::<Request>(&text).expect("it was written by us"), request);
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(line) {
        let text = serde_json::to_vec(&answer).expect("answers are plain data");
        assert!(!text.contains(&b'\n'), "an answer is one line");
        assert_eq!(serde_json::from_slice::<Answer>(&text).expect("it was written by us"), answer);
    }
}

/// A description that is understood survives being replaced.
pub fn volume_json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = serde_json::from_str::<VolumeConfig>(text) else { return };
    let shown = serde_json::to_string_pretty(&config).expect("a description is plain data");
    let again: VolumeConfig = serde_json::from_str(&shown)
        .unwrap_or_else(|error| panic!("{config:?} is written as {shown}: {error}"));
    assert_eq!(again, config);
}
