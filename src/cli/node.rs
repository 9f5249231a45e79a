//! A node from its settings to its end: listeners, storage, the servers, and what is done around them.

use std::{
    net::SocketAddr,
    num::NonZero,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use tracing::{info, warn};

use super::{
    Exit, access,
    address_file::AddressFile,
    allocator, banner, container, environment, first_sync, listener, logging, memory, open_files, otlp,
    privacy,
    reload::{self, WatchedFiles},
    rpcs, signals, systemd,
};
use crate::{
    config::{Config, memory::Limit},
    core::memory_pressure::MemoryPressure,
    error::{Error, Result},
    http::{self, spans::Spans},
    node::Node,
};

/// How long the process outlives the node, whose data is closed then, for tasks that do not end: a name that is looked up in vain, a backup that is
/// read back.
const TASKS_MAX: Duration = Duration::from_secs(1);

/// Runs a node until a signal.
///
/// # Errors
/// Those of the settings, the listeners and the storage. The text says what to do.
pub fn run(config: &Config) -> Result<Exit> {
    let limit = config.memory();
    allocator::suit(&limit);
    privacy::restrict_new_files();
    logging::start(config)?;
    environment::warn_about_unknown_variables();
    privacy::warn_about_exposed_secrets(config);
    let (shares, pressure) = (config.shares(&limit)?, MemoryPressure::default());
    // Before they are read, so that no change is missed.
    let (access_files, certificate_files) = (access::files(config), WatchedFiles::of_certificate(config));
    let mut http_options = config.http_options(&limit, &pressure)?;
    let is_container = container::runs_the_node();
    let secrets = config.link_secrets();
    let secrets = if is_container { secrets.map_err(container::explain_secret) } else { secrets }?;
    let is_open = secrets.is_open();
    open_files::raise_limit(config.max_connections);
    let runtime = start_runtime()?;
    let ended = runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        let listener = listener::bind(&config.listen).await?;
        let local = listener.local_addr().map_err(|error| Error::io("cannot tell the port", &error))?;
        let rpcs = rpcs::bind(config).await?;
        listener::reject_own_address(&config.join, local)?;
        let advertised = listener::advertised_address(config, local);
        let options = config.node_options(advertised, local, secrets, &shares, &pressure);
        memory::watch(limit.clone(), pressure)?;
        let setting = config.memory_budget.map(|budget| budget.0);
        let warnings =
            [memory::more_than_there_is(setting, &limit), memory::too_small_to_open(&limit, &config.data)];
        warnings.iter().flatten().for_each(|why| warn!("{why}"));
        access::watch(access_files, http_options.access.clone())?;
        let address_file = AddressFile::new(config, local, http_options.tls.as_ref());
        reload::watch_certificates(certificate_files, http_options.tls.as_ref(), &address_file)?;
        let node = Node::start(options).await?;
        let spans = otlp::start(config.otlp_endpoint.as_ref(), &node.id().to_string())?;
        http_options.spans = spans.clone().map(|spans| spans as Arc<dyn Spans>);
        address_file.write();
        announce(config, &node, local, is_container, &limit);
        access::warn_if_open(config, local);
        banner::print(config, local, is_open, &node.cluster())?;
        systemd::ready(&node);
        tokio::spawn(first_sync::show(node.clone(), config.log_format));
        let stopping = Arc::new(OnceLock::new());
        let stopped = stopping.clone();
        // The node also stops after it was told to leave.
        let shutdown = async {
            tokio::select! {
                () = shutdown => {}
                () = node.drained() => {}
            }
            systemd::stopping();
            let _ = stopped.set(Instant::now());
        };
        let rpcs = rpcs.serve(&node)?;
        let served = http::serve_with(node.clone(), listener, rpcs, http_options, shutdown).await;
        address_file.remove();
        // The data does not wait for a collector that is slow or gone.
        let finish_spans = async {
            if let Some(spans) = spans {
                spans.finish().await;
            }
        };
        let (closed, ()) = tokio::join!(node.close(), finish_spans);
        served.and(closed)?;
        info!("stopped after {} ms", stopping.get().map_or(0, |begun| begun.elapsed().as_millis()));
        Ok::<_, Error>(())
    });
    runtime.shutdown_timeout(TASKS_MAX);
    ended.map(|()| Exit::Success)
}

fn start_runtime() -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(workers()).enable_all().build();
    runtime.map_err(|error| Error::io("cannot start the runtime", &error))
}

/// How many threads serve requests: one for each processor that the process may use, by its quota too.
fn workers() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Logs the first line, and a warning if nobody can reach the node.
fn announce(config: &Config, node: &Node, local: SocketAddr, is_container: bool, limit: &Limit) {
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    info!(
        version = %env!("CARGO_PKG_VERSION"),
        node = %node.id(),
        address = %local,
        url = %banner::url(config, local),
        memory = %memory::describe(limit),
        workers = workers(),
        data = %data.display(),
        "started"
    );
    if let Some(why) = memory::too_small(limit) {
        warn!("{why}");
    }
    if let Some(why) = container::unreachable(local).filter(|_| is_container) {
        warn!("{why}");
    }
}
