//! Idle event streams: how much memory each costs the target.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream, time};

use crate::{
    client::{
        connection::Connection,
        subscribers,
        target::{self, Target},
    },
    error::{Error, Result},
    process, progress,
    report::Report,
};

/// Number and kind of streams.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Number of streams, each for its own key
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub streams: u64,
    /// Kind of stream
    #[arg(long, value_enum, default_value_t)]
    pub protocol: Protocol,
    /// Time before the memory is read
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub hold: Duration,
}

/// A kind of stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Server-Sent Events
    #[default]
    Sse,
    /// WebSocket at /_/ws, with one subscription
    Ws,
}

/// How long the target's memory must not have grown before the streams are opened: a node that has just started still does.
const SETTLED_FOR: Duration = Duration::from_secs(1);
/// The measurement fails if it grows for longer.
const SETTLE_LOOKS_MAX: u32 = 60;

/// Opens streams, holds them, and reads the target's memory.
pub async fn run(idle: Options, target: &Target) -> Result<Report> {
    target.expect_node("idle")?;
    let Some(pid) = target.pid else {
        return Err(Error::Usage(
            "idle reads the memory of the target: add --pid with its process id".into(),
        ));
    };
    // What the first one takes once, such as pages of the program, is not what each takes.
    let _first = open(idle.protocol, 1, target).await?;
    settle(pid).await?;
    let (resident_before, sockets_before) = (process::resident_bytes(pid)?, process::socket_bytes()?);
    let streams = open(idle.protocol, idle.streams, target).await?;
    time::sleep(idle.hold).await;
    let (resident_after, sockets_after) = (process::resident_bytes(pid)?, process::socket_bytes()?);
    let connected = process::ports_connected_to(target.address.port())?;
    let held = streams.iter().filter(|s| s.local_addr().is_ok_and(|a| connected.contains(&a.port()))).count();

    let per_stream_kib =
        |after: u64, before: u64| (after as f64 - before as f64) / idle.streams as f64 / 1024.0;
    let mut report = Report::new("idle", target.to_string())
        .setting("streams", idle.streams)
        .setting("protocol", format!("{:?}", idle.protocol).to_lowercase())
        .setting("hold_s", idle.hold.as_secs_f64());
    report.note("held", held as f64);
    report.note("rss_before_mib", process::mebibytes(resident_before));
    report.note("rss_kib_per_stream", per_stream_kib(resident_after, resident_before));
    report.note("sockets_kib_per_stream", per_stream_kib(sockets_after, sockets_before));
    Ok(report)
}

async fn open(protocol: Protocol, count: u64, target: &Target) -> Result<Vec<TcpStream>> {
    match protocol {
        Protocol::Sse => {
            let requests = (0..count).map(|number| target.subscribe(&target::key(number))).collect();
            subscribers::open("idle", target, requests).await
        }
        Protocol::Ws => open_websockets(count, target).await,
    }
}

/// Waits until a process takes no more memory than a moment ago.
async fn settle(pid: u32) -> Result<()> {
    for _ in 0..SETTLE_LOOKS_MAX {
        let before = process::resident_bytes(pid)?;
        time::sleep(SETTLED_FOR).await;
        if process::resident_bytes(pid)? <= before {
            return Ok(());
        }
    }
    Err(Error::Failed(format!("the memory of the target has grown for {SETTLE_LOOKS_MAX} s")))
}

async fn open_websockets(count: u64, target: &Target) -> Result<Vec<TcpStream>> {
    let upgrade = format!(
        "GET /_/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZHluYXJ1c3QtYmVuY2ghIQ==\r\n\r\n",
        target.address
    );
    let bar = progress::bar("idle", count).with_message("streams open");
    let mut streams = Vec::new();
    for number in 0..count {
        let connection = Connection::open(target.address).await?;
        let (mut stream, _greeting) = connection.into_stream(upgrade.as_bytes(), 101).await?;
        let subscribe =
            format!(r#"{{"op":"sub","id":"a","table":"{}","key":"{}"}}"#, target.table, target::key(number));
        stream.write_all(&text_frame(&subscribe)).await.map_err(|e| Error::io("subscribing", &e))?;
        streams.push(stream);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(streams)
}

/// One text frame as a client sends it (RFC 6455, section 5.2), with a mask of zero: there is no proxy here to protect.
fn text_frame(text: &str) -> Vec<u8> {
    const TEXT: u8 = 0x81;
    const MASKED: u8 = 0x80;
    const TWO_LENGTH_BYTES: u8 = 126;
    let mut frame = vec![TEXT];
    match u8::try_from(text.len()) {
        Ok(length) if length < TWO_LENGTH_BYTES => frame.push(MASKED | length),
        _ => {
            frame.push(MASKED | TWO_LENGTH_BYTES);
            let length = u16::try_from(text.len()).expect("a table name and a key number are short");
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}
