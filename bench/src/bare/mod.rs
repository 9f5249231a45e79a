//! `dynarust-bench bare`: what a node is compared with. Each server is the least that could do the same work. Run one on a core of
//! its own, and the workload of the same name on another.

mod fanout;
mod http;
mod put;
mod server;
mod sled;

use crate::error::{Error, Result};

/// Whatever failed in a server that is stopped by hand.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Which server.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    #[command(subcommand)]
    server: Server,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Server {
    /// A hyper server that answers GETs from a map; compare with get
    Http(http::Options),
    /// A hyper server that puts bodies into sled, durably; compare with put
    Put(put::Options),
    /// Loads rows into sled, without a server; compare with batch
    Sled(sled::Options),
    /// Sends each PUT of one key to all its subscribers; compare with fanout
    Fanout(Listen),
}

/// Where a server listens.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
struct Listen {
    /// Address to listen at
    #[arg(long = "listen", value_name = "LISTEN", default_value = "127.0.0.1:6670")]
    address: String,
}

/// Runs a server until it fails or the process ends; sled ends by itself.
pub fn run(arguments: &Arguments) -> Result<()> {
    let outcome = match &arguments.server {
        Server::Http(options) => http::run(options),
        Server::Put(options) => put::run(options),
        Server::Sled(options) => sled::run(options),
        Server::Fanout(options) => fanout::run(options),
    };
    outcome.map_err(|error| Error::Failed(error.to_string()))
}
