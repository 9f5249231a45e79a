//! The types of settings, and how each is parsed. Flags, the environment and the file all give text, so that one parser and one error
//! message serve all three.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;

use crate::{
    error::Error,
    http::ClientCertificates,
    node::Mode,
    replication::link::secret::{SECRET_CHARACTERS_MIN, too_short},
    storage::{Durability, backup::recipient::Recipient},
};

/// How many values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// One value.
    One,
    /// Any number of values: the flag repeats, the file has an array, the environment separates by commas.
    Many,
    /// A boolean; without a value it means `true`.
    Switch,
}

/// The type of a setting's value.
pub trait SettingType: Sized {
    /// The placeholder of the value in a usage line.
    const PLACEHOLDER: &'static str;
    /// How many values it takes.
    const ARITY: Arity = Arity::One;
    /// Whether the value must not be shown, or given where other users can see it.
    const SECRET: bool = false;

    /// Parses the value. The error completes the sentence "`text` is ...".
    fn parse(text: &str) -> Result<Self, String>;
}

/// An empty text is `None`.
impl<T: SettingType> SettingType for Option<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
}

/// Separated by commas.
impl<T: SettingType> SettingType for Vec<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const ARITY: Arity = Arity::Many;

    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(T::parse).collect()
    }
}

impl SettingType for bool {
    const PLACEHOLDER: &'static str = "true|false";
    const ARITY: Arity = Arity::Switch;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "not one of: true, false".into())
    }
}

impl SettingType for usize {
    const PLACEHOLDER: &'static str = "COUNT";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "not a whole number, such as 16384".into())
    }
}

impl SettingType for PathBuf {
    const PLACEHOLDER: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("not a path".into()) } else { Ok(text.into()) }
    }
}

/// A text without white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(pub String);

impl SettingType for Word {
    const PLACEHOLDER: &'static str = "TEXT";

    fn parse(text: &str) -> Result<Self, String> {
        let is_word = !text.is_empty() && !text.contains(char::is_whitespace);
        if is_word { Ok(Self(text.into())) } else { Err("not a text without spaces".into()) }
    }
}

impl SettingType for Duration {
    const PLACEHOLDER: &'static str = "DURATION";

    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map_err(|_| "not a duration: a number with a unit (ms, s, m, h), such as 500ms or 10s".into())
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl SettingType for ByteSize {
    const PLACEHOLDER: &'static str = "SIZE";

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000 * 1000,
            "gb" => 1000 * 1000 * 1000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(Self::ALLOWED.into()),
        };
        let number: u64 = number.parse().map_err(|_| Self::ALLOWED)?;
        number.checked_mul(scale).map(Self).ok_or_else(|| Self::ALLOWED.into())
    }
}

impl ByteSize {
    const ALLOWED: &str =
        "not a size: a whole number with a unit (B, KiB, MiB, GiB, TiB, kB, MB, GB), such as 64MiB";
}

/// The host of an address that is only a port.
const DEFAULT_HOST: &str = "127.0.0.1";

/// `host:port`; the host is a name or an address, an IPv6 one in brackets. `:6660` and `6660` are `127.0.0.1:6660`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    text: String,
    port_at: usize,
}

impl Address {
    /// The address as given, or with the default host if only a port was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.text[..self.port_at - 1].trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether this certainly is an address of this machine. A name other than `localhost` may be anywhere.
    pub fn is_this_machine(&self) -> bool {
        let address = self.host().parse::<IpAddr>();
        address.map_or(self.host().eq_ignore_ascii_case("localhost"), |ip| ip.to_canonical().is_loopback())
    }

    /// Whether a listener at one leaves no room for a listener at the other: the same port, and the same host or one that stands for all.
    /// Names that differ may be the same address: that shows when the node listens.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_any = |address: &Self| address.host().parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        let has_same_host = self.host().eq_ignore_ascii_case(other.host());
        self.port() != 0 && self.port() == other.port() && (has_same_host || is_any(self) || is_any(other))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.text[self.port_at..].parse().expect("parse() has read it")
    }
}

impl SettingType for Address {
    const PLACEHOLDER: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let only_port = Some(text.strip_prefix(':').unwrap_or(text)).filter(|port| is_number(port));
        let text = only_port.map_or_else(|| text.to_owned(), |port| format!("{DEFAULT_HOST}:{port}"));
        let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
            return Err(
                "not HOST:PORT, such as 127.0.0.1:6660 (this machine only) or 0.0.0.0:6660 (every interface)"
                    .into(),
            );
        };
        if host.contains("://") {
            return Err("not HOST:PORT: leave out whatever is before the host, such as http://".into());
        }
        if !is_number(port) || port.parse::<u16>().is_err() {
            return Err(format!("not HOST:PORT: the port {port:?} is not a number from 0 to 65535"));
        }
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(bracketed || host.bytes().all(plain)) {
            return Err(
                "not HOST:PORT: the host is a name or an address, an IPv6 one in brackets: [::1]:6660".into(),
            );
        }
        let port_at = host.len() + 1;
        Ok(Self { text, port_at })
    }
}

/// An address at which other nodes reach this one. The host is required, as for them 127.0.0.1 would mean themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedAddress(pub Address);

impl SettingType for AdvertisedAddress {
    const PLACEHOLDER: &'static str = Address::PLACEHOLDER;

    fn parse(text: &str) -> Result<Self, String> {
        let address = Address::parse(text)?;
        if address.as_str() != text {
            return Err(
                "not HOST:PORT: other nodes need the host as well, such as db1.example.com:6660".into()
            );
        }
        Ok(Self(address))
    }
}

/// An origin as a browser sends it in the `Origin` header, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub String);

impl SettingType for Origin {
    const PLACEHOLDER: &'static str = "ORIGIN";

    fn parse(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match host {
            Some(host) if host.contains('*') => Err(
                "not an origin: * stands alone and means any origin; otherwise name each one, such as https://app.example.com".into(),
            ),
            Some(host) if host.contains(|letter: char| letter.is_ascii_uppercase()) => {
                Err(format!("not an origin as browsers send it: write it in lower case, {}", text.to_ascii_lowercase()))
            }
            Some(host) if has_default_port(text, host) => Err(
                "not an origin as browsers send it: leave out the default port (80 for http, 443 for https)".into(),
            ),
            Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', ' ', '@']) => Ok(Self(text.into())),
            None if text == "*" => Ok(Self(text.into())),
            _ => Err(
                "not an origin: a scheme and a host without a path, such as https://app.example.com, or *"
                    .into(),
            ),
        }
    }
}

fn has_default_port(origin: &str, host: &str) -> bool {
    host.ends_with(if origin.starts_with("https:") { ":443" } else { ":80" })
}

/// A host name in lower case. A leading `*.` stands for one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(pub String);

impl SettingType for HostPattern {
    const PLACEHOLDER: &'static str = "NAME";

    fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_label = |label: &str| !label.is_empty() && label.bytes().all(plain);
        if name.split('.').all(is_label) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err("not a host name: letters, digits, dots and dashes, without a scheme or a port, such as db.example.com or \
             *.example.com"
            .into())
    }
}

impl SettingType for Recipient {
    const PLACEHOLDER: &'static str = "RECIPIENT";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: Error| error.to_string())
    }
}

impl SettingType for Durability {
    const PLACEHOLDER: &'static str = "always|interval:DURATION|none";

    fn parse(text: &str) -> Result<Self, String> {
        const INTERVALS: std::ops::RangeInclusive<Duration> =
            Duration::from_millis(1)..=Duration::from_secs(60);
        match text {
            "always" => Ok(Self::Always),
            "none" => Ok(Self::None),
            _ => text
                .strip_prefix("interval:")
                .and_then(|interval| humantime::parse_duration(interval).ok())
                .filter(|interval| INTERVALS.contains(interval))
                .map(Self::Interval)
                .ok_or_else(|| "not one of: always, interval:100ms (1ms to 1m), none".into()),
        }
    }
}

/// Cluster secrets, separated by commas. An empty text means no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretTexts(pub Vec<String>);

impl fmt::Debug for SecretTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretTexts({})", self.0.len())
    }
}

impl SettingType for SecretTexts {
    const PLACEHOLDER: &'static str = "SECRET";
    const ARITY: Arity = Arity::Many;
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let texts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let texts: Vec<_> = texts.map(str::to_owned).collect();
        if texts.is_empty() && !text.is_empty() {
            return Err("only commas and spaces".into());
        }
        if texts.iter().any(|secret| secret.chars().count() < SECRET_CHARACTERS_MIN) {
            return Err(format!("not accepted: {}", too_short()));
        }
        Ok(Self(texts))
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl SettingType for LogFormat {
    const PLACEHOLDER: &'static str = "text|json";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not one of: text, json".into()),
        }
    }
}

impl SettingType for ClientCertificates {
    const PLACEHOLDER: &'static str = "required|optional";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            _ => Err("not one of: required, optional".into()),
        }
    }
}

impl SettingType for Mode {
    const PLACEHOLDER: &'static str = "eventual|strong";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "eventual" => Ok(Self::Eventual),
            "strong" => Ok(Self::Strong),
            _ => Err("not one of: eventual, strong".into()),
        }
    }
}

/// Which log lines are written, in the syntax of `RUST_LOG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(pub String);

impl SettingType for LogFilter {
    const PLACEHOLDER: &'static str = "FILTER";

    fn parse(text: &str) -> Result<Self, String> {
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.into())),
            Err(error) => {
                Err(format!("not a log filter, such as info or warn,dynarust::http=debug: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("1kB", 1000),
            ("64MiB", 64 << 20),
            ("2 gib", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "64QB", "-1", "1.5GiB", "99999999999TiB", "64 Mi B"] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listeners_overlap_at_one_port_of_one_host_or_of_all() {
        for (one, other, do_overlap) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("Localhost:1", "localhost:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let [first, second] = [one, other].map(|text| Address::parse(text).expect(text));
            assert_eq!(first.overlaps(&second), do_overlap, "{one} and {other}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (text, host, port) in [
            ("127.0.0.1:6660", "127.0.0.1", 6660),
            ("localhost:0", "localhost", 0),
            ("dynarust-node1:6660", "dynarust-node1", 6660),
            ("[::1]:65535", "::1", 65535),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!((address.host(), address.port(), address.as_str()), (host, port, text));
        }
        for text in [
            "",
            ":",
            ":http",
            "99999",
            ":99999",
            "localhost",
            "localhost:",
            "localhost:99999",
            "::1:6660",
            "http://a:80",
            "a b:1",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        for (text, address) in
            [("6660", "127.0.0.1:6660"), (":6660", "127.0.0.1:6660"), (":0", "127.0.0.1:0")]
        {
            assert_eq!(Address::parse(text).expect(text).as_str(), address);
            assert!(AdvertisedAddress::parse(text).is_err(), "{text}: other nodes would dial themselves");
        }
        assert!(AdvertisedAddress::parse("127.0.0.1:6660").is_ok());
        let scheme = Address::parse("http://127.0.0.1:6660").expect_err("no address");
        assert!(scheme.contains("leave out"), "{scheme}");
    }

    #[test]
    fn durability_has_three_forms() {
        assert_eq!(Durability::parse("always"), Ok(Durability::Always));
        assert_eq!(Durability::parse("none"), Ok(Durability::None));
        assert_eq!(Durability::parse("interval:100ms"), Ok(Durability::Interval(Duration::from_millis(100))));
        for text in ["", "Always", "interval", "interval:", "interval:0s", "interval:2m", "100ms"] {
            assert!(Durability::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas_and_may_be_empty() {
        let origins = |texts: &[&str]| Ok(texts.iter().map(|&text| Origin(text.into())).collect());
        assert_eq!(Vec::<Origin>::parse(""), origins(&[]));
        assert_eq!(Vec::<Origin>::parse("*"), origins(&["*"]));
        assert_eq!(Vec::<Origin>::parse("http://a:1, https://b"), origins(&["http://a:1", "https://b"]));
        for text in [
            "example.com",
            "https://",
            "https://a/path",
            "http://a,nonsense",
            "http://*.x.com",
            "https://*",
            "http://A.x",
            "http://a:80",
            "https://a:443",
            "http://b@a",
        ] {
            assert!(Vec::<Origin>::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn allowed_hosts_are_names_or_have_a_star_for_their_first_label() {
        for (text, kept) in [
            ("db", "db"),
            ("dynarust_node-1", "dynarust_node-1"),
            ("DB.Example.com", "db.example.com"),
            ("*.example.com", "*.example.com"),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(HostPattern(kept.into())), "{text}");
        }
        for text in
            ["", "*", "*.", "a.*.b", "*a.b", "a*.b", "db:6660", "http://db", "a..b", ".a", "a.", "[::1]"]
        {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_types_refuse_invalid_texts() {
        assert_eq!(Duration::parse("500ms"), Ok(Duration::from_millis(500)));
        assert!(Duration::parse("500").is_err());
        assert!(usize::parse("-1").is_err());
        assert!(bool::parse("yes").is_err());
        assert!(LogFormat::parse("xml").is_err());
        assert!(LogFilter::parse("dynarust=debug=loud").is_err());
        assert!(PathBuf::parse("").is_err());
    }
}
