//! The page of changes, as they happen in the table that is open.

use egui::{CentralPanel, Frame, Grid, Label, Margin, RichText, ScrollArea, Ui};

use super::colors;
use crate::model::{Event, Model, Page, time};

const ROW_HEIGHT: f32 = 26.0;

/// The page.
pub fn show(ui: &mut Ui, model: &mut Model) {
    let frame = Frame::new().fill(ui.visuals().panel_fill).inner_margin(Margin::same(16));
    CentralPanel::default().frame(frame).show(ui, |ui| {
        ui.horizontal(|ui| {
            ui.heading("Changes");
            let of = match &model.listing {
                Some(listing) if listing.prefix.is_empty() => format!("of {} as they happen", listing.table),
                Some(listing) => {
                    format!("of {}, keys with {:?}, as they happen", listing.table, listing.prefix)
                }
                None => "of the table that is open: open one on the page Data".to_owned(),
            };
            ui.weak(of);
            if !model.changes.is_empty() && ui.button("Clear").clicked() {
                model.changes.clear();
            }
        });
        ui.add_space(6.0);
        let mut opened = None;
        ScrollArea::vertical().auto_shrink(false).show_rows(
            ui,
            ROW_HEIGHT,
            model.changes.len(),
            |ui, range| {
                Grid::new("changes").num_columns(4).min_row_height(ROW_HEIGHT).spacing([18.0, 6.0]).show(
                    ui,
                    |ui| {
                        for seen in model.changes.range(range) {
                            if row(ui, seen, model.now_ms) {
                                opened = Some(seen.place.clone());
                            }
                            ui.end_row();
                        }
                    },
                );
            },
        );
        if let Some(place) = opened {
            model.page = Page::Data;
            model.open_key(place);
        }
    });
}

/// A change; whether its key was clicked.
fn row(ui: &mut Ui, seen: &crate::model::Seen, now_ms: u64) -> bool {
    let colors = colors::of(ui);
    ui.label(RichText::new(time::ago(seen.at_ms, now_ms)).weak().small());
    let (word, color, value) = match &seen.event {
        Event::Set(preview) => ("set", colors.good, preview.as_str()),
        Event::Expired => ("expired", colors.warning, ""),
        Event::Deleted => ("deleted", colors.bad, ""),
    };
    ui.label(RichText::new(word).color(color));
    let name = RichText::new(format!("{}/{}", seen.place.table, seen.place.key)).monospace();
    let clicked = ui.link(name).clicked();
    ui.add(Label::new(RichText::new(value).monospace().weak()).truncate());
    clicked
}
