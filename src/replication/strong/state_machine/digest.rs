//! What the rows were at an index, for the comparison of replicas.

use super::StateMachine;
use crate::{
    core::digest::{Path, RootDigest},
    error::Result,
};

impl StateMachine {
    /// The index applied last, and the digest of all strong tables as of there. `None` while the digests are being built.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn digest(&self) -> Result<Option<(u64, RootDigest)>> {
        let inner = &self.0;
        let _one = inner.applying.lock().await;
        let Some(applied) = inner.state().applied.filter(|_| self.is_intact()) else { return Ok(None) };
        let mut sums = Vec::new();
        for table in inner.store.strong_tables() {
            let Some(sum) = inner.store.sums(&table, Path::ROOT, 0, u64::MAX)? else { return Ok(None) };
            sums.extend(sum.first().map(|sum| (table, *sum)));
        }
        let root = inner.store.digest_key().root(sums.iter().map(|(table, sum)| (table, *sum)));
        Ok(Some((applied.index, root)))
    }
}
