//! `DynaRust token`, what a node says of its access control, and the logs.

use serde_json::Value;

use super::{ALL, guarded, with};
use crate::harness::{Node, Setup, http::Request, wait_until};

#[test]
fn a_token_is_made_used_and_revoked() {
    let (setup, outcome) = Setup::new().run(&[
        "token",
        "new",
        "shop",
        "--rights",
        "read,write",
        "--table",
        "orders",
        "--prefix",
        "eu/",
        "--expires",
        "90d",
        "--tokens",
        "tokens.toml",
    ]);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    let secret = outcome.stdout.trim().to_owned();
    assert!(secret.starts_with("dynarust_") && secret.len() == 9 + 64, "{outcome:?}");
    assert!(outcome.log.contains("shown only now") && !outcome.log.contains(&secret), "{outcome:?}");
    let (setup, outcome) =
        setup.run(&["token", "new", "boss", "--rights", "admin", "--tokens", "tokens.toml"]);
    let boss = outcome.stdout.trim().to_owned();
    let (setup, listed) = setup.run(&["token", "list", "--json", "--tokens", "tokens.toml"]);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(
        (&listed[0]["name"], &listed[0]["tables"][0], &listed[1]["rights"][0]),
        (&"shop".into(), &"orders".into(), &"admin".into())
    );
    assert!(!listed.to_string().contains(&secret));
    let file = setup.home().join("tokens.toml");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("a file")) & 0o777;
    assert_eq!(mode, 0o600);

    let node = setup.flag("--tokens", "tokens.toml").start();
    node.send(&with(&secret, Request::new("PUT", "/orders/key/eu/1").body(r#"{"value":1}"#))).expect(200);
    node.send(&with(&secret, Request::new("PUT", "/orders/key/us/1").body(r#"{"value":1}"#))).expect(403);
    node.send(&with(&secret, Request::new("POST", "/_/admin/sync"))).expect(403);
    node.send(&with(&boss, Request::new("POST", "/_/admin/sync"))).expect(200);
    // The node's own token does everything, as who can read it could take the data.
    let own = std::fs::read_to_string(node.home().join("storage.db/dynarust.admin-token")).expect("a token");
    node.send(&with(own.trim(), Request::new("GET", "/orders/keys"))).expect(200);
    node.send(&with(own.trim(), Request::new("POST", "/_/admin/sync"))).expect(200);

    let revoke = |name: &str| {
        let binary = std::process::Command::new(env!("CARGO_BIN_EXE_DynaRust"))
            .args(["token", "revoke", name, "--tokens"])
            .arg(&file)
            .output();
        binary.expect("it runs").status.code()
    };
    assert_eq!((revoke("shop"), revoke("shop")), (Some(0), Some(3)));
    wait_until("the token is refused", crate::harness::DEADLINE, || {
        node.send(&with(&secret, Request::new("GET", "/orders/keys?prefix=eu/"))).status == 401
    });
    let audit: Vec<String> =
        node.log().lines().filter(|line| line.contains(" audit: ")).map(str::to_owned).collect();
    let has = |words: &[&str]| audit.iter().any(|line| words.iter().all(|word| line.contains(word)));
    for words in [
        &["admin action refused", "/_/admin/sync", "shop", "status=403"][..],
        &["admin action begins", "/_/admin/sync", "boss"],
        &["admin action ended", "/_/admin/sync", "boss", "status=200"],
        &["admin action ended", "/_/admin/sync", "operator", "status=200"],
        &["access control reloaded", "tokens=1"],
    ] {
        assert!(has(words), "{words:?}: {audit:#?}");
    }
}

/// Commands that administer a node asked for its admin token or the cluster secret, whatever the rights of the token they were given.
#[test]
fn commands_administer_a_node_with_a_token_that_has_the_right() {
    let node = guarded(&[("boss", ALL), ("reader", r#"rights = ["read"]"#)], |setup| setup);
    node.send(&with("boss", Request::new("PUT", "/t/key/a").body(r#"{"value":1}"#))).expect(200);
    let address = node.address().to_string();
    let run = |command: &[&str], token: &[&str]| Setup::new().run(&[command, token].concat()).1;
    for command in [&["sync", &address][..], &["backup", "saved", "--at", &address]] {
        let done = run(command, &["--token", "boss"]);
        assert_eq!(done.code(), Some(0), "{command:?}: {done:?}");
        for (token, words) in [
            (&["--token", "reader"][..], "admin"),
            (&["--token", "nobody"], "does not take the token"),
            (&[], "admin token or its cluster secret"),
        ] {
            let refused = run(command, token);
            assert_eq!(refused.code(), Some(6), "{command:?} {token:?}: {refused:?}");
            assert!(refused.log.contains(words), "{command:?} {token:?}: {refused:?}");
        }
    }
}

#[test]
fn wrong_arguments_are_refused_with_what_is_right() {
    let mut setup = Setup::new();
    for (arguments, code, words) in [
        (&["token", "new", "a", "--rights", "reed", "--tokens", "f"][..], Some(2), "did you mean \"read\"?"),
        (&["token", "new", "a b", "--rights", "read", "--tokens", "f"], Some(2), "is not a name"),
        (
            &["token", "new", "a", "--rights", "read", "--expires", "soon", "--tokens", "f"],
            Some(2),
            "such as 90d",
        ),
        (&["token", "new", "a", "--rights", "read"], Some(2), "DYNARUST_TOKENS"),
        (&["token", "list", "--tokens", "absent.toml"], Some(1), "absent.toml"),
        (&["127.0.0.1:0", "--tokens", "absent.toml"], Some(2), "absent.toml"),
        (&["127.0.0.1:0", "--tokens", "f", "--no-auth"], Some(2), "no-auth goes with neither"),
        (&["127.0.0.1:0", "--jwt-audience", "a"], Some(2), "need jwks"),
    ] {
        let outcome;
        (setup, outcome) = setup.run(arguments);
        assert_eq!(outcome.code(), code, "{arguments:?}: {outcome:?}");
        assert!(outcome.log.contains(words), "{arguments:?}: {outcome:?}");
    }
    assert!(!setup.home().join("f").exists(), "nothing was written");
}

#[test]
fn a_node_that_others_reach_warns_unless_it_has_tokens_or_that_is_meant() {
    let warns = |listen: &str, setup: Setup| {
        let node = setup.listen(listen).start();
        node.get("/t/keys").expect(200);
        let (_, outcome) = node.terminate();
        outcome.log.contains("NO ACCESS CONTROL")
    };
    assert!(warns("0.0.0.0:0", Setup::new()));
    assert!(!warns("0.0.0.0:0", Setup::new().argument("--no-auth")));
    assert!(!warns("127.0.0.1:0", Setup::new()));
}

/// A token in the query of an event stream is in no log, at no level, on no protocol.
#[test]
fn a_token_is_never_logged_and_the_access_log_is_there_when_asked_for() {
    let node = guarded(&[("topsecret", ALL)], |setup| setup.flag("--log", "trace,access=info"));
    for path in [
        "/t/subscribe/a?access_token=topsecret",
        "/_/ws?access_token=topsecret",
        "/t/keys?access_token=topsecret",
    ] {
        let request = Request::new("HEAD", path);
        let request = if path.contains("/keys") { Request::new("GET", path) } else { request };
        node.send(&request);
    }
    node.send(&with("topsecret", Request::new("GET", "/t/keys"))).expect(200);
    wait_until("the access log", crate::harness::DEADLINE, || node.log().matches(" access: ").count() >= 4);
    let log = node.log();
    let secrets: Vec<&str> = log.lines().filter(|line| line.contains("access_token")).collect();
    assert!(secrets.is_empty(), "{secrets:#?}");
    // Its name is the same word here, and stands in the access log only.
    let named: Vec<&str> =
        log.lines().filter(|line| line.contains("topsecret") && !line.contains(" access: ")).collect();
    assert!(named.is_empty(), "{named:#?}");
    let line = log
        .lines()
        .find(|line| line.contains(" access: ") && line.contains("status=200") && line.contains("/t/keys"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for word in ["method=GET", "path=\"/t/keys\"", "by=\"topsecret\"", "route=\"keys\""] {
        assert!(line.contains(word), "{line}");
    }
    let quiet = Node::start();
    quiet.get("/t/keys").expect(200);
    let (_, outcome) = quiet.terminate();
    assert!(!outcome.log.contains(" access: "), "off by default: {outcome:?}");
}
