//! What a single node reports about its cluster, the admin commands it accepts and from whom, and the command line that sends them.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{
    Node, Outcome, Setup,
    http::{Request, Response},
};

/// Exit codes of the contract, section 6.
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const NOT_FOUND: Option<i32> = Some(3);
const UNREACHABLE: Option<i32> = Some(5);
const NOT_ALLOWED: Option<i32> = Some(6);

const SECRET: &str = "correct horse battery staple";
/// More challenges than were once open at a time.
const MANY_CHALLENGES: usize = 1100;

fn guarded() -> Node {
    Setup::new().environment("CLUSTER_SECRET", SECRET).start()
}

fn challenge(node: &Node) -> String {
    let nonce = node.get("/_/admin/challenge").expect(200).json()["nonce"].clone();
    nonce.as_str().expect("a nonce").to_owned()
}

/// The `Authorization` header as the contract describes it, built independently of the code under test.
fn authorization(secret: &str, nonce: &str, path: &str, body: &str) -> String {
    proof_by(&blake3::derive_key("dynarust 2026 admin challenge", secret.as_bytes()), nonce, path, body)
}

fn proof_by(key: &[u8; 32], nonce: &str, path: &str, body: &str) -> String {
    let mut message = blake3::Hash::from_hex(nonce).expect("64 hexadecimal digits").as_bytes().to_vec();
    message.extend_from_slice(format!("POST\0{path}\0").as_bytes());
    message.extend_from_slice(blake3::hash(body.as_bytes()).as_bytes());
    format!("DynaRust nonce={nonce}, proof={}", blake3::keyed_hash(key, &message))
}

fn post(node: &Node, path: &str, body: &str, authorization: &str) -> Response {
    node.send(&Request::new("POST", path).header("Authorization", authorization).body(body))
}

#[track_caller]
fn expect_unauthorized(response: Response) {
    assert_eq!(response.expect_header("www-authenticate"), "DynaRust");
    response.expect_problem(401, "unauthorized");
}

#[test]
fn a_single_node_is_a_cluster_of_one() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    node.put("/t/key/b", r#"{"value":1}"#).expect(200);
    node.delete("/t/key/b").expect(200);
    let cluster = node.get("/_/cluster").expect(200).json();
    let id = node.get("/version").expect(200).json()["node"].clone();
    assert_eq!(cluster["node"], id);
    assert_eq!(cluster["address"], node.address().to_string());
    assert_eq!(cluster["cluster"].as_str().map(str::len), Some(16), "{cluster}");
    assert_eq!((&cluster["whole"], &cluster["sync"]), (&json!(true), &Value::Null));
    assert!(cluster["floor_age_ms"].is_u64() && cluster["incarnation"].is_u64(), "{cluster}");
    assert_eq!(cluster["swept"], json!({ "tombstones_age_ms": null, "expired_age_ms": null }));
    assert_eq!(cluster["zombies_refused"], 0);
    let members = cluster["members"].as_array().expect("members");
    assert_eq!(members.len(), 1);
    let member = &members[0];
    assert_eq!((&member["node"], &member["state"], &member["rows"]), (&id, &json!("self"), &json!(2)));
    for unknown in ["round_trip_ms", "clock_offset_ms", "lag_ms", "last_round_ms"] {
        assert_eq!(member.get(unknown), Some(&Value::Null), "{unknown}");
    }
    for counter in [
        "since_ms",
        "outbox",
        "rounds",
        "sessions",
        "false_sessions",
        "comparison_messages",
        "comparison_bytes",
        "comparison_steps",
        "bytes_sent",
        "bytes_received",
        "rows_sent",
        "rows_received",
    ] {
        assert_eq!(member[counter], 0, "{counter}");
    }
    node.post("/_/cluster", "").expect_problem(405, "method-not-allowed");
    assert!(node.send(&Request::new("HEAD", "/_/cluster")).expect(200).body.is_empty());
}

#[test]
fn tables_report_their_digest() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let tables = node.get("/_/tables").expect(200).json();
    assert!(tables[0].get("root").is_some_and(|root| root.is_null() || root.is_string()), "{tables}");
}

#[test]
fn the_metrics_count_members_by_state() {
    let page = Node::start().get("/metrics").expect(200);
    for line in [
        r#"dynarust_members{state="self"} 1"#,
        r#"dynarust_members{state="down"} 0"#,
        "dynarust_zombies_refused_total 0",
        "dynarust_whole 1",
    ] {
        assert!(page.text().lines().any(|found| found == line), "{line} in {}", page.text());
    }
}

#[test]
fn a_proof_of_the_secret_authorizes_one_command() {
    let node = guarded();
    let nonce = challenge(&node);
    let header = authorization(SECRET, &nonce, "/_/admin/sync", "{}");
    post(&node, "/_/admin/sync", "{}", &header).expect_body(r#"{"peers":0}"#);
    expect_unauthorized(post(&node, "/_/admin/sync", "{}", &header));
}

#[test]
fn a_proof_of_another_secret_or_for_another_request_is_refused() {
    let node = guarded();
    let sync = "/_/admin/sync";
    for (what, secret, path, body) in [
        ("another secret", "another horse battery staple", sync, "{}"),
        ("another path", SECRET, "/_/admin/leave", "{}"),
        ("another body", SECRET, sync, "{ }"),
    ] {
        let header = authorization(secret, &challenge(&node), path, body);
        let refused = post(&node, sync, "{}", &header);
        assert_eq!(refused.status, 401, "{what}: {refused}");
        expect_unauthorized(refused);
    }
    let made_up = authorization(SECRET, &"ab".repeat(32), sync, "{}");
    expect_unauthorized(post(&node, sync, "{}", &made_up));
    for header in ["", "Basic YTpi", "DynaRust", "DynaRust nonce=1, proof=2", "DynaRust proof=,nonce="] {
        expect_unauthorized(post(&node, sync, "{}", header));
    }
    expect_unauthorized(node.post(sync, "{}"));
    node.get("/healthz").expect(200);
}

#[test]
fn an_invalid_proof_uses_up_its_challenge() {
    let node = guarded();
    let nonce = challenge(&node);
    let wrong = authorization("another horse battery staple", &nonce, "/_/admin/sync", "{}");
    expect_unauthorized(post(&node, "/_/admin/sync", "{}", &wrong));
    let right = authorization(SECRET, &nonce, "/_/admin/sync", "{}");
    expect_unauthorized(post(&node, "/_/admin/sync", "{}", &right));
}

/// Whoever asked for many challenges displaced the operator's.
#[test]
fn a_challenge_stays_valid_however_many_others_are_requested() {
    let node = guarded();
    let oldest = challenge(&node);
    let mut connection = node.connect();
    let mut latest = oldest.clone();
    for _ in 0..MANY_CHALLENGES {
        let next = connection.send(&Request::new("GET", "/_/admin/challenge")).expect(200).json();
        let next = next["nonce"].as_str().expect("a nonce").to_owned();
        assert_ne!(next, latest);
        latest = next;
    }
    let sync = "/_/admin/sync";
    for nonce in [oldest, latest] {
        let right = authorization(SECRET, &nonce, sync, "{}");
        post(&node, sync, "{}", &right).expect(200);
        expect_unauthorized(post(&node, sync, "{}", &right));
    }
}

#[test]
fn guesses_of_the_secret_are_limited() {
    let node = guarded();
    let sync = "/_/admin/sync";
    let guess = |secret: &str| post(&node, sync, "{}", &authorization(secret, &challenge(&node), sync, "{}"));
    for guessed in 0..10 {
        expect_unauthorized(guess(&format!("guess number {guessed} of the secret")));
    }
    guess("one guess more of the secret").expect_problem(429, "too-many");
    // A client that knows the secret is not locked out by others at the same address who guess.
    guess(SECRET).expect(200);
    node.get("/_/cluster").expect(200);
}

#[test]
fn both_secrets_are_valid_during_a_rotation() {
    let both = format!("{SECRET},the next secret of the cluster");
    let node = Setup::new().environment("CLUSTER_SECRET", both.clone()).start();
    for secret in [SECRET, "the next secret of the cluster"] {
        let header = authorization(secret, &challenge(&node), "/_/admin/sync", "");
        post(&node, "/_/admin/sync", "", &header).expect(200);
    }
    // A command with the new secret first still works where only the old one is known.
    let address = guarded();
    let setup =
        Setup::new().environment("CLUSTER_SECRET", format!("the next secret of the cluster,{SECRET}"));
    let (_, outcome) = setup.run(&["sync", &address.address().to_string()]);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
}

/// A source address authorizes nothing: requests that a proxy forwards come from the node's own machine.
#[test]
fn without_a_secret_the_token_in_the_data_directory_authorizes() {
    let node = Node::start();
    expect_unauthorized(node.post("/_/admin/sync", ""));
    let file = node.home().join("storage.db/dynarust.admin-token");
    let mode = std::fs::metadata(&file).expect("a token").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).expect("a token").trim().to_owned();
    assert_eq!(token.len(), 64, "256 bits");
    post(&node, "/_/admin/sync", "", &format!("Bearer {token}")).expect_body(r#"{"peers":0}"#);
    expect_unauthorized(post(&node, "/_/admin/leave", "", &format!("Bearer {}", "0".repeat(64))));
    // The token also works as the key of a proof, so that it is not sent.
    let bytes = blake3::Hash::from_hex(&token).expect("64 hexadecimal digits");
    let key = blake3::derive_key("dynarust 2026 admin token", bytes.as_bytes());
    let proof = proof_by(&key, &challenge(&node), "/_/admin/sync", "{}");
    post(&node, "/_/admin/sync", "{}", &proof).expect(200);
    // The token stays over restarts, and works next to a secret.
    let node = node.terminate().0.environment("CLUSTER_SECRET", SECRET).start();
    post(&node, "/_/admin/sync", "", &format!("Bearer {token}")).expect(200);
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
}

#[test]
fn commands_read_the_token_in_the_data_directory_or_say_where_it_is_missing() {
    let node = Node::start();
    let (address, home) = (node.address().to_string(), node.home());
    let data = home.join("storage.db");
    let data = data.to_str().expect("a path in text");
    for by in
        [&["sync", &address, "--data", data][..], &["forget", "nowhere:1", "--at", &address, "--data", data]]
    {
        let outcome = Setup::new().run(by).1;
        assert!(matches!(outcome.code(), Some(0) | Some(3)), "{outcome:?}");
    }
    let by_variable = Setup::new().environment("DYNARUST_DATA", data).run(&["sync", &address]).1;
    assert_eq!(by_variable.code(), Some(0), "{by_variable:?}");

    let absent = Setup::new().run(&["leave", &address]).1;
    assert_eq!(absent.code(), NOT_ALLOWED, "{absent:?}");
    for word in ["storage.db/dynarust.admin-token", "--data", "CLUSTER_SECRET", &address] {
        assert!(absent.log.contains(word), "{word}: {absent:?}");
    }
    let others = Node::start();
    let data = others.home().join("storage.db");
    let wrong = Setup::new().run(&["leave", &address, "--data", data.to_str().expect("a path in text")]).1;
    assert_eq!(wrong.code(), NOT_ALLOWED, "{wrong:?}");
    assert!(wrong.log.contains("another node's") && wrong.log.contains("--data"), "{wrong:?}");
    node.get("/readyz").expect(200);
}

#[test]
fn invalid_commands_are_refused() {
    let node = Node::start();
    let token =
        std::fs::read_to_string(node.home().join("storage.db/dynarust.admin-token")).expect("a token");
    let bearer = format!("Bearer {}", token.trim());
    let tell = |path: &str, body: &str| post(&node, path, body, &bearer);
    let unknown = tell("/_/admin/forget", r#"{"node":"00000000000000ab"}"#);
    let detail = unknown.expect_problem(404, "not-found");
    assert!(detail.contains("00000000000000ab") && detail.contains("knows no other"), "{detail}");
    let itself = format!(r#"{{"node":"{}"}}"#, node.address());
    let detail = tell("/_/admin/forget", &itself).expect_problem(400, "bad-request");
    assert!(detail.contains("leave"), "{detail}");
    for body in ["", "{}", r#"["a"]"#, r#"{"node":1}"#, "nonsense"] {
        tell("/_/admin/forget", body).expect_problem(400, "bad-json");
    }
    tell("/_/admin/forget", &"x".repeat(100_000)).expect_problem(413, "too-large");
    for path in ["/_/admin/forget", "/_/admin/leave", "/_/admin/sync"] {
        let refused = node.get(path);
        assert_eq!(refused.expect_header("allow"), "POST, OPTIONS");
        refused.expect_problem(405, "method-not-allowed");
    }
    node.post("/_/admin/nonsense", "{}").expect_problem(404, "not-found");
}

#[test]
fn a_node_that_leaves_answers_then_stops_and_keeps_its_data() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let address = node.address().to_string();
    let data = node.home().join("storage.db");
    let (_, outcome) = Setup::new().run(&["leave", &address, "--data", data.to_str().expect("text")]);
    assert_eq!(outcome.code(), Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains(&address) && outcome.stdout.contains("no other member"), "{outcome:?}");
    let (setup, ended) = node.wait();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    setup.start().get("/t/key/a").expect_body(r#"{"value":1}"#);
}

#[test]
fn a_write_waits_no_longer_than_its_timeout() {
    let node = Node::start();
    node.put("/t/key/a?w=all&w_timeout=100ms", r#"{"value":1}"#).expect(200);
    let refused = node.put("/t/key/a?w=2&w_timeout=0.1", r#"{"value":2}"#).expect(504);
    let problem = refused.json();
    assert_eq!((&problem["held"], &problem["wanted"]), (&json!(1), &json!(2)), "{refused}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("kept")), "{refused}");
    node.get("/t/key/a").expect_body(r#"{"value":2}"#);
    for wrong in ["61s", "soon", "-1"] {
        let refused = node.put(&format!("/t/key/a?w=1&w_timeout={wrong}"), r#"{"value":3}"#);
        refused.expect_refused(wrong);
    }
    node.get("/t/key/a").expect_body(r#"{"value":2}"#);
}

fn run(secret: &str, arguments: &[&str]) -> Outcome {
    Setup::new().environment("CLUSTER_SECRET", secret).run(arguments).1
}

#[test]
fn commands_show_the_cluster_as_text_and_as_json() {
    let node = guarded();
    let address = node.address().to_string();
    let id = node.get("/version").expect(200).json()["node"].as_str().expect("an id").to_owned();

    // Read-only commands need no secret.
    let members = run("", &["members", &address]);
    assert_eq!(members.code(), Some(0), "{members:?}");
    let lines: Vec<Vec<&str>> =
        members.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines.len(), lines[0][0]), (2, "NODE"), "{members:?}");
    assert_eq!(lines[1][..3], [id.as_str(), address.as_str(), "self"]);

    let members = run("", &["members", &address, "--json"]);
    let rows: Value = serde_json::from_str(&members.stdout).expect("JSON");
    assert_eq!((&rows[0]["node"], &rows[0]["state"]), (&json!(id), &json!("self")));

    let status = run("", &["status", &address]);
    assert_eq!(status.code(), Some(0), "{status:?}");
    let line = |name: &str| status.stdout.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    assert!(line("phase").is_some_and(|line| line.ends_with("ready")), "{status:?}");
    assert!(line("members").is_some_and(|line| line.ends_with(" 1")), "{status:?}");
    for (name, unit) in [("uptime", " s"), ("memory", "iB"), ("disk", "B"), ("writes", "/s)")] {
        assert!(line(name).is_some_and(|line| line.ends_with(unit)), "{name}: {status:?}");
    }
    let status: Value = serde_json::from_str(&run("", &["status", &address, "--json"]).stdout).expect("JSON");
    assert_eq!((&status["ready"], &status["cluster"]["node"]), (&json!(true), &json!(id)));
}

#[test]
fn commands_exit_as_the_contract_says() {
    let node = guarded();
    let address = node.address().to_string();
    let synced = run(SECRET, &["sync", &address, "--json"]);
    assert_eq!(synced.code(), Some(0), "{synced:?}");
    assert_eq!(serde_json::from_str::<Value>(&synced.stdout).expect("JSON"), json!({ "peers": 0 }));

    let without = run("", &["sync", &address]);
    assert_eq!(without.code(), NOT_ALLOWED, "{without:?}");
    assert!(without.log.contains("CLUSTER_SECRET") && without.stdout.is_empty(), "{without:?}");
    let wrong = run("another horse battery staple", &["leave", &address]);
    assert_eq!(wrong.code(), NOT_ALLOWED, "{wrong:?}");
    assert!(wrong.log.contains("wrong") && !wrong.log.contains("another horse"), "{wrong:?}");

    let unknown = run(SECRET, &["forget", "nowhere:1", "--at", &address]);
    assert_eq!(unknown.code(), NOT_FOUND, "{unknown:?}");
    assert!(unknown.log.contains("nowhere:1"), "{unknown:?}");
    let itself = run(SECRET, &["forget", &address, "--at", &address]);
    assert_eq!(itself.code(), FAILED, "{itself:?}");
    assert_eq!(run(SECRET, &["forget"]).code(), USAGE);

    let file = Setup::new();
    let path = file.home().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("a file can be written");
    let (_, by_file) = file.environment("CLUSTER_SECRET_FILE", &path).run(&["sync", &address]);
    assert_eq!(by_file.code(), Some(0), "{by_file:?}");
    let absent = Setup::new().environment("CLUSTER_SECRET_FILE", "no-such-file").run(&["sync", &address]).1;
    assert_eq!(absent.code(), USAGE, "{absent:?}");
    assert!(absent.log.contains("no-such-file"), "{absent:?}");

    node.get("/readyz").expect(200);
    drop(node);
    for command in [
        &["members"][..],
        &["sync"],
        &["leave"],
        &["status"],
        &["forget", "a:1", "--at"],
        &["strong", "init", "--at"],
    ] {
        let outcome = run(SECRET, &[command, &[address.as_str()]].concat());
        assert_eq!(outcome.code(), UNREACHABLE, "{command:?}: {outcome:?}");
        assert!(outcome.log.contains(&address), "{command:?}: {outcome:?}");
    }
}
