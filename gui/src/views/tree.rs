//! The tree: tables, and below the one that is open its keys. Only the rows in view are drawn and read, so that it is as fast with a hundred
//! thousand keys as with ten. The tree as a whole has the keyboard, not each row.

use std::ops::Range;

use egui::{
    self, Align2, EventFilter, FontSelection, Id, Key, Modifiers, Rect, Role, ScrollArea, Sense, Stroke,
    StrokeKind, TextStyle, Ui, WidgetInfo, WidgetText, pos2, vec2,
};

use super::{FLASH_MS, colors, frame::count_of_keys};
use crate::{
    message::{Mode, Place},
    model::{Model, listing::Progress, time},
};

const ROW_HEIGHT: f32 = 24.0;
const INDENT: f32 = 22.0;
/// At most so much of a row is the key; the rest is its value.
const KEY_SHARE: f32 = 0.55;

/// What only the screen needs of the tree.
#[derive(Debug, Default)]
pub struct State {
    /// Whether it is to get the keyboard.
    wants_focus: bool,
    /// The rows that were in view.
    visible: Range<usize>,
    /// The row that is to be in view.
    goes_to: Option<usize>,
    /// The table that is selected, while no key is.
    table: Option<String>,
}

impl State {
    /// Gives the tree the keyboard.
    pub fn focus(&mut self) {
        self.wants_focus = true;
    }
}

/// A row of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Row {
    /// The table with this number.
    Table(usize),
    /// The key with this number, of the table that is open.
    Key(usize),
}

/// Which rows there are: tables, with the keys of one of them.
struct Rows {
    /// The names of the tables, with what is known of them.
    tables: Vec<(String, Option<Mode>, Option<u64>)>,
    /// The table that is open, and how many keys it shows.
    open: Option<(usize, usize)>,
}

impl Rows {
    fn of(model: &Model) -> Self {
        let known = model.known_tables().iter();
        let mut tables: Vec<_> = known.map(|it| (it.name.clone(), Some(it.mode), Some(it.keys))).collect();
        let open = model.listing.as_ref().map(|listing| {
            let at = tables.iter().position(|table| table.0 == listing.table).unwrap_or_else(|| {
                // One that is new, or that is not told of.
                tables.push((listing.table.clone(), None, None));
                tables.len() - 1
            });
            (at, listing.keys().len())
        });
        Self { tables, open }
    }

    fn count(&self) -> usize {
        self.tables.len() + self.open.map_or(0, |(_, keys)| keys)
    }

    fn row(&self, at: usize) -> Row {
        match self.open {
            Some((table, keys)) if at > table && at <= table + keys => Row::Key(at - table - 1),
            Some((table, keys)) if at > table => Row::Table(at - keys),
            Some(_) | None => Row::Table(at),
        }
    }

    /// The keys among some rows.
    fn keys_in(&self, rows: Range<usize>) -> Range<usize> {
        let Some((table, keys)) = self.open else { return 0..0 };
        let key = |row: usize| row.saturating_sub(table + 1).min(keys);
        key(rows.start)..key(rows.end)
    }

    /// The row that is selected.
    fn selected(&self, model: &Model, state: &State) -> Option<usize> {
        if let (Some((table, _)), Some(key)) = (self.open, &model.selected) {
            return model.listing.as_ref()?.position(key).map(|at| table + 1 + at);
        }
        let named =
            state.table.as_ref().and_then(|name| self.tables.iter().position(|table| table.0 == *name));
        let table = named.or(self.open.map(|(table, _)| table))?;
        // Below the table that is open, its keys stand first.
        Some(table + self.open.map_or(0, |(open, keys)| if table > open { keys } else { 0 }))
    }
}

/// The tree.
pub fn show(ui: &mut Ui, model: &mut Model, state: &mut State) {
    let rows = Rows::of(model);
    notes(ui, model, &rows);
    let area = ui.available_rect_before_wrap();
    let id = Id::unique("tree of tables and keys");
    let whole = ui.interact(area, id, Sense::focusable_noninteractive());
    whole.widget_info(|| WidgetInfo::labeled(Role::Tree, true, "Tables and keys"));
    if std::mem::take(&mut state.wants_focus) {
        whole.request_focus();
    }
    if whole.has_focus() {
        keyboard(ui, model, state, &rows, id);
        ui.painter().rect_stroke(area, 5.0, ui.visuals().selection.stroke, StrokeKind::Outside);
    }
    let mut scroll = ScrollArea::vertical().id_salt("tree").auto_shrink(false);
    let height = ROW_HEIGHT + ui.spacing().item_spacing.y;
    if let Some(row) = state.goes_to.take() {
        let page = state.visible.len().saturating_sub(2).max(1);
        let top = if row < state.visible.start + 1 { Some(row) } else { None };
        let top = top.or_else(|| (row + 2 > state.visible.end).then(|| (row + 1).saturating_sub(page)));
        if let Some(top) = top {
            scroll = scroll.vertical_scroll_offset(top as f32 * height);
        }
    }
    let now_selected = rows.selected(model, state);
    let mut clicked = None;
    let shown = scroll.show_rows(ui, ROW_HEIGHT, rows.count(), |ui, range| {
        for at in range.clone() {
            if row(ui, model, &rows, at, now_selected == Some(at)).clicked() {
                clicked = Some(at);
            }
        }
        range
    });
    state.visible = shown.inner;
    model.look(rows.keys_in(state.visible.clone()));
    if let Some(at) = clicked {
        whole.request_focus();
        if let Row::Table(table) = rows.row(at) {
            state.table = rows.tables.get(table).map(|table| table.0.clone());
        }
        open(model, &rows, at, true);
    }
}

/// What there is to say instead of rows.
fn notes(ui: &mut Ui, model: &Model, rows: &Rows) {
    match &model.tables {
        Some(Err(why)) => {
            ui.colored_label(colors::of(ui).warning, why);
        }
        Some(Ok(_)) if rows.tables.is_empty() => {
            ui.weak("There are no tables yet. The first key makes one.");
        }
        Some(Ok(_)) => {}
        None if model.is_connected() => {
            ui.weak("Reading the tables\u{2026}");
        }
        None => {}
    }
    let Some(listing) = &model.listing else { return };
    match &listing.progress {
        Progress::Failed(why) => {
            ui.colored_label(colors::of(ui).bad, why);
        }
        Progress::Loaded { .. } if listing.keys().is_empty() && !listing.prefix.is_empty() => {
            ui.weak(format!("No key of {} begins with {:?}.", listing.table, listing.prefix));
        }
        Progress::Incomplete(why) => {
            ui.colored_label(colors::of(ui).warning, format!("Not all keys are listed. {why}"));
        }
        Progress::Loading | Progress::Loaded { .. } => {}
    }
}

/// Opens a row: a key in the editor, a table in the tree. `toggles`: an open table is closed.
fn open(model: &mut Model, rows: &Rows, at: usize, toggles: bool) {
    match rows.row(at) {
        Row::Key(at) => {
            let Some(listing) = &model.listing else { return };
            let Some(key) = listing.keys().get(at) else { return };
            let place = Place { table: listing.table.clone(), key: key.to_string() };
            model.open_key(place);
        }
        Row::Table(at) => {
            let Some((name, ..)) = rows.tables.get(at) else { return };
            match rows.open {
                Some((open, _)) if open == at && toggles => model.close_table(),
                Some((open, _)) if open == at => {}
                Some(_) | None => model.open_table(name),
            }
        }
    }
}

/// The keys of the keyboard, while the tree has it.
fn keyboard(ui: &Ui, model: &mut Model, state: &mut State, rows: &Rows, id: Id) {
    let filter = EventFilter { vertical_arrows: true, horizontal_arrows: true, ..EventFilter::default() };
    ui.memory_mut(|memory| memory.set_focus_lock_filter(id, filter));
    let pressed = |key| ui.input_mut(|input| input.count_and_consume_key(Modifiers::NONE, key));
    let Some(last) = rows.count().checked_sub(1) else { return };
    let at = rows.selected(model, state).unwrap_or(0);
    let page = state.visible.len().saturating_sub(3).max(1);
    let mut to = (at + pressed(Key::ArrowDown) + page * pressed(Key::PageDown)).min(last);
    to = to.saturating_sub(pressed(Key::ArrowUp) + page * pressed(Key::PageUp));
    to = if pressed(Key::Home) > 0 { 0 } else { to };
    to = if pressed(Key::End) > 0 { last } else { to };
    if to != at {
        select(model, state, rows, to);
    }
    if pressed(Key::Enter) > 0 {
        open(model, rows, to, true);
    }
    if pressed(Key::ArrowRight) > 0 {
        open(model, rows, to, false);
    }
    if pressed(Key::ArrowLeft) > 0 {
        match (rows.row(to), rows.open) {
            (Row::Key(_), Some((table, _))) => select(model, state, rows, table),
            (Row::Table(table), Some((open, _))) if table == open => model.close_table(),
            _ => {}
        }
    }
    // A key that is held down confirms nothing.
    let is_delete = |event: &egui::Event| matches!(event, egui::Event::Key { key: Key::Delete, pressed: true, repeat: false, modifiers, .. } if modifiers.is_none());
    if ui.input(|input| input.events.iter().any(is_delete)) && matches!(rows.row(to), Row::Key(_)) {
        model.delete_selected();
    }
}

/// Goes to a row, and does not open it.
fn select(model: &mut Model, state: &mut State, rows: &Rows, at: usize) {
    state.goes_to = Some(at);
    match rows.row(at) {
        Row::Key(at) => {
            let key = model.listing.as_ref().and_then(|listing| listing.keys().get(at).cloned());
            model.select(key);
        }
        Row::Table(at) => {
            model.select(None);
            state.table = rows.tables.get(at).map(|table| table.0.clone());
        }
    }
}

fn row(ui: &mut Ui, model: &Model, rows: &Rows, at: usize, is_selected: bool) -> egui::Response {
    let size = vec2(ui.available_width(), ROW_HEIGHT);
    // Only clicks: the tree has the keyboard.
    let (rect, response) = ui.allocate_exact_size(size, Sense::CLICK);
    let visuals = ui.visuals();
    let fill = if is_selected {
        Some(visuals.selection.bg_fill)
    } else if response.hovered() {
        Some(visuals.widgets.hovered.weak_bg_fill)
    } else {
        None
    };
    if let Some(fill) = fill {
        ui.painter().rect_filled(rect, 4.0, fill);
    }
    let name = match rows.row(at) {
        Row::Table(at) => table(ui, rows, at, rect),
        Row::Key(at) => key(ui, model, at, rect),
    };
    response.widget_info(|| WidgetInfo::selected(Role::TreeItem, true, is_selected, &name));
    response
}

fn table(ui: &Ui, rows: &Rows, at: usize, rect: Rect) -> String {
    let Some((name, mode, keys)) = rows.tables.get(at) else { return String::new() };
    let is_open = rows.open.is_some_and(|(open, _)| open == at);
    let center = rect.left_center() + vec2(11.0, 0.0);
    let ends = match is_open {
        true => [vec2(-4.0, -2.5), vec2(0.0, 2.5), vec2(4.0, -2.5)],
        false => [vec2(-2.0, -4.0), vec2(3.0, 0.0), vec2(-2.0, 4.0)],
    };
    let stroke = Stroke::new(1.5, ui.visuals().weak_text_color());
    ui.painter().line(ends.map(|end| center + end).to_vec(), stroke);
    let mode = match mode {
        Some(Mode::Strong) => "strong",
        Some(Mode::Eventual) => "eventual",
        None => "",
    };
    let keys = keys.map(count_of_keys).unwrap_or_default();
    let right = format!("{mode}  {keys}");
    let weak = ui.visuals().weak_text_color();
    let font = TextStyle::Small.resolve(ui.style());
    let at = pos2(rect.right() - 8.0, rect.center().y);
    let taken = ui.painter().text(at, Align2::RIGHT_CENTER, right.trim(), font, weak);
    let room = Rect::from_min_max(rect.min + vec2(INDENT, 0.0), pos2(taken.left() - 8.0, rect.bottom()));
    text(ui, room, egui::RichText::new(name).strong());
    format!("Table {name}, {mode}, {keys}")
}

fn key(ui: &Ui, model: &Model, at: usize, rect: Rect) -> String {
    let Some(listing) = &model.listing else { return String::new() };
    let Some(key) = listing.keys().get(at) else { return String::new() };
    let colors = colors::of(ui);
    let details = listing.details(key);
    let changed = details.and_then(|details| details.changed_ms);
    if let Some(past) = changed.map(|at| model.now_ms.saturating_sub(at)).filter(|past| *past < FLASH_MS) {
        let strength = 0.35 * (1.0 - past as f32 / FLASH_MS as f32);
        ui.painter().rect_filled(rect, 4.0, colors.good.gamma_multiply(strength));
    }
    let mut right = rect.right() - 8.0;
    let mut name = format!("Key {key}");
    if let Some(expires_at_ms) = details.and_then(|details| details.expires_at_ms) {
        let left = time::left(expires_at_ms, model.now_ms);
        let font = TextStyle::Small.resolve(ui.style());
        let at = pos2(right, rect.center().y);
        right = ui.painter().text(at, Align2::RIGHT_CENTER, &left, font, colors.warning).left() - 8.0;
        name = format!("{name}, expires in {left}");
    }
    let begin = rect.left() + INDENT + 8.0;
    let split = begin + (right - begin) * KEY_SHARE;
    let room = Rect::from_min_max(pos2(begin, rect.top()), pos2(split, rect.bottom()));
    let end = text(ui, room, egui::RichText::new(&**key).monospace());
    if let Some(details) = details {
        let left = (begin + (right - begin) * 0.36).max(end + 12.0);
        let room = Rect::from_min_max(pos2(left, rect.top()), pos2(right, rect.bottom()));
        text(ui, room, egui::RichText::new(&details.preview).monospace().size(11.5).weak());
        name = format!("{name}: {}", details.preview);
    }
    name
}

/// One line of text in a place, cut with an ellipsis where it does not fit; where it ends.
fn text(ui: &Ui, room: Rect, text: egui::RichText) -> f32 {
    if room.width() < 10.0 {
        return room.left();
    }
    let color = ui.visuals().text_color();
    let galley = WidgetText::from(text).into_galley(
        ui,
        Some(egui::TextWrapMode::Truncate),
        room.width(),
        FontSelection::Default,
    );
    let at = pos2(room.left(), room.center().y - galley.size().y / 2.0);
    let end = at.x + galley.size().x;
    ui.painter().galley(at, galley, color);
    end
}
