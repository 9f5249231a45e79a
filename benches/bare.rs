//! What a node is compared with, each the least that could do the same work:
//!
//! - `http`: a hyper server that answers GETs from a map. Its answers are a node's to the byte in all that counts: the same
//!   headers, each as long as a node's, and bodies of the same documents, so that both send equally much for a key; what it
//!   leaves out are routes, the store, ids that differ, metrics, and the timeouts of a server that is meant for strangers;
//! - `sled`: sled alone, loading the rows that `DynaRust bench batch` sends, in the same batches, each of them durable;
//! - `fanout`: a loop of `send` calls over all subscribers of a key.
//!
//! `cargo bench --bench bare -- http`, and then `DynaRust bench get`, each on a core of its own.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use dynarust::cli::bench::{FANOUT_KEY, document::Documents};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    server: Option<Server>,
}

#[derive(clap::Subcommand)]
enum Server {
    /// Answers GETs from a map
    Http(HttpOptions),
    /// Loads rows into sled
    Sled(SledOptions),
    /// Sends each PUT of the one key to all its subscribers
    Fanout {
        #[arg(long, default_value = "127.0.0.1:6670")]
        listen: String,
    },
}

fn main() -> Result<(), Failure> {
    match Arguments::parse().server {
        Some(Server::Http(options)) => http(options),
        Some(Server::Sled(options)) => sled_load(&options),
        Some(Server::Fanout { listen }) => fanout(&listen),
        // `cargo bench` runs all benches; this one needs to be told which.
        None => {
            println!("bare: name one of http, sled, fanout after --");
            Ok(())
        }
    }
}

#[derive(clap::Args)]
struct HttpOptions {
    #[arg(long, default_value = "127.0.0.1:6670")]
    listen: String,
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    #[arg(long, default_value_t = 350)]
    value_bytes: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn http(options: HttpOptions) -> Result<(), Failure> {
    let mut documents = Documents::new(options.seed, options.value_bytes);
    let values = (0..options.keys).map(|number| {
        let mut body = br#"{"value":"#.to_vec();
        documents.write(&mut body);
        body.push(b'}');
        (format!("/bench/key/{}", key(number)), Bytes::from(body))
    });
    let values: Arc<HashMap<String, Bytes>> = Arc::new(values.collect());
    // As many workers as a node has: one for each core that it may use.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(&options.listen).await?;
        println!("bare http at {}, {} keys", options.listen, options.keys);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let values = values.clone();
            let service = service_fn(move |request| {
                let answer = answer(&request, &values);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(async move {
                // A client that goes away in the middle of something is no event.
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    })
}

fn answer(request: &Request<Incoming>, values: &HashMap<String, Bytes>) -> Response<Full<Bytes>> {
    let Some(value) = values.get(request.uri().path()) else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("etag", r#""019a0f3c2b110000-5f0c1d2e3a4b5c6d""#)
        .header("last-modified", "Fri, 21 Nov 2025 02:00:00 GMT")
        .header("dynarust-version", "019a0f3c2b110000-5f0c1d2e3a4b5c6d")
        .header("dynarust-node", "5f0c1d2e3a4b5c6d")
        .header("x-request-id", "5f0c1d2e3a4b5c6d")
        .body(Full::new(value.clone()));
    response.expect("all headers are constants")
}

#[derive(clap::Args)]
struct SledOptions {
    /// Directory to load into; it must not exist
    #[arg(long)]
    data: std::path::PathBuf,
    /// Rows per run
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    #[arg(long, default_value_t = 5)]
    runs: u64,
    #[arg(long, default_value_t = 1000)]
    batch_rows: u64,
    #[arg(long, default_value_t = 350)]
    value_bytes: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// As storage opens it, and as it makes a batch durable; no record format, no compression, no merge.
fn sled_load(options: &SledOptions) -> Result<(), Failure> {
    if options.data.exists() {
        return Err(format!("{} exists", options.data.display()).into());
    }
    let database = sled::Config::new()
        .path(&options.data)
        .segment_size(2 << 20)
        .cache_capacity(64 << 20)
        .flush_every_ms(Some(100))
        .open()?;
    let tree = database.open_tree("bench")?;
    let log = File::open(Path::new(&options.data).join("db"))?;
    let mut rates = Vec::new();
    for run in 0..options.runs {
        let mut documents = Documents::new((options.seed + run) << 16, options.value_bytes);
        let mut loading = Duration::ZERO;
        for first in (run * options.keys..(run + 1) * options.keys).step_by(options.batch_rows as usize) {
            let mut batch = sled::Batch::default();
            let mut rows = Vec::new();
            for number in first..(first + options.batch_rows).min((run + 1) * options.keys) {
                let mut value = Vec::new();
                documents.write(&mut value);
                rows.push((key(number), value));
            }
            let start = Instant::now();
            for (key, value) in rows {
                batch.insert(partitioned(&key), value);
            }
            tree.apply_batch(batch)?;
            database.flush()?;
            log.sync_data()?;
            loading += start.elapsed();
        }
        rates.push(options.keys as f64 / loading.as_secs_f64());
        println!("run {run}: {:.0} rows/s", rates[run as usize]);
    }
    rates.sort_by(f64::total_cmp);
    println!("median {:.0} rows/s of {} runs", rates[rates.len() / 2], rates.len());
    Ok(())
}

/// The row's key as storage has it: the partition's byte first.
fn partitioned(key: &str) -> Vec<u8> {
    let mut row = vec![blake3::hash(key.as_bytes()).as_bytes()[0]];
    row.extend_from_slice(key.as_bytes());
    row
}

fn key(number: u64) -> String {
    format!("user-{number:08}")
}

/// Speaks as much HTTP as `DynaRust bench fanout` needs: GET subscribes, PUT of the one key sends, any other PUT is answered.
fn fanout(listen: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen)?;
    println!("bare fanout at {listen}");
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
