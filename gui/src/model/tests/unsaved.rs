//! Nothing is lost by a key of the keyboard, a click, another table or another cluster.

use super::*;

fn typed(model: &mut Model, text: &str) {
    model.editor.as_mut().expect("open").text = text.into();
}

/// The key was compared without its table, so that Delete in one table deleted the key of the same name in another.
#[test]
fn delete_in_the_tree_deletes_only_what_is_selected_in_it() {
    let (mut model, _) = editing();
    model.open_table("other");
    let generation = model.listing.as_ref().expect("it is open").generation;
    model.receive(Message::Keys { generation, keys: vec!["a".into()] });
    model.receive(Message::Listed { generation, is_cut: false });
    commands(&mut model);
    model.select(Some("a".into()));
    model.delete_selected();
    let other = Place { table: "other".into(), key: "a".into() };
    let sent = commands(&mut model);
    assert!(matches!(&sent[..], [Command::Get { place, .. }] if *place == other), "{sent:?}");
    // A key of a table that is not listed is not selected in the tree.
    model.open_key(place("b"));
    assert_eq!(model.selected, None);
    model.delete_selected();
    assert!(commands(&mut model).iter().all(|command| !matches!(command, Command::Delete { .. })));
}

#[test]
fn a_question_whether_to_delete_lapses() {
    for lapse in [
        |model: &mut Model| model.now_ms += 60_000,
        |model: &mut Model| typed(model, "9"),
        |model: &mut Model| model.select(Some("b".into())),
        |model: &mut Model| {
            model.page = Page::Cluster;
            model.tick();
        },
    ] {
        let (mut model, _) = editing();
        model.delete();
        lapse(&mut model);
        model.delete();
        assert_eq!(commands(&mut model), [], "it asks again");
    }
}

/// A new key took the place of one without a question; and an edit to what a new key begins with was no edit.
#[test]
fn nothing_typed_is_given_up_without_a_question() {
    let (mut model, _) = browsing();
    model.new_key();
    assert_eq!(model.editor.as_ref().map(|editor| editor.is_dirty()), Some(false), "nothing was typed");
    typed(&mut model, "[1]");
    model.new_key();
    assert_eq!(
        (model.next.take(), model.editor.as_ref().map(|it| it.text.as_str())),
        (Some(Next::New), Some("[1]"))
    );
    let (mut model, _) = editing();
    typed(&mut model, "{}");
    model.open_key(place("b"));
    assert_eq!(model.next, Some(Next::Open(place("b"))));
    model.discard();
    assert!(matches!(&commands(&mut model)[..], [Command::Get { place: it, .. }] if *it == place("b")));
}

/// Ctrl+Q closed the window on what was typed.
#[test]
fn the_window_closes_once_what_was_typed_is_saved_or_given_up() {
    let (mut model, _) = browsing();
    model.close();
    assert!(model.is_closing, "nothing was typed");
    let (mut model, _) = editing();
    typed(&mut model, "2");
    model.close();
    assert_eq!((&model.next, model.is_closing), (&Some(Next::Close), false));
    model.save();
    let [Command::Set { request, .. }] = commands(&mut model)[..] else { panic!("it is written") };
    assert!(!model.is_closing, "not before it is written");
    model.receive(Message::Written { request, version: "v2".into(), timestamp_ms: 7 });
    assert!(model.is_closing);
    let (mut model, _) = editing();
    typed(&mut model, "2");
    model.close();
    model.discard();
    assert!(model.is_closing);
}

/// What was typed while the save ran went without a question, as the save was taken for that of all.
#[test]
fn what_is_typed_while_a_save_runs_is_asked_about_once_more() {
    let (mut model, _) = editing();
    typed(&mut model, "2");
    model.open_key(place("b"));
    model.save();
    let [Command::Set { request, .. }] = commands(&mut model)[..] else { panic!("it is written") };
    typed(&mut model, "3");
    model.receive(Message::Written { request, version: "v2".into(), timestamp_ms: 7 });
    assert_eq!(commands(&mut model), []);
    assert_eq!(
        (model.next.take(), model.editor.as_ref().map(|it| it.text.as_str())),
        (Some(Next::Open(place("b"))), Some("3"))
    );
}

#[test]
fn another_cluster_asks_for_what_was_typed_and_keeps_nothing_of_the_old_one() {
    let (mut model, _) = editing();
    typed(&mut model, "2");
    let connect = |model: &mut Model, addresses: &str| {
        model.open_dialog();
        model.dialog.as_mut().expect("open").addresses = addresses.into();
        model.confirm_dialog();
    };
    connect(&mut model, "else:1");
    assert!(matches!(model.next, Some(Next::Connect(_))));
    assert_eq!(commands(&mut model), []);
    model.discard();
    assert!(model.editor.is_none() && model.listing.is_none());
    assert!(matches!(&commands(&mut model)[..], [Command::Connect(it)] if it.addresses == ["else:1"]));
    // More nodes of the same cluster leave the editor alone.
    let (mut model, _) = editing();
    typed(&mut model, "2");
    let known = model.settings.addresses[0].clone();
    connect(&mut model, &format!("{known}\nelse:1"));
    assert_eq!((&model.next, model.editor.is_some()), (&None, true));
    assert!(matches!(&commands(&mut model)[..], [Command::Connect(_)]));
}

/// A save that fails leaves the question, so that nothing is locked.
#[test]
fn a_failed_save_ends_what_waited_for_it() {
    let (mut model, _) = editing();
    typed(&mut model, "[");
    model.open_key(place("b"));
    model.save();
    assert_eq!(model.next, None, "the text is wrong");
    typed(&mut model, "2");
    model.open_key(place("b"));
    model.save();
    let [Command::Set { request, .. }] = commands(&mut model)[..] else { panic!("it is written") };
    model.receive(Message::Failed { request, why: "no right".into() });
    assert_eq!(model.next, None);
    model.open_key(place("b"));
    assert_eq!(model.next, Some(Next::Open(place("b"))), "it asks again");
}

#[test]
fn save_writes_only_what_is_to_be_written() {
    let (mut model, _) = editing();
    model.save();
    assert_eq!(commands(&mut model), []);
    model.new_key();
    model.editor.as_mut().expect("open").place.key = "n".into();
    model.save();
    assert!(matches!(&commands(&mut model)[..], [Command::Set { guard: Guard::Absent, .. }]));
}

#[test]
fn reload_shows_what_is_there_beside_what_was_typed() {
    let (mut model, _) = editing();
    typed(&mut model, "2");
    model.reload();
    let sent = commands(&mut model);
    let request = sent.iter().find_map(|command| match command {
        Command::Get { request, .. } => Some(*request),
        _ => None,
    });
    let request = request.expect("it is read");
    model.receive(Message::Got { request, entry: Some(entry("a", "5", "v5")) });
    let editor = model.editor.as_ref().expect("open");
    assert_eq!(editor.text, "2");
    assert_eq!(editor.conflict, Some(Conflict::new(Some(entry("a", "5", "v5")))));
}

/// The watch of another table or prefix does not tell of the key in the editor: it is read once more.
#[test]
fn a_clean_editor_is_read_again_with_each_listing() {
    let (mut model, _) = editing();
    model.open_table("other");
    let sent = commands(&mut model);
    assert!(
        matches!(&sent[..], [Command::Open { .. }, Command::Get { place: it, .. }] if *it == place("a")),
        "{sent:?}"
    );
    assert_eq!(model.editor.as_ref().map(|editor| editor.text.as_str()), Some("1"), "it is shown meanwhile");
}

#[test]
fn a_prefix_is_listed_once_nothing_more_is_typed() {
    let (mut model, _) = browsing();
    for prefix in ["u", "us", "use"] {
        model.filter = prefix.into();
        model.filter_changed();
        model.now_ms += FILTER_PAUSE_MS - 1;
        model.tick();
    }
    assert_eq!(commands(&mut model), []);
    model.now_ms += 1;
    model.tick();
    assert!(matches!(&commands(&mut model)[..], [Command::Open { prefix, .. }] if prefix == "use"));
}

#[test]
fn a_listing_that_is_incomplete_goes_on_with_its_changes() {
    let (mut model, _) = browsing();
    model.open_table("kv");
    let generation = model.listing.as_ref().expect("open").generation;
    model.receive(Message::Keys { generation, keys: vec!["a".into()] });
    model.receive(Message::Incomplete { generation, why: "a page is damaged".into() });
    model.receive(Message::Changed { generation, change: Change::Set(entry("c", "3", "v1")) });
    let listing = model.listing.as_ref().expect("open");
    assert_eq!(listing.progress, Progress::Incomplete("a page is damaged".into()));
    assert_eq!(listing.keys().len(), 2);
}

#[test]
fn a_token_in_plain_text_to_another_machine_is_warned_of() {
    for (addresses, token, tls, is_warned) in [
        (&["127.0.0.1:1", "[::1]:1", "localhost:1"][..], "hush", false, false),
        (&["127.0.0.1:1", "node-2:1"], "hush", false, true),
        (&["node-2:1"], "hush", true, false),
        (&["node-2:1"], "", false, false),
    ] {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        let settings = Settings { addresses, tls, ..Settings::default() };
        let model = Model::new(settings, token.into());
        assert_eq!(model.sends_token_in_plain_text(), is_warned, "{:?}", model.settings);
    }
}
