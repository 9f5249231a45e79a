//! What a leader writes: openraft sends it on before it is durable here.

use futures_util::FutureExt;
use openraft::Membership;

use super::*;

/// A log of this node as the leader of term 2, whose first entry is durable.
async fn leading(fixture: &Fixture) -> RaftLog {
    let mut log = elected(fixture, 2).await;
    append(&mut log, [blank(2, 0)]).await;
    log
}

/// The log, opened by this node as the leader of a term.
async fn elected(fixture: &Fixture, term: u64) -> RaftLog {
    let mut log = fixture.open().of_node(NodeId(1));
    log.save_vote(&Vote::new_committed(term, NodeId(1))).await.expect("saved");
    log
}

async fn until_synced(log: &RaftLog, index: u64) -> Result<(), Error> {
    timeout(DEADLINE, log.reader.synced().until(index)).await.expect("it is told in time")
}

#[tokio::test]
async fn openraft_need_not_wait_for_the_sync_of_what_a_leader_writes_and_what_is_done_by_it_does() {
    let fixture = Fixture::new();
    let mut log = leading(&fixture).await;
    let gate = log.reader.hold_sync();
    append(&mut log, [sized(2, 1, 10)]).await;
    assert_eq!(indexes(&mut log).await, [0, 1], "it can be sent");
    let reader = log.reader.clone();
    assert_eq!(reader.synced().until(0).now_or_never(), Some(Ok(())));
    assert_eq!(reader.synced().until(1).now_or_never(), None);
    assert_eq!(log.reader.0.view().synced, Some(id(2, 0)));
    drop(gate);
    assert_eq!(until_synced(&log, 1).await, Ok(()));
    assert_eq!(indexes(&mut fixture.copy().open()).await, [0, 1]);
}

#[tokio::test]
async fn openraft_waits_for_the_sync_of_whatever_else_is_appended() {
    let members = Membership::new(vec![[NodeId(1)].into()], None);
    let change = LogEntry { log_id: id(2, 1), payload: EntryPayload::Membership(members) };
    let leads = Vote::new_committed(2, NodeId(1));
    let stands = Vote::new(2, NodeId(1));
    let follows = Vote::new_committed(2, NodeId(2));
    let later = Vote::new_committed(3, NodeId(1));
    for (entries, vote) in [
        (vec![blank(2, 1)], leads),
        (vec![change], leads),
        (vec![sized(2, 1, 10), blank(2, 2)], leads),
        (vec![sized(2, 1, 10)], stands),
        (vec![sized(2, 1, 10)], follows),
        (vec![sized(2, 1, 10)], later),
    ] {
        let fixture = Fixture::new();
        let mut log = leading(&fixture).await;
        log.save_vote(&vote).await.expect("saved");
        let gate = log.reader.hold_sync();
        let said = format!("{entries:?} {vote}");
        let mut appending = Box::pin(log.blocking_append(entries));
        assert!((&mut appending).now_or_never().is_none(), "{said}");
        drop(gate);
        appending.await.expect("appended");
    }
    let fixture = of_blanks(1).await;
    let mut unnamed = fixture.open();
    unnamed.save_vote(&leads).await.expect("saved");
    let gate = unnamed.reader.hold_sync();
    let mut appending = Box::pin(unnamed.blocking_append([sized(2, 1, 10)]));
    assert!((&mut appending).now_or_never().is_none(), "nobody has said whose log it is");
    drop(gate);
    appending.await.expect("appended");
}

#[tokio::test]
async fn where_a_leader_cannot_write_what_it_sent_nothing_goes_on_until_the_log_is_opened_again() {
    for is_full in [true, false] {
        let fixture = Fixture::new();
        let mut log = leading(&fixture).await;
        {
            let mut faults = log.reader.0.disk.faults.lock().expect("whole");
            (faults.room, faults.syncs_fail) = (is_full.then_some(20), !is_full);
        }
        append(&mut log, [sized(2, 1, 10)]).await;
        let why = until_synced(&log, 1).await.expect_err("the disk took none of it");
        assert_eq!(matches!(why, Error::StorageFull(_)), is_full, "{why}");
        {
            let mut faults = log.reader.0.disk.faults.lock().expect("whole");
            (faults.room, faults.syncs_fail) = (None, false);
        }
        // openraft would take the next one for the second of two.
        assert!(log.blocking_append([blank(2, 1)]).await.is_err());
        assert!(log.save_vote(&Vote::new(5, NodeId(1))).await.is_err());
        assert_eq!(until_synced(&log, 1).await, Err(why));
        drop(log);
        assert_eq!(indexes(&mut fixture.open()).await, [0]);
        append(&mut elected(&fixture, 3).await, [sized(3, 1, 10)]).await;
        assert_eq!(indexes(&mut fixture.open()).await, [0, 1]);
    }
}

#[tokio::test]
async fn nothing_is_marked_as_committed_that_is_not_durable() {
    let fixture = Fixture::new();
    let mut log = leading(&fixture).await;
    let gate = log.reader.hold_sync();
    let before = log.reader.0.disk.syncs();
    append(&mut log, [sized(2, 1, 10)]).await;
    let begun = async || {
        while log.reader.0.disk.syncs() == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, begun()).await.expect("the sync begins");
    // What openraft counts for a majority already.
    append(&mut log, [sized(2, 2, 10)]).await;
    log.save_committed(Some(id(2, 2))).await.expect("saved");
    log.reader.0.disk.faults.lock().expect("whole").room = Some(1);
    drop(gate);
    until_synced(&log, 2).await.expect_err("no room");
    drop(log);
    let mut log = fixture.open();
    assert_eq!(indexes(&mut log).await, [0, 1]);
    assert_eq!(log.read_committed().await.expect("known"), Some(id(2, 1)));
}

#[tokio::test]
async fn who_waits_for_a_sync_is_told_that_the_log_is_closed() {
    let fixture = Fixture::new();
    let log = leading(&fixture).await;
    let reader = log.reader.clone();
    let waiting = tokio::spawn(async move { reader.synced().until(1).await });
    drop(log);
    assert!(waiting.await.expect("it ends").is_err());
}
