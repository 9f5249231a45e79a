//! The model alone: messages in, commands out.

mod unsaved;

use super::{
    editor::{Conflict, Waiting},
    listing::Progress,
    *,
};
use crate::message::{Change, Entry, Guard, Message, Mode, Value};

fn entry(key: &str, json: &str, version: &str) -> Entry {
    Entry {
        key: key.into(),
        value: Value::Json(json.into()),
        version: version.into(),
        timestamp_ms: 1000,
        expires_at_ms: None,
    }
}

fn commands(model: &mut Model) -> Vec<Command> {
    std::iter::from_fn(|| model.take_command()).collect()
}

fn place(key: &str) -> Place {
    Place { table: "kv".into(), key: key.into() }
}

/// Connected, with a table open whose keys are there.
fn browsing() -> (Model, u64) {
    let mut model = Model::new(Settings::default(), String::new());
    model.connect();
    model.receive(Message::Connected { address: "a:1".into() });
    let tables = vec![Table { name: "kv".into(), mode: Mode::Strong, keys: 2 }];
    model.receive(Message::Tables(Ok(tables)));
    model.open_table("kv");
    let generation = model.listing.as_ref().expect("it is open").generation;
    model.receive(Message::Keys { generation, keys: vec!["a".into(), "b".into()] });
    model.receive(Message::Listed { generation, is_cut: false });
    commands(&mut model);
    (model, generation)
}

/// With a key in the editor.
fn editing() -> (Model, u64) {
    let (mut model, generation) = browsing();
    model.open_key(place("a"));
    let [Command::Get { request, .. }] = commands(&mut model)[..] else { panic!("it is read") };
    model.receive(Message::Got { request, entry: Some(entry("a", "1", "v1")) });
    (model, generation)
}

#[test]
fn a_lost_connection_is_told_and_what_was_open_is_read_again_after_it() {
    let (mut model, generation) = editing();
    model.now_ms = 10_000;
    model.editor.as_mut().expect("open").text = "2".into();
    model.save();
    let lost = Message::Lost { address: "a:1".into(), why: "refused".into(), retry_ms: 500 };
    model.receive(lost);
    let expected = Link::Lost { address: "a:1".into(), why: "refused".into(), retry_at_ms: 10_500 };
    assert_eq!(model.link, expected);
    let editor = model.editor.as_ref().expect("still open");
    assert_eq!((editor.waiting, editor.text.as_str()), (Waiting::Nothing, "2"), "what was typed stays");
    assert!(editor.failure.as_ref().is_some_and(|why| why.contains("not known")), "{editor:?}");
    model.receive(Message::Connecting { address: "b:2".into() });
    assert_eq!(model.link, Link::Connecting { address: "b:2".into(), after: Some("refused".into()) });
    commands(&mut model);
    model.receive(Message::Connected { address: "b:2".into() });
    let [Command::Open { generation: again, table, .. }] = &commands(&mut model)[..] else {
        panic!("the table is listed again, and what was typed is not overwritten")
    };
    assert!(*again > generation && table == "kv");
    model.receive(Message::Keys { generation, keys: vec!["old".into()] });
    let keys: Vec<_> = model.listing.iter().flat_map(|it| it.keys()).map(|key| &**key).collect();
    assert_eq!(keys, ["a", "b"], "an old listing is dropped, and the rows stay until the new one is there");
}

/// All keys were listed again after each connection that was lost, a million of them maybe.
#[test]
fn a_table_whose_keys_are_all_there_goes_on_with_what_has_changed() {
    let (mut model, generation) = browsing();
    let keys = |model: &Model| -> Vec<String> {
        model.listing.iter().flat_map(|it| it.keys()).map(ToString::to_string).collect()
    };
    // What the next connection asks for: a cursor, and the number of the listing.
    let connected = |model: &mut Model| {
        model.receive(Message::Connected { address: "b:2".into() });
        let opened = commands(model);
        let [Command::Open { generation, goes_on, .. }] = &opened[..] else { panic!("{opened:?}") };
        (goes_on.clone(), *generation)
    };
    model.receive(Message::Position { generation, cursor: "1.5".into() });
    let (goes_on, generation) = connected(&mut model);
    assert_eq!(goes_on.as_deref(), Some("1.5"));
    let progress = model.listing.as_ref().map(|it| it.progress.clone());
    assert_eq!(progress, Some(Progress::Loaded { is_cut: false }));
    model.receive(Message::Changed { generation, change: Change::Set(entry("c", "3", "v1")) });
    model.receive(Message::Position { generation, cursor: "1.6".into() });
    assert_eq!(keys(&model), ["a", "b", "c"]);
    let (goes_on, newer) = connected(&mut model);
    assert_eq!(goes_on.as_deref(), Some("1.6"));
    // What was told for a number that is old by now is dropped, with its cursor.
    model.receive(Message::Changed { generation, change: Change::Set(entry("d", "4", "v1")) });
    model.receive(Message::Position { generation, cursor: "1.7".into() });
    let (goes_on, generation) = connected(&mut model);
    assert_eq!((goes_on.as_deref(), generation > newer), (Some("1.6"), true));
    model.receive(Message::Anew { generation });
    model.receive(Message::Keys { generation, keys: vec!["e".into()] });
    assert_eq!(keys(&model), ["a", "b", "c"], "these stay until all are there");
    let (goes_on, generation) = connected(&mut model);
    assert_eq!(goes_on, None, "not all are there");
    model.receive(Message::Keys { generation, keys: vec!["e".into()] });
    model.receive(Message::Listed { generation, is_cut: false });
    assert_eq!(keys(&model), ["e"]);
}

/// Each of these may have left out keys, or a person wants to see them anew.
#[test]
fn a_table_is_listed_again_where_keys_may_be_missing() {
    let again: [fn(&mut Model, u64); 5] = [
        |model, generation| model.receive(Message::Listed { generation, is_cut: true }),
        |model, generation| model.receive(Message::Incomplete { generation, why: "damaged".into() }),
        |model, generation| {
            let why = "too fast".to_owned();
            model.receive(Message::Broken { generation, why, may_retry: true, missed: true });
        },
        |model, _| model.connect(),
        |model, _| {
            let lost = Message::Lost { address: "a:1".into(), why: "refused".into(), retry_ms: 500 };
            model.receive(lost);
            model.reload();
        },
    ];
    for (number, again) in again.into_iter().enumerate() {
        let (mut model, generation) = browsing();
        model.receive(Message::Position { generation, cursor: "1.5".into() });
        again(&mut model, generation);
        commands(&mut model);
        model.receive(Message::Connected { address: "a:1".into() });
        let opened = commands(&mut model);
        assert!(matches!(opened[..], [Command::Open { goes_on: None, .. }]), "{number}: {opened:?}");
    }
    let (mut model, generation) = browsing();
    model.receive(Message::Position { generation, cursor: "1.5".into() });
    model.open_table("kv");
    assert!(matches!(commands(&mut model)[..], [Command::Open { goes_on: None, .. }]));
}

#[test]
fn a_conflict_shows_both_and_the_next_save_is_guarded_by_theirs() {
    let (mut model, _) = editing();
    model.editor.as_mut().expect("open").text = "2".into();
    model.save();
    let [Command::Set { request, guard, .. }] = &commands(&mut model)[..] else { panic!("it is written") };
    assert_eq!(*guard, Guard::Version("v1".into()));
    model.receive(Message::Conflict { request: *request, theirs: Some(entry("a", "9", "v9")) });
    let editor = model.editor.as_ref().expect("open");
    assert_eq!(editor.conflict, Some(Conflict::new(Some(entry("a", "9", "v9")))));
    assert_eq!(editor.text, "2");
    model.save();
    assert_eq!(commands(&mut model), [], "not before one of them was chosen");
    model.editor.as_mut().expect("open").keep_mine();
    model.save();
    let [Command::Set { request, guard, json, .. }] = &commands(&mut model)[..] else {
        panic!("it is written")
    };
    assert_eq!((guard, json.as_str()), (&Guard::Version("v9".into()), "2"));
    model.receive(Message::Written { request: *request, version: "w1".into(), timestamp_ms: 7 });
    assert!(model.editor.as_ref().is_some_and(|it| !it.is_dirty() && it.conflict.is_none()));
    assert_eq!(model.notice, "Saved kv/a");
}

/// The change of one's own write may come before its answer, and another's right after it.
#[test]
fn the_change_of_ones_own_write_is_no_conflict() {
    for (seen, expected) in [("v2", "2"), ("v3", "7")] {
        let (mut model, generation) = editing();
        model.editor.as_mut().expect("open").text = "2".into();
        model.save();
        let [Command::Set { request, .. }] = commands(&mut model)[..] else { panic!("it is written") };
        let change = Change::Set(entry("a", "2", "v2"));
        model.receive(Message::Changed { generation, change });
        if seen == "v3" {
            let change = Change::Set(entry("a", "7", "v3"));
            model.receive(Message::Changed { generation, change });
        }
        model.receive(Message::Written { request, version: "v2".into(), timestamp_ms: 7 });
        let editor = model.editor.as_ref().expect("open");
        assert_eq!((editor.text.as_str(), &editor.conflict), (expected, &None));
    }
}

#[test]
fn changes_reach_the_list_the_editor_and_the_page_of_changes() {
    let (mut model, generation) = editing();
    model.now_ms = 5000;
    model.receive(Message::Changed { generation, change: Change::Set(entry("c", "3", "v1")) });
    model.receive(Message::Changed { generation, change: Change::Set(entry("a", "4", "v2")) });
    let deleted = Change::Deleted { key: "b".into(), version: "v2".into(), timestamp_ms: 5, expired: true };
    model.receive(Message::Changed { generation, change: deleted });
    let listing = model.listing.as_ref().expect("open");
    let keys: Vec<&str> = listing.keys().iter().map(|key| &**key).collect();
    assert_eq!(keys, ["a", "c"]);
    assert_eq!(listing.details("a").map(|it| (it.preview.as_str(), it.changed_ms)), Some(("4", Some(5000))));
    assert_eq!(model.editor.as_ref().map(|editor| editor.text.as_str()), Some("4"));
    assert_eq!(model.changes.len(), 3);
    let expected = Seen { at_ms: 5000, place: place("b"), event: Event::Expired };
    assert_eq!(model.changes[0], expected);
    for _ in 0..600 {
        model.receive(Message::Changed { generation, change: Change::Set(entry("c", "3", "v1")) });
    }
    assert_eq!(model.changes.len(), CHANGES_MAX);
    model.receive(Message::Broken {
        generation,
        why: "changes were missed".into(),
        may_retry: true,
        missed: true,
    });
    assert!(matches!(commands(&mut model)[..], [Command::Open { attempt: 1, .. }, Command::Get { .. }]));
    let generation = model.listing.as_ref().expect("open").generation;
    model.receive(Message::Broken {
        generation,
        why: "no right to read".into(),
        may_retry: false,
        missed: false,
    });
    let progress = model.listing.as_ref().map(|listing| &listing.progress);
    assert_eq!(progress, Some(&Progress::Failed("no right to read".into())));
    assert_eq!(commands(&mut model), []);
}

#[test]
fn what_was_typed_is_not_lost_by_a_click_on_another_key() {
    let (mut model, _) = editing();
    model.editor.as_mut().expect("open").text = "2".into();
    model.open_key(place("b"));
    assert_eq!(commands(&mut model), []);
    assert_eq!(model.next, Some(Next::Open(place("b"))));
    model.save();
    let [Command::Set { request, .. }] = commands(&mut model)[..] else { panic!("it is written") };
    model.receive(Message::Written { request, version: "v2".into(), timestamp_ms: 7 });
    assert!(matches!(&commands(&mut model)[..], [Command::Get { place: it, .. }] if *it == place("b")));
    model.discard();
    assert!(model.editor.is_none());
}

#[test]
fn what_is_on_the_screen_stays_without_a_connection() {
    let (mut model, _) = editing();
    model.receive(Message::Lost { address: "a:1".into(), why: "refused".into(), retry_ms: 500 });
    model.reload();
    assert_eq!(commands(&mut model), [Command::Retry]);
    assert_eq!(model.listing.as_ref().map(|listing| listing.keys().len()), Some(2));
}

#[test]
fn a_deletion_is_confirmed_and_guarded() {
    let (mut model, _) = editing();
    model.delete();
    assert_eq!(commands(&mut model), []);
    model.delete();
    let [Command::Delete { request, version, .. }] = &commands(&mut model)[..] else {
        panic!("it is deleted")
    };
    assert_eq!(version, "v1");
    model.receive(Message::Written { request: *request, version: "v2".into(), timestamp_ms: 7 });
    assert!(model.editor.is_none());
}

#[test]
fn a_transaction_with_wrong_lines_is_not_sent() {
    let (mut model, _) = browsing();
    model.transaction.text = "set kv a\nget kv b".into();
    model.run_transaction();
    assert_eq!(commands(&mut model), []);
    assert_eq!(model.transaction.errors.iter().map(|error| error.line).collect::<Vec<_>>(), [1]);
    model.transaction.text = "set kv a 1".into();
    model.run_transaction();
    model.run_transaction();
    let [Command::Transact { request, .. }] = commands(&mut model)[..] else { panic!("once") };
    let outcome = Outcome { succeeded: true, results: vec!["set kv/a".into()] };
    model.receive(Message::Transacted { request, outcome: outcome.clone() });
    assert_eq!(model.transaction.outcome, Some(Ok(outcome)));
}

#[test]
fn the_dialog_says_what_is_wrong_and_keeps_the_token_out_of_the_settings() {
    let mut model = Model::new(Settings::default(), String::new());
    model.open_dialog();
    let dialog = model.dialog.as_mut().expect("open");
    dialog.addresses = "one:1\ntwo:x".into();
    model.confirm_dialog();
    let dialog = model.dialog.as_mut().expect("still open");
    assert!(dialog.error.as_ref().is_some_and(|error| error.contains("two:x")), "{dialog:?}");
    dialog.addresses = "one:1\ntwo:2".into();
    dialog.token = " hush ".into();
    dialog.tls = true;
    model.confirm_dialog();
    assert!(model.dialog.is_none());
    let [Command::Connect(connection)] = &commands(&mut model)[..] else { panic!("it connects") };
    assert_eq!(connection.addresses, ["one:1", "two:2"]);
    assert_eq!((connection.token.0.as_str(), connection.tls), ("hush", true));
    assert!(!serde_json::to_string(&model.settings).expect("JSON").contains("hush"));
}
