//! A crash in the midst of a batch. The model's batches are too short for the disk to come between their rows.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use dynarust::{
    core::{
        clock::{NodeId, Timestamp},
        name::{Key, TableName},
        register::Register,
    },
    storage::{
        Buffers, Durability, Environment, Options, Store,
        table::{merge::Existing, scan::Range},
    },
};
use futures_util::FutureExt;

use super::crash;
use crate::generators::value;

const ROUNDS: u64 = 20;
const ROWS: usize = 1_000;
const NOW_MS: u64 = 1_700_000_000_000;

/// The last decision of each batch asks for everything to be made durable, so that the disk takes rows while the batch sets them.
#[test]
fn a_batch_is_there_whole_or_not_at_all() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let table = TableName::parse("t").expect("a table name");
    let mut held = None;
    for round in 0..ROUNDS {
        let store = open(directory.path(), round);
        let writes = (0..ROWS).map(|row| {
            let store = &store;
            let register = Register::live(value(&round.to_string()), None, timestamp(round));
            let decide = move |_: Option<&Existing<'_>>| {
                if row + 1 == ROWS {
                    drop(store.durable(store.incarnation()).boxed().now_or_never());
                }
                Ok(register)
            };
            (Key::parse(&row.to_string()).expect("a key"), decide)
        });
        store.merge_all(&table, writes.collect()).expect("merges");
        crash::copy(&life(directory.path(), round), &life(directory.path(), round + 1));
        store.close().expect("closes");
        drop(store);
        let store = open(directory.path(), round + 1);
        let rows = store.rows(&table, &Range::default(), ROWS + 1).expect("lists").rows;
        let rounds: Vec<&str> = rows.iter().map(|row| row.entry.value.as_str()).collect();
        let found = rounds.first().map(|round| (*round).to_owned());
        assert!(rounds.iter().all(|round| Some(*round) == found.as_deref()), "rows of more than one batch");
        assert!(rows.is_empty() || rows.len() == ROWS, "{} rows", rows.len());
        assert!(found == held || found == Some(round.to_string()), "{found:?} after {held:?} and {round}");
        held = found;
        store.close().expect("closes");
    }
}

fn open(directory: &Path, round: u64) -> Store {
    Store::open(Options {
        data: life(directory, round),
        durability: Durability::None,
        cache_bytes: 8 * 1024 * 1024,
        buffers: Buffers::default(),
        scrub_bytes_per_second: 0,
        tables_max: 1,
        subscriptions_max: 1,
        set_aside_damaged: false,
        peers: Default::default(),
        environment: Environment::new(Arc::new(|| NOW_MS)),
    })
    .expect("the store opens")
}

fn life(directory: &Path, round: u64) -> PathBuf {
    directory.join(round.to_string())
}

fn timestamp(round: u64) -> Timestamp {
    Timestamp { hlc: (NOW_MS << 16) + round, node: NodeId(1) }
}
