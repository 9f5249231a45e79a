//! Streams of changes: over a restart of their node, and over its loss.

use std::time::{Duration, Instant};

use dynarust_client::{Client, Error, Event, Topic, Watch};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::block_on;
use crate::harness::{
    DEADLINE, Node, Setup,
    cluster::Cluster,
    fake::{Fake, Reply},
};

/// The next event that this looks for, within the deadline.
async fn next<R>(changes: &mut Watch<u64>, mut wanted: impl FnMut(&Event<u64>) -> Option<R>) -> R {
    let found = timeout(DEADLINE, async {
        loop {
            let event = changes.next().await.expect("the stream goes on").expect("no failure");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    });
    found.await.expect("the event comes within the deadline")
}

fn value(event: &Event<u64>) -> Option<u64> {
    match event {
        Event::Updated { value, .. } => Some(*value),
        _ => None,
    }
}

#[test]
fn a_stream_goes_on_over_a_restart_and_tells_what_happened_meanwhile() {
    let node = Node::start();
    block_on(async {
        let client = Client::new(node.address().to_string())?;
        let mut changes = client.table("t").watch_key("k").with_snapshot().stream::<u64>();
        next(&mut changes, |event| (*event == Event::Synced).then_some(())).await;
        client.table("t").put("other", &0).await?;
        client.table("t").put("k", &1).await?;
        assert_eq!(next(&mut changes, value).await, 1);
        let address = node.address().to_string();
        let (setup, _) = node.terminate();
        next(&mut changes, |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
        let node = setup.listen(&address).start();
        // Before the stream is back, or after: either way it is told.
        client.table("t").put("k", &2).await?;
        let seen = next(&mut changes, |event| value(event).filter(|value| *value != 1)).await;
        assert_eq!(seen, 2);
        drop(node);
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

#[test]
fn a_stream_moves_to_another_node_and_misses_nothing() {
    let mut cluster = Cluster::start(2);
    cluster.wait_until_ready_and_linked();
    let endpoints = format!("{},{}", cluster.address(0), cluster.address(1));
    block_on(async {
        let client = Client::new(endpoints)?;
        let other = Client::new(cluster.address(1))?;
        let topics = [Topic::Key("t".into(), "k".into()), Topic::Prefix("u".into(), "a".into())];
        let mut changes = client.watch(topics).stream::<u64>();
        next(&mut changes, |event| matches!(event, Event::Connected(_)).then_some(())).await;
        for value_written in 1..=20 {
            other.table("t").put("k", &value_written).await?;
        }
        next(&mut changes, |event| value(event).filter(|value| *value == 20)).await;
        cluster.kill(0);
        other.table("u").put("ab", &21).await?;
        let at = next(&mut changes, |event| match event {
            Event::Connected(endpoint) => Some(endpoint.clone()),
            _ => None,
        });
        assert_eq!(at.await, cluster.address(1));
        next(&mut changes, |event| value(event).filter(|value| *value == 21)).await;
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

#[test]
fn a_stream_ends_with_a_refusal_and_begins_with_the_failure_to_connect() {
    let node = Node::start();
    block_on(async {
        let client = Client::new(node.address().to_string())?;
        let mut refused = client.table("_").watch().stream::<u64>();
        assert!(matches!(refused.next().await, Some(Err(Error::Refused(_)))));
        assert!(refused.next().await.is_none());
        let setup: Setup = node.kill();
        let mut unreachable = client.table("t").watch().stream::<u64>();
        let first = timeout(Duration::from_secs(10), unreachable.next()).await.expect("it fails at once");
        assert!(matches!(first, Some(Err(Error::Unreachable(_)))), "{first:?}");
        drop(setup);
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

const VALUE: &str = "data: {\"event\":\"Updated\",\"table\":\"t\",\"key\":\"a\",\"value\":1,\"version\":\"1-1\",\"timestamp\":1}\n\n";

/// A connection broke within a snapshot, and the stream began a second one without a word: whoever keeps a copy kept keys in it that had been
/// deleted in between. Half a snapshot is void, and `Resync` says so. A node that ended its stream with `failed` at once was connected again
/// without a pause, ten thousand times a second.
#[test]
fn half_a_snapshot_is_void_and_streams_that_fail_are_begun_again_with_pauses() {
    let fake = Fake::start(|_, before| {
        let events = |text: String| Reply::stream("text/event-stream", &text);
        match before {
            0 => events(format!("id: e.1\n\n{VALUE}")),
            1..=2 => events("event: failed\ndata: {\"event\":\"failed\",\"detail\":\"no\"}\n\n".into()),
            3 => events(format!("id: e.4\n\n{VALUE}id: e.5\nevent: sync\ndata: {{\"event\":\"sync\"}}\n\n")),
            _ => events(format!("id: e.9\n{VALUE}")).then_silence(),
        }
    });
    let begun = Instant::now();
    block_on(async {
        let mut changes = Client::new(fake.address())?.table("t").watch().with_snapshot().stream::<u64>();
        let mut seen = Vec::new();
        while changes.position() != Some("e.9") {
            let event = timeout(DEADLINE, changes.next()).await.expect("it goes on").expect("no end")?;
            seen.push(match event {
                Event::Updated { .. } => "updated",
                Event::Resync => "resync",
                Event::Synced => "synced",
                _ => continue,
            });
        }
        assert_eq!(seen, ["updated", "resync", "updated", "synced", "updated"]);
        Ok::<_, Error>(())
    })
    .expect("all of it works");
    // 100, 200 and 400 ms, and 100 after the snapshot.
    assert!(begun.elapsed() > Duration::from_millis(800), "{:?}", begun.elapsed());
    let asked = fake.asked();
    let snapshots = asked.iter().filter(|asked| asked.line.contains("snapshot=true")).count();
    assert_eq!((asked.len(), snapshots), (5, 4), "{asked:?}");
    assert!(asked[4].headers.contains(&"last-event-id: e.5".to_owned()), "{asked:?}");
}
