//! JSON in colors, with a mark where it is wrong.

use std::ops::Range;

use egui::{
    Color32, FontId, Stroke, TextStyle, Ui,
    text::{LayoutJob, TextFormat},
};

use super::colors;

/// A longer text is shown in one color: it is laid out in each frame in which it is typed.
const COLORED_BYTES_MAX: usize = 64 * 1024;

/// The text in colors. `wrong`: the bytes that are marked.
pub fn json(ui: &Ui, text: &str, wrong: Option<&Range<usize>>) -> LayoutJob {
    let font = TextStyle::Monospace.resolve(ui.style());
    let plain = ui.visuals().text_color();
    let mut job = LayoutJob::default();
    if text.len() > COLORED_BYTES_MAX {
        append(&mut job, text, 0..text.len(), &font, plain, wrong, ui);
        return job;
    }
    let palette = colors::of(ui);
    for piece in pieces(text) {
        let color = match piece.kind {
            Kind::Name => palette.name,
            Kind::String => palette.string,
            Kind::Number => palette.number,
            Kind::Word => palette.word,
            Kind::Other => plain,
        };
        append(&mut job, text, piece.range, &font, color, wrong, ui);
    }
    job
}

/// Adds a piece of one color, in up to three parts: before the mark, in it, and after it.
fn append(
    job: &mut LayoutJob,
    text: &str,
    piece: Range<usize>,
    font: &FontId,
    color: Color32,
    wrong: Option<&Range<usize>>,
    ui: &Ui,
) {
    let mark = wrong.map_or(0..0, |wrong| wrong.start.max(piece.start)..wrong.end.min(piece.end));
    let plain = TextFormat::simple(font.clone(), color);
    if mark.is_empty() {
        job.append(&text[piece], 0.0, plain);
        return;
    }
    let bad = colors::of(ui).bad;
    let marked = TextFormat {
        background: bad.gamma_multiply(0.35),
        underline: Stroke::new(2.0, bad),
        ..TextFormat::simple(font.clone(), color)
    };
    job.append(&text[piece.start..mark.start], 0.0, plain.clone());
    job.append(&text[mark.clone()], 0.0, marked);
    job.append(&text[mark.end..piece.end], 0.0, plain);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Name,
    String,
    Number,
    Word,
    Other,
}

#[derive(Debug)]
struct Piece {
    kind: Kind,
    range: Range<usize>,
}

/// The pieces of a text that may be wrong JSON, without a gap.
fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut begin = 0;
    while begin < text.len() {
        let rest = &text[begin..];
        let first = rest.chars().next().unwrap_or(' ');
        let is_word = |letter: char| letter.is_alphanumeric() || "+-._".contains(letter);
        let (kind, length) = match first {
            '"' => {
                let length = string_length(rest);
                let is_name = rest[length..].trim_start().starts_with(':');
                (if is_name { Kind::Name } else { Kind::String }, length)
            }
            letter if is_word(letter) => {
                let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
                let is_number = letter.is_ascii_digit() || letter == '-';
                (if is_number { Kind::Number } else { Kind::Word }, length)
            }
            _ => (Kind::Other, rest.find(|it| it == '"' || is_word(it)).unwrap_or(rest.len())),
        };
        pieces.push(Piece { kind, range: begin..begin + length });
        begin += length;
    }
    pieces
}

fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            // A string that does not end is one line long.
            '\n' => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_text_and_know_names_from_strings() {
        let text = "{\"a\\\"\": -1.5e3, \"b\" : [true, \"c\u{e9}\"], \"open\n x";
        let pieces = pieces(text);
        let joined: String = pieces.iter().map(|piece| &text[piece.range.clone()]).collect();
        assert_eq!(joined, text);
        let kinds: Vec<_> = pieces
            .iter()
            .filter(|it| it.kind != Kind::Other)
            .map(|it| (it.kind, &text[it.range.clone()]))
            .collect();
        let expected = [
            (Kind::Name, "\"a\\\"\""),
            (Kind::Number, "-1.5e3"),
            (Kind::Name, "\"b\""),
            (Kind::Word, "true"),
            (Kind::String, "\"c\u{e9}\""),
            (Kind::String, "\"open"),
            (Kind::Word, "x"),
        ];
        assert_eq!(kinds, expected);
    }
}
