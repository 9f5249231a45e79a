//! The page of the JavaScript client's README in Chromium: it writes to a node, and shows what is written elsewhere, also after the node
//! was killed and started again.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::JAVASCRIPT;
use crate::{
    browser::{Browser, read_request},
    harness::{Setup, cluster::free_localhost_address},
    pages::page::Page,
};

/// A browser that starts on a busy machine takes a while.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends what the page shows to its server, whenever that changes.
const REPORT: &str = r#"<script>
new MutationObserver(() => fetch("/said", { method: "POST", body: document.getElementById("guests").textContent }))
  .observe(document.getElementById("guests"), { childList: true });
</script>"#;

/// Serves the page and the module, and hears what the page shows.
struct Site {
    said: mpsc::Receiver<String>,
}

impl Site {
    fn start(listener: TcpListener, page: String) -> Self {
        let module =
            fs::read_to_string(JAVASCRIPT.folder().join("dynarust.js")).expect("the client is there");
        let (tell, said) = mpsc::channel();
        // It ends with the process of the tests.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (page, module, tell) = (page.clone(), module.clone(), tell.clone());
                thread::spawn(move || serve(stream, &page, &module, &tell));
            }
        });
        Self { said }
    }

    /// Waits until the page shows this.
    fn wait_for(&self, text: &str) {
        let end = Instant::now() + TIMEOUT;
        let mut last = String::new();
        while !last.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            last = self.said.recv_timeout(left).unwrap_or_else(|_| panic!("{text:?}; it shows {last:?}"));
        }
    }
}

fn serve(mut stream: TcpStream, page: &str, module: &str, tell: &mpsc::Sender<String>) {
    // A connection that a browser opens in advance says nothing.
    let Ok(request) = read_request(&mut stream) else { return };
    let (status, kind, body) = match request.split(' ').nth(1) {
        Some("/page") => ("200 OK", "text/html", page),
        Some("/dynarust.js") => ("200 OK", "text/javascript", module),
        Some("/said") => {
            let shown = request.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
            // Nobody listens any more once the test is done.
            let _ = tell.send(shown);
            ("204 No Content", "text/plain", "")
        }
        _ => ("404 Not Found", "text/plain", ""),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

/// The page of the README, for this node.
fn page(node: SocketAddr) -> String {
    let readme = Page::read("clients/javascript/README.md");
    let fence = readme.fences().into_iter().find(|fence| fence.kind == "html").expect("a page");
    fence.lines.join("\n").replace("127.0.0.1:6660", &node.to_string()) + REPORT
}

#[test]
fn a_page_writes_watches_and_shows() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("bound"));
    // The same over a restart.
    let node = Setup::new().listen(&free_localhost_address()).flag("--cors-origin", &origin).start();
    let site = Site::start(listener, page(node.address()));
    let Some(_browser) = Browser::open(&format!("{origin}/page")) else { return };
    site.wait_for("alice: from a browser");
    node.get("/guests/key/alice").expect_body(r#"{"value":"from a browser"}"#);
    node.put("/guests/key/bob", r#"{"value":"from elsewhere"}"#).expect(200);
    site.wait_for("bob: from elsewhere");
    let node = node.kill().start();
    node.put("/guests/key/carol", r#"{"value":"after a crash"}"#).expect(200);
    site.wait_for("carol: after a crash");
}
