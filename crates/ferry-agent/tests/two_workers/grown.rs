//! Volumes that grow, and move, and grow.

use crate::house::{Worker, machine, workers};
use ferry_api::{AgentApi, ErrorCode, GrowVolume, JobState, StartMove, Volume};
use ferry_volume::client::BlockClient;

const MIB: u64 = 1 << 20;

async fn grow(worker: &Worker, size_bytes: u64) -> Result<Volume, ferry_api::ApiError> {
    worker.door().volume_grow(&"data".parse().unwrap(), GrowVolume { size_bytes }).await
}

/// Waits for its machine's guest socket as a machine does.
fn guest(volume: &Volume) -> BlockClient {
    BlockClient::connect_text(&volume.guest_uri).unwrap()
}

async fn move_over(from: &Worker, to: &str) {
    let start = StartMove::new("web".parse().unwrap(), to.parse().unwrap());
    let job = from.door().move_start(start).await.unwrap();
    let job = from.finished(job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_grew_moves_with_its_size_and_every_byte() {
    let [mut w1, w2] = workers(["", ""]).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    guest(&w1.volume("data").await).write_at(64 * MIB - 4096, &[7; 4096]).unwrap();
    for size_bytes in [80 * MIB + 512, 96 * MIB] {
        let grown = grow(&w1, size_bytes).await.unwrap();
        assert_eq!(grown.size_bytes, size_bytes);
        guest(&grown).write_at(size_bytes - 512, &[9; 512]).unwrap();
    }
    // A new agent knows it too.
    w1.kill().await;
    w1.start().await;
    move_over(&w1, "w2").await;
    let arrived = w2.volume("data").await;
    assert_eq!(arrived.size_bytes, 96 * MIB);
    assert_eq!(grow(&w1, 128 * MIB).await.unwrap_err().code, ErrorCode::Conflict, "it is not w1's any more");
    let arrived = match grow(&w2, 100 * MIB).await {
        Ok(grown) => grown,
        Err(error) => panic!("{error}, {arrived:?}"),
    };
    move_over(&w2, "w1").await;
    let back = w1.volume("data").await;
    assert_eq!((back.size_bytes, back.id), (100 * MIB, arrived.id));
    let mut reader = guest(&back);
    assert_eq!(reader.size_bytes(), 100 * MIB);
    for (at, value) in [(64 * MIB - 4096, 7), (80 * MIB, 9), (96 * MIB - 512, 9), (96 * MIB, 0)] {
        let mut bytes = [1; 512];
        reader.read_at(at, &mut bytes).unwrap();
        assert_eq!(bytes, [value; 512], "at {at}");
    }
    w1.end().await;
    w2.end().await;
}

#[tokio::test]
async fn a_growth_that_cannot_be_is_refused_in_one_sentence() {
    let [w1] = workers(["room_bytes = 134217728"]).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    for (size_bytes, code, part) in [
        (32 * MIB, ErrorCode::InvalidRequest, "never shrinks"),
        (64 * MIB + 1, ErrorCode::InvalidRequest, "multiple of 512"),
        (129 * MIB, ErrorCode::NoRoom, "larger than the 134217728 bytes"),
    ] {
        let refusal = grow(&w1, size_bytes).await.unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains(part), "{refusal}");
    }
    assert_eq!(grow(&w1, 64 * MIB).await.unwrap().size_bytes, 64 * MIB, "to the size it has is no growth");
    w1.end().await;
}
