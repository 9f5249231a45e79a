//! The page of the nodes.

use egui::{CentralPanel, Frame, Grid, Margin, RichText, ScrollArea, Ui};

use super::{
    colors::{self, Colors},
    frame::thousands,
};
use crate::{
    message::{Cluster, Member},
    model::{Model, time},
};

/// The page.
pub fn show(ui: &mut Ui, model: &Model) {
    let frame = Frame::new().fill(ui.visuals().panel_fill).inner_margin(Margin::same(16));
    CentralPanel::default().frame(frame).show(ui, |ui| {
        ScrollArea::both().auto_shrink(false).show(ui, |ui| {
            ui.heading("Cluster");
            match &model.cluster {
                None if model.is_connected() => {
                    ui.weak("Reading\u{2026}");
                }
                None => {
                    ui.weak("Not connected.");
                }
                Some(Err(why)) => {
                    ui.colored_label(colors::of(ui).warning, why);
                }
                Some(Ok(cluster)) => {
                    if !model.is_connected() {
                        ui.colored_label(colors::of(ui).warning, "As it was when the connection was lost.");
                    }
                    summary(ui, cluster);
                    ui.add_space(10.0);
                    members(ui, cluster);
                    troubles(ui, cluster);
                }
            }
        });
    });
}

fn summary(ui: &mut Ui, cluster: &Cluster) {
    let colors = colors::of(ui);
    let fact = |ui: &mut Ui, name: &str, value: RichText| {
        ui.label(RichText::new(name).weak());
        ui.label(value);
        ui.end_row();
    };
    Grid::new("summary").num_columns(2).spacing([24.0, 6.0]).show(ui, |ui| {
        let phase = match cluster.detail.as_str() {
            "" => cluster.phase.clone(),
            detail => format!("{}: {detail}", cluster.phase),
        };
        let color = if cluster.phase == "ready" { colors.good } else { colors.warning };
        fact(ui, "Node", RichText::new(format!("{} at {}", cluster.node, cluster.address)).monospace());
        fact(ui, "State", RichText::new(phase).color(color));
        fact(ui, "Version", RichText::new(&cluster.version));
        fact(ui, "Runs for", RichText::new(time::span(cluster.uptime_ms)));
        fact(ui, "Cluster", RichText::new(&cluster.id).monospace());
        let Some(group) = &cluster.group else {
            fact(ui, "Strong tables", RichText::new("none, or none that this node takes part in"));
            return;
        };
        let leader = match address_of(cluster, &group.leader) {
            _ if group.leader.is_empty() => RichText::new("no leader").color(colors.bad),
            Some(address) => RichText::new(address).strong(),
            None => RichText::new(&group.leader).monospace(),
        };
        fact(ui, "Leader", leader);
        let log =
            format!("term {}, {} of {} entries applied", group.term, group.applied_index, group.log_index);
        fact(ui, "Log", RichText::new(log));
    });
}

fn address_of<'a>(cluster: &'a Cluster, node: &str) -> Option<&'a str> {
    cluster.members.iter().find(|member| member.node == node).map(|member| member.address.as_str())
}

fn members(ui: &mut Ui, cluster: &Cluster) {
    Grid::new("members").num_columns(8).striped(true).spacing([22.0, 8.0]).min_row_height(26.0).show(
        ui,
        |ui| {
            for name in ["Address", "State", "Role", "Rows", "Lag", "Waiting rows", "Round trip", "Id"] {
                ui.label(RichText::new(name).strong());
            }
            ui.end_row();
            for member in &cluster.members {
                row(ui, cluster, member);
                ui.end_row();
            }
        },
    );
}

/// Why members take no rows.
fn troubles(ui: &mut Ui, cluster: &Cluster) {
    for member in cluster.members.iter().filter(|member| !member.trouble.is_empty()) {
        ui.add_space(6.0);
        let text = format!("{} takes no rows: {}", member.address, member.trouble);
        ui.colored_label(colors::of(ui).bad, text);
    }
}

fn row(ui: &mut Ui, cluster: &Cluster, member: &Member) {
    let colors = colors::of(ui);
    ui.label(RichText::new(&member.address).monospace());
    let (state, color) = state(member, colors);
    ui.label(RichText::new(state).color(color));
    ui.label(role(cluster, member));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "\u{2013}".to_owned());
    ui.label(or_dash(member.rows.map(thousands)));
    let is_self = member.node == cluster.node;
    let lag = member.lag_ms.filter(|_| !is_self);
    let color = if lag.is_some_and(|ms| ms > 10_000) { colors.warning } else { ui.visuals().text_color() };
    ui.label(RichText::new(or_dash(lag.map(|ms| format!("{:.1} s", ms as f64 / 1000.0)))).color(color));
    ui.label(if is_self { "\u{2013}".to_owned() } else { thousands(member.outbox) });
    ui.label(or_dash(member.round_trip_ms.map(|ms| format!("{ms:.0} ms"))));
    ui.label(RichText::new(&member.node).monospace().weak());
}

fn state(member: &Member, colors: Colors) -> (String, egui::Color32) {
    let text = match member.state {
        "this node" | "alive" => member.state.to_owned(),
        other => format!("{other} for {}", time::span(member.since_ms)),
    };
    if !member.trouble.is_empty() {
        return (format!("{text}: takes no rows"), colors.bad);
    }
    match member.state {
        "this node" => (text, colors.good),
        "alive" if member.linked => (text, colors.good),
        "alive" => (format!("{text}, no link"), colors.warning),
        "suspect" | "left" => (text, colors.warning),
        _ => (text, colors.bad),
    }
}

fn role(cluster: &Cluster, member: &Member) -> &'static str {
    let Some(group) = &cluster.group else { return "\u{2013}" };
    if group.leader == member.node {
        "leader"
    } else if group.voters.contains(&member.node) {
        "voter"
    } else if group.learners.contains(&member.node) {
        "learner"
    } else {
        "\u{2013}"
    }
}
