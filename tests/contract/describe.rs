//! The description of the API that a node serves, and the page made from it.

use std::io::Read as _;

use crate::harness::{Node, http::Request};

#[test]
fn the_description_is_served_compressed_and_not_twice() {
    let node = Node::start();
    let plain = node.get("/openapi.json").expect(200);
    let document = plain.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], node.get("/version").json()["version"]);
    assert!(document["paths"]["/{table}/changes"]["get"]["parameters"].is_array(), "{document}");

    let compressed =
        node.send(&Request::new("GET", "/openapi.json").header("Accept-Encoding", "gzip")).expect(200);
    assert_eq!(compressed.expect_header("content-encoding"), "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&compressed.body[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(text, plain.text());
    assert!(compressed.body.len() * 5 < text.len(), "{} of {}", compressed.body.len(), text.len());

    let tag = plain.expect_header("etag");
    let again = node.send(&Request::new("GET", "/openapi.json").header("If-None-Match", tag)).expect(304);
    assert!(again.body.is_empty());
    assert_eq!(again.expect_header("etag"), tag);
}

/// The page loads its script and style from the node, and nothing from elsewhere: its policy forbids that.
#[test]
fn the_page_and_all_it_needs_come_from_the_node() {
    let node = Node::start();
    for (path, content_type, part) in [
        ("/_/docs", "text/html; charset=utf-8", "/_/docs/page.js"),
        ("/_/docs/page.js", "text/javascript; charset=utf-8", "/openapi.json"),
        ("/_/docs/page.css", "text/css; charset=utf-8", "light-dark"),
    ] {
        let answer = node.get(path).expect(200);
        assert_eq!(answer.expect_header("content-type"), content_type);
        let policy = answer.expect_header("content-security-policy");
        assert!(policy.starts_with("default-src 'self'"), "{policy}");
        assert!(answer.text().contains(part), "{path} has no {part}");
    }
}
