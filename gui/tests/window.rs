//! What the window shows of a model, and what it does to it: without a client.

use dynarust_gui::{
    message::{Change, Cluster, Command, Entry, Group, Member, Message, Mode, Place, Row, Table, Value},
    model::{FILTER_PAUSE_MS, Model, Page},
    settings::{Settings, Theme},
    views::{self, View},
};
use egui::{Key, Modifiers, Role, Ui};
use egui_kittest::{
    Harness,
    kittest::{NodeT, Queryable},
};

type State = (Model, View);

fn entry(key: &str, json: &str, version: &str) -> Entry {
    Entry {
        key: key.into(),
        value: Value::Json(json.into()),
        version: version.into(),
        timestamp_ms: 1_000_000,
        expires_at_ms: None,
    }
}

/// A model that is connected, with a table open that has these keys.
fn browsing(keys: &[&str]) -> (Model, u64) {
    let mut model = Model::new(Settings { theme: Theme::Dark, ..Settings::default() }, String::new());
    model.now_ms = 1_060_000;
    model.connect();
    model.receive(Message::Connected { address: "127.0.0.1:50051".into() });
    let tables = ["kv", "users"].map(|name| Table { name: name.into(), mode: Mode::Strong, keys: 3 });
    model.receive(Message::Tables(Ok(tables.to_vec())));
    model.open_table("kv");
    let generation = model.listing.as_ref().expect("it is open").generation;
    model.receive(Message::Keys { generation, keys: keys.iter().map(|key| (*key).into()).collect() });
    model.receive(Message::Listed { generation, is_cut: false });
    (model, generation)
}

/// With the first key in the editor.
fn editing(json: &str) -> (Model, u64) {
    let (mut model, generation) = browsing(&["a", "b", "c"]);
    model.open_key(Place { table: "kv".into(), key: "a".into() });
    let request = commands(&mut model).into_iter().find_map(|command| match command {
        Command::Get { request, .. } => Some(request),
        _ => None,
    });
    let entry = Some(entry("a", json, "v1"));
    model.receive(Message::Got { request: request.expect("it is read"), entry });
    (model, generation)
}

fn commands(model: &mut Model) -> Vec<Command> {
    std::iter::from_fn(|| model.take_command()).collect()
}

fn harness(model: Model) -> Harness<'static, State> {
    let mut is_installed = false;
    let show = move |ui: &mut Ui, (model, view): &mut State| {
        if !std::mem::replace(&mut is_installed, true) {
            views::install(ui.ctx());
        }
        views::show(ui, model, view);
    };
    let mut harness =
        Harness::builder().with_size([1180.0, 760.0]).build_ui_state(show, (model, View::default()));
    harness.run_steps(3);
    harness
}

/// The names of all rows of the tree that are drawn.
fn rows(harness: &Harness<'_, State>) -> Vec<String> {
    let rows = harness.query_all_by_role(Role::TreeItem);
    rows.map(|row| row.accesskit_node().label().unwrap_or_default()).collect()
}

#[test]
fn a_hundred_thousand_keys_are_as_fast_as_ten() {
    let names: Vec<String> = (0..100_000).map(|at| format!("user/{at:06}")).collect();
    let (model, generation) = browsing(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut harness = harness(model);
    let drawn = rows(&harness);
    assert!((10..60).contains(&drawn.len()), "{} rows", drawn.len());
    assert_eq!(drawn[..2], ["Table kv, strong, 3 keys", "Key user/000000"]);
    // Only what is in view is read.
    let asked = commands(&mut harness.state_mut().0);
    let asked: Vec<_> = asked.iter().filter(|it| matches!(it, Command::Details { .. })).collect();
    let [Command::Details { start, count, .. }] = asked[..] else { panic!("{asked:?}") };
    assert!(&**start == "user/000000" && *count < 100, "{start} {count}");
    let rows_read = [Row {
        key: "user/000000".into(),
        preview: "{\"n\":1}".into(),
        version: "v1".into(),
        expires_at_ms: None,
    }];
    let details = Message::Details { generation, rows: rows_read.to_vec(), is_all: true };
    harness.state_mut().0.receive(details);
    // The keyboard goes to the last row at once.
    harness.get_by_label("Key user/000000").click();
    harness.run_steps(2);
    assert_eq!(rows(&harness)[1], "Key user/000000: {\"n\":1}");
    harness.key_press(Key::End);
    harness.run_steps(3);
    let drawn = rows(&harness);
    assert!(drawn.iter().any(|row| row == "Key user/099999"), "{drawn:?}");
    assert!((10..60).contains(&drawn.len()), "{} rows", drawn.len());
}

#[test]
fn the_prefix_is_reached_by_the_keyboard_and_lists_again() {
    let (mut model, _) = browsing(&["a", "b"]);
    commands(&mut model);
    let mut harness = harness(model);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::F);
    harness.run_steps(2);
    harness.get_by_label("Prefix").type_text("us");
    harness.run_steps(2);
    harness.state_mut().0.now_ms += FILTER_PAUSE_MS;
    harness.run_steps(2);
    let field = harness.get_by_role_and_label(Role::TextInput, "Prefix");
    assert!(field.is_focused());
    let commands = commands(&mut harness.state_mut().0);
    let last = commands.iter().rev().find_map(|command| match command {
        Command::Open { prefix, .. } => Some(prefix.as_str()),
        _ => None,
    });
    assert_eq!(last, Some("us"), "{commands:?}");
}

#[test]
fn the_tree_is_walked_by_the_keyboard() {
    let (mut model, _) = browsing(&["a", "b", "c"]);
    commands(&mut model);
    let mut harness = harness(model);
    harness.get_by_role(Role::Tree).focus();
    harness.run_steps(2);
    for key in [Key::ArrowDown, Key::ArrowDown] {
        harness.key_press(key);
        harness.run_steps(2);
    }
    assert_eq!(harness.state().0.selected.as_deref(), Some("b"));
    harness.key_press(Key::Enter);
    harness.run_steps(2);
    let commands = commands(&mut harness.state_mut().0);
    assert!(
        commands.iter().any(|it| matches!(it, Command::Get { place, .. } if place.key == "b")),
        "{commands:?}"
    );
    harness.key_press(Key::ArrowLeft);
    harness.run_steps(2);
    assert_eq!(harness.state().0.selected, None);
    harness.key_press(Key::ArrowLeft);
    harness.run_steps(2);
    assert!(harness.state().0.listing.is_none(), "the table is closed");
    for key in [Key::ArrowDown, Key::ArrowRight] {
        harness.key_press(key);
        harness.run_steps(2);
    }
    assert_eq!(harness.state().0.listing.as_ref().map(|it| it.table.as_str()), Some("users"));
}

#[test]
fn a_key_that_is_held_down_deletes_nothing() {
    let (mut model, _) = editing("1");
    commands(&mut model);
    let mut harness = harness(model);
    let is_deleted = |harness: &mut Harness<'_, State>| {
        commands(&mut harness.state_mut().0).iter().any(|it| matches!(it, Command::Delete { .. }))
    };
    harness.get_by_role(Role::Tree).focus();
    harness.run_steps(2);
    for _ in 0..3 {
        harness.key_down(Key::Delete);
        harness.run_steps(2);
    }
    harness.get_by_label("Really delete");
    assert!(!is_deleted(&mut harness));
    harness.key_up(Key::Delete);
    harness.run_steps(2);
    harness.key_down(Key::Delete);
    harness.run_steps(2);
    assert!(is_deleted(&mut harness));
}

#[test]
fn wrong_json_is_marked_and_not_saved() {
    let (mut model, _) = editing("{\"a\":1}");
    commands(&mut model);
    let mut harness = harness(model);
    harness.state_mut().0.editor.as_mut().expect("open").text = "{\"a\": 1,\n \"b\": x}".into();
    harness.run_steps(2);
    harness.get_by_label_contains("Line 2, column 7");
    harness.get_by_label("not saved");
    assert!(harness.get_by_label("Save").accesskit_node().is_disabled());
    harness.key_press_modifiers(Modifiers::COMMAND, Key::S);
    harness.run_steps(2);
    let sent = commands(&mut harness.state_mut().0);
    assert!(!sent.iter().any(|it| matches!(it, Command::Set { .. })), "{sent:?}");
    harness.state_mut().0.editor.as_mut().expect("open").text = "{\"a\": 2}".into();
    harness.run_steps(2);
    harness.get_by_label("Save").click();
    harness.run_steps(2);
    let sent = commands(&mut harness.state_mut().0);
    assert!(sent.iter().any(|it| matches!(it, Command::Set { json, .. } if json == "{\"a\":2}")), "{sent:?}");
}

#[test]
fn a_conflict_shows_both_and_one_is_chosen() {
    for (button, text, dirty) in [("Keep mine", "\"mine\"", true), ("Take theirs", "\"theirs\"", false)] {
        let (mut model, generation) = editing("\"old\"");
        model.editor.as_mut().expect("open").text = "\"mine\"".into();
        model.receive(Message::Changed { generation, change: Change::Set(entry("a", "\"theirs\"", "v2")) });
        let mut harness = harness(model);
        harness.get_by_label_contains("Somebody else changed this key");
        let value = |harness: &Harness<'_, State>, label: &str| {
            harness.get_by_role_and_label(Role::MultilineTextInput, label).accesskit_node().value()
        };
        assert_eq!(value(&harness, "Value").as_deref(), Some("\"mine\""));
        assert_eq!(value(&harness, "Their value").as_deref(), Some("\"theirs\""));
        harness.get_by_label(button).click();
        harness.run_steps(2);
        assert!(harness.query_by_label("Their value").is_none());
        let editor = harness.state().0.editor.as_ref().expect("open");
        assert_eq!((editor.text.as_str(), editor.is_dirty()), (text, dirty));
        assert_eq!(editor.base.as_ref().map(|base| base.version.as_str()), Some("v2"));
    }
}

#[test]
fn a_lost_connection_is_a_banner_and_the_window_goes_on() {
    let (mut model, _) = editing("1");
    commands(&mut model);
    let lost =
        Message::Lost { address: "127.0.0.1:50051".into(), why: "connection refused".into(), retry_ms: 2000 };
    model.receive(lost);
    let mut harness = harness(model);
    harness.get_by_label("127.0.0.1:50051: connection refused. Trying again in 2 s");
    harness.state_mut().0.now_ms += 1500;
    harness.run_steps(2);
    harness.get_by_label("127.0.0.1:50051: connection refused. Trying again in 1 s");
    harness.get_by_label("Try now").click();
    harness.run_steps(2);
    assert_eq!(commands(&mut harness.state_mut().0), [Command::Retry]);
    // What is open stays to be read.
    assert!(rows(&harness).iter().any(|row| row == "Key b"));
    harness.state_mut().0.receive(Message::Connected { address: "127.0.0.1:50051".into() });
    harness.run_steps(2);
    assert!(harness.query_by_label_contains("connection refused").is_none());
}

#[test]
fn a_countdown_and_a_change_are_seen_in_the_tree() {
    let (mut model, generation) = browsing(&["a"]);
    let mut soon = entry("b", "{\"n\":2}", "v");
    soon.expires_at_ms = Some(model.now_ms + 59_000);
    model.receive(Message::Changed { generation, change: Change::Set(soon) });
    let mut harness = harness(model);
    harness.get_by_label("Key b, expires in 59s: {\"n\":2}");
    harness.state_mut().0.now_ms += 1000;
    harness.run_steps(2);
    harness.get_by_label("Key b, expires in 58s: {\"n\":2}");
    let deleted = Change::Deleted { key: "b".into(), version: "v9".into(), timestamp_ms: 1, expired: true };
    harness.state_mut().0.receive(Message::Changed { generation, change: deleted });
    harness.run_steps(2);
    assert!(harness.query_by_label_contains("Key b").is_none());
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Num2);
    harness.run_steps(2);
    harness.get_by_label("expired");
    assert_eq!(harness.query_all_by_label("kv/b").count(), 2);
}

#[test]
fn a_transaction_names_the_lines_that_are_wrong() {
    let (mut model, _) = browsing(&["a"]);
    commands(&mut model);
    model.page = Page::Transaction;
    model.transaction.text = "check kv a\nset kv a 1".into();
    let mut harness = harness(model);
    harness.key_press_modifiers(Modifiers::COMMAND, Key::Enter);
    harness.run_steps(2);
    harness.get_by_label_contains("line 1: after the key of a check comes");
    harness.state_mut().0.transaction.text = "check kv a exists\nset kv a 1".into();
    harness.get_by_label("Run").click();
    harness.run_steps(2);
    let sent = commands(&mut harness.state_mut().0);
    assert!(sent.iter().any(|it| matches!(it, Command::Transact { .. })), "{sent:?}");
}

fn member(node: &str, address: &str, state: &'static str, lag_ms: Option<u64>) -> Member {
    Member {
        node: node.into(),
        address: address.into(),
        state,
        since_ms: 65_000,
        linked: true,
        round_trip_ms: Some(3.0),
        rows: Some(1234),
        lag_ms,
        ..Member::default()
    }
}

#[test]
fn the_cluster_shows_leader_nodes_and_lag() {
    let (mut model, _) = browsing(&[]);
    let cluster = Cluster {
        node: "n1".into(),
        phase: "ready".into(),
        members: vec![
            member("n1", "one:1", "this node", None),
            member("n2", "two:2", "alive", Some(1200)),
            Member {
                trouble: "it has another secret".into(),
                ..member("n3", "three:3", "down", Some(65_000))
            },
        ],
        group: Some(Group {
            leader: "n2".into(),
            voters: vec!["n1".into(), "n2".into(), "n3".into()],
            ..Group::default()
        }),
        ..Cluster::default()
    };
    model.receive(Message::Cluster(Ok(cluster), 4));
    model.page = Page::Cluster;
    let harness = harness(model);
    for text in [
        "down for 1m 05s: takes no rows",
        "three:3 takes no rows: it has another secret",
        "1.2 s",
        "65.0 s",
        "leader",
        "three:3",
    ] {
        harness.get_by_label(text);
    }
    assert_eq!(harness.query_all_by_label("voter").count(), 2);
    assert_eq!(harness.query_all_by_label("two:2").count(), 2, "as the leader, and in the list");
}

/// Every page and dialog, in both themes: all that can be used has a name for screen readers.
#[test]
fn everything_that_can_be_used_has_a_name() {
    for theme in [Theme::Dark, Theme::Light] {
        for at in 0..8 {
            let (mut model, generation) = editing("1");
            model.settings.theme = theme;
            match at {
                0..4 => model.page = Page::ALL[at],
                4 => model.open_dialog(),
                5 => model.shows_help = true,
                6 => model.new_key(),
                _ => {
                    model.editor.as_mut().expect("open").text = "2".into();
                    let change = Change::Set(entry("a", "3", "v2"));
                    model.receive(Message::Changed { generation, change });
                }
            }
            let harness = harness(model);
            let mut found = 0;
            for role in
                [Role::Button, Role::TextInput, Role::MultilineTextInput, Role::CheckBox, Role::ComboBox]
            {
                for node in harness.query_all_by_role(role) {
                    let node = node.accesskit_node();
                    let name =
                        node.label().or_else(|| node.labelled_by().find_map(|it| it.value().or(it.label())));
                    assert!(name.is_some_and(|name| !name.is_empty()), "{role:?} on {at}: {node:?}");
                    found += 1;
                }
            }
            assert!(found >= 5, "{found} on {at}");
        }
    }
}

#[test]
fn what_is_not_saved_is_asked_about() {
    let (mut model, _) = editing("1");
    model.editor.as_mut().expect("open").text = "2".into();
    commands(&mut model);
    let mut harness = harness(model);
    harness.get_by_label("Key b").click();
    harness.run_steps(3);
    harness.get_by_label_contains("What you typed for a is not saved");
    harness.get_by_label("Go on typing").click();
    harness.run_steps(3);
    assert!(harness.query_by_label_contains("What you typed").is_none());
    assert_eq!(harness.state().0.editor.as_ref().map(|editor| editor.text.as_str()), Some("2"));
    harness.get_by_label("Key b").click();
    harness.run_steps(3);
    harness.get_all_by_label("Discard").last().expect("in the dialog").click();
    harness.run_steps(3);
    assert_eq!(harness.state().0.editor.as_ref().map(|editor| editor.place.key.as_str()), Some("b"));
}
