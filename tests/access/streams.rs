//! A token that is revoked or ends takes its open streams with it.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{ALL, Entry, Guarded, file, guarded, with};
use crate::harness::{
    DEADLINE,
    http::{Connection, Request},
    sse::Events,
    wait_until,
    ws::{Incoming, Socket},
};

const READ: &str = r#"rights = ["read"]"#;

/// The last things that a client sees of a stream.
fn assert_ended(mut events: Events, why: &str) {
    // A keep-alive may come before it.
    let last = events.event();
    assert!(last.is_control("unauthorized"), "{last:?}");
    assert_eq!(last.json(), json!({"event": "unauthorized", "detail": why}));
    assert_eq!(events.block(), None);
}

fn assert_closed(mut socket: Socket, why: &str) {
    assert_eq!(socket.next(), Incoming::Json(json!({"event": "unauthorized", "detail": why})));
    assert_eq!(socket.next(), Incoming::Close(1008));
}

/// A client may send its next request while a stream goes on. It is answered when the stream has ended, unless the client wanted the
/// connection closed by then.
#[test]
fn a_connection_serves_on_after_its_stream() {
    let node = guarded(&[("kept", READ), ("revoked", READ)], |setup| setup);
    let subscribe = |header: &str| {
        let mut connection = node.connect();
        let request = with("revoked", Request::new("GET", "/t/subscribe/a")).to_bytes();
        let request =
            String::from_utf8(request).expect("text").replacen("\r\n\r\n", &format!("\r\n{header}\r\n"), 1);
        let next = String::from_utf8(Request::new("GET", "/healthz").to_bytes()).expect("text");
        connection.write(format!("{request}{next}").as_bytes()).expect("requests can be sent");
        assert!(connection.has_answer(DEADLINE), "the head of the stream");
        connection
    };
    let (mut kept, mut closed) = (subscribe(""), subscribe("Connection: close\r\n"));
    fs::write(&node.tokens, file(&[("kept", READ)])).expect("written");
    node.signal("HUP");
    for connection in [&mut kept, &mut closed] {
        let stream = connection.receive("GET").expect("a stream that ends").expect(200);
        assert!(stream.text().contains("event: unauthorized\n"), "{stream:?}");
    }
    assert!(closed.is_closed(DEADLINE));
    kept.receive("GET")
        .expect("the answer to the second request")
        .expect(200)
        .expect_body(r#"{"status":"ok"}"#);
    kept.send(&with("kept", Request::new("GET", "/t/keys"))).expect(200);
}

/// The file changes under the running node; SIGHUP makes it look at once.
#[test]
fn a_token_that_is_revoked_changed_or_expired_ends_its_streams_and_no_others() {
    let entries: [Entry<'_>; 4] = [("kept", READ), ("revoked", READ), ("changed", READ), ("ending", READ)];
    let node = guarded(&entries, |setup| setup);
    let open = |token: &str| {
        let mut events = Events::request(node.address(), &with(token, Request::new("GET", "/t/subscribe")));
        events.block().expect("a stream starts with a block");
        events
    };
    let socket =
        |token: &str, path: &str| Socket::open(node.address(), &format!("{path}?access_token={token}"));
    let (kept, revoked, changed, ending) = (open("kept"), open("revoked"), open("changed"), open("ending"));
    let sockets =
        (socket("revoked", "/_/ws"), socket("revoked", "/t/subscribe/a"), socket("ending", "/_/ws"));
    let feed = with("revoked", Request::new("GET", "/t/changes?feed=continuous&since=now"));
    let mut feed = Events::request(node.address(), &feed);
    let by_query = Events::open(node.address(), "/t/subscribe/a?access_token=revoked").0;

    let soon = SystemTime::now() + Duration::from_secs(1);
    let until = format!("{READ}\nexpires = {}", humantime::format_rfc3339_seconds(soon));
    let after: [Entry<'_>; 3] =
        [("kept", READ), ("changed", r#"rights = ["read", "write"]"#), ("ending", &until)];
    fs::write(&node.tokens, file(&after)).expect("written");
    node.signal("HUP");
    for events in [revoked, by_query] {
        assert_ended(events, "the token was revoked");
    }
    let lines: Vec<String> = std::iter::from_fn(|| feed.line()).collect();
    let last = r#"{"event":"unauthorized","detail":"the token was revoked"}"#;
    assert_eq!(lines.last().map(String::as_str), Some(last));
    assert_ended(changed, "the rights of the token have changed: connect again");
    assert_closed(sockets.0, "the token was revoked");
    let mut of_events = sockets.1;
    while let Incoming::Json(message) = of_events.next() {
        assert!(message["event"] == "position" || message["event"] == "unauthorized", "{message}");
    }
    node.send(&with("revoked", Request::new("GET", "/t/keys"))).expect_problem(401, "unauthorized");
    assert_ended(ending, "the token has expired");
    assert_closed(sockets.2, "the token has expired");
    let mut kept = kept;
    node.send(&with("changed", Request::new("PUT", "/t/key/a").body(r#"{"value":1}"#))).expect(200);
    // Its position may come before.
    while !kept.block().expect("an event").is_data() {}
}

/// Without a signal the node sees the change by itself; what it cannot read changes nothing, and is said loudly.
#[test]
fn a_broken_file_keeps_the_tokens_from_before() {
    let node = guarded(&[("first", READ)], |setup| setup);
    let status = |token: &str| node.send(&with(token, Request::new("GET", "/t/keys"))).status;
    fs::write(&node.tokens, "[[token]]\nname = \"first\"\nhsah = \"\"").expect("written");
    wait_until("the node says that the file is broken", crate::harness::DEADLINE, || {
        node.log().contains("ACCESS CONTROL NOT CHANGED")
    });
    assert!(node.log().contains("did you mean \"hash\"?"), "{}", node.log());
    assert_eq!(status("first"), 200);
    fs::remove_file(&node.tokens).expect("removed");
    node.signal("HUP");
    wait_until("it says that the file is gone", crate::harness::DEADLINE, || {
        node.log().contains("No such file")
    });
    assert_eq!(status("first"), 200);
    fs::write(&node.tokens, file(&[("second", READ)])).expect("written");
    wait_until("the new token works", crate::harness::DEADLINE, || status("second") == 200);
    assert_eq!(status("first"), 401);
}

/// Removes all tokens but these from the file, and waits until the node knows.
fn keep_only(node: &Guarded, entries: &[Entry<'_>]) {
    fs::write(&node.tokens, file(entries)).expect("written");
    node.signal("HUP");
    wait_until("the node has read the file again", DEADLINE, || {
        node.log().contains("access control reloaded")
    });
}

/// Exports, listings and imports went on to their end, minutes later, whatever became of the token that began them. So did a batch: who sent its
/// body slowly could still write hours later.
#[test]
fn a_token_that_is_revoked_ends_its_long_requests() {
    let node = guarded(&[("kept", ALL), ("revoked", ALL)], |setup| setup);
    // More than the buffers between the two take: the rest is not read before the client has taken the beginning.
    let value = "x".repeat(8 * 1024);
    let rows: String =
        (0..3000).map(|row| format!("{{\"key\":\"{row}\",\"value\":\"{value}\"}}\n")).collect();
    let load = Request::new("POST", "/_/import?table=big").body(rows);
    node.send(&with("kept", load)).expect(200);
    let begin = |path: &str| {
        let mut connection = node.connect();
        connection.write(&with("revoked", Request::new("GET", path)).to_bytes()).expect("sent");
        assert!(connection.has_answer(DEADLINE), "{path}");
        connection
    };
    let (export, listing) = (begin("/_/export?table=big"), begin("/big/store"));
    let mut import = node.connect();
    let head =
        with("revoked", Request::new("POST", "/_/import?table=t").header("Transfer-Encoding", "chunked"));
    import.write(&head.to_bytes()).expect("sent");
    let rows: String = (0..1001).map(|row| format!("{{\"key\":\"{row}\",\"value\":1}}\n")).collect();
    import.write(format!("{:x}\r\n{rows}\r\n", rows.len()).as_bytes()).expect("sent");
    let mut batch = node.connect();
    let head = Request::new("POST", "/slow/batch").header("Transfer-Encoding", "chunked");
    batch.write(&with("revoked", head.header("Expect", "100-continue")).to_bytes()).expect("sent");
    assert!(batch.has_answer(DEADLINE), "the node waits for the body");
    let begun = r#"{"ops":[{"op":"put","key":"a","value":1},"#;
    batch.write(format!("{:x}\r\n{begun}\r\n", begun.len()).as_bytes()).expect("sent");
    let count =
        || node.send(&with("kept", Request::new("GET", "/t/count"))).expect(200).json()["count"].clone();
    wait_until("the first batch is written", DEADLINE, || count() == 1000);

    keep_only(&node, &[("kept", ALL)]);
    let rest = |mut connection: Connection| {
        let text = String::from_utf8(connection.read_to_close(DEADLINE)).expect("text");
        assert!(text.starts_with("HTTP/1.1 200 ") && !text.ends_with("\r\n0\r\n\r\n"), "it looks complete");
        text
    };
    let export = rest(export);
    let last = r#"{"error":"unauthorized","detail":"the token was revoked"}"#;
    assert!(
        export.contains(last) && !export.contains(r#"{"end":true"#),
        "{:?}",
        &export[export.len() - 200..]
    );
    assert!(!rest(listing).ends_with("}\r\n"));
    let batch = String::from_utf8(batch.read_to_close(DEADLINE)).expect("text");
    assert!(batch.contains("HTTP/1.1 401 ") && batch.contains("the token was revoked"), "{batch}");
    let refused = import.receive("POST").expect("an answer");
    assert_eq!(
        refused.expect_header("www-authenticate"),
        r#"Bearer realm="DynaRust", error="invalid_token""#
    );
    assert_eq!(refused.json()["written"], 1000, "{refused}");
    let detail = refused.expect_problem(401, "unauthorized");
    assert!(detail.contains("the token was revoked; the 1000 rows written before it stay"), "{detail}");
    assert_eq!(count(), 1000);
}
