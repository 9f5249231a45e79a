//! `DynaRust certs`: certificates for HTTPS while one develops. It makes an authority, a certificate for a node that the authority has
//! signed, and certificates for clients if asked. Nothing that exists is overwritten.
//!
//! Not for production: the authority's key lies beside the rest, and nothing renews or revokes.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

use super::{Exit, output};
use crate::{
    error::{Error, Result},
    http::access::tokens,
};

/// The hosts that a certificate is always for.
const THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Apple's systems take no longer life of a certificate, by an authority of one's own either.
const DAYS_MAX: u64 = 825;
/// How far the clock of a client may be behind ours.
const CLOCK_SLACK: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Most further hosts, and most clients.
const NAMES_MAX: usize = 100;

/// Where to, and for whom.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  DynaRust certs certs\n\nIt prints the lines that start a node with them and ask it. Exit codes: 0 ok, 1 failed, 2 wrong usage."
)]
pub struct Arguments {
    /// Directory for the files; created if it is not there. None of the files may exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// A name or address of the node, besides localhost, 127.0.0.1 and ::1. May be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Name of a client to make a certificate for as well, for nodes with --tls-client-ca. May be repeated
    #[arg(long = "client", value_name = "NAME")]
    clients: Vec<String>,
    /// How many days the certificates are valid, at most 825
    #[arg(long, value_name = "COUNT", default_value_t = DAYS_MAX, value_parser = clap::value_parser!(u64).range(1..=DAYS_MAX))]
    days: u64,
}

/// Makes the files, and prints what to do with them.
///
/// # Errors
/// `Config` for names that no certificate can have, and files that exist; `Io` as the file system reports.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let files = make(arguments)?;
    write_new(&arguments.directory, &files)?;
    output::print(&explain(arguments, &files))?;
    Ok(Exit::Success)
}

/// A file to write.
struct FileToWrite {
    name: String,
    text: String,
    /// What it is, for people.
    about: String,
}

/// From when until when certificates are valid, both included.
#[derive(Clone, Copy)]
struct Validity {
    from: SystemTime,
    until: SystemTime,
}

impl Validity {
    /// That of certificates which are made `now` for `days`: at least so many, unless that is the most there may be. They are valid somewhat
    /// earlier, for machines whose clock is behind.
    fn new(now: SystemTime, days: u64) -> Self {
        let from = now - CLOCK_SLACK;
        let longest = from + DAY * DAYS_MAX as u32 - Duration::from_secs(1);
        Self { from, until: longest.min(now + DAY * days as u32) }
    }

    /// The day of its end.
    fn last_day(self) -> String {
        humantime::format_rfc3339_seconds(self.until).to_string().chars().take(10).collect()
    }
}

fn make(arguments: &Arguments) -> Result<Vec<FileToWrite>> {
    let hosts: Vec<String> =
        THIS_MACHINE.iter().map(|host| (*host).to_owned()).chain(arguments.hosts.iter().cloned()).collect();
    if hosts.len() > NAMES_MAX || arguments.clients.len() > NAMES_MAX {
        return Err(Error::Config(format!("at most {NAMES_MAX} hosts and {NAMES_MAX} clients")));
    }
    arguments.hosts.iter().try_for_each(|host| check_host(host))?;
    arguments.clients.iter().try_for_each(|client| check_client(client))?;
    check_file_names(&arguments.clients)?;
    let validity = Validity::new(SystemTime::now(), arguments.days);
    let until = validity.last_day();
    let (ca, ca_pem, ca_key) = authority(validity)?;
    let server = signed("DynaRust node", &hosts, ExtendedKeyUsagePurpose::ServerAuth, validity, &ca)?;
    let file = |name: &str, text: String, about: String| FileToWrite { name: name.to_owned(), text, about };
    let mut files = vec![
        file("ca.pem", ca_pem.clone(), "the authority, for clients to trust".into()),
        file("ca-key.pem", ca_key, "its private key: whoever has it can pose as the node".into()),
        // With the authority, so that clients may trust this file as well.
        file(
            "server.pem",
            server.0 + &ca_pem,
            format!("the node's, for {}, until {until}", hosts.join(", ")),
        ),
        file("server-key.pem", server.1, "its private key".into()),
    ];
    for client in &arguments.clients {
        let (pem, key) = signed(client, &[], ExtendedKeyUsagePurpose::ClientAuth, validity, &ca)?;
        files.push(file(
            &format!("{client}.pem"),
            pem,
            format!("that of the client {client}, until {until}"),
        ));
        files.push(file(&format!("{client}-key.pem"), key, "its private key".into()));
    }
    Ok(files)
}

fn check_host(host: &str) -> Result<()> {
    let is_name = host.parse::<IpAddr>().is_ok()
        || rustls::pki_types::DnsName::try_from(host.trim_start_matches("*.")).is_ok();
    match is_name {
        true => Ok(()),
        false => Err(Error::Config(format!(
            "--host {host:?} is neither a host name nor an address: leave out scheme and port"
        ))),
    }
}

fn check_client(client: &str) -> Result<()> {
    tokens::plain_name(client).map_err(|why| Error::Config(format!("--client {why}")))?;
    match client.starts_with('.') {
        true => {
            Err(Error::Config(format!("--client {client}: its files would be hidden; choose another name")))
        }
        false => Ok(()),
    }
}

/// Refuses clients whose files would have the names of others, also where a file system takes A and a for the same.
fn check_file_names(clients: &[String]) -> Result<()> {
    let mut names = HashSet::new();
    for owner in ["ca", "server"].into_iter().chain(clients.iter().map(String::as_str)) {
        let owner = owner.to_ascii_lowercase();
        if ![format!("{owner}.pem"), format!("{owner}-key.pem")].into_iter().all(|name| names.insert(name)) {
            return Err(Error::Config(format!(
                "--client {owner}: its files would have the names of others; choose another name"
            )));
        }
    }
    Ok(())
}

fn parameters(name: &str, hosts: &[String], validity: Validity) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(hosts).map_err(failed)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let clock_is_wrong = |_| Error::Config("the clock of this machine is before 1970".into());
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_err(clock_is_wrong);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + since(validity.from)?;
    parameters.not_after = epoch + since(validity.until)?;
    Ok(parameters)
}

/// An authority, its certificate and its private key.
fn authority(validity: Validity) -> Result<(Issuer<'static, KeyPair>, String, String)> {
    let mut parameters = parameters("DynaRust development CA", &[], validity)?;
    // It signs certificates of nodes and clients, and no further authorities.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = key()?;
    let pem = parameters.self_signed(&key).map_err(failed)?.pem();
    let key_pem = key.serialize_pem();
    Ok((Issuer::new(parameters, key), pem, key_pem))
}

/// A certificate that the authority has signed, and its private key.
fn signed(
    name: &str,
    hosts: &[String],
    usage: ExtendedKeyUsagePurpose,
    validity: Validity,
    ca: &Issuer<'static, KeyPair>,
) -> Result<(String, String)> {
    let mut parameters = parameters(name, hosts, validity)?;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![usage];
    parameters.use_authority_key_identifier_extension = true;
    let key = key()?;
    let pem = parameters.signed_by(&key, ca).map_err(failed)?.pem();
    Ok((pem, key.serialize_pem()))
}

fn key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)
}

fn failed(error: rcgen::Error) -> Error {
    Error::Io(format!("making a certificate: {error}"))
}

/// Writes all files, or none if one of them exists or cannot be written.
fn write_new(directory: &Path, files: &[FileToWrite]) -> Result<()> {
    let is_new = !directory.exists();
    fs::create_dir_all(directory).map_err(|error| Error::io(directory.display(), &error))?;
    let exists = |path: &Path| {
        Error::Config(format!(
            "{} exists, and certificates are never overwritten: choose another directory, or remove it",
            path.display()
        ))
    };
    if let Some(path) =
        files.iter().map(|file| directory.join(&file.name)).find(|path| path.symlink_metadata().is_ok())
    {
        return Err(exists(&path));
    }
    let mut created = Vec::new();
    let written = files.iter().try_for_each(|file| {
        let path = directory.join(&file.name);
        let mode = if file.name.ends_with("-key.pem") { 0o600 } else { 0o644 };
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let mut opened = opened.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => exists(&path),
            _ => Error::io(path.display(), &error),
        })?;
        created.push(path.clone());
        opened.write_all(file.text.as_bytes()).map_err(|error| Error::io(path.display(), &error))
    });
    if written.is_err() {
        // As well as can be: what is left is named by the next attempt.
        created.iter().for_each(|path| drop(fs::remove_file(path)));
        if is_new {
            let _ = fs::remove_dir(directory);
        }
    }
    written
}

/// What the files are, and the lines that use them.
fn explain(arguments: &Arguments, files: &[FileToWrite]) -> String {
    let path = |name: &str| output::quoted(&arguments.directory.join(name));
    let rows: Vec<_> = files.iter().map(|file| (path(&file.name), file.about.clone())).collect();
    let (ca, server, key) = (path("ca.pem"), path("server.pem"), path("server-key.pem"));
    let (node, curl, command) = match arguments.clients.first() {
        None => Default::default(),
        Some(client) => {
            let (own, own_key) = (path(&format!("{client}.pem")), path(&format!("{client}-key.pem")));
            (
                format!(" --tls-client-ca {ca}"),
                format!(" --cert {own} --key {own_key}"),
                format!(" --tls-client-cert {own} --tls-client-key {own_key}"),
            )
        }
    };
    format!(
        "{}\nStart a node with them, and ask it:\n\nDynaRust 127.0.0.1:6660 --tls-cert {server} --tls-key {key}{node}\n\
         curl --cacert {ca}{curl} https://127.0.0.1:6660/healthz\n\
         DynaRust status https://127.0.0.1:6660 --tls-cert {ca}{command}\n",
        output::table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::http::{Certificates, ClientCertificates, Tls, server::certificate};

    fn arguments(directory: &Path, hosts: &[&str], clients: &[&str]) -> Arguments {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Arguments { directory: directory.into(), hosts: texts(hosts), clients: texts(clients), days: 30 }
    }

    #[test]
    fn a_server_takes_the_files_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("certs");
        let made = arguments(&directory, &["db.example.com", "10.0.0.7"], &["alice"]);
        assert_eq!(run(&made), Ok(Exit::Success));
        let file = |name: &str| directory.join(name);
        let tls = Tls {
            cert: file("server.pem"),
            key: file("server-key.pem"),
            client_ca: Some(file("ca.pem")),
            clients: ClientCertificates::Required,
        };
        Certificates::load(tls).expect("valid");
        let alice = crate::http::server::tls::certificates(&file("alice.pem")).expect("one");
        assert_eq!(&*certificate::name(&alice[0]), "alice");
        for key in ["ca-key.pem", "server-key.pem", "alice-key.pem"] {
            assert_eq!(fs::metadata(file(key)).expect("a file").permissions().mode() & 0o777, 0o600, "{key}");
        }
        let before = fs::read(file("ca.pem")).expect("a file");
        for name in ["ca.pem", "ca-key.pem", "server.pem", "alice.pem"] {
            fs::remove_file(file(name)).expect("removed");
        }
        let refused = run(&made).expect_err("some files are left").to_string();
        assert!(refused.contains("-key.pem exists"), "{refused}");
        assert!(!file("ca.pem").exists() && !before.is_empty(), "not even a part is written");
    }

    /// The default was 826 days: one more than Apple's systems take.
    #[test]
    fn certificates_are_valid_for_as_long_as_asked_and_at_most_825_days() {
        let now = UNIX_EPOCH + DAY * 20_000 + Duration::from_secs(86_399);
        for days in [1, 30, DAYS_MAX - 1] {
            let Validity { from, until } = Validity::new(now, days);
            assert!(from < now && until == now + DAY * days as u32, "{days}");
        }
        let Validity { from, until } = Validity::new(now, DAYS_MAX);
        let second = Duration::from_secs(1);
        assert_eq!(until.duration_since(from).expect("later") + second, DAY * DAYS_MAX as u32);
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("certs");
        let file = |name: &str| FileToWrite { name: name.into(), text: "x".into(), about: String::new() };
        assert!(write_new(&directory, &[file("a.pem"), file("absent/b.pem")]).is_err());
        assert!(!directory.exists());
        fs::create_dir(&directory).expect("created");
        assert!(write_new(&directory, &[file("a.pem"), file("absent/b.pem")]).is_err());
        assert_eq!(fs::read_dir(&directory).expect("it was there").count(), 0);
    }

    #[test]
    fn names_that_no_certificate_can_have_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for (hosts, clients) in [
            (&["https://a"][..], &[][..]),
            (&["a:6660"], &[]),
            (&[""], &[]),
            (&[], &["server"]),
            (&[], &["ca-key"]),
            (&[], &["Server-Key"]),
            (&[], &["CA"]),
            (&[], &["alice", "Alice"]),
            (&[], &["alice-key", "alice"]),
            (&[], &[".alice"]),
            (&[], &["a/b"]),
            (&[], &[".."]),
        ] {
            let refused = run(&arguments(folder.path(), hosts, clients));
            assert!(matches!(refused, Err(Error::Config(_))), "{hosts:?} {clients:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
