//! What becomes of calls whose node breaks off, goes silent, or stops half-way.

use std::time::Duration;

use dynarust_client::{Client, Code, Error, Imported, Method};
use futures_util::TryStreamExt;
use tokio::time::timeout;

use super::block_on;
use crate::harness::{
    DEADLINE,
    fake::{Fake, Reply},
};

const WRITTEN: &str = "{\"version\":\"1-1\",\"timestamp\":1}";

/// A put whose connection broke was sent to the next node, and undid what somebody else had written in between.
#[test]
fn a_write_that_may_have_been_made_is_not_made_again() {
    let broken = Fake::start(|_, _| Reply::broken());
    let good = Fake::start(|_, _| Reply::json(200, WRITTEN));
    let endpoints = format!("{},{}", broken.address(), good.address());
    block_on(async {
        let client = Client::new(&endpoints)?;
        let unknown = client.table("t").put("a", &1).await.expect_err("nobody knows");
        assert!(matches!(unknown, Error::OutcomeUnknown { .. }) && unknown.is_outcome_unknown(), "{unknown}");
        assert!(unknown.to_string().contains("It may have done it"), "{unknown}");
        assert!(good.asked().is_empty());
        // The next call does not try the same node again.
        client.table("t").put("a", &2).await?;
        assert_eq!((broken.asked().len(), good.asked().len()), (1, 1));

        let stubborn = Client::builder().endpoint(&endpoints).retry_writes(true).build()?;
        stubborn.table("t").put("a", &1).await?;
        assert_eq!((broken.asked().len(), good.asked().len()), (2, 2));
        let stubborn = Client::builder().endpoint(&endpoints).retry_writes(true).build()?;
        let conditional = stubborn.table("t").put("a", &1).if_absent().await.expect_err("nobody knows");
        assert!(conditional.is_outcome_unknown(), "{conditional}");
        assert_eq!(good.asked().len(), 2);
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

/// A node that shed load half-way through an import had the whole of it sent to the next node. Rows without versions were written twice,
/// and the counts of the first node were lost.
#[test]
fn an_import_that_was_taken_in_part_is_not_sent_to_another_node() {
    let refusal = |written: u64| {
        format!(
            "{{\"status\":503,\"error\":\"overloaded\",\"detail\":\"no\",\"written\":{written},\"skipped\":0}}"
        )
    };
    let loaded = Fake::start(move |_, before| Reply::json(503, &refusal(if before == 0 { 1000 } else { 0 })));
    let good = Fake::start(|_, _| Reply::json(200, "{\"written\":2,\"skipped\":0}"));
    block_on(async {
        let client = Client::new(format!("{},{}", loaded.address(), good.address()))?;
        let import = || client.import("{\"key\":\"a\",\"value\":1}\n").table("t");
        let refused = import().await.expect_err("a part");
        assert_eq!(refused.code(), Some(&Code::Overloaded));
        let imported = refused.problem().and_then(|problem| problem.imported()).expect("counts");
        assert_eq!((imported.written, imported.skipped), (1000, 0));
        assert!(good.asked().is_empty());
        // The second time it took nothing.
        let Imported { written, .. } = import().await?;
        assert_eq!((written, good.asked().len()), (2, 1));
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

/// Who had asked a node with a damaged or full disk got its error, although the next node had the row, or room.
#[test]
fn a_node_with_a_damaged_or_full_disk_has_the_next_one_asked() {
    let refusing = |status: u16, code: &str| {
        let body = format!("{{\"status\":{status},\"error\":\"{code}\",\"detail\":\"no\"}}");
        Fake::start(move |_, _| Reply::json(status, &body))
    };
    let (damaged, full, broken) =
        (refusing(500, "corrupt"), refusing(507, "storage-full"), refusing(500, "internal"));
    let good = Fake::start(|_, _| Reply::json(200, WRITTEN));
    let endpoints = |first: &Fake| format!("{},{}", first.address(), good.address());
    block_on(async {
        let read = |client: &Client| client.request(Method::GET, "/t/keys").send();
        for first in [&damaged, &full] {
            assert_eq!(read(&Client::new(endpoints(first))?).await?.status.as_u16(), 200);
        }
        // Nothing was done where a row could not be read. On a full disk a write may have been.
        Client::new(endpoints(&damaged))?.table("t").put("a", &1).await?;
        let asked = good.asked().len();
        let refused = Client::new(endpoints(&full))?.table("t").put("a", &1).await.expect_err("perhaps");
        assert_eq!((refused.code(), good.asked().len()), (Some(&Code::StorageFull), asked));
        let stubborn = Client::builder().endpoint(endpoints(&full)).retry_writes(true).build()?;
        stubborn.table("t").put("a", &1).await?;
        // A bug of one node is no reason to meet it on all of them.
        let refused = Client::new(endpoints(&broken))?.table("t").put("a", &1).await.expect_err("a bug");
        assert_eq!((refused.code(), good.asked().len()), (Some(&Code::Internal), asked + 1));
        // The last one's answer counts.
        let last = Client::new(damaged.address())?.table("t").put("a", &1).await.expect_err("damaged");
        assert_eq!(last.code(), Some(&Code::Corrupt));
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}

/// An export waited for ever after the network was cut.
#[test]
fn an_export_of_which_nothing_comes_any_more_ends() {
    let head = "{\"export\":1}\n{\"table\":\"t\",\"key\":\"a\",\"value\":1}\n";
    let fake = Fake::start(move |_, _| Reply::stream("application/x-ndjson", head).then_silence());
    block_on(async {
        let limit = Duration::from_millis(100);
        let client = Client::builder().endpoint(fake.address()).timeout(limit).build()?;
        let mut lines = client.export().begin().await?;
        assert!(lines.try_next().await?.is_some() && lines.try_next().await?.is_some());
        let silent = timeout(DEADLINE, lines.try_next()).await.expect("it ends").expect_err("not whole");
        assert!(matches!(silent, Error::Unanswered { .. }), "{silent}");
        assert!(silent.to_string().contains("nothing came for 100ms"), "{silent}");
        Ok::<_, Error>(())
    })
    .expect("all of it works");
}
