//! Arguments, then a configuration, then a node, then its server, until a signal. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use dynarust::{
    Error, Result,
    cli::{
        self, Arguments, Exit, banner, environment, first_sync, huge_pages, listener, logging, open_files,
        privacy, signals,
    },
    config::Config,
    http,
    node::Node,
};
use mimalloc::MiMalloc;
use tracing::info;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Before there is anything to speak of.
    huge_pages::avoid();
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(command) => command.run(),
        None => arguments.flags.config().and_then(|config| serve(&config)),
    };
    cli::conclude(outcome)
}

fn serve(config: &Config) -> Result<Exit> {
    let Some(listen) = &config.listen else { return Ok(cli::explain_usage()) };
    privacy::restrict_new_files();
    logging::start(config)?;
    environment::warn_of_unknown();
    privacy::warn_of_exposed(config);
    let http_options = config.http_options()?;
    let secrets = config.link_secrets()?;
    let is_open = secrets.is_open();
    open_files::raise(config.max_connections);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("cannot start the runtime", &error))?;
    runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        let listener = listener::bind(listen).await?;
        let local = listener.local_addr().map_err(|error| Error::io("cannot tell the port", &error))?;
        let options = config.node_options(listener::advertised(config, local), local, secrets);
        let node = Node::start(options).await?;
        info!(address = %local, data = %config.data.display(), "serving");
        banner::print(config, local, is_open, &node.cluster())?;
        tokio::spawn(first_sync::show(node.clone()));
        // Also where the node was told to leave.
        let ending = async {
            tokio::select! {
                () = shutdown => {}
                () = node.drained() => {}
            }
        };
        let served = http::serve(node.clone(), listener, http_options, ending).await;
        served.and(node.close().await)
    })?;
    Ok(Exit::Success)
}
