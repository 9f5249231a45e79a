//! How commands reach a node: from flags, the environment, or a context of the contexts file. The first of these that names an endpoint
//! decides: `--endpoint`, `--context`, `DYNARUST_ENDPOINT`, `DYNARUST_CONTEXT`, the context in use, and 127.0.0.1:6660.
//!
//! A token and a certificate of a context go to the endpoints of that context, and to the members that these name (`members`, `top`): they
//! are one cluster. A command that is given another address never sends them.

use std::{env, path::PathBuf, time::Duration};

use dynarust_client::{Builder, Client, Endpoint};

use super::{
    contexts::{Context, Contexts},
    environment,
};
use crate::{
    config::types::{Address, SettingType},
    error::{Error, Result},
    http::server::tls,
};

/// The default address.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:6660";
/// How long a node may take to answer a command by default.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A node's address as typed: `host:port`, with or without `http://` or `https://` before it.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// Whether to use TLS; `None` if the address has no scheme.
    pub tls: Option<bool>,
    /// The host and port.
    pub address: Address,
}

/// Parses an address argument.
pub fn parse_address(text: &str) -> std::result::Result<NodeAddress, String> {
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (Some(true), rest),
        (None, Some(rest)) => (Some(false), rest),
        (None, None) => return Ok(NodeAddress { tls: None, address: Address::parse(text)? }),
    };
    let address = Address::parse(rest.strip_suffix('/').unwrap_or(rest))?;
    Ok(NodeAddress { tls, address })
}

/// Parses addresses separated by commas, from a place that `what` names.
pub fn parse_addresses(what: &str, text: &str) -> Result<Vec<NodeAddress>> {
    let wrong = |one: &str, why: String| Error::Config(format!("{what}: {one:?} is {why}"));
    let texts = text.split(',').map(str::trim);
    texts.map(|one| parse_address(one).map_err(|why| wrong(one, why))).collect()
}

/// A duration: seconds (`2`, `0.5`) or with a unit (`500ms`, `1m`).
pub fn parse_timeout(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let limit = seconds.or_else(|| humantime::parse_duration(text).ok());
    limit.filter(|limit| !limit.is_zero()).ok_or_else(|| "not a duration such as 5, 500ms or 1m".to_owned())
}

/// Which certificates to trust.
#[derive(Debug, Default, clap::Args)]
pub struct Trust {
    /// Certificate to trust for HTTPS: the node's own, or its authority's
    ///
    /// A PEM file. With it the command uses HTTPS, unless the address begins with `http://`. Without it, a node at an `https://` address
    /// must have a certificate that the system trusts.
    ///
    /// [DYNARUST_TLS_CERT]
    #[arg(long = "tls-cert", value_name = "PATH", help_heading = "Connection")]
    certificate: Option<PathBuf>,
    /// Certificate to show to a node that asks its clients for one, a PEM file
    ///
    /// [DYNARUST_TLS_CLIENT_CERT]
    #[arg(long = "tls-client-cert", value_name = "PATH", help_heading = "Connection")]
    client_certificate: Option<PathBuf>,
    /// Private key of that certificate, a PEM file
    ///
    /// [DYNARUST_TLS_CLIENT_KEY]
    #[arg(long = "tls-client-key", value_name = "PATH", help_heading = "Connection")]
    client_key: Option<PathBuf>,
}

impl Trust {
    /// How to connect to the node at this address.
    ///
    /// # Errors
    /// `Config` if it uses TLS, and the certificate cannot be read, or none is given and the system has no roots.
    pub fn endpoint(&self, node: &NodeAddress) -> Result<Endpoint> {
        self.identify(endpoint(node, self.certificate()?.as_ref())?)
    }

    /// Has an endpoint show the client's certificate, if there is one.
    ///
    /// # Errors
    /// `Config` if it or its key is missing or cannot be used.
    pub fn identify(&self, endpoint: Endpoint) -> Result<Endpoint> {
        let path =
            |given: &Option<PathBuf>, name| given.clone().or_else(|| variable(name).map(PathBuf::from));
        let certificate = path(&self.client_certificate, "DYNARUST_TLS_CLIENT_CERT");
        let (certificate, key) = match (certificate, path(&self.client_key, "DYNARUST_TLS_CLIENT_KEY")) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return Ok(endpoint),
            (Some(_), None) | (None, Some(_)) => {
                return Err(Error::Config(
                    "--tls-client-cert and --tls-client-key belong together: one of them is missing".into(),
                ));
            }
        };
        let (chain, key) = tls::identity(&certificate, &key)?;
        endpoint.identify(chain, key).map_err(|error| Error::Config(error.to_string()))
    }

    fn certificate(&self) -> Result<Option<PathBuf>> {
        match &self.certificate {
            Some(named) => Ok(Some(named.clone())),
            None => environment::tls_certificate(),
        }
    }
}

fn endpoint(node: &NodeAddress, certificate: Option<&PathBuf>) -> Result<Endpoint> {
    let address = node.address.as_str();
    if node.tls == Some(false) || certificate.is_none() && node.tls.is_none() {
        return Ok(Endpoint::http(address));
    }
    let trusted = certificate.map(|file| tls::certificates(file)).transpose()?;
    Endpoint::https(address, node.address.host(), trusted)
        .map_err(|error| Error::Config(format!("{error} with --tls-cert or DYNARUST_TLS_CERT")))
}

/// How to reach a node.
#[derive(Debug, Default, clap::Args)]
pub struct Connection {
    /// The node to ask; of several, separated by commas, the first that answers
    ///
    /// HOST:PORT, with https:// before it if the node serves HTTPS.
    ///
    /// [DYNARUST_ENDPOINT, a context, or 127.0.0.1:6660]
    #[arg(long, value_name = "ADDRESS", help_heading = "Connection")]
    endpoint: Option<String>,
    /// The context to take the endpoint and the token from, instead of the one in use
    ///
    /// See `DynaRust context`.
    ///
    /// [DYNARUST_CONTEXT]
    #[arg(long, value_name = "NAME", help_heading = "Connection")]
    context: Option<String>,
    /// The token to present, where nodes ask for one
    ///
    /// Other users of this machine can read a command line: better use DYNARUST_TOKEN or a context.
    ///
    /// [DYNARUST_TOKEN]
    #[arg(long, value_name = "TOKEN", help_heading = "Connection", hide_default_value = true)]
    token: Option<String>,
    /// How long the node may take to answer: seconds, or a duration such as 500ms
    ///
    /// [DYNARUST_TIMEOUT, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout, help_heading = "Connection")]
    timeout: Option<Duration>,
    #[command(flatten)]
    trust: Trust,
}

/// Where to connect, and what to present there.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    what: &'static str,
    addresses: String,
    token: Option<String>,
    certificate: Option<PathBuf>,
}

impl Connection {
    /// A client of the nodes that the settings name, or of the node at `address` if it is given.
    ///
    /// # Errors
    /// `Config` for settings that cannot be used, and an unknown context.
    pub fn client(&self, address: Option<&NodeAddress>) -> Result<Client> {
        let Route { what, addresses, token, certificate } = self.route(address.is_some())?;
        let addresses = match address {
            Some(address) => vec![address.clone()],
            None => parse_addresses(what, &addresses)?,
        };
        self.build(&addresses, token, certificate)
    }

    /// A client of a member at `address`, which a node has named. It presents what that node was shown: a context's token and certificate
    /// only if the node is an endpoint of the context. `asked`: the address that the command was given for the node, if it was.
    ///
    /// # Errors
    /// As [`Connection::client`].
    pub fn client_of_member(&self, asked: Option<&NodeAddress>, address: &NodeAddress) -> Result<Client> {
        let Route { token, certificate, .. } = self.route(asked.is_some())?;
        self.build(std::slice::from_ref(address), token, certificate)
    }

    fn build(
        &self,
        addresses: &[NodeAddress],
        token: Option<String>,
        certificate: Option<PathBuf>,
    ) -> Result<Client> {
        let limit = match (self.timeout, variable("DYNARUST_TIMEOUT")) {
            (Some(limit), _) => limit,
            (None, Some(text)) => parse_timeout(&text)
                .map_err(|why| Error::Config(format!("DYNARUST_TIMEOUT: {text:?} is {why}")))?,
            (None, None) => TIMEOUT,
        };
        let mut builder: Builder =
            Client::builder().timeout(limit).connect_timeout(limit.min(CONNECT_TIMEOUT));
        for address in addresses {
            builder = builder.with(self.trust.identify(endpoint(address, certificate.as_ref())?)?);
        }
        if let Some(token) = token {
            builder = builder.token(token);
        }
        builder.build().map_err(|error| Error::Config(error.to_string()))
    }

    fn route(&self, has_address: bool) -> Result<Route> {
        let token = self.token.clone().or_else(|| variable("DYNARUST_TOKEN"));
        let certificate = self.trust.certificate()?;
        let own = |what, addresses| Route {
            what,
            addresses,
            token: token.clone(),
            certificate: certificate.clone(),
        };
        if has_address {
            return Ok(own("ADDRESS", String::new()));
        }
        if let Some(endpoint) = &self.endpoint {
            return Ok(own("--endpoint", endpoint.clone()));
        }
        let of_context = |context: Context| Route {
            what: "the endpoint of the context",
            addresses: context.endpoint,
            token: token.clone().or(context.token),
            certificate: self.trust.certificate.clone().or(context.tls_cert).or_else(|| certificate.clone()),
        };
        if let Some(name) = &self.context {
            return Contexts::read()?.get(name).map(of_context);
        }
        if let Some(endpoint) = variable("DYNARUST_ENDPOINT") {
            return Ok(own("DYNARUST_ENDPOINT", endpoint));
        }
        if let Some(name) = variable("DYNARUST_CONTEXT") {
            return Contexts::read()?.get(&name).map(of_context);
        }
        match Contexts::read()?.in_use()? {
            Some(context) => Ok(of_context(context)),
            None => Ok(own("the default", DEFAULT_ADDRESS.to_owned())),
        }
    }
}

/// The endpoints that the environment names, if it does.
///
/// # Errors
/// `Config` if one is no address.
pub fn environment_endpoints() -> Result<Option<Vec<NodeAddress>>> {
    let what = "DYNARUST_ENDPOINT";
    variable(what).map(|text| parse_addresses(what, &text)).transpose()
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|text| text.to_string_lossy().into_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_scheme() {
        for (text, tls, address) in [
            ("a:1", None, "a:1"),
            ("6661", None, "127.0.0.1:6661"),
            ("http://a:1", Some(false), "a:1"),
            ("https://[::1]:1/", Some(true), "[::1]:1"),
        ] {
            let parsed = parse_address(text).expect(text);
            assert_eq!((parsed.tls, parsed.address.as_str()), (tls, address), "{text}");
        }
        for text in ["https://a", "https://a:1/path", "ftp://a:1", "https://", "a"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
        assert_eq!(parse_addresses("x", "a:1, b:2").expect("two").len(), 2);
        assert!(parse_addresses("x", "a:1,").is_err());
    }

    #[test]
    fn a_timeout_is_in_seconds_or_has_a_unit() {
        for (text, ms) in [("2", 2000), ("0.5", 500), ("500ms", 500), ("1m", 60_000)] {
            assert_eq!(parse_timeout(text).expect(text).as_millis(), ms);
        }
        for text in ["", "0", "-1", "soon"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }
}
