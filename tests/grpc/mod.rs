//! gRPC: the services of `--grpc`, by the generated clients of Rust and by a client of Python that is not ours.

mod client;

use client::{GetRequest, Served};
use tonic::Code;

use crate::harness::http::Request;

#[test]
fn a_value_written_by_rest_is_read_by_grpc() {
    let served = Served::start();
    served.node.send(&Request::new("PUT", "/t/key/a").body(r#"{"value":{"n":1}}"#)).expect(200);
    served.runtime.block_on(async {
        let mut client = served.client().await;
        let get = |key: &str| GetRequest { table: "t".into(), key: key.into() };
        assert_eq!(client.get(get("a")).await.expect("a value").into_inner().json, r#"{"n":1}"#);
        assert_eq!(client.get(get("b")).await.expect_err("absent").code(), Code::NotFound);
    });
}
