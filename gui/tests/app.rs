//! The whole window with real nodes.

use dynarust_gui::{
    app::App,
    client::Client,
    message::{Expiry, Guard},
    model::{Link, Model},
    settings::{Settings, Theme},
};
use egui::{Key, Modifiers, Role};
use egui_kittest::{Harness, kittest::Queryable};

use crate::{
    client::Asked,
    node::{Bell, Node},
};

/// A window, and what wakes it.
fn window(nodes: &[&Node], wanted: Option<(&str, &str)>) -> Window {
    let addresses = nodes.iter().map(|node| node.grpc.to_string()).collect();
    let settings = Settings { addresses, theme: Theme::Light, ..Settings::default() };
    let (bell, ring) = Bell::new();
    let client = Client::start(ring).expect("a thread");
    let mut model = Model::new(settings, String::new());
    if let Some((table, key)) = wanted {
        model.want(table.into(), Some(key.into()));
    }
    let app = App::new(model, client);
    let builder = Harness::builder().with_size([1180.0, 760.0]);
    let harness = builder.build_ui_state(|ui, app: &mut App| app.frame(ui), app);
    Window { harness, bell }
}

struct Window {
    harness: Harness<'static, App>,
    bell: Bell,
}

impl std::ops::Deref for Window {
    type Target = Harness<'static, App>;

    fn deref(&self) -> &Self::Target {
        &self.harness
    }
}

impl std::ops::DerefMut for Window {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.harness
    }
}

/// Draws frames until the window shows something.
#[track_caller]
fn draw_until(window: &mut Window, what: &str, found: impl Fn(&Harness<'static, App>) -> bool) {
    let Window { harness, bell } = window;
    bell.wait_until(what, || {
        harness.step();
        found(harness).then_some(())
    });
}

fn shows(label: &'static str) -> impl Fn(&Harness<'static, App>) -> bool {
    move |harness| harness.query_by_label_contains(label).is_some()
}

#[test]
fn a_key_is_found_changed_followed_and_deleted() {
    let node = Node::start(&[]);
    let mut other = Asked::connected(&node);
    other.create("kv", "user/1", "{\"name\":\"Ada\"}");
    let mut harness = window(&[&node], None);
    draw_until(&mut harness, "the table", shows("Table kv, strong"));
    harness.get_by_label_contains("Table kv, strong").click();
    draw_until(&mut harness, "the key with its value", shows("Key user/1: {\"name\":\"Ada\"}"));
    harness.get_by_label_contains("Key user/1").click();
    let text =
        |harness: &Harness<'static, App>| harness.state().model().editor.as_ref().map(|it| it.text.clone());
    let ada = "{\n  \"name\": \"Ada\"\n}";
    draw_until(&mut harness, "the value", |harness| text(harness).as_deref() == Some(ada));
    harness.state_mut().model_mut().editor.as_mut().expect("open").text = "{\"name\":\"Grace\"}".into();
    harness.step();
    harness.key_press_modifiers(Modifiers::COMMAND, Key::S);
    draw_until(&mut harness, "it is saved", shows("Saved kv/user/1"));
    let entry = other.get("kv", "user/1").expect("it is there");
    other.set("kv", "user/1", "{\"name\":\"Edsger\"}", Guard::Version(entry.version), Expiry::Never);
    draw_until(&mut harness, "the change of somebody else", shows("Key user/1: {\"name\":\"Edsger\"}"));
    let edsger = "{\n  \"name\": \"Edsger\"\n}";
    draw_until(&mut harness, "the editor follows", |harness| text(harness).as_deref() == Some(edsger));
    harness.get_by_label("Delete").click();
    draw_until(&mut harness, "it asks", shows("Really delete"));
    harness.get_by_label("Really delete").click();
    draw_until(&mut harness, "it is deleted", |harness| {
        shows("Deleted kv/user/1")(harness) && harness.query_by_label_contains("Key user/1").is_none()
    });
    assert_eq!(other.get("kv", "user/1"), None);
}

#[test]
fn a_dead_server_is_a_banner_and_no_hang_and_the_window_finds_it_again() {
    let node = Node::start(&[]);
    let mut other = Asked::connected(&node);
    other.create("kv", "a", "1");
    let mut harness = window(&[&node], Some(("kv", "a")));
    draw_until(&mut harness, "the key", shows("Key a: 1"));
    let mut node = node;
    node.kill();
    draw_until(&mut harness, "the banner", shows("Trying again in"));
    // What was read is still drawn.
    assert!(shows("Key a: 1")(&harness));
    assert!(harness.query_by_role_and_label(Role::Button, "Try now").is_some());
    let node = node.restart();
    draw_until(&mut harness, "connected again", |harness| {
        matches!(harness.state().model().link, Link::Connected { .. })
            && shows("Key a: 1")(harness)
            && harness.query_by_label_contains("Trying again").is_none()
    });
    drop(node);
}
