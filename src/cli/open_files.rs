//! The limit of open files. Each connection is one, and the shells' usual limit of 1024 would end a node at as many
//! subscribers; a process may raise its own up to what its administrator allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Files that are open beside the connections: the database, the log, the runtime's own.
const BESIDE_CONNECTIONS: u64 = 128;

/// Raises the limit of open files as far as it goes, and says so where `connections_max` is beyond it.
pub fn raise_limit(connections_max: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A limit that cannot be raised is one to live with; the warning below tells what it costs.
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
