//! A server of our own in place of a node. The test says what it answers: half a stream, a refusal, or nothing at all.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `GET /t/key/a HTTP/1.1`.
    pub line: String,
    /// The headers, in lower case.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

/// An answer, and what follows it.
pub struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    Close,
    Silence,
}

impl Reply {
    /// JSON, whole; the connection takes another request.
    pub fn json(status: u16, body: &str) -> Self {
        let head = format!(
            "HTTP/1.1 {status} Because\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self { bytes: (head + body).into_bytes(), then: Then::Next }
    }

    /// A body without a length, up to the end of the connection.
    pub fn stream(content_type: &str, body: &str) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n");
        Self { bytes: (head + body).into_bytes(), then: Then::Close }
    }

    /// The connection breaks without an answer.
    pub fn broken() -> Self {
        Self { bytes: Vec::new(), then: Then::Close }
    }

    /// Nothing follows, and the connection stays open.
    pub fn then_silence(self) -> Self {
        Self { then: Then::Silence, ..self }
    }
}

/// The server. Dropping it ends it.
pub struct Fake {
    address: String,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    /// `None` once it ends.
    open: Mutex<Option<Vec<TcpStream>>>,
}

impl Fake {
    /// Starts it. `answer` gets each request, and how many came before it.
    pub fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::new(Shared { open: Mutex::new(Some(Vec::new())), ..Shared::default() });
        let (answer, of_thread) = (Arc::new(answer), Arc::clone(&shared));
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                match &mut *of_thread.open.lock().expect("no panic") {
                    Some(open) => open.push(stream.try_clone().expect("a handle")),
                    None => break,
                }
                let (answer, shared) = (Arc::clone(&answer), Arc::clone(&of_thread));
                // It ends with its connection, which dropping the server ends.
                thread::spawn(move || shared.serve(stream, &*answer));
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// What came so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic").clone()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream, answer: &dyn Fn(&Asked, usize) -> Reply) {
        let mut reader = BufReader::new(stream);
        while let Some(asked) = read(&mut reader) {
            let before = {
                let mut all = self.asked.lock().expect("no panic");
                all.push(asked.clone());
                all.len() - 1
            };
            let Reply { bytes, then } = answer(&asked, before);
            // The client may have gone.
            let is_sent = reader.get_mut().write_all(&bytes).is_ok();
            if !is_sent || then == Then::Close {
                let _ = reader.get_mut().shutdown(Shutdown::Both);
                return;
            }
            if then == Then::Silence {
                let _ = reader.read(&mut [0]);
                return;
            }
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for stream in self.shared.open.lock().expect("no panic").take().into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0);
    let headers: Vec<_> = lines.iter().map(|line| line.to_ascii_lowercase()).collect();
    let length = headers.iter().find_map(|header| header.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().expect("a number"))];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { line, headers, body })
}
