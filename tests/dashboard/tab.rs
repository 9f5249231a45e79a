//! A tab of Chromium, driven by the DevTools protocol.

use std::{fs, net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    harness::{
        http::{Connection, Request},
        wait_until,
        ws::{Incoming, Socket},
    },
};

/// A browser on a busy machine takes a while.
const DEADLINE: Duration = Duration::from_secs(60);

/// What pages need again and again.
const HELPERS: &str = r#"
window.t = {
  text: selector => document.querySelector(selector)?.textContent ?? "",
  all: (selector, word) => [...document.querySelectorAll(selector)].filter(it => it.textContent.trim().startsWith(word)),
  click: (selector, word) => { const found = t.all(selector, word)[0]; found?.click(); return Boolean(found); },
  fill: (selector, value) => {
    const field = document.querySelector(selector);
    if (!field) return false;
    const kind = field instanceof HTMLTextAreaElement ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
    return true;
  },
  press: key => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })),
};
"#;

/// One page.
pub struct Tab {
    socket: Socket,
    number: u64,
    /// What the page complained about.
    pub complaints: Vec<String>,
}

impl Tab {
    /// Opens a page in the browser's first tab.
    pub fn open(browser: &Browser, url: &str) -> Self {
        let port = browser.devtools(DEADLINE);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut path = None;
        wait_until("the browser has a tab", DEADLINE, || {
            let tabs = Connection::open(address).send(&Request::new("GET", "/json/list")).json();
            let tab = tabs.as_array().into_iter().flatten().find(|tab| tab["type"] == "page");
            path = tab.and_then(|tab| tab["webSocketDebuggerUrl"].as_str()).map(|url| {
                url.split_once("/devtools").map(|(_, rest)| format!("/devtools{rest}")).expect("a path")
            });
            path.is_some()
        });
        let socket = Socket::open(address, &path.expect("a tab"));
        let mut tab = Self { socket, number: 0, complaints: Vec::new() };
        for domain in ["Page", "Runtime", "Log"] {
            tab.call(&format!("{domain}.enable"), json!({}));
        }
        tab.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": HELPERS }));
        tab.call("Page.navigate", json!({ "url": url }));
        tab
    }

    /// Sends a command, and returns its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        self.socket.send(&json!({ "id": self.number, "method": method, "params": parameters }));
        loop {
            let Incoming::Json(message) = self.socket.next_within(DEADLINE) else {
                panic!("{method}: the browser is gone")
            };
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.hear(&message);
        }
    }

    /// Notes what is wrong with the page. That a node does not answer, or asks for a token, is no fault of the page.
    fn hear(&mut self, message: &Value) {
        let parameters = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => Some(&parameters["exceptionDetails"]),
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => Some(&parameters["args"]),
            Some("Log.entryAdded") => Some(&parameters["entry"]).filter(|entry| {
                entry["level"] == "error" && entry["source"] != "network" && !is_about_a_connection(entry)
            }),
            _ => None,
        };
        self.complaints.extend(complaint.map(Value::to_string));
    }

    /// The value of an expression in the page, awaited.
    pub fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait(&mut self, expression: &str) {
        let end = std::time::Instant::now() + DEADLINE;
        while self.eval(&format!("Boolean(window.t && ({expression}))")) != true {
            if std::time::Instant::now() > end {
                let page = self.eval("document.body.innerText");
                panic!("not so: {expression}\n{page}\n{:?}", self.complaints);
            }
            // A frame of the page.
            self.eval("new Promise(done => setTimeout(done, 16))");
        }
    }

    /// Goes to a view.
    pub fn go(&mut self, path: &str) {
        self.eval(&format!("void (location.hash = {})", json!(format!("#/{path}"))));
    }

    /// The window's size, and whether it is dark.
    pub fn shape(&mut self, width: u32, height: u32, is_dark: bool) {
        let is_phone = width < 600;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone }),
        );
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Writes a picture of what is seen.
    pub fn picture(&mut self, path: &std::path::Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        fs::write(path, bytes).expect("the picture can be written");
    }
}

/// Chromium logs each connection that fails.
fn is_about_a_connection(entry: &Value) -> bool {
    entry["text"].as_str().is_some_and(|text| text.contains("WebSocket connection to"))
}
