//! Histories that the checker must accept, and histories that it must refuse.

use std::time::Duration;

use super::checker::{
    Event,
    Operation::{self, Differs, Read, Swap, Write},
    check,
};

/// A history of (operation, called, returned), in milliseconds; returned 0 is unknown.
fn history(operations: &[(Operation, u64, u64)]) -> Vec<Event> {
    let event = |(operation, called, returned): &(Operation, u64, u64)| Event {
        operation: operation.clone(),
        called: Duration::from_millis(*called),
        returned: (*returned > 0).then(|| Duration::from_millis(*returned)),
    };
    operations.iter().map(event).collect()
}

#[track_caller]
fn accepts(operations: &[(Operation, u64, u64)]) {
    check(&history(operations)).expect("this is linearizable");
}

#[track_caller]
fn refuses(operations: &[(Operation, u64, u64)]) {
    check(&history(operations)).expect_err("this is not linearizable");
}

#[test]
fn what_one_client_does_alone_is_linearizable_if_it_reads_what_it_wrote() {
    accepts(&[]);
    accepts(&[
        (Read(None), 1, 2),
        (Write(Some(1)), 3, 4),
        (Read(Some(1)), 5, 6),
        (Write(None), 7, 8),
        (Read(None), 9, 10),
    ]);
    accepts(&[
        (Swap(None, Some(1)), 1, 2),
        (Differs(None), 3, 4),
        (Swap(Some(1), Some(2)), 5, 6),
        (Read(Some(2)), 7, 8),
    ]);
}

#[test]
fn concurrent_operations_may_come_in_any_order() {
    accepts(&[(Write(Some(1)), 1, 10), (Write(Some(2)), 2, 9), (Read(Some(1)), 11, 12)]);
    accepts(&[(Write(Some(1)), 1, 10), (Write(Some(2)), 2, 9), (Read(Some(2)), 11, 12)]);
    accepts(&[(Write(Some(1)), 1, 10), (Read(None), 2, 3), (Read(Some(1)), 4, 5), (Read(Some(1)), 6, 7)]);
}

#[test]
fn an_operation_of_unknown_outcome_may_take_effect_late_or_never_but_once() {
    accepts(&[(Write(Some(1)), 1, 2), (Write(Some(2)), 3, 0), (Read(Some(1)), 5, 6)]);
    accepts(&[(Write(Some(1)), 1, 2), (Write(Some(2)), 3, 0), (Read(Some(1)), 5, 6), (Read(Some(2)), 7, 8)]);
    accepts(&[(Swap(None, Some(1)), 1, 0), (Differs(None), 3, 4)]);
    refuses(&[
        (Write(Some(1)), 1, 0),
        (Read(Some(1)), 3, 4),
        (Write(Some(2)), 5, 6),
        (Read(Some(2)), 7, 8),
        (Read(Some(1)), 9, 10),
    ]);
    // It cannot take effect before it was asked for.
    refuses(&[(Read(Some(1)), 1, 2), (Write(Some(1)), 3, 0)]);
    // A comparison of unknown outcome is still one.
    refuses(&[(Write(Some(1)), 1, 2), (Swap(Some(7), Some(2)), 3, 0), (Read(Some(2)), 5, 6)]);
}

#[test]
fn a_stale_read_is_refused() {
    refuses(&[(Write(Some(1)), 1, 2), (Read(None), 3, 4)]);
    refuses(&[(Write(Some(1)), 1, 2), (Write(Some(2)), 3, 4), (Read(Some(1)), 5, 6)]);
}

/// Two readers, one after the other: the second may not see less than the first, even while the write is on its way.
#[test]
fn a_read_that_goes_back_is_refused() {
    refuses(&[(Write(Some(1)), 1, 20), (Read(Some(1)), 2, 3), (Read(None), 4, 5)]);
}

#[test]
fn a_lost_write_is_refused() {
    refuses(&[(Write(Some(1)), 1, 2), (Write(Some(2)), 3, 4), (Write(None), 5, 6), (Read(Some(2)), 7, 8)]);
    refuses(&[(Swap(None, Some(1)), 1, 2), (Swap(Some(1), Some(2)), 3, 4), (Swap(Some(1), Some(3)), 5, 6)]);
}

#[test]
fn two_winners_of_one_race_are_refused() {
    refuses(&[(Swap(None, Some(1)), 1, 9), (Swap(None, Some(2)), 2, 10)]);
}

#[test]
fn a_comparison_that_fails_without_reason_is_refused() {
    refuses(&[(Write(Some(1)), 1, 2), (Differs(Some(1)), 3, 4)]);
}

#[test]
fn a_value_that_nobody_wrote_is_refused() {
    refuses(&[(Write(Some(1)), 1, 2), (Read(Some(3)), 3, 4)]);
}

/// One stale read among a thousand good operations, with some of unknown outcome in between.
#[test]
fn one_stale_read_in_a_long_history_is_refused() {
    let mut operations = Vec::new();
    for step in 0..400 {
        let at = 10 * step;
        operations.push((Write(Some(step)), at + 1, at + 4));
        operations.push((Read(Some(step)), at + 3, at + 6));
        if step % 50 == 0 {
            operations.push((Write(Some(10_000 + step)), at + 2, 0));
        }
    }
    accepts(&operations);
    operations.push((Read(Some(200)), 3005, 3006));
    refuses(&operations);
}
