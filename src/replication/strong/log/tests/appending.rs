//! Appends: what shares a sync, what a full disk refuses, and when an answer comes.

use super::*;

#[tokio::test]
async fn a_log_that_is_opened_again_is_the_same() {
    for threads in [Threads::Many, Threads::One] {
        let fixture = Fixture { threads, ..Fixture::new() };
        let mut log = fixture.open();
        let vote = Vote::new_committed(3, NodeId(2));
        log.save_vote(&vote).await.expect("saved");
        append(&mut log, (0..5).map(|index| writing(1, index, 3, 10))).await;
        append(&mut log, (5..9).map(|index| blank(2, index))).await;
        log.save_committed(Some(id(2, 7))).await.expect("saved");
        log.purge(id(1, 1)).await.expect("purged");
        let before = (log.get_log_state().await.expect("known"), all(&mut log).await);
        drop(log);

        let mut log = fixture.open();
        assert_eq!(before, (log.get_log_state().await.expect("known"), all(&mut log).await));
        assert_eq!(before.1.len(), 7);
        assert_eq!(log.read_vote().await.expect("known"), Some(vote));
        assert_eq!(log.read_committed().await.expect("known"), Some(id(2, 7)));
    }
}

#[tokio::test]
async fn appends_that_wait_share_a_sync() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    let reader = log.reader.clone();
    let (gate, closed) = mpsc::channel();
    reader.0.disk.faults.lock().expect("whole").sync_waits = Some(closed);
    let (told, flushed) = mpsc::channel();
    const APPENDS: u64 = 200;
    for index in 0..APPENDS {
        let told = told.clone();
        let done =
            Box::new(move |result: std::io::Result<()>| told.send((index, result.is_ok())).expect("heard"));
        log.submit(vec![blank(1, index)], Some(done)).await.expect("handed over");
        assert_eq!(
            log.get_log_state().await.expect("known").last_log_id,
            Some(id(1, index)),
            "readable at once"
        );
    }
    assert!(flushed.try_recv().is_err(), "nothing is durable before the first sync");
    drop(gate);
    let told: Vec<(u64, bool)> =
        (0..APPENDS).map(|_| flushed.recv_timeout(DEADLINE).expect("an answer")).collect();
    assert_eq!(told, (0..APPENDS).map(|index| (index, true)).collect::<Vec<_>>(), "in order, all durable");
    // One for what was there first, and one for all that came during that.
    assert!((1..=2).contains(&reader.0.disk.syncs()), "{} syncs", reader.0.disk.syncs());
}

#[tokio::test]
async fn an_append_is_answered_after_its_sync() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    append(&mut log, [blank(1, 0)]).await;
    log.reader.0.disk.faults.lock().expect("whole").syncs_fail = true;
    assert!(log.blocking_append([blank(1, 1)]).await.is_err());
    assert_eq!(indexes(&mut log).await, [0], "what is not durable is not in the log");

    // Nobody knows what the disk has, so even a disk that works again changes nothing.
    log.reader.0.disk.faults.lock().expect("whole").syncs_fail = false;
    assert!(log.blocking_append([blank(1, 1)]).await.is_err());
    assert!(log.save_vote(&Vote::new(5, NodeId(1))).await.is_err());
    assert_eq!(indexes(&mut log).await, [0]);
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [0]);
}

#[tokio::test]
async fn a_full_disk_refuses_an_append_and_keeps_nothing_of_it() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    log.save_vote(&Vote::new(1, NodeId(1))).await.expect("saved");
    append(&mut log, [blank(1, 0)]).await;
    let length = fs::metadata(fixture.segment(0)).expect("there").len();
    for room in [0, 1, 50, 150] {
        log.reader.0.disk.faults.lock().expect("whole").room = Some(room);
        let (told, flushed) = mpsc::channel();
        let tell = move |result: std::io::Result<()>| told.send(result).expect("heard");
        log.submit(vec![sized(1, 1, 500), sized(1, 2, 500)], Some(Box::new(tell)))
            .await
            .expect("handed over");
        let refused = flushed.recv_timeout(DEADLINE).expect("an answer").expect_err("the disk is full");
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
        assert_eq!(fs::metadata(fixture.segment(0)).expect("there").len(), length);
        assert_eq!(indexes(&mut log).await, [0]);
        assert_eq!(indexes(&mut fixture.copy().open()).await, [0], "after a crash too");
    }
    log.reader.0.disk.faults.lock().expect("whole").room = None;
    append(&mut log, [sized(1, 1, 500), sized(1, 2, 500)]).await;
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1, 2], "and goes on when there is room");
}

#[tokio::test]
async fn an_append_behind_a_failed_one_fails_too() {
    let fixture = Fixture::new();
    let mut log = fixture.open();
    append(&mut log, [blank(1, 0)]).await;
    let job = |index| {
        let (told, flushed) = mpsc::channel();
        let frames = vec![Frame::new(&blank(1, index)).expect("short")];
        let tell = Box::new(move |result: std::io::Result<()>| told.send(result.is_ok()).expect("heard"));
        (Job::Append(Append { frames, begins: false, flushed: Some(tell), room: None }), flushed)
    };
    let ((gap, refused), (next, written)) = (job(2), job(1));
    for job in [gap, next] {
        log.slot().await.expect("room").send(job);
    }
    assert!(!refused.recv().expect("told"));
    assert!(written.recv().expect("told"));
    drop(log);
    assert_eq!(indexes(&mut fixture.open()).await, [0, 1]);
}

#[tokio::test]
async fn entries_that_do_not_follow_are_refused() {
    let fixture = of_blanks(3).await;
    let mut log = fixture.open();
    for wrong in [vec![blank(1, 4)], vec![blank(1, 2)], vec![blank(0, 3)], vec![blank(1, 3), blank(1, 5)]] {
        assert!(log.blocking_append(wrong.clone()).await.is_err(), "{wrong:?}");
    }
    assert_eq!(indexes(&mut log).await, [0, 1, 2]);
    append(&mut log, [blank(1, 3)]).await;
}
