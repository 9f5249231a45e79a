//! `import` when something goes wrong: nodes that refuse, rows of one key in several pieces, and files that were imported elsewhere.

use std::{
    fs,
    io::Write,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::Value;

use super::{Done, FAILED, Shell};
use crate::harness::{
    DEADLINE, Node,
    fake::{Fake, Reply},
    wait_until,
};

const OVERLOADED: &str =
    "{\"status\":503,\"error\":\"overloaded\",\"detail\":\"no\",\"written\":0,\"skipped\":0}";
const TAKEN: &str = "{\"written\":1,\"skipped\":0}";

fn rows(range: std::ops::Range<u32>) -> String {
    range.map(|n| format!("{{\"key\":\"k{n}\",\"value\":{n}}}\n")).collect()
}

fn contains(body: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(body).contains(text)
}

/// A node that refuses a body with this row once.
fn refusing_once(row: &'static str) -> Fake {
    let was_refused = AtomicBool::new(false);
    Fake::start(move |asked, _| {
        let is_refused = contains(&asked.body, row) && !was_refused.swap(true, Ordering::Relaxed);
        if is_refused { Reply::json(503, OVERLOADED) } else { Reply::json(200, TAKEN) }
    })
}

/// Imports these rows; gives the place of the last request with each of these.
fn places(fake: &Fake, text: &str, rows: [&str; 3]) -> [usize; 3] {
    let shell = Shell::with_endpoint(Some(fake.address().to_owned()));
    shell.run_with_input(&["import", "--table", "t", "-"], text.as_bytes()).printed();
    let asked = fake.asked();
    rows.map(|row| asked.iter().rposition(|asked| contains(&asked.body, row)).expect("it was sent"))
}

/// Eight pieces were on their way at a time, and a node took them in any order, or one of them only at the second attempt: an earlier row of
/// a key was written over a later one of the same file.
#[test]
fn the_last_row_of_a_key_wins() {
    const FIRST: &str = "{\"key\":\"twice\",\"value\":1}\n";
    const LAST: &str = "{\"key\":\"twice\",\"value\":2}\n";
    let file = format!("{FIRST}{}{LAST}", rows(0..6500));
    let [first, between, last] = places(&refusing_once(FIRST), &file, [FIRST, "\"k3000\"", LAST]);
    assert!(between < first && first < last, "{between} < {first} < {last}");
}

/// Which of them wins is in the rows.
#[test]
fn rows_that_keep_their_versions_do_not_wait_for_each_other() {
    const FIRST: &str = "{\"key\":\"twice\",\"version\":\"1-1\",\"value\":1}\n";
    const LAST: &str = "{\"key\":\"twice\",\"version\":\"1-1\",\"value\":2}\n";
    let file = format!("{FIRST}{}{LAST}", rows(0..2500));
    let [first, _, last] = places(&refusing_once(FIRST), &file, [FIRST, FIRST, LAST]);
    assert!(last < first, "{last} < {first}");
}

#[test]
fn of_a_piece_that_was_taken_in_part_only_the_rest_is_sent_again() {
    let fake = Fake::start(|_, before| match before {
        0 => Reply::json(503, &OVERLOADED.replace("\"written\":0", "\"written\":2")),
        _ => Reply::json(200, TAKEN),
    });
    let shell = Shell::with_endpoint(Some(fake.address().to_owned()));
    let done =
        shell.run_with_input(&["import", "--table", "t", "-", "--json"], rows(0..3).as_bytes()).printed();
    let said: Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!((&said["rows"], &said["written"]), (&3.into(), &3.into()), "{said}");
    let asked = fake.asked();
    assert_eq!((asked.len(), &asked[1].body[..]), (2, rows(2..3).as_bytes()));
}

/// The note of how far an import came did not say where to: the same file went on at row 2001 on another cluster, which had none of the others.
#[test]
fn an_import_goes_on_only_where_it_was_interrupted() {
    let (one, other) = (Node::start(), Node::start());
    let shell = Shell::at(&one);
    fs::write(shell.home().join("rows"), rows(0..2000) + "{\"key\":\"bad\"}\n").expect("a file");
    let import = ["import", "--table", "t", "rows"];
    shell.run(&import).expect(FAILED, &["row 2001 of rows", "2000 rows are imported"]);
    shell.run(&import).expect(FAILED, &["going on after row 2000", "row 2001 of rows"]);
    let (one, elsewhere) = (one.address().to_string(), other.address().to_string());
    shell.run(&[&import[..], &["--endpoint", &elsewhere]].concat()).expect(
        FAILED,
        &[
            "interrupted after row 2000",
            &format!("--endpoint was {one}, and is {elsewhere}"),
            "begins at the first",
        ],
    );
    assert_eq!(shell.run(&["count", "t", "--endpoint", &elsewhere]).printed(), "2000\n");
    let other_table = ["import", "--table", "u", "rows", "--endpoint", &elsewhere];
    shell.run(&other_table).expect(FAILED, &["--table was t, and is u"]);
}

/// The command waited for the thread that reads, and that for standard input: a refused import never ended.
#[test]
fn a_refused_import_ends_although_more_may_come() {
    let node = Node::start();
    let shell = Shell::at(&node);
    let without_value: String = (0..2000).map(|n| format!("{{\"key\":\"k{n}\"}}\n")).collect();
    for (format, text) in
        [("ndjson", without_value.clone()), ("json", format!("[{}", without_value.replace('\n', ",")))]
    {
        let mut command = shell.command(&["import", "--table", "t", "-", "--format", format]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
        stdin.flush().expect("it reads");
        wait_until("the import ends", DEADLINE, || child.try_wait().expect("it can be asked").is_some());
        drop(stdin);
        Done::of(child).expect(FAILED, &["row 1 of -", "0 rows are imported"]);
    }
}
