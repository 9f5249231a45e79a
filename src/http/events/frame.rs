//! The bytes of an event of a stream, as a chunk of HTTP/1.1 (RFC 9112, section 7.1) around them: so one buffer serves connections that are
//! written to directly, and those where hyper frames the event.

use std::fmt::{self, Write};

use bytes::Bytes;

/// Room for the size of a chunk: hexadecimal digits of a `u32`, and the line break.
const SIZE_LINE_BYTES: usize = 8 + LINE_BREAK.len();
const LINE_BREAK: &str = "\r\n";

/// An event as text, within a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// The frame around this text.
    pub fn of(text: fmt::Arguments<'_>) -> Self {
        Self::written(64, |frame| frame.write_fmt(text))
    }

    /// The frame around what `write` writes: about so many bytes.
    pub fn written(bytes: usize, write: impl FnOnce(&mut String) -> fmt::Result) -> Self {
        let mut chunk = String::with_capacity(SIZE_LINE_BYTES + bytes + LINE_BREAK.len());
        chunk.push_str("        \r\n");
        write(&mut chunk).expect("writing to a String cannot fail");
        // As hyper writes it, so that no client can tell by whom its stream is framed.
        let size_line = format!("{:X}{LINE_BREAK}", chunk.len() - SIZE_LINE_BYTES);
        chunk.push_str(LINE_BREAK);
        let start = SIZE_LINE_BYTES - size_line.len();
        chunk.replace_range(start..SIZE_LINE_BYTES, &size_line);
        Self(Bytes::from(chunk).slice(start..))
    }

    /// The frame in a chunk that `into_chunk` gave.
    pub fn from_chunk(chunk: Bytes) -> Self {
        Self(chunk)
    }

    /// The chunk.
    pub fn into_chunk(self) -> Bytes {
        self.0
    }

    /// The event alone.
    pub fn event(&self) -> Bytes {
        self.0.slice(self.size_line_bytes()..self.0.len() - LINE_BREAK.len())
    }

    /// The event alone, as text.
    pub fn text(&self) -> &str {
        let event = &self.0[self.size_line_bytes()..self.0.len() - LINE_BREAK.len()];
        std::str::from_utf8(event).expect("a frame is rendered as text")
    }

    fn size_line_bytes(&self) -> usize {
        let digits = self.0.iter().position(|byte| *byte == b'\r').expect("a chunk begins with its size");
        digits + LINE_BREAK.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_chunk_around_its_event() {
        for (event, chunk) in [
            (": \n\n".to_owned(), "4\r\n: \n\n\r\n".to_owned()),
            ("a".repeat(0x1ab), format!("1AB\r\n{}\r\n", "a".repeat(0x1ab))),
            ("\r\n".repeat(0x80_000), format!("100000\r\n{}\r\n", "\r\n".repeat(0x80_000))),
        ] {
            let frame = Frame::of(format_args!("{event}"));
            assert_eq!((frame.text(), frame.event()), (&*event, Bytes::from(event.clone())));
            assert_eq!(frame.clone().into_chunk(), chunk);
            assert_eq!(Frame::from_chunk(frame.clone().into_chunk()), frame);
        }
    }
}
