//! An invariant, looked at all the while: no two replicas have another digest of the strong tables at the same applied index.

use std::{collections::BTreeMap, rc::Rc};

use dynarust::core::digest::RootDigest;
use futures_util::FutureExt;

use super::super::stack::{Host, STRONG_LOG_ENTRIES, name};

/// What was seen of all replicas.
#[derive(Default)]
pub struct Digests {
    /// The digest at each index, and whose.
    seen: BTreeMap<u64, (RootDigest, usize)>,
    /// How far each node had applied the log in its lives.
    applied: BTreeMap<usize, u64>,
    /// Snapshots that each node has sent in its life, as last looked.
    sent: BTreeMap<usize, u64>,
    /// Snapshots sent.
    pub snapshots: u64,
    /// How many digests were compared with that of another node.
    pub compared: u64,
}

impl Digests {
    /// Looks at all nodes that live.
    ///
    /// # Errors
    /// Which two differ.
    pub fn look(&mut self, hosts: &[Rc<Host>]) -> Result<(), String> {
        self.look_for_snapshots(hosts);
        for host in hosts {
            let Some(node) = host.node() else { continue };
            // One that applies an entry right now is looked at another time.
            let Some(digest) = node.strong_digest().now_or_never() else { continue };
            if let Some((index, digest)) = digest.map_err(|error| error.to_string())? {
                self.note(host.index, index, digest)?;
            }
        }
        Ok(())
    }

    /// Whoever is so far behind may be sent a snapshot, and who is new may have been sent one before it is seen. Its rows may be newer than its
    /// index, up to what the sender had applied: it is looked at again beyond that.
    fn look_for_snapshots(&mut self, hosts: &[Rc<Host>]) {
        let views = hosts.iter().filter_map(|host| Some((host.index, host.node()?.cluster().strong?)));
        let views: Vec<_> = views.collect();
        let seen = self.seen.last_key_value().map(|(index, _)| *index);
        let last = views.iter().map(|(_, view)| view.applied_index).chain(seen).max().unwrap_or(0);
        for (node, view) in views {
            let before = self.sent.insert(node, view.snapshots);
            // It counts from its start.
            self.snapshots += view.snapshots.checked_sub(before.unwrap_or(0)).unwrap_or(view.snapshots);
            if before.is_none() || view.applied_index + STRONG_LOG_ENTRIES / 2 <= last {
                self.applied.insert(node, last + STRONG_LOG_ENTRIES);
            }
        }
    }

    fn note(&mut self, node: usize, index: u64, digest: RootDigest) -> Result<(), String> {
        let applied = self.applied.entry(node).or_default();
        // Applied again after a crash: until it is where it was, rows may be newer than the index.
        if index < *applied {
            return Ok(());
        }
        *applied = index;
        let (expected, other) = *self.seen.entry(index).or_insert((digest, node));
        if digest != expected {
            return Err(format!("{} and {} differ at entry {index}", name(node), name(other)));
        }
        self.compared += u64::from(other != node);
        Ok(())
    }
}
