//! Pictures of the dashboard, on demand:
//!
//! - `DYNARUST_PICTURES=docs/images`: the three of the README.
//! - `DYNARUST_VIEWS=folder`: all views, wide and on a phone, light and dark, for whoever changed one.
//! - `DYNARUST_AXE=axe.min.js`, of the npm package `axe-core`: fails with what that finds wrong with a view.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Tab, shows, visit};
use crate::harness::{
    Node, Setup,
    cluster::{Cluster, free_localhost_address, setup},
};

const SIZE: (u32, u32) = (1280, 800);
const PHONE: (u32, u32) = (390, 844);
const VIEWS: [&str; 5] = ["cluster", "data/users", "data/users/user-0007", "live", "divergence/users"];

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).inspect(|folder| {
        fs::create_dir_all(folder).expect("a folder");
    })
}

fn write_rows(node: &Node, rows: std::ops::Range<u32>) {
    let row = |row| {
        let value = json!({ "name": format!("User {row}"), "visits": row % 17, "plan": "team" });
        json!({ "op": "put", "key": format!("user-{row:04}"), "value": value })
    };
    node.post("/users/batch", json!(rows.map(row).collect::<Vec<_>>()).to_string()).expect(200);
}

/// Three nodes with some tables, which hold the same.
fn three() -> Cluster {
    let cluster = Cluster::start_from((0..3).map(|_| setup().listen(&free_localhost_address())).collect());
    write_rows(&cluster[0], 0..2_000);
    for table in ["orders", "sessions"] {
        cluster[1].put(&format!("/{table}/key/a?ttl=1h"), r#"{"value":{"items":3}}"#).expect(200);
    }
    cluster[0].put("/_/tables/accounts", r#"{"mode":"strong"}"#).expect(201);
    cluster.wait_until_equal();
    cluster
}

/// The cluster in numbers that a reader can believe: requests for a while.
fn use_it(cluster: &Cluster, tab: &mut Tab) {
    for second in 0..30 {
        for request in 0..(20 + 10 * (second % 5)) {
            let node = &cluster[request % 3];
            node.put(&format!("/sessions/key/{request}"), format!(r#"{{"value":{second}}}"#)).expect(200);
            node.get(&format!("/sessions/key/{request}")).expect(200);
        }
        tab.eval("new Promise(done => setTimeout(done, 500))");
    }
}

#[test]
fn pictures_of_the_readme_are_made_on_demand() {
    let Some(folder) = folder("DYNARUST_PICTURES") else {
        eprintln!("SKIPPED: on demand, with DYNARUST_PICTURES");
        return;
    };
    let cluster = three();
    let Some((browser, mut tab)) = visit(&cluster[0]) else { return };
    tab.shape(SIZE.0, SIZE.1, false);
    use_it(&cluster, &mut tab);
    shows(&mut tab, ".verdict.good", "All 3 nodes");
    tab.picture(&folder.join("cluster.png"));
    tab.go("data/users/user-0007");
    shows(&mut tab, ".editor h2", "user-0007");
    shows(&mut tab, ".row .value", "visits");
    tab.picture(&folder.join("data.png"));
    drop((browser, tab, cluster));
    diverged(&folder.join("divergence.png"));
}

/// Two nodes, of which one was down while the other took writes, and forgot what it had still to send.
fn diverged(picture: &Path) {
    let slow = |setup: Setup| setup.flag("--sync-interval", "1s").listen(&free_localhost_address());
    let first = slow(Setup::new()).start();
    write_rows(&first, 0..2_000);
    let second = slow(Setup::new().join(&first.address().to_string())).start();
    let Some((_browser, mut tab)) = visit(&first) else { return };
    tab.shape(SIZE.0, SIZE.1, false);
    tab.go("divergence/users");
    shows(&mut tab, ".roots .state.good", "same");
    shows(&mut tab, ".roots th", &second.address().to_string());
    let second = second.kill();
    write_rows(&first, 100..110);
    let _first = first.kill().start();
    let _second = second.start();
    tab.wait("document.querySelectorAll('.cell.differ').length > 5");
    tab.eval("document.querySelector('.cell.differ').click()");
    shows(&mut tab, "td.older", "2");
    tab.picture(picture);
}

#[test]
fn every_view_in_every_shape_on_demand() {
    let (folder, axe) = (folder("DYNARUST_VIEWS"), env::var_os("DYNARUST_AXE"));
    let axe = axe.map(|path| fs::read_to_string(path).expect("axe can be read"));
    if folder.is_none() && axe.is_none() {
        eprintln!("SKIPPED: on demand, with DYNARUST_VIEWS or DYNARUST_AXE");
        return;
    }
    let cluster = three();
    let Some((_browser, mut tab)) = visit(&cluster[0]) else { return };
    shows(&mut tab, ".verdict.good", "All 3 nodes");
    for is_dark in [false, true] {
        for size in [SIZE, PHONE] {
            tab.shape(size.0, size.1, is_dark);
            for view in VIEWS {
                tab.go(view);
                // What a view reads comes within a second.
                tab.eval("new Promise(done => setTimeout(done, 1500))");
                if let Some(axe) = &axe {
                    expect_accessible(&mut tab, axe, view);
                }
                take(&mut tab, folder.as_deref(), &view.replace('/', "-"), size, is_dark);
            }
            // The description of the API is a page of its own.
            let base = format!("http://{}", cluster[0].address());
            tab.call("Page.navigate", json!({ "url": format!("{base}/_/docs") }));
            tab.wait(
                "(summary => summary && (summary.click(), true))(document.querySelector('details summary'))",
            );
            if let Some(axe) = &axe {
                expect_accessible(&mut tab, axe, "API");
            }
            take(&mut tab, folder.as_deref(), "api", size, is_dark);
            tab.call("Page.navigate", json!({ "url": base }));
        }
    }
}

fn take(tab: &mut Tab, folder: Option<&Path>, name: &str, size: (u32, u32), is_dark: bool) {
    let shape = if size == PHONE { "-phone" } else { "" };
    let shade = if is_dark { "-dark" } else { "" };
    if let Some(folder) = folder {
        tab.picture(&folder.join(format!("{name}{shape}{shade}.png")));
    }
}

fn expect_accessible(tab: &mut Tab, axe: &str, view: &str) {
    tab.eval(&format!("{axe}; true"));
    let run = "axe.run(document).then(({ violations }) => violations.map(({ id, nodes }) => [id, nodes.map(node => node.html)]))";
    assert_eq!(tab.eval(run), Value::Array(Vec::new()), "{view}");
}
