//! Nodes that are told to join, and find nobody: themselves alone, or what is no node.

use crate::harness::{
    DEADLINE,
    cluster::{free_localhost_address, setup, wait_until_ready},
    wait_until,
};

/// It waited for ever for what only it could be.
#[test]
fn a_node_that_is_told_to_join_its_own_address_says_so_and_stops() {
    let alone = setup();
    let address = alone.listening_at();
    let Err(outcome) = alone.join(&address).try_start() else { panic!("it starts") };
    assert_eq!(outcome.code(), Some(2), "{outcome:?}");
    assert!(outcome.log.contains(&format!("JOIN {address}: that is this node's own address")), "{outcome:?}");
    // Among others it is passed over, as where all nodes have one list.
    let first = setup().start();
    let second = setup();
    let own = second.listening_at();
    let second = second.join(&own).join(&first.address().to_string()).start();
    wait_until_ready(&second);
    assert!(second.log().contains(&format!("{own} is this node's own address")), "{}", second.log());
}

/// A name may stand for others later, as that of a service of containers does: whoever is the first there begins.
#[test]
fn a_node_whose_name_to_join_is_only_itself_begins_alone() {
    let Some(name) = name_of_this_machine() else {
        eprintln!("SKIPPED: the name of this machine is that of no address of its own");
        return;
    };
    let free = free_localhost_address();
    let (_, port) = free.split_once(':').expect("it has a port");
    let address = format!("{name}:{port}");
    // Others have to take it for a node of another machine.
    let setup = || setup().environment("CLUSTER_SECRET", "correct horse battery staple");
    let node = setup().listen(&format!("0.0.0.0:{port}")).join(&address).start();
    wait_until_ready(&node);
    let log = node.log();
    assert_eq!(log.matches("told to join only itself").count(), 1, "{log}");
    node.put("/t/key/a?w=all", r#"{"value":1}"#).expect(200);
    // And others join it.
    let second = setup().join(&address).start();
    wait_until_ready(&second);
    second.get("/t/key/a").expect_body(r#"{"value":1}"#);
}

/// The machine's name, where a connection to it arrives here.
fn name_of_this_machine() -> Option<String> {
    let name = std::fs::read_to_string("/etc/hostname").ok()?.trim().to_owned();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").ok()?;
    let port = listener.local_addr().ok()?.port();
    std::net::TcpStream::connect((name.as_str(), port)).is_ok().then_some(name)
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
        (&web_address, "does not answer like a node"),
    ] {
        let node = setup().join(address).start();
        let detail =
            || node.get("/readyz").expect(503).json()["detail"].as_str().unwrap_or_default().to_owned();
        wait_until(&format!("{address}: {words}"), DEADLINE, || {
            detail().contains(words) && detail().contains(address) && node.log().contains(words)
        });
    }
}
