//! Server-Sent Events: blocks out of bytes.

use std::mem;

use crate::error::{Error, Result};

/// Longest block we hold. A value has at most a few MiB, so a longer one does not come from a node.
const BLOCK_BYTES_MAX: usize = 64 << 20;

/// One block of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The position after this event.
    pub id: Option<String>,
    /// The name of the event.
    pub event: Option<String>,
    /// What it says.
    pub data: Option<String>,
}

/// Collects bytes until they are blocks.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// Up to where the buffer has been searched for the end of a line.
    searched: usize,
    block: Block,
    /// Bytes of the block so far.
    block_bytes: usize,
}

impl Parser {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete block that says something; `None` until more bytes come.
    ///
    /// # Errors
    /// `Incomplete` if what comes is not a stream of events.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
        let mut begin = 0;
        let mut found = None;
        while let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + length;
            let line = &self.buffer[begin..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = std::str::from_utf8(line).map_err(|_| wrong("it is not UTF-8"))?;
            self.block_bytes += text.len();
            let is_end = text.is_empty();
            field(&mut self.block, text);
            begin = end + 1;
            self.searched = begin;
            if is_end {
                self.block_bytes = 0;
                let block = mem::take(&mut self.block);
                if block != Block::default() {
                    found = Some(block);
                    break;
                }
            }
        }
        self.buffer.drain(..begin);
        if found.is_none() {
            self.searched = self.buffer.len();
            if self.searched + self.block_bytes > BLOCK_BYTES_MAX {
                return Err(wrong("an event is too long"));
            }
        } else {
            self.searched = 0;
        }
        Ok(found)
    }
}

fn wrong(why: &str) -> Error {
    Error::Incomplete(format!("this is no stream of events: {why}"))
}

/// Adds a line to a block. Comments, `retry` and unknown fields say nothing here.
fn field(block: &mut Block, line: &str) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.strip_prefix(' ').unwrap_or(value);
    match name {
        "id" => block.id = Some(value.to_owned()),
        "event" => block.event = Some(value.to_owned()),
        "data" => match &mut block.data {
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => block.data = Some(value.to_owned()),
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_out_wherever_the_bytes_are_cut() {
        let text = ": dynarust\nretry: 2000\n\nid: 1\n\nid: 2\nevent: sync\ndata: {\"a\":1}\r\n\n: idle\n\ndata: é\ndata: x\n\n";
        let block = |id: Option<&str>, event: Option<&str>, data: Option<&str>| Block {
            id: id.map(Into::into),
            event: event.map(Into::into),
            data: data.map(Into::into),
        };
        let expected = [
            block(Some("1"), None, None),
            block(Some("2"), Some("sync"), Some("{\"a\":1}")),
            block(None, None, Some("é\nx")),
        ];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut blocks = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                parser.push(piece);
                while let Some(block) = parser.next_block().expect("events") {
                    blocks.push(block);
                }
            }
            assert_eq!(blocks, expected, "pieces of {size}");
        }
        let mut parser = Parser::default();
        parser.push(b"data: \xff\n\n");
        assert!(parser.next_block().is_err());
    }
}
