//! Values that are kept in memory as they were read: none outlives its row.

use super::*;

/// What a key shows, and what the cache has of it from then on.
fn shown(store: &Store, name: &str) -> Option<String> {
    let entry = store.get(&table(), &key(name)).expect("reads");
    entry.map(|entry| entry.value.as_str().to_owned())
}

#[test]
fn a_value_that_was_read_is_not_shown_once_another_is_written() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let many = |value: &'static str, counter| {
        let writes = [(key("k"), move |_: Option<&Existing<'_>>| Ok(put(value, None, counter)))];
        store.merge_all(&table(), writes.into()).expect("merges");
    };
    merge(&store, "k", put("1", None, 1));
    assert_eq!(shown(&store, "k").as_deref(), Some("1"));
    merge(&store, "k", put("2", None, 2));
    assert_eq!(shown(&store, "k").as_deref(), Some("2"));
    many("3", 3);
    assert_eq!(shown(&store, "k").as_deref(), Some("3"));
    merge(&store, "k", Register::deleted(timestamp(4)));
    assert_eq!(shown(&store, "k"), None);
    merge(&store, "k", put("5", Some(NOW_MS + 10), 5));
    assert_eq!(shown(&store, "k").as_deref(), Some("5"));
    fixture.now_ms.fetch_add(10, Ordering::SeqCst);
    assert_eq!(shown(&store, "k"), None, "it has expired");
    close(store);
}

/// After a disk that took nothing, what was visible may be gone.
#[test]
fn a_value_that_was_read_is_not_shown_by_a_reopened_table_that_lacks_it() {
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "k", put("1", None, 1));
    assert_eq!(shown(&store, "k").as_deref(), Some("1"));
    let held = store.table(&table()).expect("is there");
    held.with_trees(|trees| trees.rows.remove(&table::row::row_of(&key("k")))).expect("removes");
    assert_eq!(shown(&store, "k").as_deref(), Some("1"), "nobody else writes to the engine");
    let trees = store.with_engine(|engine| table::trees::Trees::open(engine, &self::table(), false));
    let dictionaries = open::read_dictionaries(&store.meta().expect("is open"), &table()).expect("reads");
    held.reopen(trees.expect("opens"), dictionaries);
    assert_eq!(shown(&store, "k"), None);
    close(store);
}

#[test]
fn no_reader_sees_what_was_replaced_before_it_asked() {
    const WRITES: u64 = 5_000;
    let fixture = Fixture::new();
    let store = fixture.open();
    merge(&store, "k", put("0", None, 0));
    let written = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while written.load(Ordering::SeqCst) < WRITES {
                    let least = written.load(Ordering::SeqCst);
                    let seen: u64 = shown(&store, "k").expect("it is there").parse().expect("a number");
                    assert!(seen >= least, "{seen} is older than {least}, which was written before");
                }
            });
        }
        for number in 1..=WRITES {
            merge(&store, "k", put(&number.to_string(), None, number));
            written.store(number, Ordering::SeqCst);
        }
    });
    close(store);
}
