//! What a node refuses where the memory of its process is nearly used up, and that it goes on answering reads.

use std::time::Duration;

use dynarust::{
    core::memory_pressure::{Level, MemoryPressure},
    http,
};

use super::memory::half_body;
use crate::{
    harness::{DEADLINE, Setup, http::Connection, wait_until},
    link::server::Server,
};

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Whether an answer refuses for want of memory, and says when to try again.
fn is_refusal(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 503")
        && answer.to_ascii_lowercase().contains("retry-after: 1")
        && answer.contains("--memory-budget")
}

/// Nothing but the kill came where the memory was used up. Now each way to write is refused, and each way to read goes on. First a list of
/// one key was refused as well: an answer in chunks reserves as much as a long value.
#[tokio::test]
async fn where_memory_is_nearly_gone_writes_get_503_and_reads_go_on() {
    let memory_pressure = MemoryPressure::default();
    let options = http::Options { memory_pressure: memory_pressure.clone(), ..http::Options::default() };
    let server = Server::start(&[], options).await;
    server.put("a", "1").await;
    let row = "{\"table\":\"t\",\"key\":\"b\",\"value\":1}\n";
    let put = "PUT /t/key/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 11\r\n\r\n{\"value\":2}";
    let delete = "DELETE /t/key/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let batch = post("/t/batch", r#"[{"op":"delete","key":"a"}]"#);
    let writes = [put, delete, &batch, &post("/_/import", row)];

    memory_pressure.set(Level::Critical);
    for write in &writes[..3] {
        let answer = server.exchange(write).await;
        assert!(is_refusal(&answer), "{write}: {answer}");
    }
    // What an operator does against it is no write, and neither is a read of many keys.
    for (path, body) in [("/_/admin/sync", "{}"), ("/_/strong/transfer", "{}"), ("/t/keys", r#"["a"]"#)] {
        let answer = server.exchange(&post(path, body)).await;
        assert!(!answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
    }
    for path in ["/t/key/a", "/t/keys", "/metrics", "/readyz"] {
        let answer = server.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    assert!(server.get("/metrics").await.contains("dynarust_memory_pressure 2"));

    // Where it is only scarce, an import waits and goes on; only long bodies are refused.
    memory_pressure.set(Level::High);
    let rows: String = (0..1500)
        .map(|row| format!("{{\"table\":\"t\",\"key\":\"r{row}\",\"value\":\"{}\"}}\n", "v".repeat(300)))
        .collect();
    let imported = server.exchange(&post("/_/import", &rows)).await;
    assert!(imported.starts_with("HTTP/1.1 200"), "{imported}");
    let listed = server.get("/t/store").await;
    assert!(listed.starts_with("HTTP/1.1 200") && listed.len() > 450_000, "{} bytes", listed.len());
    let refused = server.exchange(&post("/t/batch", &format!("[{}]", " ".repeat(300_000)))).await;
    assert!(is_refusal(&refused), "{refused}");

    memory_pressure.set(Level::Low);
    for write in writes {
        let answer = server.exchange(write).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{write}: {answer}");
    }
}

/// The node of a small container was killed in the middle of a load. Here bodies may take more than the whole process.
#[test]
fn a_node_near_its_memory_budget_refuses_long_bodies_and_recovers() {
    let node = Setup::new().flag("--memory-budget", "64MiB").flag("--body-memory", "256MiB").start();
    node.put("/t/key/kept", r#"{"value":1}"#).expect(200);
    let mut held: Vec<Connection> = Vec::new();
    let mut refused = false;
    wait_until("a body is refused", DEADLINE, || {
        if held.len() < 30 {
            held.push(half_body(&node, 4 << 20));
        }
        held.retain_mut(|connection| {
            let is_answered = connection.has_answer(Duration::from_millis(5));
            if is_answered {
                let answer = connection.receive("POST").expect("an answer");
                answer.expect_header("retry-after");
                assert!(answer.text().contains("--memory-budget"), "{}", answer.text());
                answer.expect_problem(503, "overloaded");
                refused = true;
            }
            !is_answered
        });
        refused
    });
    node.get("/t/key/kept").expect(200);
    drop(held);
    wait_until("memory is given back, and a body is taken again", DEADLINE, || {
        node.post("/t/batch", format!("[{}]", " ".repeat(1 << 20))).status == 200
    });
    node.put("/t/key/kept", r#"{"value":2}"#).expect(200);
}
