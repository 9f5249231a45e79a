//! A handle of a store that does not keep it open.

use std::sync::{Arc, Weak};

use super::{Inner, Store};

/// A store that somebody else keeps open.
pub struct WeakStore(Weak<Inner>);

impl WeakStore {
    /// The store, if it is still there.
    pub fn upgrade(&self) -> Option<Store> {
        self.0.upgrade().map(Store)
    }
}

impl Store {
    /// The same, for those who must not keep it open.
    pub fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.0))
    }
}
