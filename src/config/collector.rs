//! The setting that names an OpenTelemetry collector.

use super::types::{Address, SettingType};

/// The URL of an OpenTelemetry collector: `http://HOST:PORT`, with a path that its own come below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl {
    address: Address,
    path: String,
}

impl CollectorUrl {
    /// The host and port.
    pub fn address(&self) -> &str {
        self.address.as_str()
    }

    /// The URL that takes traces.
    pub fn traces(&self) -> String {
        format!("http://{}{}/v1/traces", self.address.as_str(), self.path)
    }
}

impl SettingType for CollectorUrl {
    const PLACEHOLDER: &'static str = "URL";

    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err(
                "https, which is not sent: run a collector on this machine, which sends on by https".into()
            );
        }
        let rest = text.strip_prefix("http://").ok_or("not a URL such as http://127.0.0.1:4318")?;
        let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_path = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
        match (Address::parse(address), is_path) {
            (Ok(address), true) => Ok(Self { address, path: path.trim_end_matches('/').to_owned() }),
            (Err(_), _) | (_, false) => {
                Err("not a URL such as http://127.0.0.1:4318: name the host and the port, and no query"
                    .into())
            }
        }
    }
}
