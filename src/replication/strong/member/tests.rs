//! A member and openraft on threads of their own.

use std::{mem, sync::mpsc, thread, time::Duration};

use tokio::time::timeout;

use crate::replication::strong::group::tests::{Alone, name};

const DEADLINE: Duration = Duration::from_secs(60);

/// It looked at the figures of openraft while it looked at them. Where openraft had come in between with new ones, each waited for the other, and all
/// threads of the node for them: a leader stood still for ever.
#[test]
fn who_asks_whether_a_node_leads_and_openraft_do_not_wait_for_each_other() {
    const ASKERS: usize = 4;
    const TIMES: usize = 50_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (ended, all_ended) = mpsc::channel();
    let node = runtime.block_on(Alone::start());
    assert_eq!(runtime.block_on(node.strong.create(name())), Ok(true));
    let member = node.strong.member().expect("it is a member");
    for _ in 0..ASKERS {
        let (member, ended) = (member.clone(), ended.clone());
        thread::spawn(move || {
            (0..TIMES).for_each(|_| _ = (member.leads_majority(), member.has_applied_its_term()));
            ended.send(()).expect("is awaited");
        });
    }
    // Each has openraft say anew how it is.
    let busy = runtime.spawn(async move {
        loop {
            member.has_started().await;
        }
    });
    for _ in 0..ASKERS {
        if all_ended.recv_timeout(DEADLINE).is_err() {
            // Its threads never end.
            mem::forget((runtime, node));
            panic!("they wait for each other");
        }
    }
    busy.abort();
    runtime.block_on(node.stop());
}

/// An entry waits while the storage takes no writes, and what a member records at its end waited for it: the node did not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_stops_although_an_entry_cannot_be_applied() {
    let node = Alone::start().await;
    assert_eq!(node.strong.create(name()).await, Ok(true));
    let member = node.strong.member().expect("it is a member");
    let held = member.machine.hold().await;
    timeout(DEADLINE, member.stop()).await.expect("it stops");
    drop(held);
    node.stop().await;
}
