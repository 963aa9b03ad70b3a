//! An engine, asked by hand.

use ferry_engine::{Engine, Event, OpId, Operation, RequestId, RequestKind};

pub fn tell(engine: &mut Engine, event: Event) -> Vec<Operation> {
    let mut out = Vec::new();
    engine.handle(event, &mut out);
    out
}

pub fn ask(engine: &mut Engine, id: u64, kind: RequestKind) -> Vec<Operation> {
    tell(engine, Event::Request { id: RequestId(id), kind })
}

pub fn done(engine: &mut Engine, op: OpId) -> Vec<Operation> {
    tell(engine, Event::Done { op, result: Ok(()) })
}
