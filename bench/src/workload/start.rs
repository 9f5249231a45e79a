//! Starts a node on an existing store: the time until it answers reads, the time until it is ready, and the latency of reads between
//! the two.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time;

use crate::{
    binary::{self, BinaryOptions},
    client::{
        connection::Connection,
        document::Random,
        target::{self, Target},
    },
    error::{Error, Result},
    options::LoadOptions,
    progress,
    report::{Figure, Latencies, Report},
};

/// The start fails if the node is not ready by then.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Between attempts to connect, and between reads until the node is ready: the resolution of the figures.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Which binary is started.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Where the binary is.
    #[command(flatten)]
    pub binary: BinaryOptions,
}

/// Starts a node on `--data` once per run, and stops it.
pub async fn run(start: &Options, target: &Target, options: &LoadOptions) -> Result<Report> {
    target.expect_node("start")?;
    let binary = start.binary.find()?;
    let Some(data) = &target.data else {
        return Err(Error::Usage("start opens an existing store: add --data with its directory".into()));
    };
    if Connection::open(target.address).await.is_ok() {
        return Err(Error::Usage(format!("a node already answers at {}: stop it first", target.address)));
    }
    let mut report = Report::new("start", target.to_string()).setting("keys", options.keys);
    let bar = progress::bar("start", u64::from(options.runs)).with_message("starts");
    for _ in 0..options.runs {
        report.run(start_once(&binary, None, data, target, options).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Starts a node once, on this core alone or on all, and stops it.
pub(crate) async fn start_once(
    binary: &Path,
    core: Option<usize>,
    data: &Path,
    target: &Target,
    options: &LoadOptions,
) -> Result<Vec<Figure>> {
    let mut random = Random::new(options.seed);
    let start = Instant::now();
    let mut node = Node::spawn(binary::command(binary, core), data, target)?;
    let mut connection = loop {
        match Connection::open(target.address).await {
            Ok(connection) => break connection,
            Err(error) => node.expect_running(start, error)?,
        }
        time::sleep(POLL_INTERVAL).await;
    };
    let mut latencies = Latencies::default();
    let mut reads_after = None;
    let ready_after = loop {
        let mut request = Vec::new();
        target.get(&target::key(random.below(options.keys)), &mut request);
        let sent = Instant::now();
        connection.expect_ok(&request).await?;
        // The first read includes the start itself, and has a figure of its own.
        match reads_after {
            None => reads_after = Some(start.elapsed()),
            Some(_) => latencies.record(sent.elapsed()),
        }
        let status = connection.exchange(&target.ready()).await?;
        if status == 200 {
            break start.elapsed();
        }
        node.expect_running(start, Error::Failed(format!("readyz answers {status}")))?;
        time::sleep(POLL_INTERVAL).await;
    };
    node.stop()?;
    let mut figures = vec![
        Figure::new("first_read_s", reads_after.unwrap_or_default().as_secs_f64()),
        Figure::new("ready_s", ready_after.as_secs_f64()),
    ];
    figures.extend(latencies.figures("get"));
    Ok(figures)
}

/// A node that this process started. Dropping it kills it.
struct Node(Child);

impl Node {
    fn spawn(mut command: Command, data: &Path, target: &Target) -> Result<Self> {
        command.arg(target.address.to_string()).arg("--data").arg(data);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).map_err(|e| Error::io("starting a node", &e))
    }

    /// Fails with `why` the node does not serve yet if it has ended or its time is up.
    fn expect_running(&mut self, start: Instant, why: Error) -> Result<()> {
        let exited = self.0.try_wait().map_err(|e| Error::io("checking whether the node runs", &e))?;
        match exited {
            Some(status) => {
                Err(Error::Failed(format!("the node ended with {status}: start it yourself to see why")))
            }
            None if start.elapsed() > TIMEOUT => Err(why),
            None => Ok(()),
        }
    }

    /// Stops it as an operator would, so that every start follows a clean stop.
    fn stop(mut self) -> Result<()> {
        let terminated = Command::new("kill").arg(self.0.id().to_string()).status();
        terminated.and_then(|_| self.0.wait()).map(drop).map_err(|e| Error::io("stopping the node", &e))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
