//! All that happens in a simulation, line by line: what every node logs, and every segment on the network, each with its instant.

use std::{
    cell::RefCell,
    fmt, io,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets, dynamic_filter_fn},
    fmt::{format::Writer, layer, time::FormatTime},
    layer::SubscriberExt,
    registry,
};

struct Recording {
    clock: Arc<AtomicU64>,
    bytes: Vec<u8>,
}

thread_local! {
    /// What this thread does, if that is to be written down.
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Runs a simulation on this thread and writes down what happens, by its clock. The lines leave out what is never the same: where
/// the data lies, how long requests really take and what they are called, and the bytes of segments, which are encrypted.
pub fn record<T>(clock: &Arc<AtomicU64>, run: impl FnOnce() -> T) -> (T, Vec<String>) {
    static BEGUN: Once = Once::new();
    // One for all threads: where there are several, and some threads without, it is not certain who sees what.
    BEGUN.call_once(|| {
        let targets = Targets::new()
            .with_target("dynarust", LevelFilter::DEBUG)
            .with_target("turmoil", LevelFilter::TRACE);
        let is_recording = dynamic_filter_fn(|_, _| RECORDING.with_borrow(Option::is_some));
        let lines = layer()
            .with_ansi(false)
            .with_timer(SimulatedTime)
            .with_writer(|| Line)
            .with_filter(targets.and(is_recording));
        tracing::subscriber::set_global_default(registry().with(lines)).expect("the only one");
    });
    RECORDING.set(Some(Recording { clock: clock.clone(), bytes: Vec::new() }));
    let result = run();
    let recording = RECORDING.take().expect("set above");
    let text = String::from_utf8_lossy(&recording.bytes);
    let lines = text.lines().filter(|line| !line.contains("turmoil: step "));
    (result, lines.map(lasting).collect())
}

fn lasting(line: &str) -> String {
    if let Some((before, bytes)) = line.split_once("TCP [") {
        return format!("{before}TCP {} bytes", bytes.split(',').count());
    }
    let ends = [" data=", " micros=", " id=\""].map(|field| line.find(field).unwrap_or(line.len()));
    line[..ends.into_iter().min().unwrap_or_default()].to_owned()
}

struct Line;

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        RECORDING.with_borrow_mut(|recording| {
            if let Some(recording) = recording {
                recording.bytes.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now_ms = RECORDING.with_borrow(|recording| {
            recording.as_ref().map(|recording| recording.clock.load(Ordering::SeqCst))
        });
        write!(writer, "{}", now_ms.unwrap_or_default())
    }
}
