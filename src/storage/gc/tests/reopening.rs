//! Garbage while the storage is reopened.

use super::*;
use crate::{
    core::wall_clock::Reading,
    storage::table::{due_index, row::row_of},
};

/// An entry of a table that the node did not know was removed as one of no row. The table was about to be known again, as its removal had not
/// reached the disk.
#[test]
fn an_entry_stays_while_its_table_may_come_back() {
    let fixture = Fixture::new();
    let reading = || Reading { wall_ms: NOW_MS, monotonic_ms: 0 };
    let random = |bytes: &mut [u8]| {
        bytes.fill(7);
        Ok(())
    };
    // Nobody reopens it but this test.
    let store = fixture.open_in(Environment::simulated(Box::new(reading), 0, Arc::new(random)));
    let trees = [EXPIRY, EXPIRED, TOMBSTONES].map(|name| {
        let tree = store.with_engine(|engine| engine.tree(name)).expect("is open");
        tree.insert(&due_index::entry(NOW_MS, &table(), &row_of(&key("k"))), &[]).expect("inserts");
        tree
    });
    let entries = || trees.each_ref().map(|tree| tree.range(&[], None).count());
    let work = || (announce(&store).is_ok(), removal::remove(&store, true).is_ok());
    store.sweep_to(swept(NOW_MS, NOW_MS));
    store.fail("a test");
    assert_eq!((work(), entries()), ((false, false), [1; 3]));
    store.0.context.committer.recover();
    assert_eq!((work(), entries()), ((true, true), [0; 3]));
    close(store);
}
