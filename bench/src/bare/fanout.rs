//! A loop of `send` calls over all subscribers of a key.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::{Failure, Listen};
use crate::client::target::FANOUT_KEY;

/// Serves until the process ends. Speaks as much HTTP as `dynarust-bench fanout` needs: GET subscribes, a PUT of the one key goes
/// to all subscribers, any other PUT is only answered.
pub fn run(Listen { address }: &Listen) -> Result<(), Failure> {
    let listener = TcpListener::bind(address)?;
    println!("bare fanout at {address}");
    let subscribers = Arc::new(Mutex::new(Vec::new()));
    for stream in listener.incoming() {
        let (stream, subscribers) = (stream?, subscribers.clone());
        stream.set_nodelay(true)?;
        // A connection that fails is the client's end of it.
        thread::Builder::new().stack_size(64 << 10).spawn(move || serve(stream, &subscribers).ok())?;
    }
    Ok(())
}

fn serve(stream: TcpStream, subscribers: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (line, body) = read_request(&mut reader)?;
        if line.starts_with("GET") {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\r\n";
            (&stream).write_all(head.as_bytes())?;
            subscribers.lock().expect("no holder panics").push(stream);
            return Ok(());
        }
        if line.contains(FANOUT_KEY) {
            let frame = frame(&body);
            for subscriber in subscribers.lock().expect("no holder panics").iter() {
                // The subscriber's own end of it; the client misses the event and says so.
                let mut subscriber: &TcpStream = subscriber;
                subscriber.write_all(&frame).ok();
            }
        }
        (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")?;
    }
}

/// The request line and the body of the next request.
fn read_request(reader: &mut impl BufRead) -> io::Result<(String, Vec<u8>)> {
    let (mut request_line, mut length) = (String::new(), 0);
    if reader.read_line(&mut request_line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((request_line, body))
}

/// An event as a node frames it, in a chunk as hyper does, around the value of a PUT's body.
fn frame(body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let value = text.strip_prefix(r#"{"value":"#).and_then(|rest| rest.strip_suffix('}')).unwrap_or("null");
    let event = format!(
        "id: 3f2a91c0.184467\ndata: {{\"event\":\"Updated\",\"table\":\"bench\",\"key\":\"{FANOUT_KEY}\",\"value\":{value},\
         \"version\":\"019a0f3c2b110000-5f0c1d2e3a4b5c6d\",\"timestamp\":1763689000123,\"node\":\"5f0c1d2e3a4b5c6d\"}}\n\n"
    );
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}
