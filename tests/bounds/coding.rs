//! gzip and zstd, both ways, over the wire.

use std::io::{Read, Write};

use crate::harness::{
    Node, Setup, Table,
    http::{Request, Response},
    table,
};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).expect("codes");
    encoder.finish().expect("ends")
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 3).expect("codes")
}

fn decoded(answer: &Response) -> Vec<u8> {
    match answer.header("content-encoding") {
        None => answer.body.clone(),
        Some("gzip") => {
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(answer.body.as_slice())
                .read_to_end(&mut plain)
                .expect("is gzip");
            plain
        }
        Some("zstd") => zstd::decode_all(answer.body.as_slice()).expect("is zstd"),
        Some(other) => panic!("an unknown coding: {other}"),
    }
}

/// A table of rows that take several pages, and one long value.
fn filled() -> Table {
    let table = table();
    let lines: String = (0..5000)
        .map(|row| format!("{{\"op\":\"put\",\"key\":\"key-{row}\",\"value\":{{\"number\":{row}}}}}\n"))
        .collect();
    table.post("batch", lines).expect(200);
    table.put("key/long", format!(r#"{{"value":"{}"}}"#, "text ".repeat(100_000))).expect(200);
    table.put("key/short", r#"{"value":1}"#).expect(200);
    table
}

#[test]
fn listings_exports_and_long_values_come_as_the_client_wants_them() {
    let table = filled();
    let export = format!("/_/export?table={}", table.name());
    let paths =
        ["keys", "store", "keys?limit=3000", "key/long", "key/long?meta=true"].map(|rest| table.path(rest));
    for path in paths.iter().chain([&export]) {
        let plain = table.send(&Request::new("GET", path)).expect(200);
        assert!(plain.header("content-encoding").is_none(), "{path}");
        assert!(plain.header("vary").is_some_and(|vary| vary.contains("accept-encoding")), "{path}");
        for (wanted, coding) in [
            ("gzip", "gzip"),
            ("zstd", "zstd"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("zstd;q=0.1, gzip", "gzip"),
        ] {
            let answer = table.send(&Request::new("GET", path).header("Accept-Encoding", wanted)).expect(200);
            assert_eq!(answer.header("content-encoding"), Some(coding), "{path} {wanted}");
            assert!(decoded(&answer) == plain.body, "{path} {wanted}");
            assert!(answer.body.len() < plain.body.len() / 2, "{path} {wanted}: {} bytes", answer.body.len());
            assert_eq!(answer.header("etag"), plain.header("etag"), "{path} {wanted}");
            assert_eq!(answer.header("link"), plain.header("link"), "{path} {wanted}");
            let head = table.send(&Request::new("HEAD", path).header("Accept-Encoding", wanted)).expect(200);
            assert_eq!(head.header("content-encoding"), Some(coding), "HEAD {path} {wanted}");
        }
        for unwanted in ["", "identity", "br", "gzip;q=0, zstd;q=0"] {
            let answer =
                table.send(&Request::new("GET", path).header("Accept-Encoding", unwanted)).expect(200);
            assert!(
                answer.header("content-encoding").is_none() && answer.body == plain.body,
                "{path} {unwanted}"
            );
        }
    }
}

#[test]
fn what_is_short_fails_or_streams_comes_plain() {
    let table = filled();
    for path in ["key/short", "key/absent", "count", "batch"] {
        let answer =
            table.send(&Request::new("GET", &table.path(path)).header("Accept-Encoding", "gzip, zstd"));
        assert!(answer.header("content-encoding").is_none(), "{path}");
    }
    let request = Request::new("GET", &table.path("subscribe")).header("Accept-Encoding", "gzip");
    let mut connection = table.connect();
    connection.write(&request.to_bytes()).expect("a request can be sent");
    assert!(connection.has_answer(crate::harness::DEADLINE));
}

#[test]
fn bodies_are_decoded() {
    let table = table();
    for (coding, encode) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd), ("GZIP", gzip)] {
        let coded = |method: &str, rest: &str, plain: &str| {
            let request = Request::new(method, &table.path(rest)).header("Content-Encoding", coding);
            table.send(&request.body(encode(plain.as_bytes())))
        };
        coded("PUT", "key/a", r#"{"value":{"from":"a put"}}"#).expect(200);
        table.get("key/a").expect_body(r#"{"value":{"from":"a put"}}"#);
        coded("PATCH", "key/a", r#"{"from":"a patch"}"#).expect(200);
        table.get("key/a").expect_body(r#"{"value":{"from":"a patch"}}"#);
        coded("POST", "batch", r#"[{"op":"put","key":"b","value":2}]"#).expect(200);
        coded("POST", "keys", r#"["b"]"#).expect_body(r#"{"b":2}"#);
        let import = format!("{{\"table\":\"{}\",\"key\":\"c\",\"value\":3}}\n", table.name()).repeat(3);
        let request = Request::new("POST", "/_/import").header("Content-Encoding", coding);
        let pieces = encode(import.as_bytes());
        table.send(&request.chunks(pieces.chunks(7))).expect(200);
        table.get("key/c").expect_body(r#"{"value":3}"#);
    }
}

#[test]
fn bodies_that_do_not_decode_are_refused() {
    let table = table();
    let put = |coding: &str, body: &[u8]| {
        table.send(&Request::new("PUT", &table.path("key/a")).header("Content-Encoding", coding).body(body))
    };
    let whole = gzip(br#"{"value":1}"#);
    for (coding, body) in [
        ("gzip", &b"{\"value\":1}"[..]),
        ("zstd", &whole),
        ("gzip", &whole[..whole.len() - 4]),
        ("gzip", b""),
    ] {
        let detail = put(coding, body).expect_problem(400, "bad-request");
        assert!(detail.contains(coding), "{detail}");
    }
    for coding in ["br", "deflate", "gzip, zstd", "nonsense"] {
        let detail = put(coding, &whole).expect_problem(415, "unsupported-type");
        assert!(detail.contains("gzip or zstd"), "{detail}");
    }
    table.get("key/a").expect_problem(404, "not-found");
}

/// A body's limit is on what it decodes to, and what is beyond it is not even decoded.
#[test]
fn a_bomb_is_cut_off_at_the_limit() {
    let node = Setup::new().flag("--max-body", "2MiB").start();
    node.put("/t/key/kept", r#"{"value":1}"#).expect(200);
    let before = super::peak_bytes(&node);
    let spaces = vec![b' '; 200 << 20];
    for (coding, body) in [("gzip", gzip(&spaces)), ("zstd", zstd(&spaces))] {
        for (method, path) in [("PUT", "/t/key/a"), ("POST", "/t/batch"), ("POST", "/_/import")] {
            let request = Request::new(method, path).header("Content-Encoding", coding).body(body.as_slice());
            node.connect().try_send(&request).expect("an answer").expect_problem(413, "too-large");
        }
    }
    let grown = super::peak_bytes(&node).saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes for bombs of 200 MiB");
}

/// Gigabytes of them are some kilobytes, and were read to their end.
#[test]
fn an_import_has_no_more_blank_lines_than_a_person_would_send() {
    let node = Node::start();
    let row = "{\"table\":\"t\",\"key\":\"k\",\"value\":1}\n";
    let import = |blank: usize| {
        let text = format!("{row}{}{row}", "\n".repeat(blank));
        node.send(
            &Request::new("POST", "/_/import").header("Content-Encoding", "zstd").body(zstd(text.as_bytes())),
        )
    };
    import(1 << 20).expect(200);
    let refused = import((1 << 20) + 1).expect_problem(400, "bad-request");
    assert!(refused.contains("blank lines"), "{refused}");
}

#[test]
fn where_there_is_no_memory_to_code_an_answer_it_comes_plain() {
    let node: Node = Setup::new()
        .flag("--max-body", "1MiB")
        .flag("--max-value", "64KiB")
        .flag("--body-memory", "4MiB")
        .start();
    node.put("/t/key/a", format!(r#"{{"value":"{}"}}"#, "v".repeat(50_000))).expect(200);
    // Half a body holds most of it.
    let mut held = node.connect();
    let bodies: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = node.connect();
            connection
                .write(b"POST /t/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
                .expect("sent");
            connection.write(&vec![b' '; 900_000]).expect("sent");
            connection
        })
        .collect();
    crate::harness::wait_until("the memory is held", crate::harness::DEADLINE, || {
        let metrics = held.send(&Request::new("GET", "/metrics")).expect(200);
        let used =
            metrics.text().lines().find_map(|line| line.strip_prefix("dynarust_body_memory_used_bytes "));
        used.and_then(|used| used.parse::<u64>().ok()).is_some_and(|used| used > 2_300_000)
    });
    let answer = held.send(&Request::new("GET", "/t/key/a").header("Accept-Encoding", "zstd")).expect(200);
    assert!(answer.header("content-encoding").is_none());
    drop(bodies);
}
