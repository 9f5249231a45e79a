//! Old entries: how they are read, truncated and purged.

use super::*;

#[tokio::test]
async fn old_entries_are_read_from_the_files() {
    let (fixture, firsts) = of_segments().await;
    let mut log = fixture.open();
    for round in ["opened", "appended to"] {
        let (bytes, first) = {
            let view = log.reader.0.view();
            (view.cache.bytes(), view.cache.first())
        };
        assert!(bytes <= CACHE_BYTES_MAX && first >= firsts[1], "{round}");
        let (entries, last) = (all(&mut log).await, if round == "opened" { 9 } else { 12 });
        assert_eq!(
            entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(),
            (0..=last).collect::<Vec<_>>()
        );
        assert_eq!(entries[2], sized(1, 2, 5 * 1024 * 1024));
        let across = log.try_get_log_entries(2..=8).await.expect("readable");
        assert_eq!(across, entries[2..9], "{round}");
        for start in [0, 9] {
            let limited = log.limited_get_log_entries(start, 10).await.expect("readable");
            assert_eq!(
                limited,
                entries[start as usize..][..1],
                "one is given though it is longer than the limit"
            );
        }
        if round == "opened" {
            append(&mut log, (10..13).map(|index| sized(1, index, 5 * 1024 * 1024))).await;
        }
    }
    let limited = Fixture::new();
    let mut log = limited.open();
    append(&mut log, (0..40).map(|index| sized(1, index, 1024 * 1024))).await;
    for start in [0, 30] {
        let read = log.limited_get_log_entries(start, 40).await.expect("readable");
        assert_eq!(
            read.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(),
            [start, start + 1, start + 2]
        );
    }
}

#[tokio::test]
async fn reading_a_file_that_was_damaged_since_is_an_error() {
    let (fixture, _) = of_segments().await;
    let mut log = fixture.open();
    let mut bytes = fs::read(fixture.segment(0)).expect("there");
    bytes[1000] ^= 1;
    fs::write(fixture.segment(0), bytes).expect("written");
    let refused = log.try_get_log_entries(0..1).await.expect_err("damaged").to_string();
    assert!(refused.contains("entry 0 cannot be read"), "{refused}");
}

#[tokio::test]
async fn truncated_entries_do_not_come_back() {
    let (fixture, firsts) = of_segments().await;
    // In the newest segment, at the beginning of one, in the middle of an older one, and all.
    for index in [9, firsts[2], firsts[1], firsts[1] + 1, 0] {
        let copy = fixture.copy();
        let mut log = copy.open();
        log.truncate(id(1, index)).await.expect("truncated");
        let kept: Vec<u64> = (0..index).collect();
        assert_eq!(indexes(&mut log).await, kept);
        assert_eq!(indexes(&mut copy.copy().open()).await, kept, "after a crash");
        let last = index.checked_sub(1).map(|last| id(1, last));
        assert_eq!(log.get_log_state().await.expect("known").last_log_id, last);
        append(&mut log, [sized(2, index, 10), sized(2, index + 1, 10)]).await;
        drop(log);
        let mut log = copy.open();
        assert_eq!(indexes(&mut log).await, [kept, vec![index, index + 1]].concat());
        assert_eq!(all(&mut log).await[index as usize], sized(2, index, 10));
    }
}

#[tokio::test]
async fn a_crash_during_a_truncation_leaves_all_or_nothing() {
    let (fixture, firsts) = of_segments().await;
    let index = firsts[1] + 1;
    // Before the state says so, only the mark is lower.
    let before = fixture.copy();
    before.lower_mark(index);
    assert_eq!(indexes(&mut before.copy().open()).await, (0..10).collect::<Vec<_>>());
    // After that, whatever of the files is still there.
    record::write_state(&before.path(), &State { newest: firsts[1], cut: Some(index), ..before.state() })
        .expect("written");
    let whole = before.copy();
    let cut = before.copy();
    let offset =
        segment::HEAD_BYTES as u64 + Frame::new(&sized(1, 0, 5 * 1024 * 1024)).expect("short").bytes() as u64;
    let file = fs::OpenOptions::new().write(true).open(cut.segment(firsts[1])).expect("there");
    file.set_len(offset).expect("cut");
    let forgotten = cut.copy();
    record::write_state(&forgotten.path(), &State { cut: None, ..forgotten.state() }).expect("written");
    let cleared = forgotten.copy();
    fs::remove_file(cleared.segment(firsts[2])).expect("removed");
    for (step, crashed) in [whole, cut, forgotten, cleared].iter().enumerate() {
        let mut log = crashed.open();
        assert_eq!(indexes(&mut log).await, (0..index).collect::<Vec<_>>(), "step {step}");
        append(&mut log, [blank(2, index)]).await;
        drop(log);
        assert_eq!(crashed.state().cut, None);
        assert_eq!(indexes(&mut crashed.open()).await, (0..=index).collect::<Vec<_>>(), "step {step}");
        assert_eq!(segment::list(&crashed.path()).expect("listed"), firsts[..2]);
    }
}

#[tokio::test]
async fn purging_removes_whole_segments() {
    let (fixture, firsts) = of_segments().await;
    let mut log = fixture.open();
    log.purge(id(1, firsts[1])).await.expect("purged");
    assert_eq!(segment::list(&fixture.path()).expect("listed"), firsts[1..]);
    assert_eq!(indexes(&mut log).await, (firsts[1] + 1..10).collect::<Vec<_>>());
    assert_eq!(indexes(&mut fixture.copy().open()).await, (firsts[1] + 1..10).collect::<Vec<_>>());
    assert!(log.truncate(id(1, 0)).await.is_err(), "what is purged is not truncated");
    drop(log);

    let mut log = fixture.open();
    log.purge(id(1, 9)).await.expect("purged");
    assert_eq!(segment::list(&fixture.path()).expect("listed"), [10], "one is always there");
    append(&mut log, [blank(2, 10)]).await;
    log.purge(id(1, 3)).await.expect("nothing to do");
    drop(log);
    let mut log = fixture.open();
    assert_eq!(indexes(&mut log).await, [10]);
    assert_eq!(log.get_log_state().await.expect("known").last_purged_log_id, Some(id(1, 9)));
}

#[tokio::test]
async fn a_snapshot_can_be_newer_than_the_log() {
    let fixture = of_blanks(5).await;
    let mut log = fixture.open();
    log.purge(id(3, 20)).await.expect("purged");
    for _ in 0..2 {
        let state = log.get_log_state().await.expect("known");
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(3, 20)), Some(id(3, 20))));
        assert!(indexes(&mut log).await.is_empty());
        drop(log);
        log = fixture.open();
    }
    append(&mut log, [blank(3, 20)]).await;
    assert!(indexes(&mut log).await.is_empty(), "the snapshot has it");
    append(&mut log, [blank(3, 21)]).await;
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [21]);
}

/// A snapshot of a newer term that ends within the log: what is behind it here was never agreed.
#[tokio::test]
async fn entries_behind_a_snapshot_of_a_newer_term_go() {
    let fixture = of_blanks(5).await;
    let mut log = fixture.open();
    log.purge(id(3, 2)).await.expect("purged");
    assert_eq!(log.get_log_state().await.expect("known").last_log_id, Some(id(3, 2)));
    append(&mut log, [blank(3, 3)]).await;
    drop(log);
    let mut log = fixture.open();
    assert_eq!(all(&mut log).await, [blank(3, 3)]);
}

#[tokio::test]
async fn a_crash_during_a_purge_leaves_all_or_nothing() {
    let (fixture, firsts) = of_segments().await;
    let upto = firsts[2];
    let named = fixture.copy();
    record::write_state(&named.path(), &State { purged: Some(id(1, upto)), ..named.state() })
        .expect("written");
    let one_gone = named.copy();
    fs::remove_file(one_gone.segment(firsts[0])).expect("removed");
    // Directories may keep removals in another order.
    let other_gone = named.copy();
    fs::remove_file(other_gone.segment(firsts[1])).expect("removed");
    for (step, crashed) in [named, one_gone, other_gone].iter().enumerate() {
        assert_eq!(indexes(&mut crashed.open()).await, (upto + 1..10).collect::<Vec<_>>(), "step {step}");
        assert_eq!(segment::list(&crashed.path()).expect("listed"), firsts[2..], "step {step}");
    }
    // A new segment that the state does not name yet is not there.
    let unnamed = fixture.copy();
    segment::create(&unnamed.path(), unnamed.state().salt, 10).expect("created");
    fs::write(unnamed.segment(15), "torn").expect("written");
    let mut log = unnamed.open();
    assert_eq!(indexes(&mut log).await, (0..10).collect::<Vec<_>>());
    assert_eq!(segment::list(&unnamed.path()).expect("listed"), firsts);
}

#[tokio::test]
async fn a_group_longer_than_a_segment_is_written_in_pieces() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    append(&mut log, (0..50).map(|index| sized(1, index, 1024 * 1024))).await;
    let firsts = segment::list(&fixture.path()).expect("listed");
    assert!(firsts.len() >= 3, "{firsts:?}");
    for first in &firsts {
        let bytes = fs::metadata(fixture.segment(*first)).expect("there").len();
        assert!(bytes < 2 * SEGMENT_BYTES, "segment {first}: {bytes}");
    }
    let figures = log.reader.figures();
    assert_eq!(figures.entries, 50);
    assert!(figures.disk_bytes > 50 * 1024 * 1024 && figures.syncs >= 6, "{figures:?}");
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_end_of_the_log_begins_with_a_segment() {
    let (fixture, firsts) = of_segments().await;
    let reader = fixture.open().reader.clone();
    let last = firsts.last().copied().expect("there is one");
    assert_eq!((reader.begins_with(0), reader.begins_with(1)), (last, last));
    assert_eq!(reader.begins_with(SEGMENT_BYTES * 3 / 2), firsts[firsts.len() - 2]);
    assert_eq!(reader.begins_with(u64::MAX), 0, "all of it");
}
