//! Calls: values of any type, conditions, errors, failover, TLS.

use std::{collections::BTreeMap, time::Duration};

use dynarust_client::{Client, Code, Error, Mode, Operation, Reason, certificates};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::block_on;
use crate::{
    harness::{Node, Setup, cluster::free_address},
    pages::page::root,
};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    visits: Option<u64>,
}

#[test]
fn values_keep_their_type_and_errors_say_what_became_of_the_state() {
    let node = Node::start();
    block_on(async {
        let client = Client::new(node.address().to_string())?;
        let users = client.table("users");
        let alice = User { name: "Alice".into(), visits: None };
        let written = users.put("a/é ?", &alice).await?;
        assert!(written.created);
        let read = users.get::<User>("a/é ?").await?.expect("it is there");
        assert_eq!((read.value, &read.version), (alice, &written.version));
        let digits: Box<RawValue> = serde_json::from_str("12345678901234567890.10").expect("JSON");
        users.put("digits", &digits).await?;
        let raw = users.get::<Box<RawValue>>("digits").await?.expect("it is there");
        assert_eq!(raw.value.get(), "12345678901234567890.10");
        assert!(matches!(users.get::<User>("digits").await, Err(Error::Decode(_))));
        assert_eq!(users.get::<User>("nobody").await?, None);
        assert_eq!(users.delete("nobody").await?, None);

        let other = users.put("a/é ?", &1).if_version(&written.version).await?;
        let stale = users.put("a/é ?", &2).if_version(&written.version).await.expect_err("another version");
        let problem = stale.problem().expect("a refusal");
        assert_eq!((&problem.code, problem.status), (&Code::PreconditionFailed, 412));
        assert_eq!(problem.version(), Some(other.version));
        let absent = users.patch("nobody", &json!({})).await.expect_err("no such key");
        assert_eq!(absent.code(), Some(&Code::NotFound));
        let wrong = client.table("-t").put("k", &1).await.expect_err("no name of a table");
        assert_eq!(wrong.code(), Some(&Code::BadName));
        users.put("brief", &1).ttl(Duration::from_secs(100)).await?;
        users.expire("brief", Duration::from_secs(200)).await?;
        assert!(users.get::<u64>("brief").await?.is_some_and(|entry| entry.expires_at.is_some()));

        let unrepresentable = users.put("k", &BTreeMap::from([((1, 2), 3)])).await;
        assert!(matches!(unrepresentable, Err(Error::Invalid(_))), "{unrepresentable:?}");
        let strong = client.create_table("users", Mode::Strong).await.expect_err("it has rows");
        assert_eq!(strong.code(), Some(&Code::WrongMode));
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

#[test]
fn batches_and_listings_of_more_than_a_page_are_whole() {
    let node = Node::start();
    block_on(async {
        let client = Client::new(node.address().to_string())?;
        let table = client.table("t");
        let puts = (0..2500).map(|n| Operation::put(format!("k{n:04}"), &n).ttl(Duration::from_secs(900)));
        let results = table.batch(puts).await?;
        assert!(
            results.len() == 2500 && results.iter().all(|result| result.as_ref().is_ok_and(|it| it.created))
        );
        let keys: Vec<String> = table.list().page_size(999).keys().try_collect().await?;
        assert!(keys.iter().cloned().eq((0..2500).map(|n| format!("k{n:04}"))));
        let entries: Vec<_> =
            table.list().prefix("k1").reverse().limit(1).entries::<u64>().try_collect().await?;
        assert_eq!((entries[0].0.as_str(), entries[0].1.value), ("k1999", 1999));
        let some = table.get_many::<u64>(["k0007", "absent", "k0003"]).await?;
        assert_eq!(some.iter().map(|(_, entry)| entry.value).collect::<Vec<_>>(), [7, 3]);
        let mixed = table.batch([Operation::delete("k0000"), Operation::patch("none", &json!({}))]).await?;
        assert!(mixed[0].as_ref().is_ok_and(|it| it.deleted));
        assert_eq!(mixed[1].as_ref().expect_err("it is absent").code, Code::NotFound);
        let atomic = table.batch([Operation::put("new", &1), Operation::delete("none")]).atomic().await;
        assert_eq!(atomic.expect_err("one fails").code(), Some(&Code::NotFound));
        assert_eq!(table.get::<u64>("new").await?, None);

        let mut export = client.export().table("t").begin().await?;
        assert!(export.rows.is_some());
        let mut rows = Vec::new();
        while let Some(line) = export.try_next().await? {
            rows.extend_from_slice(&line);
            rows.push(b'\n');
        }
        let imported = client.import(rows).await?;
        assert_eq!((imported.written, imported.skipped), (0, 2499), "they are there already");
        assert_eq!(table.delete_prefix("k1").await?, 1000);
        assert_eq!(table.count().await?, 1499);
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

#[test]
fn another_endpoint_is_asked_if_the_first_is_gone_and_a_closed_connection_is_replaced() {
    let (first, second) = (Node::start(), Node::start());
    block_on(async {
        let both = format!("{},{}", first.address(), second.address());
        let client = Client::new(both)?;
        client.table("t").put("k", &1).await?;
        assert_eq!(client.current_endpoint().to_string(), first.address().to_string());
        let setup = first.kill();
        client.table("t").put("k", &2).await?;
        assert_eq!(client.table("t").get::<u64>("k").await?.map(|entry| entry.value), Some(2));
        assert_eq!(client.current_endpoint().to_string(), second.address().to_string());
        drop(setup);
        let closed = Client::new(free_address())?;
        match closed.table("t").get::<Value>("k").await {
            Err(Error::Unreachable(tried)) => assert_eq!(tried[0].reason, Reason::NoConnection),
            other => panic!("{other:?}"),
        }
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

#[test]
fn a_node_with_tls_is_trusted_by_its_certificate_and_not_without() {
    let fixture = |name: &str| root().join("tests/fixtures").join(name);
    let setup =
        Setup::new().flag("--tls-cert", fixture("certificate.pem")).flag("--tls-key", fixture("key.pem"));
    let node = setup.start();
    let endpoint = format!("https://{}", node.address());
    block_on(async {
        let trusting = Client::builder()
            .endpoint(&endpoint)
            .trust(certificates(&fixture("certificate.pem"))?)
            .build()?;
        trusting.table("t").put("k", &1).await?;
        assert_eq!(trusting.table("t").count().await?, 1);
        let other =
            Client::builder().endpoint(&endpoint).trust(certificates(&fixture("named.pem"))?).build()?;
        match other.table("t").count().await {
            Err(Error::Unreachable(tried)) => assert_eq!(tried[0].reason, Reason::OtherCertificate),
            other => panic!("{other:?}"),
        }
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}
