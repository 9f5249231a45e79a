//! Values as the editor shows them.

use super::json;
use crate::message::Value;

/// The longest text that can be edited here. A longer one is shown in part.
pub const EDIT_BYTES_MAX: usize = 1024 * 1024;
/// So many bytes of a value that is no JSON are shown.
const HEX_BYTES_MAX: usize = 4096;

/// A value as the editor shows it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Json(text) if text.len() > EDIT_BYTES_MAX => {
            let end = (0..=EDIT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            format!("{}\u{2026}", &text[..end])
        }
        Value::Json(text) => json::format(text),
        Value::Bytes(bytes) => hex(&bytes[..bytes.len().min(HEX_BYTES_MAX)], bytes.len() > HEX_BYTES_MAX),
    }
}

/// Bytes in lines of sixteen.
fn hex(bytes: &[u8], is_cut: bool) -> String {
    let line = |line: &[u8]| {
        let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.join(" ")
    };
    let mut lines: Vec<String> = bytes.chunks(16).map(line).collect();
    if is_cut {
        lines.push("\u{2026}".into());
    }
    lines.join("\n")
}
