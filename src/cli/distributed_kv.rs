//! `distributed_kv`: the node of `DynaRust` with other defaults, for users of stores that are called so: clients by gRPC on port 50051, other
//! nodes on 50052, and strong tables.

use std::process::ExitCode;

use clap::Parser;

use super::{flags::Flags, huge_pages, report_usage_error, run_node};
use crate::config;

/// What is different, by field of the settings.
const DEFAULTS: &[(&str, &str)] =
    &[("listen", "127.0.0.1:50052"), ("grpc", "127.0.0.1:50051"), ("new_tables", "strong")];

/// A node of DynaRust that serves gRPC, and keeps strong tables by default
///
/// Without arguments it serves clients by gRPC on 127.0.0.1:50051, other nodes and REST on 127.0.0.1:50052, and keeps its data in storage.db
/// in the working directory. It is `DynaRust --grpc 127.0.0.1:50051 --new-tables strong 127.0.0.1:50052`, with all of its options; the commands
/// of DynaRust manage it too.
#[derive(Debug, Parser)]
#[command(name = "distributed_kv", version)]
#[command(override_usage = "distributed_kv [OPTIONS] [LISTEN] [JOIN]...")]
#[command(after_help = "Examples:\n  distributed_kv\n  \
                        distributed_kv 50062 127.0.0.1:50052 --grpc 50061 --data second.db   a second node, which joins the first\n\n\
                        Every option can also be set in the environment or in a file, as for DynaRust.")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

/// The program.
pub fn main() -> ExitCode {
    huge_pages::disable();
    config::use_defaults(DEFAULTS);
    match Arguments::try_parse() {
        Ok(arguments) => run_node(arguments.flags.config(), &arguments.flags),
        Err(error) => report_usage_error(&error),
    }
}
