//! Nodes that are told to join, and find nobody: themselves alone, or what is no node.

use crate::harness::{
    DEADLINE,
    cluster::{setup, wait_until_ready},
    wait_until,
};

/// It waited for ever for what only it could be.
#[test]
fn a_node_that_is_told_to_join_only_itself_says_so_and_begins_alone() {
    let alone = setup();
    let address = alone.listening_at();
    let node = alone.join(&address).start();
    wait_until_ready(&node);
    let log = node.log();
    assert_eq!(log.matches("told to join only itself").count(), 1, "{log}");
    node.put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    // And others join it.
    let second = setup().join(&address).start();
    wait_until_ready(&second);
    second.get("/t/key/a").expect_body(r#"{"value":1}"#);
}

#[test]
fn why_an_address_cannot_be_joined_is_said_cause_by_cause() {
    // What answers there is a web server.
    let web = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let web_address = web.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for mut stream in web.incoming().flatten() {
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(
                &mut stream,
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            );
        }
    });
    for (address, words) in [
        ("127.0.0.1:1", "refuses the connection"),
        ("no-such-name.invalid:6660", "the name is unknown"),
        (&web_address, "does not answer as a node does"),
    ] {
        let node = setup().join(address).start();
        let detail =
            || node.get("/readyz").expect(503).json()["detail"].as_str().unwrap_or_default().to_owned();
        wait_until(&format!("{address}: {words}"), DEADLINE, || {
            detail().contains(words) && detail().contains(address) && node.log().contains(words)
        });
    }
}
