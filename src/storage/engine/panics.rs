//! Catches panics of the engine on damaged bytes, and keeps them off the terminal: their message goes into an error.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Name prefix of the engine's own threads, which panic on behalf of a waiting thread.
const ENGINE_THREADS: &str = "sled-io";

static HOOK: Once = Once::new();
/// Number of threads that are catching now.
static CATCHING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Calls `run` and returns the message of its panic, if it panics. State that it left half-changed must not be used afterwards.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            if !is_expected() {
                before(panicked);
            }
        }));
    });
    let was_catching = IS_CATCHING.replace(true);
    CATCHING.fetch_add(1, Ordering::AcqRel);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    CATCHING.fetch_sub(1, Ordering::AcqRel);
    IS_CATCHING.set(was_catching);
    outcome.map_err(|panicked| {
        let said = panicked.downcast_ref::<String>().map(String::as_str);
        said.or_else(|| panicked.downcast_ref::<&str>().copied()).unwrap_or("no reason given").to_owned()
    })
}

fn is_expected() -> bool {
    let is_engines = || thread::current().name().is_some_and(|name| name.starts_with(ENGINE_THREADS));
    IS_CATCHING.get() || (CATCHING.load(Ordering::Acquire) > 0 && is_engines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_returned() {
        assert_eq!(caught(|| 1), Ok(1));
        let number = 7;
        assert_eq!(caught(|| panic!("on {number}")), Err::<(), _>("on 7".to_owned()));
        assert_eq!(caught(|| caught(|| panic!("inside"))), Ok(Err::<(), _>("inside".to_owned())));
        assert!(!IS_CATCHING.get());
    }
}
