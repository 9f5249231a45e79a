//! Up to when the node held the same rows as others, in a file beside the log: damage to the log does not take it away.
//!
//! ```text
//! 0..8    the first 8 bytes of the blake3 of all that follows
//! 8       format, 2
//! 9..     the node's id, the agreement, the members with which all was agreed, and the latest instant that was ever agreed with all
//! ```
//! It is replaced in one step and durable on return. What it claims is true of whatever the log is found to hold later, however old that is: see
//! `core::protocol::agreement`. So it may lag behind, but a claim is lowered here before the row is stored that makes it untrue.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::notes::{seal, unseal};
use crate::{
    core::{clock::NodeId, protocol::agreement::Agreement},
    error::{Error, Result},
    storage::{Store, engine},
};

const FILE: &str = "dynarust.agreement";
const FORMAT: u8 = 2;
/// The format without the latest instant.
const FORMER_FORMAT: u8 = 1;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// Up to when the node held the same rows as others.
    pub agreement: Agreement,
    /// The members then: with any other nothing was agreed.
    pub members: BTreeSet<NodeId>,
}

/// What was found at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no file.
    Absent,
    /// It is damaged, of another format, or of another node.
    Unusable,
    /// It is that of this node.
    Kept(Agreed),
}

impl Found {
    /// Up to when the node may have announced that all members have everything (Unix milliseconds); 0 if nobody knows.
    pub fn reached_ms(&self) -> u64 {
        if let Self::Kept(agreed) = self { agreed.agreement.reached_ms() } else { 0 }
    }
}

/// The file of an open store.
pub struct AgreementFile {
    written: Mutex<Written>,
    /// No later instant is claimed by the file, or by the one that is about to replace it (Unix milliseconds).
    claimed_ms: AtomicU64,
    found: Found,
}

/// What was written last, and whether it is known to have come about.
struct Written {
    agreed: Agreed,
    is_durable: bool,
}

impl AgreementFile {
    /// The file as it was found.
    pub fn new(found: Found) -> Self {
        let agreed = if let Found::Kept(agreed) = &found { agreed.clone() } else { Agreed::default() };
        let claimed_ms = AtomicU64::new(agreed.agreement.latest_ms());
        // One that cannot be used is replaced. None at all says as much as one that claims nothing.
        let is_durable = found != Found::Unusable;
        Self { written: Mutex::new(Written { agreed, is_durable }), claimed_ms, found }
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        // A write that was cut short is not known to have come about.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What the file said when the store was opened.
    pub fn found_agreement(&self) -> &Found {
        &self.0.agreement_file.found
    }

    /// Writes down what was agreed; durable on return. `current` tells it, under the lock under which it is lowered: what is lowered after
    /// that is lowered in the file after this. Returns what was written. May wait: not for an async task.
    ///
    /// # Errors
    /// `Io`, `StorageFull`.
    pub fn keep_agreement(&self, current: impl FnOnce() -> Agreed) -> Result<Agreed> {
        let file = &self.0.agreement_file;
        let mut written = file.lock();
        file.claimed_ms.store(u64::MAX, Ordering::SeqCst);
        let agreed = current();
        // Who has no more than this to lower does not wait for the disk.
        let claimed_ms = agreed.agreement.latest_ms().max(written.agreed.agreement.latest_ms());
        file.claimed_ms.store(claimed_ms, Ordering::SeqCst);
        self.replace_agreement(&mut written, agreed.clone())?;
        Ok(agreed)
    }

    /// Has the file claim nothing of rows later than an instant (Unix milliseconds); durable on return. May wait: not for an async task.
    ///
    /// # Errors
    /// As `keep_agreement`.
    pub fn lower_agreement(&self, to_ms: u64) -> Result<()> {
        let file = &self.0.agreement_file;
        if file.claimed_ms.load(Ordering::SeqCst) <= to_ms {
            return Ok(());
        }
        let mut written = file.lock();
        let mut agreed = written.agreed.clone();
        agreed.agreement.lower(to_ms);
        self.replace_agreement(&mut written, agreed)
    }

    fn replace_agreement(&self, written: &mut Written, agreed: Agreed) -> Result<()> {
        let claimed_ms = agreed.agreement.latest_ms();
        if !written.is_durable || written.agreed != agreed {
            *written = Written { agreed, is_durable: false };
            write(&self.0.options.data, self.node(), &written.agreed)?;
            written.is_durable = true;
        }
        self.0.agreement_file.claimed_ms.store(claimed_ms, Ordering::SeqCst);
        Ok(())
    }
}

/// What the file beside the log in `data` says of a node.
///
/// # Errors
/// `Io`.
pub fn read(data: &Path, node: NodeId) -> Result<Found> {
    let path = data.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(e) => return Err(Error::io(format_args!("reading {}", path.display()), &e)),
    };
    match decode(&bytes) {
        Some((owner, agreed)) if owner == node => Ok(Found::Kept(agreed)),
        read => {
            let why = if read.is_some() { "is another node's" } else { "is damaged" };
            warn!(
                file = %path.display(),
                "the file {why}: deleted keys may be back if the storage is damaged too, or this node was forgotten"
            );
            Ok(Found::Unusable)
        }
    }
}

/// Copies the file of one store to another that has the same rows or some of them, if there is one.
///
/// # Errors
/// `Io`, `StorageFull`.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    bytes(from)?.map_or(Ok(()), |bytes| restore(to, &bytes))
}

/// The bytes of the file beside the log in `data`, if there is one.
///
/// # Errors
/// `Io`.
pub fn bytes(data: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(data.join(FILE)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format_args!("reading {}", data.join(FILE).display()), &e)),
    }
}

/// Up to when the node of such a file may have announced that all members have everything (Unix milliseconds); 0 if the bytes do not say.
pub fn reached_ms(bytes: &[u8]) -> u64 {
    decode(bytes).map_or(0, |(_, agreed)| agreed.agreement.reached_ms())
}

/// Writes the bytes of the file of a store whose rows `to` has; durable on return.
///
/// # Errors
/// `Io`, `StorageFull`.
pub fn restore(to: &Path, bytes: &[u8]) -> Result<()> {
    engine::replace_file(to, FILE, bytes)
}

fn decode(bytes: &[u8]) -> Option<(NodeId, Agreed)> {
    let (format, rest) = unseal(bytes)?.split_first()?;
    match *format {
        FORMAT => {
            let (node, Agreed { agreement, members }, reached_ms) = postcard::from_bytes(rest).ok()?;
            Some((node, Agreed { agreement: agreement.with_reached_ms(reached_ms), members }))
        }
        FORMER_FORMAT => postcard::from_bytes(rest).ok(),
        _ => None,
    }
}

fn write(data: &Path, node: NodeId, agreed: &Agreed) -> Result<()> {
    let bytes = postcard::to_extend(&(node, agreed, agreed.agreement.reached_ms()), vec![FORMAT])
        .map_err(|e| Error::Io(format!("writing {FILE}: {e}")))?;
    engine::replace_file(data, FILE, &seal(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Fixture, close};

    fn agreed(at_ms: u64) -> Agreed {
        let members = [NodeId(7), NodeId(8)];
        let mut agreement = Agreement::default();
        agreement.reach(at_ms, members);
        Agreed { agreement, members: members.into() }
    }

    /// It was 200 before.
    fn lowered(to_ms: u64) -> Agreed {
        let agreed = agreed(to_ms);
        Agreed { agreement: agreed.agreement.with_reached_ms(200), ..agreed }
    }

    fn keep(store: &Store, agreed: &Agreed) {
        assert_eq!(store.keep_agreement(|| agreed.clone()).as_ref(), Ok(agreed));
    }

    #[test]
    fn what_was_agreed_is_there_after_a_restart_and_lowered_before_it_is_untrue() {
        let scene = Fixture::new();
        let store = scene.open();
        assert_eq!(store.found_agreement(), &Found::Absent);
        keep(&store, &agreed(200));
        store.lower_agreement(300).expect("claims no more anyhow");
        assert_eq!(read(&scene.data(), store.node()), Ok(Found::Kept(agreed(200))));
        store.lower_agreement(150).expect("lowers");
        assert_eq!(read(&scene.data(), store.node()), Ok(Found::Kept(lowered(150))));
        close(store);
        let store = scene.open();
        assert_eq!(store.found_agreement(), &Found::Kept(lowered(150)));
        store.lower_agreement(100).expect("lowers");
        assert_eq!(read(&scene.data(), store.node()), Ok(Found::Kept(lowered(100))));
        close(store);
    }

    #[test]
    fn the_latest_instant_is_kept_when_the_agreement_is_lowered_and_is_absent_from_former_files() {
        let scene = Fixture::new();
        let store = scene.open();
        keep(&store, &agreed(200));
        store.lower_agreement(150).expect("lowers");
        let node = store.node();
        close(store);
        let found = read(&scene.data(), node).expect("reads");
        assert_eq!(found.reached_ms(), 200);
        let former = postcard::to_extend(&(node, agreed(150)), vec![FORMER_FORMAT]).expect("encodes");
        fs::write(scene.data().join(FILE), seal(&former)).expect("writes");
        assert_eq!(read(&scene.data(), node).map(|found| found.reached_ms()), Ok(150));
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_node_says_nothing() {
        let scene = Fixture::new();
        let store = scene.open();
        keep(&store, &agreed(200));
        let (node, path) = (store.node(), scene.data().join(FILE));
        assert_eq!(read(&scene.data(), NodeId(node.0 ^ 1)), Ok(Found::Unusable));
        let bytes = fs::read(&path).expect("it is there");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            fs::write(&path, &damaged).expect("writes");
            assert_eq!(read(&scene.data(), node), Ok(Found::Unusable), "{at}");
            fs::write(&path, &bytes[..at]).expect("writes");
            assert_eq!(read(&scene.data(), node), Ok(Found::Unusable), "{at}");
        }
        close(store);
    }
}
