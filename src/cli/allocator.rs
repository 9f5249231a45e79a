//! How long the allocator keeps pages that became free. By default it waits for 10 ms, as they are likely to be used again by then. Where
//! memory is small they are to be given back at once: writes then take a tenth more of a processor, and an import of 200,000 rows within
//! 128 MiB has a peak of 91 MiB instead of 107.

use std::{env, ffi::OsStr, io};

use crate::config::memory::Limit;

/// Below this much memory, what is free is given back at once.
const SMALL_BYTES: u64 = 512 << 20;
/// The allocator reads its options from the environment, before `main`: to set one takes a new start.
const DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Starts this process anew, under the same id, where memory is small and nobody has set the allocator's delay. Call it before anything is
/// opened or begun. Returns where that is not needed, or cannot be.
pub fn suit(limit: &Limit) {
    if is_to_be_set(limit.bytes, env::var_os(DELAY).as_deref()) {
        // Beside the macro: where its level is off, it evaluates nothing.
        let error = start_anew();
        // It costs memory and nothing else.
        tracing::debug!(%error, "the allocator keeps its delay");
    }
}

fn is_to_be_set(limit_bytes: u64, delay: Option<&OsStr>) -> bool {
    limit_bytes < SMALL_BYTES && delay.is_none()
}

#[cfg(unix)]
fn start_anew() -> io::Error {
    use std::{os::unix::process::CommandExt, process::Command};
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    match env::current_exe() {
        Ok(path) => Command::new(path).arg0(name).args(arguments).env(DELAY, "0").exec(),
        Err(error) => error,
    }
}

#[cfg(not(unix))]
fn start_anew() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_memory_is_small_free_pages_go_back_at_once_unless_somebody_says_otherwise() {
        assert!(is_to_be_set(128 << 20, None));
        assert!(!is_to_be_set(512 << 20, None));
        // Set by whoever runs the node, or by the first start: there is no third.
        assert!(!is_to_be_set(128 << 20, Some(OsStr::new("0"))));
    }
}
