//! A reader of Server-Sent Events that keeps each block as it arrived, so that tests can check its bytes.

use std::{
    io,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    DEADLINE,
    http::Request,
    wire::{BodyReader, Head, Reachable, Wire},
};

/// One block: the lines between two blank lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The lines as they arrived, each ended by LF.
    pub text: String,
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<String>,
    pub retry: Option<String>,
    pub comments: Vec<String>,
}

impl Block {
    fn parse(text: String) -> Self {
        let mut block = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => block.comments.push(value),
                "id" => block.id = Some(value),
                "event" => block.event = Some(value),
                "retry" => block.retry = Some(value),
                "data" => match &mut block.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                    none => *none = Some(value),
                },
                unknown => panic!("not a field of an event stream: {unknown:?} in {text:?}"),
            }
        }
        block.text = text;
        block
    }

    /// The parsed data.
    pub fn json(&self) -> Value {
        let data = self.data.as_deref().unwrap_or_else(|| panic!("no data in {self:?}"));
        serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Whether a reader with only `onmessage` would see it.
    pub fn is_data(&self) -> bool {
        self.event.is_none() && self.data.is_some()
    }

    /// Whether it is the control event with this name.
    pub fn is_control(&self, name: &str) -> bool {
        self.event.as_deref() == Some(name)
    }
}

/// An open event stream. Dropping it disconnects without notice, as clients do.
pub struct Events {
    wire: Wire,
    body: BodyReader,
    pub headers: Vec<(String, String)>,
    text: Vec<u8>,
}

impl Events {
    /// Opens a stream and waits for its first block, so that everything written from here on is in it.
    pub fn open(to: impl Reachable, path: &str) -> (Self, Block) {
        let mut events = Self::request(to, &Request::new("GET", path));
        let first = events.block().expect("a stream starts with a block");
        (events, first)
    }

    /// Opens a stream that starts with something other than the next change, and skips its first comment.
    pub fn resume(to: impl Reachable, path: &str, last_event_id: &str) -> Self {
        let request = Request::new("GET", path).header("Last-Event-ID", last_event_id);
        Self::request(to, &request)
    }

    /// Sends the request and reads the head of the response.
    pub fn request(to: impl Reachable, request: &Request) -> Self {
        let mut wire = Wire::open(to);
        wire.write(&request.to_bytes()).expect("a request can be sent");
        let head = Head::read(&mut wire, Instant::now() + DEADLINE).expect("an answer");
        let body = BodyReader::new("GET", &head);
        let events = Self { wire, body, headers: head.headers, text: Vec::new() };
        assert_eq!(head.status, 200, "{:?}", events.headers);
        events
    }

    /// The next block of any kind; `None` once the stream has ended.
    pub fn block(&mut self) -> Option<Block> {
        self.block_within(DEADLINE)
    }

    /// The next block; `None` once the stream has ended. Panics if neither happens within `deadline`.
    pub fn block_within(&mut self, deadline: Duration) -> Option<Block> {
        let mut text = self.up_to(b"\n\n", deadline)?;
        text.pop();
        Some(Block::parse(String::from_utf8(text).expect("events are UTF-8")))
    }

    /// The next line of a stream of lines; `None` once it has ended.
    pub fn line(&mut self) -> Option<String> {
        let mut line = self.up_to(b"\n", DEADLINE)?;
        line.pop();
        Some(String::from_utf8(line).expect("lines are UTF-8"))
    }

    fn up_to(&mut self, end_mark: &[u8], deadline: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(at) = self.text.windows(end_mark.len()).position(|bytes| bytes == end_mark) {
                return Some(self.text.drain(..at + end_mark.len()).collect());
            }
            match self.body.read(&mut self.wire, end) {
                Ok(Some(piece)) => self.text.extend_from_slice(&piece),
                Ok(None) => {
                    assert!(
                        self.text.is_empty(),
                        "incomplete block: {:?}",
                        String::from_utf8_lossy(&self.text)
                    );
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    panic!("no event within {deadline:?}")
                }
                Err(error) => panic!("the stream broke: {error}"),
            }
        }
    }

    /// The next event, data or control, skipping comments. Panics if the stream ends.
    pub fn event(&mut self) -> Block {
        self.event_or_end().expect("an event, but the stream ended")
    }

    /// The next event; `None` once the stream has ended.
    pub fn event_or_end(&mut self) -> Option<Block> {
        loop {
            let block = self.block()?;
            if block.data.is_some() || block.event.is_some() {
                return Some(block);
            }
        }
    }

    /// Data events up to and including the one that `last` picks. A control event among them is a failure.
    pub fn data_until(&mut self, last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let event = self.event();
            assert!(event.is_data(), "a control event among data: {event:?}");
            seen.push(event.json());
            if seen.last().is_some_and(&last) {
                return seen;
            }
        }
    }
}
