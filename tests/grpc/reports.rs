//! `Tables` and `Cluster`: what clients with a window of their own show.

use tonic::{Code, Request};

use super::client::*;
use crate::{access::guarded, harness::Setup};

fn with<T>(token: &str, request: T) -> Request<T> {
    let mut request = Request::new(request);
    let credentials = format!("Bearer {token}").parse().expect("text");
    request.metadata_mut().insert("authorization", credentials);
    request
}

#[test]
fn tables_have_their_modes_and_numbers_of_keys_and_the_node_tells_of_itself() {
    let served = Served::start();
    let address = served.node.address().to_string();
    served.with_client(|mut client| async move {
        for key in ["a", "b"] {
            client.set(set("", key, json("1"))).await.expect("set");
        }
        client.set(set("users", "ada", json("1"))).await.expect("set");
        let tables = client.tables(TablesRequest {}).await.expect("tables").into_inner().tables;
        let figures: Vec<_> =
            tables.iter().map(|table| (table.name.as_str(), table.mode(), table.keys)).collect();
        assert_eq!(figures, [("kv", TableMode::Strong, 2), ("users", TableMode::Eventual, 1)]);
        let cluster = client.cluster(ClusterRequest {}).await.expect("cluster").into_inner();
        assert_eq!((cluster.address.as_str(), cluster.phase.as_str()), (address.as_str(), "ready"));
        assert_eq!(cluster.version, env!("CARGO_PKG_VERSION"));
        assert!(cluster.uptime_ms > 0, "{cluster:?}");
        let [member] = cluster.members.as_slice() else { panic!("one member in {cluster:?}") };
        assert_eq!((member.node.as_str(), member.state()), (cluster.node.as_str(), MemberState::Self_));
        assert_eq!(member.rows, Some(3));
        let strong = cluster.strong.expect("there is a strong table");
        assert_eq!(strong.leader, cluster.node);
        assert!(strong.members.len() == 1 && strong.members[0].voter, "{strong:?}");
        assert!(strong.term > 0 && strong.applied_index > 0, "{strong:?}");
    });
}

/// The same rights as for `/_/tables` and `/_/cluster`: to read anything, and to see a table.
#[test]
fn a_token_sees_the_tables_that_it_may_read() {
    let entries = [
        ("reader", "rights = [\"read\"]\ntables = [\"t\"]"),
        ("writer", "rights = [\"read\", \"write\"]"),
        ("blind", "rights = [\"write\"]"),
    ];
    let node = guarded(&entries, |setup: Setup| setup.flag("--grpc", "127.0.0.1:0"));
    let address = address_in(&node.log());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = client(address).await;
        for table in ["s", "t"] {
            client.set(with("writer", set(table, "a", json("1")))).await.expect("granted");
        }
        let nobody = client.tables(TablesRequest {}).await;
        assert_status(nobody, Code::Unauthenticated, "unauthorized", &[]);
        let nobody = client.cluster(ClusterRequest {}).await;
        assert_status(nobody, Code::Unauthenticated, "unauthorized", &[]);
        let blind = client.tables(with("blind", TablesRequest {})).await;
        assert_eq!(blind.expect_err("it may not read").code(), Code::PermissionDenied);
        let blind = client.cluster(with("blind", ClusterRequest {})).await;
        assert_eq!(blind.expect_err("it may not read").code(), Code::PermissionDenied);
        for (token, expected) in [("reader", &["t"][..]), ("writer", &["s", "t"])] {
            let tables = client.tables(with(token, TablesRequest {})).await.expect("granted").into_inner();
            let names: Vec<_> = tables.tables.iter().map(|table| table.name.as_str()).collect();
            assert_eq!(names, expected, "{token}");
            client.cluster(with(token, ClusterRequest {})).await.expect("granted");
        }
    });
}
