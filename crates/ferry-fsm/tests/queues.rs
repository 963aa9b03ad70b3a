//! Queues, against a list that is walked through: who comes first goes first, and never too many at once.

use ferry_fsm::Queue;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Did {
    Join(u8, u64),
    ComeBack(u8),
    Leave(u8),
    Admit,
}

fn did() -> impl Strategy<Value = Did> {
    prop_oneof![
        4 => (0u8..12, 0u64..4).prop_map(|(job, due_ms)| Did::Join(job, due_ms)),
        1 => (0u8..12).prop_map(Did::ComeBack),
        2 => (0u8..12).prop_map(Did::Leave),
        4 => Just(Did::Admit),
    ]
}

proptest! {
    #[test]
    fn who_is_due_first_is_let_in_first_and_nobody_beyond_the_limit(
        limit in 1usize..4,
        story in proptest::collection::vec(did(), 0..60),
    ) {
        let mut queue = Queue::new(limit);
        let (mut waiting, mut at_work) = (Vec::<(u64, u8)>::new(), Vec::<u8>::new());
        for did in story {
            match did {
                Did::Join(job, due_ms) => {
                    queue.join(job, due_ms);
                    if !at_work.contains(&job) && waiting.iter().all(|(_, other)| *other != job) {
                        waiting.push((due_ms, job));
                        waiting.sort_unstable();
                    }
                }
                Did::ComeBack(job) => {
                    queue.come_back(job);
                    waiting.retain(|(_, other)| *other != job);
                    at_work.retain(|other| *other != job);
                    at_work.push(job);
                }
                Did::Leave(job) => {
                    queue.leave(job);
                    waiting.retain(|(_, other)| *other != job);
                    at_work.retain(|other| *other != job);
                }
                Did::Admit => {
                    let next = (at_work.len() < limit && !waiting.is_empty()).then(|| waiting.remove(0).1);
                    at_work.extend(next);
                    prop_assert_eq!(queue.admit(), next);
                }
            }
            prop_assert_eq!(queue.at_work(), at_work.len());
            for job in 0..12 {
                let place = waiting.iter().position(|(_, other)| *other == job).map(|ahead| ahead + 1);
                prop_assert_eq!(queue.place(job), place);
            }
        }
    }
}

#[test]
fn a_queue_without_room_still_lets_one_in() {
    let mut queue = Queue::new(0);
    queue.join(1, 0);
    assert_eq!(queue.admit(), Some(1));
}
