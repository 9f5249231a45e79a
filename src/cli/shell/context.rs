//! `context`: named endpoints, kept in a file, and which of them is in use.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use serde_json::json;

use crate::{
    cli::{
        Exit,
        connection::parse_addresses,
        contexts::{self, Context, Contexts},
        output,
    },
    error::{Error, Result},
};

/// What to do with contexts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust context add home 127.0.0.1:6660\n  DynaRust context list\n\n\
                        A context is an endpoint with a name, and what to present there. Commands take the one in use, or --context NAME.")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Adds a context, or replaces one. The first is in use at once
    Add(Add),
    /// Takes a context into use
    Use(Named),
    /// Lists the contexts
    List(List),
    /// Removes a context
    Remove(Named),
}

/// A new context.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust context add office 127.0.0.1:6660,127.0.0.1:6661 --use")]
struct Add {
    /// Its name
    name: String,
    /// The node's address; of several, separated by commas, the first that answers is asked
    #[arg(value_name = "ADDRESS")]
    endpoint: String,
    /// The token to present; - reads standard input
    #[arg(long)]
    token: Option<String>,
    /// Certificate to trust for HTTPS: a PEM file
    #[arg(long, value_name = "PATH")]
    tls_cert: Option<PathBuf>,
    /// Take it into use
    #[arg(long = "use")]
    takes: bool,
}

/// Which context.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust context use home\n  DynaRust context remove office")]
struct Named {
    /// Its name
    name: String,
}

/// How to list them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust context list")]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Changes or lists the contexts.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let mut contexts = Contexts::read()?;
    let said = match &arguments.action {
        Action::Add(add) => {
            let context =
                Context { endpoint: add.endpoint.clone(), token: token(add)?, tls_cert: certificate(add)? };
            parse_addresses("ADDRESS", &context.endpoint)?;
            if add.takes || contexts.contexts.is_empty() {
                contexts.current = Some(add.name.clone());
            }
            contexts.contexts.insert(add.name.clone(), context);
            let used = if contexts.current.as_ref() == Some(&add.name) { ", and in use" } else { "" };
            format!("context {} is kept{used}\n", add.name)
        }
        Action::Use(named) => {
            contexts.get(&named.name)?;
            contexts.current = Some(named.name.clone());
            format!("context {} is in use\n", named.name)
        }
        Action::Remove(named) => {
            contexts.contexts.remove(&named.name).ok_or_else(|| contexts.unknown(&named.name))?;
            contexts.current = contexts.current.filter(|current| *current != named.name);
            format!("context {} is removed\n", named.name)
        }
        Action::List(list) => return self::list(&contexts, list.json),
    };
    contexts.write()?;
    output::print(&said)?;
    Ok(Exit::Success)
}

fn list(contexts: &Contexts, is_json: bool) -> Result<Exit> {
    let is_current = |name: &String| contexts.current.as_ref() == Some(name);
    let text = if is_json {
        let all = contexts.contexts.iter().map(|(name, context)| {
            json!({
                "name": name,
                "current": is_current(name),
                "endpoint": context.endpoint,
                "has_token": context.token.is_some(),
                "tls_cert": context.tls_cert,
            })
        });
        format!("{}\n", json!(all.collect::<Vec<_>>()))
    } else if contexts.contexts.is_empty() {
        let file = contexts::path().map(|path| format!(" in {}", path.display())).unwrap_or_default();
        format!("there are no contexts{file}; DynaRust context add NAME ADDRESS adds one\n")
    } else {
        let head = ["", "CONTEXT", "ENDPOINT", "TOKEN"].map(str::to_owned).to_vec();
        let rows = contexts.contexts.iter().map(|(name, context)| {
            let mark = if is_current(name) { "*" } else { "" };
            let token = if context.token.is_some() { "yes" } else { "-" };
            vec![mark.to_owned(), name.clone(), context.endpoint.clone(), token.to_owned()]
        });
        output::columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
    };
    output::print(&text)?;
    Ok(Exit::Success)
}

fn token(add: &Add) -> Result<Option<String>> {
    if add.token.as_deref() != Some("-") {
        return Ok(add.token.clone());
    }
    let mut token = String::new();
    let read = io::stdin().read_to_string(&mut token);
    read.map_err(|error| Error::io("cannot read the token from standard input", &error))?;
    Ok(Some(token.trim().to_owned()))
}

/// The certificate's file as other directories see it.
fn certificate(add: &Add) -> Result<Option<PathBuf>> {
    let absolute = |path: &PathBuf| {
        std::fs::canonicalize(path)
            .map_err(|error| Error::Config(format!("--tls-cert {}: {error}", path.display())))
    };
    add.tls_cert.as_ref().map(absolute).transpose()
}
