//! What the product says of itself while it is simulated: its log, in the trace; and its panics, which are findings.

use crate::world::World;
use std::cell::RefCell;
use std::fmt::{self, Write};
use std::sync::{Arc, Once, Weak};
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber, span};

thread_local! {
    /// The first panic of this thread since somebody looked.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes the panic that was noted, if one was.
pub fn take_panic() -> Option<String> {
    PANIC.take()
}

/// Notes panics of this thread from now on; none so far.
pub fn forget_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|noted| {
                noted.get_or_insert_with(|| info.to_string());
            });
            former(info);
        }));
    });
    PANIC.set(None);
}

/// Has what agents say of themselves stand in the trace, as long as the guard lives.
pub fn listen(world: &Arc<World>, wanted: bool) -> Option<DefaultGuard> {
    wanted.then(|| tracing::subscriber::set_default(Listener(Arc::downgrade(world))))
}

struct Listener(Weak<World>);

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && metadata.target().starts_with("ferry")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut words = Words(format!("{} ", event.metadata().level()));
        event.record(&mut words);
        if let Some(world) = self.0.upgrade() {
            world.mutter(&words.0);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
