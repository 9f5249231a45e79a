//! The README of the Rust client, line for line: each block of Rust there is the body of a function here.

use std::{fs, time::Duration};

use dynarust_client::{Client, Code, Compare, Entry, Event, Mode, Operation, Replicas, Result, Table};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::block_on;
use crate::{harness::Node, pages::page::root};

const ENDPOINT: &str = "127.0.0.1:6660";

async fn in_thirty_seconds(endpoint: &str) -> Result<()> {
    let client = Client::new(endpoint)?;
    let users = client.table("users");
    users.put("alice", &json!({ "name": "Alice" })).ttl(Duration::from_secs(3600)).await?;
    let alice: Option<Entry<Value>> = users.get("alice").await?;
    let mut changes = users.watch().stream::<Value>();
    // Beyond the README: they gave what they should.
    let alice = alice.expect("it was written");
    assert!(alice.value == json!({ "name": "Alice" }) && alice.expires_at.is_some());
    assert!(matches!(changes.next().await, Some(Ok(Event::Connected(_)))));
    users.put("bob", &1).await?;
    assert!(matches!(changes.next().await, Some(Ok(Event::Updated { key, .. })) if key == "bob"));
    Ok(())
}

async fn on_a_condition(users: &Table) -> Result<()> {
    match users.put("alice", &json!({ "name": "Alicia" })).if_absent().await {
        Ok(written) => println!("written as {}", written.version),
        Err(error) if error.code() == Some(&Code::PreconditionFailed) => println!("alice is there: {error}"),
        Err(error) => return Err(error),
    }
    users.patch("alice", &json!({ "visits": 2 })).await?;
    users.put("bob", &1).replicas(Replicas::Majority).await?;
    assert!(users.delete("bob").await?.is_some());
    let alice = users.get::<Value>("alice").await?.expect("it is there");
    assert_eq!(alice.value, json!({ "name": "Alice", "visits": 2 }), "the condition did not hold");
    Ok(())
}

async fn many_keys(users: &Table) -> Result<()> {
    users
        .batch([Operation::put("carol", &1), Operation::put("dave", &2), Operation::delete("carol")])
        .await?;
    let mut entries = users.list().prefix("d").entries::<Value>();
    while let Some(entry) = entries.next().await {
        let (key, entry) = entry?;
        println!("{key}: {}", entry.value);
    }
    assert_eq!(users.count().await?, 2);
    Ok(())
}

async fn follow(users: &Table) -> Result<()> {
    let mut changes = users.watch_prefix("d").with_snapshot().stream::<Value>();
    while let Some(event) = changes.next().await {
        match event? {
            Event::Updated { key, value, .. } => println!("{key} is {value}"),
            Event::Deleted { key, .. } => println!("{key} is gone"),
            Event::Resync => println!("something was missed: the current values follow"),
            Event::Synced => break,
            _ => {}
        }
    }
    assert!(changes.position().is_some());
    Ok(())
}

async fn transaction(client: &Client) -> Result<()> {
    client.create_table("stock", Mode::Strong).await?;
    let sold = client
        .transaction()
        .when(Compare::absent("stock", "apples"))
        .then("stock", Operation::put("apples", &9))
        .otherwise("stock", Operation::get("apples"))
        .await?;
    println!("succeeded: {}", sold.succeeded);
    assert!(sold.succeeded);
    Ok(())
}

fn several_nodes() -> Result<Client> {
    let client = Client::builder()
        .endpoint("127.0.0.1:6660,127.0.0.1:6661")
        .token("secret")
        .timeout(Duration::from_secs(10))
        .build()?;
    Ok(client)
}

/// Each block of the README stands in this file, and is run.
#[test]
fn the_lines_of_the_readme_do_what_they_say() {
    let node = Node::start();
    let endpoint = node.address().to_string();
    block_on(async {
        in_thirty_seconds(&endpoint).await?;
        let client = Client::new(&endpoint)?;
        let users = client.table("users");
        on_a_condition(&users).await?;
        many_keys(&users).await?;
        follow(&users).await?;
        transaction(&client).await
    })
    .expect("all of it works");
    assert_eq!(several_nodes().expect("a client").endpoints().count(), 2);

    let readme = fs::read_to_string(root().join("clients/rust/README.md")).expect("a README");
    let plain = |text: &str| text.split_whitespace().collect::<String>().replace(",)", ")");
    let here = plain(include_str!("readme.rs"))
        .replace("Client::new(endpoint)", &format!("Client::new(\"{ENDPOINT}\")"));
    let mut blocks = 0;
    for block in readme.split("```rust\n").skip(1) {
        let block = plain(block.split("```").next().expect("a block ends"));
        assert!(here.contains(block.trim()), "no function here has this block:\n{block}");
        blocks += 1;
    }
    assert_eq!(blocks, 6);
}
