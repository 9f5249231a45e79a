//! When the worker is woken.

use std::sync::Arc;

use crate::{
    core::wall_clock::Reading,
    storage::{
        Environment,
        gc::{GcJob, WORKER_SLEEP_MAX},
        tests::{Fixture, NOW_MS, close, merge, put},
    },
};

/// Each write of a value that expires in an hour cost a turn of the worker, over all tables.
#[test]
fn the_worker_is_woken_for_what_expires_before_it_wakes_by_itself() {
    let fixture = Fixture::new();
    let reading = || Reading { wall_ms: NOW_MS, monotonic_ms: 0 };
    let environment = Environment::simulated(
        Box::new(reading),
        0,
        Arc::new(|bytes| {
            bytes.fill(7);
            Ok(())
        }),
    );
    let store = fixture.open_in(environment);
    let sleep_ms = WORKER_SLEEP_MAX.as_millis() as u64;
    for (expires_in_ms, wakes) in [(3_600_000, false), (sleep_ms, false), (sleep_ms - 1, true)] {
        merge(&store, &format!("in {expires_in_ms} ms"), put("1", Some(NOW_MS + expires_in_ms), 1));
        let woken = store.sweeper().as_ref().expect("there is one").jobs.try_recv();
        assert_eq!(matches!(woken, Ok(GcJob::Wake)), wakes, "{expires_in_ms}");
    }
    close(store);
}
