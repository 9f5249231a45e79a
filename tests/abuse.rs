//! Bad use: what is no HTTP, too large, too slow, too many. Each is answered or cut off; another client, who was there before,
//! is served on the connection it has, and what was stored is still there.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use crate::harness::{
    DEADLINE, Node, Setup,
    http::{Connection, Request, Response},
    sse::Events,
    wait_until,
};

/// A node with a client that has done nothing wrong.
struct Victim {
    node: Node,
    bystander: Connection,
}

impl Victim {
    fn start(setup: Setup) -> Self {
        let node = setup.start();
        node.put("/kept/key/a", r#"{"value":"kept"}"#).expect(200);
        let mut bystander = node.connect();
        bystander.send(&Request::new("GET", "/kept/key/a")).expect(200);
        Self { node, bystander }
    }

    /// Panics unless the bystander, and somebody new, are served and nothing was written.
    #[track_caller]
    fn check(&mut self, after: &str) {
        let store = Request::new("GET", "/kept/store");
        let kept = self.bystander.try_send(&store).unwrap_or_else(|error| panic!("{error} after {after}"));
        assert_eq!(kept.text(), r#"{"a":"kept"}"#, "after {after}");
        assert_eq!(self.node.send(&store).text(), r#"{"a":"kept"}"#, "after {after}");
        assert!(!self.node.log().contains("panicked at"), "a panic after {after}: {}", self.node.log());
    }
}

/// Sends bytes, says that no more will come, and gives whatever comes back before the node closes.
fn throw(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let mut connection = node.connect();
    // The node may close before it has all of it.
    let _ = connection.write(bytes);
    connection.finish();
    connection.read_to_close(DEADLINE)
}

fn status_of(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

#[test]
fn what_is_no_http_is_cut_off_or_refused() {
    let mut victim = Victim::start(Setup::new());
    let noise: Vec<u8> = (0..5000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("noise", &noise),
        ("zeros", &[0; 3000]),
        ("line ends", b"\r\n\r\n\r\n\r\n"),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("HTTP/0.9", b"GET /\r\n\r\n"),
        ("HTTP/9.9", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"),
        ("a broken HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense nonsense nonsense"),
        ("a header without a name", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\n: b\r\n\r\n"),
        ("a header without a colon", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n"),
        ("a header with a NUL", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nA: \0\r\n\r\n"),
        ("a space before a colon", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nContent-Length : 11\r\n\r\n{\"value\":1}"),
        ("a length that is no number", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n{\"value\":1}"),
        ("a negative length", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n{\"value\":1}"),
        ("two lengths", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nContent-Length: 12\r\n\r\n{\"value\":1}"),
        ("an endless length", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n{"),
        ("a chunk size that is none", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{\"value\":1}\r\n0\r\n\r\n"),
        ("a chunk size too large", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{\"value\":1}"),
        ("an unknown coding", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n{\"value\":1}"),
        ("half a body", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{\"value\":1}"),
        ("half a chunked body", b"PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{\"value\":1}\r\n"),
        ("a control character in the path", b"PUT /kept/key/\x01 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{\"value\":1}"),
        ("bytes above ASCII in the path", b"PUT /t\xff/key/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{\"value\":1}"),
    ] {
        let answer = throw(&victim.node, bytes);
        assert!(status_of(&answer).is_none_or(|status| status >= 400), "{what}: {:?}", String::from_utf8_lossy(&answer));
        victim.check(what);
    }
}

/// A length and chunks at once is how requests are smuggled past proxies (RFC 9112, section 6.1).
#[test]
fn a_length_beside_chunks_never_makes_two_requests_of_one() {
    let mut victim = Victim::start(Setup::new());
    let smuggled = b"PUT /other/key/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
        b\r\n{\"value\":1}\r\n0\r\n\r\nPUT /kept/key/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n{\"value\":1}";
    let mut connection = victim.node.connect();
    connection.write(smuggled).expect("bytes can be sent");
    let first = connection.receive("PUT");
    if first.is_ok_and(|answer| answer.status == 200) {
        // Read by its chunks, as the RFC says, so that what follows is a request of its own, unless the node closes here,
        // as the RFC advises.
        if connection.receive("PUT").is_ok_and(|answer| answer.status == 200) {
            victim.node.delete("/kept/key/smuggled").expect(200);
        }
    }
    victim.check("a length beside chunks");
}

#[test]
fn json_ten_thousand_deep_is_refused_wherever_json_is_read() {
    let mut victim = Victim::start(Setup::new());
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        let unclosed = open.repeat(10_000);
        for value in [deep, unclosed] {
            for (method, path, body) in [
                ("PUT", "/kept/key/b", format!(r#"{{"value":{value}}}"#)),
                ("PUT", "/kept/key/b", value.clone()),
                ("PATCH", "/kept/key/a", format!(r#"{{"b":{value}}}"#)),
                ("POST", "/kept/keys", value.clone()),
                ("POST", "/kept/batch", value.clone()),
                ("POST", "/kept/batch", format!(r#"[{{"op":"put","key":"b","value":{value}}}]"#)),
                ("POST", "/_/import", format!(r#"{{"table":"kept","key":"b","value":{value}}}"#)),
            ] {
                let refused = victim.node.send(&Request::new(method, path).body(body));
                assert_eq!(refused.status, 400, "{method} {path}: {refused}");
            }
            let patch =
                Request::new("PATCH", "/kept/key/a").header("Content-Type", "application/json-patch+json");
            let refused =
                victim.node.send(&patch.body(format!(r#"[{{"op":"replace","path":"","value":{value}}}]"#)));
            assert_eq!(refused.status, 400, "{refused}");
            victim.check("JSON ten thousand deep");
        }
    }
}

#[test]
fn a_body_one_byte_too_long_is_413_declared_or_in_chunks() {
    let mut victim = Victim::start(Setup::new());
    let body = format!(r#"{{"value":"{}"}}"#, "v".repeat((1 << 20) - 1)).into_bytes();
    let put = || Request::new("PUT", "/kept/key/b");
    victim.node.send(&put().body(body.clone())).expect_problem(413, "too-large");
    victim.check("a declared body");
    victim.node.send(&put().chunks(body.chunks(60_000))).expect_problem(413, "too-large");
    victim.check("a chunked body");
    // One byte less is the limit itself.
    let body = format!(r#"{{"value":"{}"}}"#, "v".repeat((1 << 20) - 2));
    victim.node.put("/other/key/a", body).expect(200);
}

#[test]
fn a_body_far_too_long_is_refused_and_not_read() {
    let mut victim = Victim::start(Setup::new().flag("--max-body", "2MiB"));
    for path in ["/kept/batch", "/kept/keys", "/kept/key/b"] {
        let method = if path.contains("/key/") { "PUT" } else { "POST" };
        // Declared: refused by what it declares.
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n[");
        let mut connection = victim.node.connect();
        connection.write(head.as_bytes()).expect("a head can be sent");
        let refused = connection.receive(method).expect("an answer");
        refused.expect_problem(413, "too-large");
        victim.check(path);
    }
    // Chunked without an end: cut off once it is too long.
    let mut connection = victim.node.connect();
    connection
        .write(b"POST /kept/batch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("a head can be sent");
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    pour(&victim.node, connection, &chunk);
    victim.check("chunks without an end");
}

#[test]
fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let mut victim = Victim::start(Setup::new());
    let head = |length: usize| {
        format!(
            "PUT /other/key/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut connection = victim.node.connect();
    connection.write(head(11).as_bytes()).expect("a head can be sent");
    connection.write(b"{\"value\":1}").expect("a body can be sent");
    connection.receive("PUT").expect("an answer").expect(200);
    // What is too long is refused before it is sent.
    let mut connection = victim.node.connect();
    connection.write(head(100 << 20).as_bytes()).expect("a head can be sent");
    connection.receive("PUT").expect("an answer").expect_problem(413, "too-large");
    victim.check("a body that was not sent");
}

#[test]
fn headers_without_measure_are_refused() {
    let mut victim = Victim::start(Setup::new());
    let long_line = Request::new("GET", "/kept/key/a").header("X-Long", &"x".repeat(100_000));
    let long_path = Request::new("GET", &format!("/kept/key/{}", "k".repeat(100_000)));
    let many_lines = (0..5_000).fold(Request::new("GET", "/kept/key/a"), |it, _| it.header("X-Many", "x"));
    for (what, head) in [("a long line", long_line), ("a long path", long_path), ("many lines", many_lines)] {
        let answer = throw(&victim.node, &head.to_bytes());
        assert!(status_of(&answer).is_none_or(|status| status >= 400), "{what}: {:?}", status_of(&answer));
        victim.check(what);
    }
    // One that never ends is cut off without being kept.
    let mut connection = victim.node.connect();
    connection.write(b"GET / HTTP/1.1\r\nX-Endless: ").expect("bytes can be sent");
    pour(&victim.node, connection, &[b'x'; 0x10000]);
    victim.check("a header without an end");
}

/// Sends a piece over and over: the node has to cut it off, and to keep none of it however quickly it comes.
fn pour(node: &Node, mut connection: Connection, piece: &[u8]) {
    let resident_before = resident_bytes(node);
    for _ in 0..2000 {
        if connection.write(piece).is_err() {
            break;
        }
    }
    let answer = connection.read_to_close(DEADLINE);
    assert!(status_of(&answer).is_none_or(|status| status >= 400), "{:?}", String::from_utf8_lossy(&answer));
    let grown = resident_bytes(node).saturating_sub(resident_before);
    assert!(grown < 32 << 20, "{grown} bytes are kept of what never ends");
}

#[test]
fn a_body_that_never_comes_is_given_up() {
    let mut victim = Victim::start(Setup::new().flag("--body-timeout", "300ms"));
    for head in [
        "Content-Length: 100\r\n\r\n",
        "Content-Length: 100\r\n\r\n{\"val",
        "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"val\r\n",
    ] {
        let mut connection = victim.node.connect();
        connection
            .write(format!("PUT /kept/key/b HTTP/1.1\r\nHost: localhost\r\n{head}").as_bytes())
            .expect("a head can be sent");
        let begun = Instant::now();
        let answer = connection.read_to_close(DEADLINE);
        assert!(
            status_of(&answer).is_none_or(|status| status >= 400),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?} for a limit of 300 ms", begun.elapsed());
        victim.check("a body that never came");
    }
}

#[test]
fn a_head_that_comes_too_slowly_is_given_up_however_steadily() {
    let mut victim = Victim::start(Setup::new().flag("--header-timeout", "300ms"));
    for start in ["", "G", "GET /kept/key/a HTTP/1.1\r\nX: ", "PRI ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut silent = victim.node.connect();
        silent.write(start.as_bytes()).expect("bytes can be sent");
        let begun = Instant::now();
        silent.read_to_close(DEADLINE);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?} for a limit of 300 ms", begun.elapsed());

        let mut steady = victim.node.connect();
        steady.write(b"GET /kept/key/a HTTP/1.1\r\nHost: localhost\r\nX: ").expect("bytes can be sent");
        wait_until("a head that drips is cut off", Duration::from_secs(5), || {
            steady.write(b"x").is_err() || steady.is_closed(Duration::from_millis(20))
        });
        victim.bystander = victim.node.connect();
        victim.check("a head that came too slowly");
    }
}

#[test]
fn a_client_that_never_reads_is_cut_off_and_costs_nothing() {
    let mut victim = Victim::start(Setup::new().flag("--stall-timeout", "1s"));
    let value = format!(r#"{{"value":"{}"}}"#, "v".repeat(1_000_000));
    victim.node.put("/big/key/a", value).expect(200);
    let resident_before = resident_bytes(&victim.node);

    let mut stuck = victim.node.connect();
    let request = Request::new("GET", "/big/key/a").to_bytes();
    stuck.write(&request.repeat(100)).expect("requests can be sent ahead");
    victim.check("a client that does not read");

    // What was on its way can be read, and then it is over: 100 answers never come.
    wait_until("a client that never reads is cut off", DEADLINE, || {
        stuck.write(b"GET /kept/key/a HTTP/1.1\r\nHost: localhost\r\n\r\n").is_err()
    });
    let grown = resident_bytes(&victim.node).saturating_sub(resident_before);
    assert!(grown < 32 << 20, "{grown} bytes for one client that does not read");
    victim.check("a client that was cut off");
}

#[test]
fn a_store_that_nobody_reads_is_not_gathered_in_memory() {
    let mut victim = Victim::start(Setup::new());
    let filler = "v".repeat(10_000);
    for batch in 0..10 {
        let lines: Vec<String> = (0..500)
            .map(|row| format!(r#"{{"op":"put","key":"{batch}-{row}","value":"{filler}"}}"#))
            .collect();
        victim.node.post("/big/batch", lines.join("\n")).expect(200);
    }
    let resident_before = resident_bytes(&victim.node);
    let mut stuck: Vec<Connection> = (0..4).map(|_| victim.node.connect()).collect();
    for (index, connection) in stuck.iter_mut().enumerate() {
        let path = if index % 2 == 0 { "/big/store" } else { "/_/export" };
        connection.write(&Request::new("GET", path).to_bytes()).expect("a request can be sent");
    }
    victim.check("stores that nobody reads");
    let grown = resident_bytes(&victim.node).saturating_sub(resident_before);
    assert!(grown < 48 << 20, "{grown} bytes for four stores of 50 MB that nobody reads");
    // Whoever reads at last gets all of it.
    assert_eq!(
        stuck[0].receive("GET").expect("an answer").json().as_object().map(serde_json::Map::len),
        Some(5000)
    );
}

#[test]
fn connections_have_a_cap_and_room_comes_back() {
    let mut victim = Victim::start(Setup::new().flag("--max-connections", "8"));
    let mut held = Vec::new();
    let served = |connection: &mut Connection| -> io::Result<Response> {
        connection.try_send(&Request::new("GET", "/healthz")).and_then(|answer| match answer.status {
            200 => Ok(answer),
            status => Err(io::Error::other(format!("status {status}"))),
        })
    };
    // The bystander has one of the eight. Those that asked whether the node is up may not all be gone yet.
    for _ in 0..7 {
        wait_until("there is room for this one", DEADLINE, || {
            let mut connection = victim.node.connect();
            served(&mut connection).map(|_| held.push(connection)).is_ok()
        });
    }
    // Whether one too many is refused or waits, it is not served beside the eight, and those go on.
    let mut extra = victim.node.connect();
    extra.write(&Request::new("GET", "/healthz").to_bytes()).expect("bytes can be sent");
    let refused = extra.is_closed(Duration::from_millis(300));
    for connection in &mut held {
        served(connection).expect("those who were there are served");
    }
    held.clear();
    if !refused {
        assert!(matches!(extra.receive("GET").expect("an answer in the end").status, 200 | 503));
    }
    wait_until("there is room again", DEADLINE, || served(&mut victim.node.connect()).is_ok());
    wait_until("and the cap forgets those who left", DEADLINE, || {
        (0..20).all(|_| served(&mut victim.node.connect()).is_ok())
    });
    victim.check("too many connections");
}

#[test]
fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let mut victim = Victim::start(Setup::new());
    let value = format!(r#"{{"value":"{}"}}"#, "v".repeat(1_000_000));
    victim.node.put("/big/key/a", value.as_str()).expect(200);
    for _ in 0..20 {
        let mut connection = victim.node.connect();
        connection.write(&Request::new("GET", "/big/key/a").to_bytes()).expect("a request can be sent");
        drop(connection);
        let mut connection = victim.node.connect();
        let put = Request::new("PUT", "/kept/key/b").body(value.as_str()).to_bytes();
        connection.write(&put[..put.len() / 2]).expect("half a request can be sent");
        drop(connection);
        drop(Events::open(victim.node.address(), "/kept/subscribe/a"));
    }
    victim.check("clients that left");
}

#[test]
fn an_unknown_event_id_or_odd_header_is_no_error() {
    let mut victim = Victim::start(Setup::new());
    let long = "9".repeat(5000);
    for id in
        ["", "garbage", "ffffffff.1", "00000000.0", "zzzz.zzzz", "-1.-1", "1.99999999999999999999999", &long]
    {
        let mut events = Events::resume(victim.node.address(), "/kept/subscribe/a", id);
        let first = events.block().expect("a stream starts with a block");
        assert!(!first.comments.is_empty(), "{first:?}");
    }
    for (name, value) in [
        ("Range", "bytes=0-1"),
        ("If-Modified-Since", "yesterday"),
        ("Accept", "nonsense;;;"),
        ("Accept-Encoding", "\u{7f}"),
    ] {
        let answer = victim.node.connect().try_send(&Request::new("GET", "/kept/key/a").header(name, value));
        assert!(answer.is_ok_and(|answer| answer.status < 500), "{name}: {value}");
    }
    victim.check("odd headers");
}

fn resident_bytes(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a size");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kibibytes * 1024
}
