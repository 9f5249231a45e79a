//! The dashboard in Chromium: what a reader sees and does. Where no browser is to be found, these tests say so and are skipped.
//!
//! - `tab`: drives a tab of the browser.
//! - `exact`: values, commands and histories are what they are on the node.
//! - `rights`: what a token may not do is not offered.
//! - `served`: the page as HTTP has it, and what nodes report. It needs no browser.
//! - `all_day`: a tab that is open for long, on demand.
//! - `pictures`: makes those of the documentation, on demand.

mod all_day;
mod exact;
mod pictures;
mod rights;
mod served;
mod tab;

use serde_json::json;

use self::tab::Tab;
use crate::{
    browser::Browser,
    harness::{DEADLINE, Node, Setup, cluster::free_localhost_address, wait_until},
};

/// So much that a first sync takes long enough to be looked at.
const ROWS: usize = 8_000;
const VALUE_BYTES: usize = 4_000;
const PHONE: u32 = 390;
const VIEWS: [&str; 4] = ["cluster", "data/users", "live", "divergence"];

/// Opens the dashboard of a node; `None` without a browser.
fn visit(node: &Node) -> Option<(Browser, Tab)> {
    let browser = Browser::open("about:blank")?;
    let mut tab = Tab::open(&browser, &format!("http://{}/", node.address()));
    tab.wait(r#"document.querySelector("main")"#);
    Some((browser, tab))
}

/// Waits until a cell of a table, or what else `selector` finds, has this text.
fn shows(tab: &mut Tab, selector: &str, text: &str) {
    tab.wait(&format!("t.all({}, '').some(it => it.textContent.includes({}))", json!(selector), json!(text)));
}

#[track_caller]
fn click(tab: &mut Tab, selector: &str, text: &str) {
    let click = format!("t.click({}, {})", json!(selector), json!(text));
    tab.wait(&click);
}

#[track_caller]
fn fill(tab: &mut Tab, selector: &str, text: &str) {
    tab.wait(&format!("t.fill({}, {})", json!(selector), json!(text)));
}

#[track_caller]
fn expect_no_complaints(tab: &Tab) {
    assert!(tab.complaints.is_empty(), "{:?}", tab.complaints);
}

#[test]
fn a_reader_browses_edits_and_follows_changes() {
    let node = Node::start();
    let rows: Vec<_> =
        (0..3000).map(|row| json!({"op": "put", "key": format!("user-{row:04}"), "value": row})).collect();
    node.post("/users/batch", json!(rows).to_string()).expect(200);
    node.put("/users/key/alice?ttl=1h", r#"{"value":{"visits":1}}"#).expect(200);
    let Some((_browser, mut tab)) = visit(&node) else { return };
    shows(&mut tab, ".verdict.good", "The node works. It is alone");
    browse(&mut tab);
    edit(&mut tab, &node);
    conflict(&mut tab, &node);
    follow(&mut tab, &node);
    look_at_all_views(&mut tab);
    use_keys(&mut tab);
    expect_no_complaints(&tab);
}

fn browse(tab: &mut Tab) {
    tab.go("data/users");
    shows(tab, ".keys [role=status]", "3,001 keys");
    shows(tab, ".row .value", "{\"visits\":1}");
    let rows = tab.eval("document.querySelectorAll('.virtual .row').length");
    assert!(rows.as_u64().is_some_and(|rows| rows < 100), "{rows}: only what is in sight is on the page");
    // Beyond the first page of keys.
    tab.wait("(document.querySelector('.virtual').scrollTop = 1e9, t.all('.row .key', 'user-2999').length)");
    fill(tab, "[data-search]", "user-12");
    shows(tab, ".keys [role=status]", "100 keys begin with user-12");
    shows(tab, ".row .key", "user-1200");
    fill(tab, "[data-search]", "");
    shows(tab, ".keys [role=status]", "3,001 keys");
    click(tab, ".row", "alice");
    shows(tab, ".editor .tag", "expires in 59:");
}

fn edit(tab: &mut Tab, node: &Node) {
    fill(tab, ".editor textarea", "{\n  \"visits\": ,\n}");
    shows(tab, ".hint.wrong", "Line 2, column 13");
    assert_eq!(tab.eval("document.querySelector('.editor .primary').disabled"), true);
    fill(tab, ".editor textarea", r#"{"visits": 2}"#);
    click(tab, ".editor button", "Save");
    shows(tab, ".hint", "Saved");
    node.get("/users/key/alice").expect_body(r#"{"value":{"visits":2}}"#);
    let meta = node.get("/users/key/alice?meta=true").json();
    assert!(meta["expires_at"].is_u64(), "the expiry stays: {meta}");
    shows(tab, ".history .text", "\"visits\": 2");
}

/// What somebody else writes while a reader edits is not overwritten: the reader sees both.
fn conflict(tab: &mut Tab, node: &Node) {
    fill(tab, ".editor textarea", r#"{"visits": "mine"}"#);
    node.put("/users/key/alice", r#"{"value":{"visits":"theirs"}}"#).expect(200);
    shows(tab, ".editor .notice", "Written elsewhere");
    click(tab, ".editor button", "Save");
    shows(tab, "dialog pre", "mine");
    shows(tab, "dialog pre", "theirs");
    node.get("/users/key/alice").expect_body(r#"{"value":{"visits":"theirs"}}"#);
    click(tab, "dialog button", "Save mine over it");
    wait_until("the reader's value is kept", DEADLINE, || {
        node.get("/users/key/alice").text() == r#"{"value":{"visits":"mine"}}"#
    });
    tab.wait("!document.querySelector('dialog')");
}

/// Opens the page of changes, and waits until the node sends them: not for the topic of the table that was shown before, such as `users/*`.
fn follow_all(tab: &mut Tab) {
    tab.go("live");
    tab.wait("t.all('.topics .mono', '*').length");
}

fn follow(tab: &mut Tab, node: &Node) {
    follow_all(tab);
    node.put("/orders/key/first", r#"{"value":{"total":3}}"#).expect(200);
    shows(tab, ".change .key", "orders/first");
    tab.eval("t.press(' ')");
    shows(tab, ".toolbar button", "Go on");
    node.put("/orders/key/unseen", r#"{"value":1}"#).expect(200);
    shows(tab, ".rate", "2 changes since");
    tab.eval("t.press(' ')");
    node.delete("/orders/key/first").expect(200);
    shows(tab, ".change .what", "del");
    shows(tab, ".change", "what changed during the pause is left out here");
    let keys = tab.eval("t.all('.change .key', '').map(it => it.textContent)");
    assert_eq!(keys, json!(["orders/first", "orders/first"]), "what came during the pause is left out");
}

/// No view is wider than a phone, and all are dark where the system is.
fn look_at_all_views(tab: &mut Tab) {
    for is_dark in [false, true] {
        tab.shape(PHONE, 844, is_dark);
        for view in VIEWS {
            tab.go(view);
            tab.wait(&format!(
                "document.title.toLowerCase().startsWith('{}')",
                view.split('/').next().unwrap_or(view)
            ));
            let width = tab.eval("document.documentElement.scrollWidth");
            assert!(width.as_u64().is_some_and(|width| width <= u64::from(PHONE)), "{view}: {width} wide");
        }
        let back = tab.eval("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]");
        let light: u8 = back.as_str().and_then(|part| part.parse().ok()).expect("a color");
        assert_eq!(light < 60, is_dark, "{light}");
    }
    tab.shape(1280, 800, false);
}

fn use_keys(tab: &mut Tab) {
    tab.eval("t.press('g')");
    tab.eval("t.press('d')");
    tab.wait("location.hash === '#/data'");
    click(tab, ".tables a", "users");
    tab.eval("t.press('/')");
    tab.wait("document.activeElement.matches('[data-search]')");
    tab.eval("document.activeElement.blur()");
    tab.eval("t.press('?')");
    shows(tab, "dialog h2", "Keys");
    click(tab, "dialog button", "");
    tab.wait("!document.querySelector('dialog')");
}

#[test]
fn two_nodes_differ_and_heal_and_the_page_moves_to_the_one_that_is_left() {
    let first = Setup::new().listen(&free_localhost_address()).start();
    let value = "x".repeat(VALUE_BYTES);
    let row = |row| json!({"op": "put", "key": format!("k{row}"), "value": format!("{row} {value}")});
    let rows: Vec<_> = (0..ROWS).map(row).collect();
    first.post("/users/batch", json!(rows).to_string()).expect(200);
    let Some((_browser, mut tab)) = visit(&first) else { return };
    tab.go("divergence/users");
    shows(&mut tab, "h3", "All 256 partitions are the same");
    let second = Setup::new().listen(&free_localhost_address()).join(&first.address().to_string()).start();
    // The second has nothing yet: all partitions with rows differ.
    tab.wait("document.querySelectorAll('.cell.differ').length > 50");
    // The rows come in the order of the partitions.
    tab.eval("t.all('.cell.differ', '').at(-1)?.click()");
    shows(&mut tab, "td.older", "no row");
    shows(&mut tab, "h3", "All 256 partitions are the same");
    shows(&mut tab, ".roots .state.good", "same");
    shows(&mut tab, ".log td", &second.address().to_string());
    // Its policy names the members that there were when it was loaded.
    tab.call("Page.reload", json!({}));
    tab.go("cluster");
    shows(&mut tab, ".verdict.good", "All 2 nodes are up");
    tab.wait("document.querySelectorAll('.link.equal').length === 1");
    first.put("/_/tables/accounts", r#"{"mode":"strong"}"#).expect(201);
    shows(&mut tab, ".facts dd", &first.address().to_string());
    shows(&mut tab, ".node .note", "leader");
    let gone = first.address().to_string();
    drop(first.kill());
    shows(&mut tab, ".connection", &second.address().to_string());
    shows(&mut tab, ".verdict", &gone);
    shows(&mut tab, ".verdict.bad", "Start it again");
    tab.go("data/users/k1");
    fill(&mut tab, ".editor textarea", "\"written on the other\"");
    click(&mut tab, ".editor button", "Save");
    shows(&mut tab, ".hint", "Saved");
    second.get("/users/key/k1").expect_body(r#"{"value":"written on the other"}"#);
    expect_no_complaints(&tab);
}
