//! Spans, as an OpenTelemetry collector gets them.

#[cfg(feature = "otlp")]
mod collector {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::{SocketAddr, TcpListener},
        sync::{Arc, Mutex},
        thread,
    };

    use serde_json::{Value, json};

    use crate::{
        grpc::client::{Served, get, json as json_value, set},
        harness::{DEADLINE, Setup, http::Request, wait_until},
    };

    /// The head and the body of each request.
    type Taken = Arc<Mutex<Vec<(String, Value)>>>;

    /// Takes what is posted, and answers 200.
    fn collector() -> (SocketAddr, Taken) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let taken = Taken::default();
        let taking = Arc::clone(&taken);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    match reader.read_line(&mut line) {
                        Ok(length) if length > 2 => lines.push(line.trim().to_ascii_lowercase()),
                        Ok(_) | Err(_) => break,
                    }
                }
                let length =
                    lines.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).expect("a whole body");
                let body = serde_json::from_slice(&body).expect("JSON");
                taking.lock().expect("sound").push((lines.join("\n"), body));
                let answer =
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                reader.get_mut().write_all(answer.as_bytes()).expect("sent");
            }
        });
        (address, taken)
    }

    fn spans(batch: &Value) -> Vec<Value> {
        batch
            .pointer("/resourceSpans/0/scopeSpans/0/spans")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    }

    fn attribute(span: &Value, key: &str) -> Value {
        let all = span["attributes"].as_array().expect("attributes");
        let found = all.iter().find(|attribute| attribute["key"] == key);
        found.unwrap_or_else(|| panic!("no {key} in {span}"))["value"].clone()
    }

    #[test]
    fn each_request_is_a_span_with_its_route_status_and_id_in_the_trace_that_it_brings() {
        let (address, taken) = collector();
        let url = format!("http://{address}/collect/");
        let node = Setup::new().flag("--otlp-endpoint", &url).start();
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let get = Request::new("GET", "/t/key/secret-key")
            .header("X-Request-Id", "mine-1")
            .header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"));
        node.send(&get).expect(404);
        node.put("/t/key/a", r#"{"value":1}"#).expect(200);
        let (method, state) = ("STRANGE".repeat(100), "state".repeat(120));
        node.send(&Request::new(&method, "/t/key/a").header("tracestate", &state));
        // What is left is sent when the node stops.
        node.terminate();
        wait_until("all spans are there", DEADLINE, || {
            taken.lock().expect("sound").iter().map(|(_, batch)| spans(batch).len()).sum::<usize>() >= 3
        });
        let taken = taken.lock().expect("sound");
        let (head, batch) = &taken[0];
        assert!(head.starts_with("post /collect/v1/traces http/1.1"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(!batch.to_string().contains("secret-key"), "no key leaves the node: {batch}");
        let resource = batch["resourceSpans"][0]["resource"].clone();
        assert_eq!(attribute(&resource, "service.name"), json!({"stringValue": "DynaRust"}));
        let all: Vec<Value> = taken.iter().flat_map(|(_, batch)| spans(batch)).collect();
        let span = all.iter().find(|span| span["name"] == "GET key").unwrap_or_else(|| panic!("{all:#?}"));
        assert_eq!(
            (&span["traceId"], &span["parentSpanId"]),
            (&json!(trace), &json!("b7ad6b7169203331")),
            "{span}"
        );
        assert_eq!(attribute(span, "http.route"), json!({"stringValue": "key"}));
        assert_eq!(attribute(span, "http.response.status_code"), json!({"intValue": "404"}));
        assert_eq!(attribute(span, "dynarust.request_id"), json!({"stringValue": "mine-1"}));
        let time =
            |name: &str| span[name].as_str().and_then(|text| text.parse::<u64>().ok()).expect("nanoseconds");
        assert!(time("startTimeUnixNano") < time("endTimeUnixNano"), "{span}");
        assert!(all.iter().any(|span| span["name"] == "PUT key"), "{all:#?}");
        let strange =
            all.iter().find(|span| span["name"] == "HTTP key").unwrap_or_else(|| panic!("{all:#?}"));
        assert_eq!(attribute(strange, "http.request.method"), json!({"stringValue": "_OTHER"}));
        assert!(
            !strange.to_string().contains("STRANGE") && !strange.to_string().contains("statestate"),
            "{strange}"
        );
    }

    #[test]
    fn each_call_of_grpc_is_a_span_that_ends_with_the_status() {
        let (address, taken) = collector();
        let url = format!("http://{address}");
        let served = Served::start_with(|setup| setup.flag("--otlp-endpoint", &url));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        served.with_client(|mut client| async move {
            let mut request = tonic::Request::new(set("t", "secret-key", json_value("1")));
            let parent = format!("00-{trace}-b7ad6b7169203331-01").parse().expect("text");
            request.metadata_mut().insert("traceparent", parent);
            request.metadata_mut().insert("x-request-id", "mine-2".parse().expect("text"));
            client.set(request).await.expect("set");
            client.get(get("no table", "k")).await.expect_err("no table has such a name");
        });
        served.node.terminate();
        let all = || -> Vec<Value> {
            taken.lock().expect("sound").iter().flat_map(|(_, batch)| spans(batch)).collect()
        };
        wait_until("both spans are there", DEADLINE, || all().len() >= 2);
        let all = all();
        assert!(!format!("{all:?}").contains("secret-key"), "no key leaves the node: {all:#?}");
        let named = |name: &str| {
            all.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name} in {all:#?}"))
        };
        let written = named("dynarust.v1.Kv/Set");
        assert_eq!(
            (&written["traceId"], &written["parentSpanId"]),
            (&json!(trace), &json!("b7ad6b7169203331"))
        );
        for (key, value) in [
            ("rpc.system", json!({"stringValue": "grpc"})),
            ("rpc.service", json!({"stringValue": "dynarust.v1.Kv"})),
            ("rpc.method", json!({"stringValue": "Set"})),
            ("rpc.grpc.status_code", json!({"intValue": "0"})),
            ("dynarust.request_id", json!({"stringValue": "mine-2"})),
        ] {
            assert_eq!(attribute(written, key), value, "{key} of {written}");
        }
        // INVALID_ARGUMENT is no failure of the node.
        let refused = named("dynarust.v1.Kv/Get");
        assert_eq!(attribute(refused, "rpc.grpc.status_code"), json!({"intValue": "3"}));
        assert_ne!(refused["status"]["code"], json!(2), "{refused}");
    }

    #[test]
    fn a_collector_that_is_not_there_costs_nothing_but_a_warning() {
        let node = Setup::new().flag("--otlp-endpoint", "http://127.0.0.1:1").start();
        node.put("/t/key/a", r#"{"value":1}"#).expect(200);
        let (_, outcome) = node.terminate();
        assert_eq!(outcome.code(), Some(0), "{outcome:?}");
        assert!(outcome.log.contains("spans do not reach the collector at 127.0.0.1:1"), "{outcome:?}");
    }
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_the_feature_says_what_to_build() {
    let outcome =
        crate::harness::Setup::new().run(&["127.0.0.1:0", "--otlp-endpoint", "http://127.0.0.1:4318"]).1;
    assert_eq!(outcome.code(), Some(2), "{outcome:?}");
    assert!(outcome.log.contains("--features otlp"), "{outcome:?}");
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    for (endpoint, words) in [
        ("https://127.0.0.1:4318", "run a collector on this machine"),
        ("127.0.0.1:4318", "not a URL such as"),
        ("http://127.0.0.1", "name the host and the port"),
        ("http://127.0.0.1:4318/?a=1", "no query"),
    ] {
        let outcome = crate::harness::Setup::new().run(&["127.0.0.1:0", "--otlp-endpoint", endpoint]).1;
        assert_eq!(outcome.code(), Some(2), "{outcome:?}");
        assert!(outcome.log.contains(words), "{endpoint}: {outcome:?}");
    }
}
