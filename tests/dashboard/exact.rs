//! The page shows, copies, saves and lists exactly what is on the node, and says so where it cannot.

use std::process::{Command, Stdio};

use serde_json::json;

use super::{Tab, click, expect_no_complaints, fill, follow_all, shows, visit};
use crate::harness::{DEADLINE, Node, http::Request, wait_until};

/// JavaScript's own numbers cannot hold these.
const NUMBERS: &str = r#"{"id":12345678901234567890,"price":1.10}"#;

fn text(tab: &mut Tab) -> String {
    tab.eval("document.querySelector('.editor textarea').value").as_str().expect("a text").to_owned()
}

/// What a button copies. The page may use no clipboard here, so that it is caught on its way there.
fn copied(tab: &mut Tab, language: &str) -> String {
    tab.eval("Object.defineProperty(navigator, 'clipboard', { configurable: true, value: { writeText: async text => { window.copied = text; } } }), window.copied = null, 0");
    click(tab, ".editor button", language);
    tab.wait("window.copied !== null");
    tab.eval("window.copied").as_str().expect("a text").to_owned()
}

/// The editor read and wrote values with `JSON.parse` and `JSON.stringify`: whoever looked at 12345678901234567890 and saved it, even without a
/// change, saved 12345678901234567000; and 1.10 became 1.1.
#[test]
fn numbers_are_shown_and_saved_digit_by_digit() {
    let node = Node::start();
    node.put("/t/key/a", format!(r#"{{"value":{NUMBERS}}}"#)).expect(200);
    let Some((_browser, mut tab)) = visit(&node) else { return };
    tab.go("data/t/a");
    shows(&mut tab, ".row .value", NUMBERS);
    shows(&mut tab, ".editor h2", "a");
    assert_eq!(text(&mut tab), "{\n  \"id\": 12345678901234567890,\n  \"price\": 1.10\n}");
    fill(&mut tab, ".editor textarea", r#"[ 1.10,12345678901234567890 ,{ },1e2, "\u00e9 1.10" ]"#);
    click(&mut tab, ".editor button", "Format");
    tab.wait("document.querySelector('.editor textarea').value.startsWith('[\\n')");
    let formatted = "[\n  1.10,\n  12345678901234567890,\n  {},\n  1e2,\n  \"\\u00e9 1.10\"\n]";
    assert_eq!(text(&mut tab), formatted);
    click(&mut tab, ".editor button", "Save");
    shows(&mut tab, ".hint", "Saved");
    let stored = node.get("/t/key/a").text().to_owned();
    assert!(stored.starts_with(r#"{"value":[1.10,12345678901234567890,{},1e2,"#), "{stored}");
    // As others write them, in the history and among the changes.
    node.put("/t/key/a", format!(r#"{{"value":{NUMBERS}}}"#)).expect(200);
    shows(&mut tab, ".history .text", "\"id\": 12345678901234567890");
    tab.wait("document.querySelector('.editor textarea').value.includes('\"price\": 1.10')");
    for (language, form) in [("curl", NUMBERS), ("JavaScript", "fetch("), ("Python", "urlopen(")] {
        let snippet = copied(&mut tab, language);
        assert!(snippet.contains(form) && snippet.contains("12345678901234567890"), "{snippet}");
    }
    follow_all(&mut tab);
    node.put("/t/key/b", format!(r#"{{"value":{NUMBERS}}}"#)).expect(200);
    shows(&mut tab, ".change .value", NUMBERS);
    expect_no_complaints(&tab);
}

/// The command for a key with a quote in its name ended the quotes of the shell: what followed ran. And the command for a value of more than 256 KiB
/// wrote `null` over it.
#[test]
fn a_copied_command_writes_this_value_and_runs_nothing_else() {
    let node = Node::start();
    let names = ["it's; touch ran; '", "$(touch ran) `touch ran`", "../x y/%41"];
    let long = format!("\"{} it's\"", "x".repeat(300_000));
    // Fewer characters than an argument may have bytes.
    let wide = format!("\"{}\"", "ü".repeat(70_000));
    let rows = names.map(|name| json!({ "op": "put", "key": name, "value": "it's $(touch ran)" }));
    node.post("/t/batch", json!(rows).to_string()).expect(200);
    for (key, value) in [("long", &long), ("wide", &wide)] {
        node.put(&format!("/t/key/{key}"), format!(r#"{{"value":{value}}}"#)).expect(200);
    }
    let Some((_browser, mut tab)) = visit(&node) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for (name, value) in names
        .map(|name| (name, "\"it's $(touch ran)\""))
        .into_iter()
        .chain([("long", &*long), ("wide", &*wide)])
    {
        tab.eval(&format!("void (location.hash = '#/data/t/' + encodeURIComponent({}))", json!(name)));
        tab.wait(&format!("document.querySelector('.editor h2')?.textContent === {}", json!(name)));
        let command = copied(&mut tab, "curl");
        let at = node.post("/t/keys?meta=true", json!([name]).to_string()).expect(200).json();
        let ran = Command::new("sh")
            .args(["-s"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .and_then(|mut shell| {
                std::io::Write::write_all(shell.stdin.as_mut().expect("piped"), command.as_bytes())?;
                shell.wait_with_output()
            });
        let ran = ran.expect("sh runs");
        assert!(ran.status.success(), "{command:.300}: {}", String::from_utf8_lossy(&ran.stderr));
        let after = node.post("/t/keys?meta=true", json!([name]).to_string()).expect(200).json();
        assert_ne!(at[name]["version"], after[name]["version"], "it was written: {command:.300}");
        assert_eq!(after[name]["value"].to_string(), value, "{command:.300}");
        assert_eq!(
            folder.path().read_dir().expect("readable").count(),
            0,
            "something else ran: {command:.300}"
        );
    }
    assert_eq!(node.get("/t/count").json()["count"], 5, "no other key was made");
}

/// The program in JavaScript for a value with long numbers wrote another key than this one, where `fetch` normalised its path: `b` for `a/../b`.
#[test]
fn a_copied_program_writes_this_key() {
    if Command::new("node").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no node is installed");
        return;
    }
    let node = Node::start();
    let names = ["a/../b", ".", "..", "ü \"'\\${x}"];
    let Some((_browser, mut tab)) = visit(&node) else { return };
    for name in names {
        tab.eval(&format!("void (location.hash = '#/data/t/' + encodeURIComponent({}))", json!(name)));
        tab.wait(&format!("document.querySelector('.editor h2')?.textContent === {}", json!(name)));
        fill(&mut tab, ".editor textarea", NUMBERS);
        let program = copied(&mut tab, "JavaScript");
        let ran = Command::new("node").args(["--input-type=module", "--eval", &program]).output();
        let ran = ran.expect("node runs");
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
        let written = node.post("/t/keys", json!([name]).to_string()).expect(200);
        assert!(written.text().contains(NUMBERS), "{program}: {}", written.text());
    }
    assert_eq!(node.get("/t/count").json()["count"], 4, "no other key was made");
}

/// A list that could not be read on was asked for again and again, as fast as the failures came. The status said nothing.
#[test]
fn a_list_that_fails_says_so_and_goes_on_when_somebody_scrolls() {
    let node = Node::start();
    let rows: Vec<_> =
        (0..5000).map(|row| json!({"op": "put", "key": format!("k{row:04}"), "value": row})).collect();
    node.post("/t/batch", json!(rows).to_string()).expect(200);
    let Some((_browser, mut tab)) = visit(&node) else { return };
    // Reading on fails, and is counted.
    tab.eval(
        "window.failed = 0, window.real = fetch, window.fetch = (url, options) => String(url).includes('cursor=') ? (window.failed += 1, Promise.reject(new TypeError('cut off'))) : real(url, options), 0",
    );
    tab.go("data/t");
    shows(&mut tab, ".keys [role=status]", "5,000 keys");
    tab.wait("(document.querySelector('.virtual').scrollTop = 1e9, window.failed > 0)");
    shows(&mut tab, ".keys .failure", "cut off");
    // Far more than a storm needs, and nobody scrolls.
    tab.eval("new Promise(done => { let left = 20; const frame = () => ((left -= 1) > 0 ? requestAnimationFrame(frame) : done(0)); frame(); })");
    let failed = tab.eval("window.failed").as_u64().expect("a number");
    assert!(failed < 5, "asked {failed} times");
    tab.eval("window.fetch = window.real, document.querySelector('.virtual').scrollTop = 0, 0");
    tab.wait("t.all('.row .key', 'k0000').length");
    tab.wait("(document.querySelector('.virtual').scrollTop = 1e9, t.all('.row .key', 'k4999').length)");
    tab.wait("!document.querySelector('.keys .failure')");
    not_even_the_first_page(&mut tab);
    sorted(&mut tab, &node);
}

/// Where the first page failed, nothing asked again, and the failure could not be closed.
fn not_even_the_first_page(tab: &mut Tab) {
    tab.eval("window.fetch = (url, options) => String(url).includes('/t/keys') ? Promise.reject(new TypeError('no list')) : real(url, options), 0");
    fill(tab, "[data-search]", "k49");
    shows(tab, ".keys .failure", "no list");
    click(tab, ".keys .failure button", "✕");
    tab.wait("!document.querySelector('.keys .failure')");
    fill(tab, "[data-search]", "k4");
    shows(tab, ".keys .failure", "no list");
    tab.eval("window.fetch = window.real, 0");
    click(tab, ".keys .failure button", "Try again");
    shows(tab, ".keys [role=status]", "1,000 keys begin with k4");
    fill(tab, "[data-search]", "");
    shows(tab, ".keys [role=status]", "5,000 keys");
}

fn order_by(tab: &mut Tab, order: &str) {
    tab.eval(&format!("(select => (select.value = '{order}', select.dispatchEvent(new Event('change', {{ bubbles: true }}))))(document.querySelector('.toolbar select')), 0"));
}

fn is_first(tab: &mut Tab, key: &str) {
    tab.wait(&format!("document.querySelector('.row .key')?.textContent === '{key}'"));
}

/// Other orders than by key. They were listed again, with all values read by the node, for every change.
fn sorted(tab: &mut Tab, node: &Node) {
    node.put("/t/key/k2500?ttl=1h", format!(r#"{{"value":"{}"}}"#, "x".repeat(50))).expect(200);
    node.put("/t/key/k1234", r#"{"value":1}"#).expect(200);
    for (order, first) in
        [("written", "k1234"), ("expiry", "k2500"), ("size", "k2500"), ("last", "k4999"), ("key", "k0000")]
    {
        order_by(tab, order);
        is_first(tab, first);
    }
    order_by(tab, "size");
    is_first(tab, "k2500");
    tab.eval("window.fetch = (url, options) => (window.lists = (window.lists ?? 0) + String(url).includes('/t/store'), real(url, options)), 0");
    node.put("/t/key/k0042", format!(r#"{{"value":"{}"}}"#, "ü".repeat(30))).expect(200);
    node.put("/t/key/new", format!(r#"{{"value":"{}"}}"#, "x".repeat(40))).expect(200);
    node.delete("/t/key/k2500").expect(200);
    is_first(tab, "k0042");
    shows(tab, ".row .key", "new");
    shows(tab, ".keys [role=status]", "5,000 keys");
    assert_eq!(tab.eval("window.lists ?? 0"), 0, "it is not listed again");
    click(tab, ".toolbar button", "Refresh");
    tab.wait("window.lists > 0");
    is_first(tab, "k0042");
}

/// A conflict whose other side could not be read was shown as a deletion.
#[test]
fn a_conflict_that_cannot_be_read_is_no_deletion() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":1}"#).expect(200);
    let Some((_browser, mut tab)) = visit(&node) else { return };
    tab.go("data/t/a");
    shows(&mut tab, ".editor h2", "a");
    fill(&mut tab, ".editor textarea", "2");
    node.put("/t/key/a", r#"{"value":3}"#).expect(200);
    shows(&mut tab, ".editor .notice", "Written elsewhere");
    // What reads is not sent any more.
    tab.eval("window.send = WebSocket.prototype.send, WebSocket.prototype.send = function (text) { if (JSON.parse(text).op === 'get') throw new Error('no reading today'); window.send.call(this, text); }, 0");
    click(&mut tab, ".editor button", "Save");
    shows(&mut tab, ".editor .failure", "Nothing was saved: somebody else changed this key");
    shows(&mut tab, ".editor .failure", "no reading today");
    assert_eq!(tab.eval("document.querySelector('dialog')"), serde_json::Value::Null);
    node.get("/t/key/a").expect_body(r#"{"value":3}"#);
    tab.eval("WebSocket.prototype.send = window.send, 0");
    click(&mut tab, ".editor button", "Save");
    shows(&mut tab, "dialog pre", "3");
    click(&mut tab, "dialog button", "Save mine over it");
    shows(&mut tab, ".hint", "Saved");
    saved_twice(&mut tab, &node);
    expect_no_complaints(&tab);
}

/// Whoever pressed Ctrl Enter twice was shown a conflict with the first save. And what was typed while a save was under way was lost.
fn saved_twice(tab: &mut Tab, node: &Node) {
    tab.eval("window.save = () => document.querySelector('.editor textarea').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', ctrlKey: true, bubbles: true })), 0");
    fill(tab, ".editor textarea", "4");
    tab.eval("save(), save(), t.fill('.editor textarea', '5'), 0");
    wait_until("the first save is made", DEADLINE, || node.get("/t/key/a").text() == r#"{"value":4}"#);
    shows(tab, ".history .text", "4");
    tab.wait("!document.querySelector('.editor .notice')");
    assert_eq!(text(tab), "5");
    tab.wait("save() && false || document.querySelector('.hint').textContent === 'Saved'");
    node.get("/t/key/a").expect_body(r#"{"value":5}"#);
    assert_eq!(tab.eval("document.querySelector('dialog')"), serde_json::Value::Null);
}

/// A table that was left and opened again showed the values of before. And what was missed meanwhile left no trace in the history.
#[test]
fn a_table_that_is_opened_again_shows_what_is_there_now() {
    let node = Node::start();
    node.put("/t/key/a", r#"{"value":"before"}"#).expect(200);
    let Some((_browser, mut tab)) = visit(&node) else { return };
    tab.go("data/t/a");
    shows(&mut tab, ".row .value", "before");
    shows(&mut tab, ".tables .number", "1");
    node.put("/t/key/a", r#"{"value":"seen"}"#).expect(200);
    shows(&mut tab, ".history .text", "seen");
    tab.go("cluster");
    shows(&mut tab, ".verdict", "The node works");
    node.put("/t/key/a", r#"{"value":"while away"}"#).expect(200);
    tab.go("data/t/a");
    shows(&mut tab, ".row .value", "while away");
    shows(&mut tab, ".history .gap", "changes may be missing");
    // Not even a whole second after it was left.
    node.put("/t/key/b", r#"{"value":1}"#).expect(200);
    shows(&mut tab, ".row .key", "b");
    let bytes = Request::new("GET", "/_/tables");
    wait_until("the table's size is known", DEADLINE, || {
        node.send(&bytes).json()[0]["bytes"] == 1 + 12 + 1 + 1
    });
    shows(&mut tab, ".tables .number", "2 15 B");
    missed(&mut tab);
}

/// Where the node could not send all changes, the page went on as if nothing had happened.
fn missed(tab: &mut Tab) {
    tab.eval("window.topic = null, window.send = WebSocket.prototype.send, WebSocket.prototype.send = function (text) { window.socket = this; const { op, id } = JSON.parse(text); if (op === 'sub') window.topic = id; window.send.call(this, text); }, 0");
    tab.go("live");
    resync(tab);
    shows(tab, ".change", "some changes were missed here");
    shows(tab, ".rate", "some changes were missed");
    tab.go("data/t/old");
    shows(tab, ".editor h2", "old");
    resync(tab);
    shows(tab, ".missed", "Some changes were missed");
    // It has no history, which is not to say that nothing has changed.
    shows(tab, ".editor p", "changes may be missing. Since then nothing has changed");
    tab.go("data/t/b");
    shows(tab, ".history .gap", "changes may be missing");
}

/// Tells the view that follows something since `missed` that it has missed changes.
fn resync(tab: &mut Tab) {
    tab.wait("window.topic");
    for event in ["resync", "sync"] {
        tab.eval(&format!(
            "socket.onmessage({{ data: JSON.stringify({{ sub: window.topic, event: '{event}' }}) }}), 0"
        ));
    }
    tab.eval("window.topic = null, 0");
}
