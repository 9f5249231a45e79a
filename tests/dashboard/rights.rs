//! What a token may not do is not offered, with the reason.

use std::fs;

use super::{Tab, click, expect_no_complaints, fill, shows, visit};
use crate::{
    access::guarded,
    harness::{DEADLINE, http::Request, wait_until},
};

#[test]
fn a_token_is_asked_for_and_what_it_may_not_do_is_not_offered() {
    let of_users = |rights: &str| format!("rights = [{rights}]\ntables = [\"users\"]");
    let (reader, writer) = (of_users("\"read\""), of_users("\"read\", \"write\""));
    let limited = format!("{writer}\nprefixes = [\"eu/\"]");
    let tokens = [("reader", &*reader), ("writer", &writer), ("limited", &limited)];
    let node = guarded(&tokens, |setup| setup);
    let operator = fs::read_to_string(node.home().join("storage.db/dynarust.admin-token"));
    let operator = operator.unwrap_or_else(|error| panic!("{error} in {:?}", node.home()));
    for row in ["users/key/alice", "users/key/eu/bob", "hidden/key/alice"] {
        let put = Request::new("PUT", &format!("/{row}")).body(r#"{"value":1}"#);
        node.send(&put.header("Authorization", &format!("Bearer {}", operator.trim()))).expect(200);
    }
    let Some((_browser, mut tab)) = visit(&node) else { return };
    shows(&mut tab, "h1", "This node asks for a token");
    click(&mut tab, "main button", "Sign in");
    sign_in(&mut tab, "wrong");
    shows(&mut tab, "main", "does not know the token");
    click(&mut tab, "main button", "Sign in");
    sign_in(&mut tab, "reader");
    tab.go("data/users/alice");
    shows(&mut tab, ".editor h2", "alice");
    assert_eq!(tab.eval("t.all('.tables a', '').length"), 1, "the other table is not there");
    assert_eq!(tab.eval("t.all('.editor button', 'Save').length"), 0);
    assert_eq!(tab.eval("document.querySelector('.editor textarea').readOnly"), true);
    shows(&mut tab, ".editor p", "no right to write to users");
    for (button, selector) in [("New", ".tables button"), ("New key", ".toolbar button")] {
        let found = format!("t.all('{selector}', '{button}')[0].disabled");
        assert_eq!(tab.eval(&found), true, "{button}");
    }
    tab.eval("t.press('n')");
    assert_eq!(tab.eval("document.querySelector('dialog')"), serde_json::Value::Null);
    tab.go("divergence");
    tab.wait("t.all('main button', 'Compare now')[0]?.disabled");
    shows(&mut tab, "main", "Your token has no admin right");
    click(&mut tab, ".tools button", "reader");
    sign_in(&mut tab, "limited");
    limited_to_a_prefix(&mut tab);
    click(&mut tab, ".tools button", "limited");
    sign_in(&mut tab, "writer");
    tab.go("data/users/alice");
    shows(&mut tab, ".editor button", "Save");
    tab.wait("!t.all('.toolbar button', 'New key')[0].disabled");
    // The secret is in this tab's own storage, and nowhere that lasts or shows.
    assert_eq!(tab.eval("sessionStorage.getItem('dynarust.token')"), "writer");
    let elsewhere = tab.eval("location.href + document.cookie + JSON.stringify(localStorage) + document.body.innerHTML.replace('>writer<', '')");
    assert!(!elsewhere.to_string().contains("writer"), "{elsewhere}");
    click(&mut tab, ".tools button", "writer");
    sign_in(&mut tab, operator.trim());
    tab.go("divergence");
    tab.wait("t.all('main button', 'Compare now')[0]?.disabled === false");
    click(&mut tab, "main button", "Compare now");
    shows(&mut tab, "main [role=status]", "Comparing with");
    // The description of the API is a page of its own, which sends the token of this tab.
    tab.eval("t.press('g'), t.press('a'), 0");
    tab.wait("location.pathname === '/_/docs' && t.all('nav a', 'Divergence').length");
    wait_until("the page has the token", DEADLINE, || {
        tab.eval("document.getElementById('token')?.value") == operator.trim()
    });
    expect_no_complaints(&tab);
}

/// A token for some keys only could make none, and was offered to delete all.
fn limited_to_a_prefix(tab: &mut Tab) {
    tab.go("data/users/eu/bob");
    shows(tab, ".editor button", "Save");
    shows(tab, ".keys [role=status]", "1 key begins with eu/");
    for (selector, button) in
        [(".tables button", "New"), (".toolbar button", "New key"), (".toolbar button", "Delete these")]
    {
        tab.wait(&format!("t.all('{selector}', '{button}')[0]?.disabled === false"));
    }
    tab.go("data/users/eu/new");
    fill(tab, ".editor textarea", "1");
    shows(tab, ".editor h2", "eu/new");
    click(tab, ".editor button", "Save");
    shows(tab, ".hint", "Saved");
    shows(tab, ".row .key", "eu/new");
    fill(tab, "[data-search]", "");
    tab.wait("t.all('.toolbar button', 'Delete all')[0]?.disabled");
    shows(tab, ".keys .failure", "ask with a prefix");
    shows(tab, ".keys p", "may only write keys that begin with eu/");
    tab.go("data/users/other");
    shows(tab, ".editor", "lacks the right read for key");
}

fn sign_in(tab: &mut Tab, token: &str) {
    fill(tab, "dialog input", token);
    click(tab, "dialog .primary", "Sign in");
}
