//! Streams of changes: over a restart of their node, and over its loss.

use std::time::Duration;

use dynarust_client::{Client, Error, Event, Topic, Watch};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::block_on;
use crate::harness::{DEADLINE, Node, Setup, cluster::Cluster};

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
