//! The backend that the tests of strong tables run on: the cluster's own group, or, with `DYNARUST_STRONG_BACKEND=etcd` and
//! `--features etcd`, a real etcd.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::harness::{
    Setup,
    cluster::{Cluster, setup},
    etcd::Etcd,
};

/// Whether an etcd keeps the strong tables.
pub fn is_etcd() -> bool {
    match std::env::var("DYNARUST_STRONG_BACKEND") {
        Ok(backend) if backend == "etcd" => true,
        Ok(backend) if backend != "raft" => {
            panic!("DYNARUST_STRONG_BACKEND is raft or etcd, not {backend:?}")
        }
        Ok(_) | Err(_) => false,
    }
}

/// Whether to skip a test that is about the cluster's own group. Says so.
pub fn skips_raft() -> bool {
    if is_etcd() {
        eprintln!("skipped: it is about the cluster's own group, and an etcd keeps the strong tables");
    }
    is_etcd()
}

/// The setup of a member.
pub fn member() -> Setup {
    of_backend(setup())
}

/// A cluster of this size.
pub fn start(members: usize) -> Cluster {
    Cluster::start_with(members, of_backend)
}

/// A setup with the backend.
pub fn of_backend(setup: Setup) -> Setup {
    if is_etcd() { setup.etcd(&shared()) } else { setup }
}

/// The etcd that clusters share. It stops with the last of them.
fn shared() -> Arc<Etcd> {
    static ETCD: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());
    // Statics are never dropped, so this one is weak.
    let mut shared = ETCD.lock().unwrap_or_else(PoisonError::into_inner);
    let etcd = shared.upgrade().unwrap_or_else(|| Arc::new(Etcd::start().expect("etcd is installed")));
    *shared = Arc::downgrade(&etcd);
    etcd
}
