//! A token that is revoked or ends takes its open streams with it.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{Entry, file, guarded, with};
use crate::harness::{
    http::Request,
    sse::Events,
    wait_until,
    ws::{Incoming, Socket},
};

const READ: &str = r#"rights = ["read"]"#;

/// The last things that a client sees of a stream.
fn assert_ended(mut events: Events, why: &str) {
    let last = events.block().expect("an event that says why");
    assert!(last.is_control("unauthorized"), "{last:?}");
    assert_eq!(last.json(), json!({"event": "unauthorized", "detail": why}));
    assert_eq!(events.block(), None);
}

fn assert_closed(mut socket: Socket, why: &str) {
    assert_eq!(socket.next(), Incoming::Json(json!({"event": "unauthorized", "detail": why})));
    assert_eq!(socket.next(), Incoming::Close(1008));
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
