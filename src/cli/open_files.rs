//! The limit of open files. Each connection needs one, and the usual limit of 1024 would allow only as many subscribers. A process may raise
//! its soft limit up to the hard limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Files that are open besides the connections: those of the database, the log and the runtime.
const BESIDE_CONNECTIONS: u64 = 128;

/// Raises the limit of open files as far as allowed. Warns if that is too low for `connections_max`.
pub fn raise_limit(connections_max: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If it cannot be raised, the node runs with the old limit, and the warning below applies.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let needed = connections_max as u64 + BESIDE_CONNECTIONS;
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        warn!(
            limit,
            needed, "too few open files are allowed for max-connections: raise ulimit -n or lower it"
        );
    }
}
