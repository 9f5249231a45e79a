//! `DynaRust health`: whether a node answers, for the health check of a container. It checks liveness, not readiness, because restarting
//! a node that waits for its cluster would not help.
//!
//! In a container it needs no address: the command line of the first process names the data directory, and a file in there has the node's
//! URL and certificate.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use dynarust_client::{Builder, Client, Endpoint, Method, StatusCode};

use super::{
    Exit, address_file,
    connection::{NodeAddress, Trust, environment_endpoints, parse_address},
    flags::DataFlags,
    remote::{self, CommandError},
};
use crate::error::Result;

/// Which node to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the node answers, 5 it does not.")]
pub struct Arguments {
    /// The node's address, with https:// before it if it serves HTTPS
    ///
    /// Default: the node of --data; in a container, its node; what DYNARUST_ENDPOINT names; the node that runs on the default data directory
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
    address: Option<NodeAddress>,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    data: DataFlags,
}

/// Checks whether the node answers.
///
/// # Errors
/// `Config` for settings that cannot be read.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let found = find(arguments)?;
    remote::run_command(async {
        if found.is_empty() {
            return Err(no_node(&arguments.data));
        }
        let client = found.into_iter().fold(Client::builder(), Builder::with).build()?;
        let answer = client.request(Method::GET, "/healthz").timeout(remote::TIMEOUT).send().await?;
        match answer.status {
            StatusCode::OK => Ok((Exit::Success, format!("the node at {} answers\n", answer.endpoint))),
            _ => Err(answer.success().map_or_else(|error| error, |answer| answer.not_a_node()).into()),
        }
    })
}

/// The node to ask: the one that is named; in a container the container's own, whatever endpoint its commands use; the endpoint of the
/// environment, where several may be, of which the first that answers counts; the node on the default data directory.
fn find(arguments: &Arguments) -> Result<Vec<Endpoint>> {
    let trust = &arguments.trust;
    if let Some(address) = &arguments.address {
        return Ok(vec![trust.endpoint(address)?]);
    }
    let on = |data: &Path| {
        let node = address_file::read(data)?.map(|node| trust.identify(node)).transpose()?;
        Ok(Vec::from_iter(node))
    };
    if arguments.data.is_given() {
        return on(&arguments.data.directory_of_running()?);
    }
    if let Some(data) = data_of_first_process() {
        let own = on(&data)?;
        if !own.is_empty() {
            return Ok(own);
        }
    }
    if let Some(addresses) = environment_endpoints()? {
        return addresses.iter().map(|address| trust.endpoint(address)).collect();
    }
    on(&arguments.data.directory_of_running()?)
}

fn no_node(data: &DataFlags) -> CommandError {
    let data = data.directory_of_running().unwrap_or_default();
    let data = std::path::absolute(&data).unwrap_or(data);
    CommandError {
        exit: Exit::Unreachable,
        why: format!("no node runs on {}: name its directory with --data, or its address", data.display()),
    }
}

/// The data directory of the node that is process 1, or that process 1 (a small init) started, as in a container.
fn data_of_first_process() -> Option<PathBuf> {
    let line = fs::read("/proc/1/cmdline").ok()?;
    // Another user's process does not show its directory. In a container both start in the same one.
    let home = fs::read_link("/proc/1/cwd").or_else(|_| env::current_dir()).ok()?;
    data_of(&String::from_utf8_lossy(&line), &home)
}

/// The data directory of the node with this command line (in the format of `/proc/PID/cmdline`) and working directory.
fn data_of(line: &str, home: &Path) -> Option<PathBuf> {
    let is_node = |word: &&str| Path::new(word).file_name().is_some_and(|name| name == "DynaRust");
    let words: Vec<_> = line.split_terminator('\0').skip_while(|word| !is_node(word)).collect();
    if words.is_empty() {
        return None;
    }
    let node = super::Arguments::try_parse_from(words).ok().filter(|node| node.command.is_none())?;
    let config = node.flags.config().ok()?;
    Some(home.join(config.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_read_from_the_command_line_of_a_node() {
        let data = |words: &[&str]| {
            let line: String = words.iter().map(|word| format!("{word}\0")).collect();
            data_of(&line, Path::new("/app")).map(|path| path.display().to_string())
        };
        for (words, expected) in [
            (&["DynaRust", "0.0.0.0:7000", "--data", "kept"][..], "/app/kept"),
            (&["/usr/local/bin/DynaRust", "6660", "--data=/kept"], "/kept"),
            (&["/sbin/docker-init", "--", "DynaRust", "0.0.0.0:6660"], "/app/storage.db"),
        ] {
            assert_eq!(data(words).as_deref(), Some(expected), "{words:?}");
        }
        for other in [
            &[][..],
            &["/sbin/init"],
            &["DynaRust", "status"],
            &["sh", "-c", "DynaRust 6660"],
            &["DynaRust", "--nonsense"],
        ] {
            assert_eq!(data(other), None, "{other:?}");
        }
    }
}
