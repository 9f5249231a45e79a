//! A tab that is open for long, on demand: `DYNARUST_OPEN_TAB=seconds`, at least 90. Changes come at 500 a second, in each view in turn. It fails
//! if the memory of the page, after a collection of garbage, grows by more than 3 MB from the first to the last round after the warm-up; if a task
//! keeps the page from drawing for more than 50 ms while a view is open; or if the page cannot be used within 300 ms. Late frames are only printed:
//! they may be the machine's. In the release profile: the figures of the debug profile are those of the node.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Tab, expect_no_complaints, shows, visit};
use crate::harness::{DEADLINE, Node, http::Connection, http::Request, wait_until};

const CHANGES_PER_SECOND: u32 = 500;
const BATCHES_PER_SECOND: u32 = 10;
const KEYS: u64 = 5_000;
const VIEWS: [&str; 4] = ["live", "data/t", "cluster", "divergence/t"];
/// What the page keeps is full after this: 2,500 changes, 2,000 values, 200 histories.
const WARM_UP: Duration = Duration::from_secs(45);
/// Rounds through the views after the warm-up: less would compare the memory with itself.
const ROUNDS_MIN: usize = 3;
/// Compiled code, and 15 minutes of points, still come.
const GROWTH_BYTES_MAX: f64 = 3e6;
const INTERACTIVE_MS_MAX: f64 = 300.0;

/// Counts tasks that keep the page from drawing, and frames that come late.
const WATCH: &str = r#"
window.late = [];
window.gaps = [];
new PerformanceObserver(list => list.getEntries().forEach(it => late.push(Math.round(it.duration)))).observe({ type: "longtask" });
let before = 0;
const frame = now => { if (before && now - before > 50) gaps.push(Math.round(now - before)); before = now; requestAnimationFrame(frame); };
requestAnimationFrame(frame);
0
"#;

fn write(address: std::net::SocketAddr, until: Instant) {
    let mut connection = Connection::open(address);
    let (began, mut batches) = (Instant::now(), 0u32);
    while Instant::now() < until {
        let each = CHANGES_PER_SECOND / BATCHES_PER_SECOND;
        let row = |row| {
            let number = u64::from(batches * each + row);
            json!({ "op": "put", "key": format!("k{:05}", number * 7919 % KEYS), "value": { "number": number, "text": "x".repeat(100) } })
        };
        let rows: Vec<Value> = (0..each).map(row).collect();
        connection.send(&Request::new("POST", "/t/batch").body(json!(rows).to_string())).expect(200);
        batches += 1;
        let due = began + Duration::from_secs(1) / BATCHES_PER_SECOND * batches;
        wait_until("the next changes are due", DEADLINE, || Instant::now() >= due);
    }
}

fn numbers(list: &Value) -> impl Iterator<Item = f64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_f64)
}

/// Bytes of the page's memory after a collection.
fn heap(tab: &mut Tab) -> f64 {
    for _ in 0..2 {
        tab.call("HeapProfiler.collectGarbage", json!({}));
    }
    tab.call("Runtime.getHeapUsage", json!({}))["usedSize"].as_f64().expect("a number")
}

#[test]
fn a_tab_that_is_open_all_day_does_not_grow_on_demand() {
    let Some(seconds) = env::var("DYNARUST_OPEN_TAB").ok().and_then(|text| text.parse().ok()) else {
        eprintln!("SKIPPED: on demand, with DYNARUST_OPEN_TAB=seconds");
        return;
    };
    let node = Node::start();
    let Some((_browser, mut tab)) = visit(&node) else { return };
    shows(&mut tab, ".verdict", "The node works");
    let interactive = interactive(&mut tab);
    tab.eval(WATCH);
    let began = Instant::now();
    let until = began + WARM_UP + Duration::from_secs(seconds);
    let address = node.address();
    let writer = thread::spawn(move || write(address, until));
    let (mut heaps, mut tasks, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    while Instant::now() < until {
        for view in VIEWS {
            tab.go(view);
            // The view is made now, which is no frame of its changes.
            tab.eval(
                "new Promise(done => setTimeout(() => { late.length = 0; gaps.length = 0; done(0); }, 1500))",
            );
            tab.eval("new Promise(done => setTimeout(() => done(0), 4000))");
            tasks.extend(numbers(&tab.eval("[...late]")).map(|ms| (view, ms)));
            gaps.extend(numbers(&tab.eval("[...gaps]")).map(|ms| (view, ms)));
        }
        heaps.push((began.elapsed().as_secs(), heap(&mut tab)));
    }
    writer.join().expect("it wrote");
    eprintln!("interactive after {interactive:.0} ms");
    heaps.iter().for_each(|(at, bytes)| eprintln!("{at:>5} s {:>6.2} MB", bytes / 1e6));
    eprintln!("tasks over 50 ms: {tasks:?}\nframes after more than 50 ms: {gaps:?}");
    let settled: Vec<f64> =
        heaps.iter().filter(|(at, _)| *at >= WARM_UP.as_secs()).map(|(_, bytes)| *bytes).collect();
    assert!(settled.len() >= ROUNDS_MIN, "{} rounds after the warm-up: give it 90 seconds", settled.len());
    let (first, last) = (settled[0], settled[settled.len() - 1]);
    assert!(last - first < GROWTH_BYTES_MAX, "from {first} to {last} bytes");
    assert!(interactive < INTERACTIVE_MS_MAX, "{interactive} ms");
    // The browser reports those of more than 50 ms.
    assert!(tasks.is_empty(), "{tasks:?}");
    expect_no_complaints(&tab);
}

/// Milliseconds from the request for the page until its first view can be used.
fn interactive(tab: &mut Tab) -> f64 {
    let script = r#"new MutationObserver((_, observer) => { if (document.querySelector("nav a") && document.querySelector(".verdict")) { window.usableAt ??= performance.now(); observer.disconnect(); } }).observe(document, { childList: true, subtree: true });"#;
    tab.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }));
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            tab.call("Page.reload", json!({ "ignoreCache": true }));
            tab.wait("window.usableAt");
            tab.eval("window.usableAt").as_f64().expect("a number")
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}
