//! A node that has room for fewer tables than its peers hold.

use crate::harness::{
    DEADLINE,
    cluster::{member, setup, wait_until_ready},
    wait_until,
};

/// The tables that peers had were made without a limit. Now the node takes no rows of a peer that would exceed it: both say so, both
/// show it, nothing is lost, and with more room it all comes.
#[test]
fn a_peer_with_more_tables_than_there_is_room_for_is_refused_and_nothing_is_lost() {
    let first = setup().start();
    let second = setup().environment("DYNARUST_MAX_TABLES", "2").join(&first.address().to_string()).start();
    wait_until_ready(&second);
    for table in ["one", "two"] {
        first.put(&format!("/{table}/key/a?w=all"), r#"{"value":1}"#).expect(200);
    }
    first.put("/three/key/a", r#"{"value":3}"#).expect(200);
    let (here, there) = (first.address().to_string(), second.address().to_string());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    wait_until("both show it", DEADLINE, || {
        text(&member(&first, &there)["storage_full"]).contains("--max-tables")
            && text(&member(&second, &here)["rows_refused"]).contains("three")
    });
    for node in [&first, &second] {
        wait_until("both say it", DEADLINE, || {
            node.log().contains("2 tables") && node.log().contains("three")
        });
    }
    second.get("/three/keys").expect_body("[]");
    // What the node has itself still goes to the others.
    second.put("/one/key/b", r#"{"value":2}"#).expect(200);
    wait_until("it is there", DEADLINE, || first.get("/one/key/b").status == 200);

    let second = second.terminate().0.without_environment("DYNARUST_MAX_TABLES").start();
    wait_until("all has come", DEADLINE, || second.get("/three/key/a").status == 200);
    assert!(member(&first, &there)["storage_full"].is_null());
}
