//! The command line.

use std::{mem, path::PathBuf};

use clap::Parser;

use crate::settings::{Settings, Theme, parse_address};

/// The largest file that is read as a token.
const TOKEN_FILE_BYTES_MAX: u64 = 16 * 1024;

/// A window onto a DynaRust cluster
///
/// Without arguments it connects to the addresses of last time, or to 127.0.0.1:50051.
#[derive(Debug, Parser)]
#[command(name = "dynarust-gui", version)]
#[command(after_help = "The token may also be in the environment, as DYNARUST_TOKEN. It is never kept.")]
pub struct Arguments {
    /// The nodes, by the addresses of their --grpc listeners. When one is lost, the next is tried
    #[arg(value_name = "HOST:PORT", value_parser = parse_address)]
    pub addresses: Vec<String>,

    /// Connect by TLS
    #[arg(long)]
    pub tls: bool,

    /// A file with the certificates to trust, in place of those of the system. It implies --tls
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// A file with the certificate that the nodes know this client by. It implies --tls
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,

    /// A file with the private key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,

    /// A file with the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The table to open
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,

    /// The key of that table to open
    #[arg(long, value_name = "NAME", requires = "table")]
    pub key: Option<String>,

    /// The colors
    #[arg(long, value_enum)]
    pub theme: Option<Theme>,
}

impl Arguments {
    /// Takes what was given into the settings.
    pub fn apply(&self, settings: &mut Settings) {
        if !self.addresses.is_empty() {
            let is_known = self.addresses.iter().all(|address| settings.addresses.contains(address));
            settings.addresses.clone_from(&self.addresses);
            if !is_known {
                // Nodes that are new are reached as the arguments say, not as those of last time.
                let Settings { addresses, theme, .. } = mem::take(settings);
                *settings = Settings { addresses, theme, ..Settings::default() };
            }
        }
        settings.tls |= self.tls || self.ca.is_some() || self.cert_file.is_some();
        let files = [
            (&self.ca, &mut settings.ca_file),
            (&self.cert_file, &mut settings.cert_file),
            (&self.key_file, &mut settings.key_file),
        ];
        for (given, kept) in files {
            if let Some(path) = given {
                *kept = path.display().to_string();
            }
        }
        settings.theme = self.theme.unwrap_or(settings.theme);
    }

    /// The token: that of the file, or `variable`, that of the environment; empty for none.
    ///
    /// # Errors
    /// That the file cannot be read.
    pub fn token(&self, variable: Option<String>) -> Result<String, String> {
        let Some(path) = &self.token_file else { return Ok(variable.unwrap_or_default().trim().to_owned()) };
        let wrong = |why: String| format!("--token-file {}: {why}", path.display());
        let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if length > TOKEN_FILE_BYTES_MAX {
            return Err(wrong(format!(
                "the file has {length} bytes, and at most {TOKEN_FILE_BYTES_MAX} are read: name a file that has only the token"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from([&["dynarust-gui"], arguments].concat())
    }

    #[test]
    fn arguments_win_over_what_was_kept() {
        let mut settings = Settings { tls: true, ca_file: "old.pem".into(), ..Settings::default() };
        parse(&[]).expect("none is fine").apply(&mut settings);
        assert!(settings.tls && settings.ca_file == "old.pem");
        let given = parse(&["50061", "node-2:7", "--theme", "dark"]).expect("they are right");
        given.apply(&mut settings);
        assert_eq!(settings.addresses, ["127.0.0.1:50061", "node-2:7"]);
        assert_eq!((settings.tls, settings.ca_file.as_str(), settings.theme), (false, "", Theme::Dark));
        parse(&["--ca", "ca.pem"]).expect("right").apply(&mut settings);
        assert!(settings.tls && settings.ca_file == "ca.pem");
        let own = parse(&["--cert-file", "me.pem", "--key-file", "me-key.pem"]).expect("right");
        own.apply(&mut settings);
        assert_eq!((settings.cert_file.as_str(), settings.key_file.as_str()), ("me.pem", "me-key.pem"));
        // A node that is known is reached as before: not suddenly in plain text.
        parse(&["node-2:7"]).expect("right").apply(&mut settings);
        assert_eq!(settings.addresses, ["node-2:7"]);
        assert!(settings.tls && settings.ca_file == "ca.pem");
    }

    #[test]
    fn the_page_names_each_flag() {
        use clap::CommandFactory;
        let page = include_str!("../../docs/window.md");
        for flag in Arguments::command().get_arguments().filter_map(|argument| argument.get_long()) {
            let is_named =
                page.split('`').any(|code| code.starts_with("gui ") && code.contains(&format!("--{flag}")));
            assert!(is_named, "--{flag}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (arguments, word) in [
            (&["http://a"][..], "leave out"),
            (&["--key", "a"], "--table"),
            (&["--tabel", "a"], "--table"),
            (&["--theme", "blue"], "dark"),
            (&["--cert-file", "me.pem"], "--key-file"),
        ] {
            let error = parse(arguments).expect_err("wrong").to_string();
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
        let missing = parse(&["--token-file", "/nowhere/token"]).expect("parsed").token(None);
        assert!(missing.is_err_and(|why| why.contains("/nowhere/token")));
        let folder = tempfile::tempdir().expect("a folder");
        let long = folder.path().join("long");
        std::fs::write(&long, vec![b'a'; 16 * 1024 + 1]).expect("written");
        let given = parse(&["--token-file", &long.display().to_string()]).expect("parsed").token(None);
        assert!(given.is_err_and(|why| why.contains("at most 16384") && why.contains("only the token")));
        assert_eq!(parse(&[]).expect("right").token(Some(" t\n".into())), Ok("t".into()));
    }
}
