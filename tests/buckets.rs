//! Backups in a bucket, on a real server of the protocol of S3 (moto) on the loopback. They are built with the feature `s3` only, and skip loudly
//! where there is no `moto_server` (`pip install 'moto[server]'`).

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread,
};

use serde_json::Value;

use crate::harness::{
    DEADLINE, Node, Outcome, Setup,
    cluster::{SECRET, free_address},
    wait_until,
};

/// Starts the server, says when, and ends it when nobody holds the other end of stdin any more.
const SHELL: &str =
    r#"moto_server -H "$0" -p "$1" </dev/null >/dev/null 2>&1 & echo $!; read -r end; kill -9 $! && wait $!"#;

/// It looks at no signature until it is told to, but lets nobody without one remove anything.
const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A server of buckets, with the bucket `backups`.
struct Server {
    shell: Child,
    end: Option<ChildStdin>,
    address: String,
    /// The directory for temporary files of the commands that use it.
    temporary: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.take();
        // An error means that it has ended.
        let _ = self.shell.wait();
    }
}

impl Server {
    fn start() -> Option<Self> {
        let mut help = Command::new("moto_server");
        help.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !help.status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: there is no moto_server: pip install 'moto[server]'");
            return None;
        }
        let address = free_address();
        let (host, port) = address.rsplit_once(':').expect("a host and a port");
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, host, port]).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("a shell starts it");
        let mut pid = String::new();
        let stdout = shell.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut pid).expect("the shell says the process id");
        let (end, temporary) = (shell.stdin.take(), tempfile::tempdir().expect("a directory"));
        let server = Self { shell, end, address, temporary };
        wait_until("the server of buckets answers", DEADLINE * 3, || {
            TcpStream::connect(&server.address).is_ok()
        });
        assert!(server.send("PUT", "/backups", "").contains(" 200 "));
        Some(server)
    }

    fn send(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connects");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nAuthorization: {SIGNED}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).expect("sends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answers");
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_at(&self.address, arguments)
    }

    fn run_at(&self, address: &str, arguments: &[&str]) -> Outcome {
        let setup = Setup::new()
            .environment("CLUSTER_SECRET", SECRET)
            .environment("TMPDIR", self.temporary.path())
            .environment("AWS_ACCESS_KEY_ID", "key")
            .environment("AWS_SECRET_ACCESS_KEY", "secret")
            .environment("AWS_REGION", "us-east-1")
            .environment("AWS_ENDPOINT_URL", format!("http://{address}"));
        setup.run(arguments).1
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code(), Some(0), "{arguments:?}: {outcome:?}");
        outcome.stdout
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32, why: &str) {
        let outcome = self.run(arguments);
        assert!(outcome.code() == Some(code) && outcome.log.contains(why), "{arguments:?}: {outcome:?}");
    }

    /// The address of one that passes connections on to it until it has taken so many bytes, and then breaks off all of them: a server that
    /// goes away.
    fn going_away_after(&self, bytes: u64) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (server, left) = (self.address.clone(), Arc::new(AtomicI64::new(bytes as i64)));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if left.load(Ordering::Relaxed) > 0 {
                    let (server, left) = (TcpStream::connect(&server).expect("connects"), Arc::clone(&left));
                    pass_on(client, server, left).expect("clones");
                }
            }
        });
        address
    }
}

fn pass_on(mut client: TcpStream, mut server: TcpStream, left: Arc<AtomicI64>) -> io::Result<()> {
    let (mut to_client, mut from_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        // Whoever breaks it off ends the copy.
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let mut piece = [0; 1024];
        while let Ok(length @ 1..) = client.read(&mut piece) {
            if left.fetch_sub(length as i64, Ordering::Relaxed) <= 0
                || server.write_all(&piece[..length]).is_err()
            {
                break;
            }
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    });
    Ok(())
}

/// What a directory gets, a bucket gets: a backup and one with it as its base, which can be verified, compared and restored; and what was altered
/// there, or is there in part only, is refused.
#[test]
fn a_backup_in_a_bucket_is_as_one_in_a_directory() {
    let Some(server) = Server::start() else { return };
    let node: Node = Setup::new().environment("CLUSTER_SECRET", SECRET).start();
    let rows: String = (0..300).map(|row| format!("{{\"key\":\"k{row}\",\"value\":{row}}}\n")).collect();
    node.post("/_/import?table=t", rows).expect(200);
    let at = node.address().to_string();
    let (monday, tuesday) = ("s3://backups/node/monday", "s3://backups/node/tuesday");
    let made = server.done(&["backup", monday, "--at", &at, "--json"]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert!(server.done(&["verify", monday]).contains("monday: sound, made "));
    server.refused(&["backup", monday, "--at", &at], 1, "exists already");

    // The manifest is on its way when the server goes away. What is there is no backup, and the next one takes its place.
    let bytes = made["bytes_written"].as_u64().expect("a number") + 1500;
    let broken = server.run_at(&server.going_away_after(bytes), &["backup", tuesday, "--at", &at]);
    assert!(broken.code() == Some(1) && broken.log.contains("cannot be reached, or broke off"), "{broken:?}");
    assert!(server.send("GET", "/backups?prefix=node/tuesday", "").contains("tuesday/content/000001"));
    server.refused(&["verify", tuesday], 1, "its id, which is sent last, is missing");

    node.put("/t/key/later", r#"{"value":1}"#).expect(200);
    let made = server.done(&["backup", tuesday, "--base", monday, "--at", &at, "--json"]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert!(made["bytes_shared"].as_u64() > Some(0), "{made}");
    let id = made["id"].as_str().expect("an id");
    server.done(&["verify", tuesday, "--id", id]);
    server.refused(&["verify", monday, "--id", id], 1, "is not the backup");
    let differing = server.run(&["diff", monday, tuesday]);
    assert!(differing.code() == Some(1) && differing.stdout.contains("t later"), "{differing:?}");
    let shelf = tempfile::tempdir().expect("a directory");
    let restored = shelf.path().join("restored");
    let text = server.done(&["restore", tuesday, "--data", restored.to_str().expect("text")]);
    assert!(text.contains("301 keys"), "{text}");

    // Its base may go.
    for object in ["id", "content/manifest.json", "content/000001.ndjson.zst"] {
        server.send("DELETE", &format!("/backups/node/monday/{object}"), "");
    }
    server.refused(&["verify", monday], 3, "there is no backup in s3://backups/node/monday");
    server.done(&["verify", tuesday]);
    assert_refuses_what_was_altered(&server, tuesday);
    // Nobody but this key is let in.
    server.send("POST", "/moto-api/reset-auth", "0");
    server.refused(&["verify", tuesday], 1, "the server refuses the credentials of AWS_ACCESS_KEY_ID");
    let left = fs::read_dir(server.temporary.path()).expect("reads").count();
    assert_eq!(left, 0, "commands leave nothing behind");
}

fn assert_refuses_what_was_altered(server: &Server, backup: &str) {
    let path = |object: &str| format!("{}/{object}", backup.replace("s3:/", ""));
    let chunk = path("content/000001.ndjson.zst");
    for (method, object, body, why) in [
        ("PUT", path("content/more"), "x", "content/more is not part of it"),
        ("DELETE", path("content/more"), "", "sound"),
        ("PUT", path("content/000009.ndjson.zst"), "x", "000009.ndjson.zst is not part of it"),
        ("DELETE", path("content/000009.ndjson.zst"), "", "sound"),
        ("PUT", chunk.clone(), "x", "its files have other lengths"),
        ("DELETE", chunk, "", "000001.ndjson.zst is missing"),
        ("DELETE", path("content/manifest.json"), "", "manifest.json is missing"),
    ] {
        server.send(method, &object, body);
        let checked = server.run(&["verify", backup]);
        assert!(
            checked.stdout.contains(why) || checked.code() == Some(1) && checked.log.contains(why),
            "{why}: {checked:?}"
        );
        assert!(!checked.log.contains("dynarust-temporary"), "{checked:?}");
    }
}

/// A bucket that is not there, a server that is not, and credentials that are not are told before a node is asked for its rows.
#[test]
fn what_is_wrong_with_a_bucket_is_told_first() {
    let Some(server) = Server::start() else { return };
    // There is no node: were it asked first, it would be 5.
    let nobody = free_address();
    let backup = |name: &'static str| ["backup", name, "--at", nobody.as_str()];
    server.refused(&backup("s3://none/monday"), 3, "the server has no bucket none");
    server.refused(&backup("s3://backups"), 2, "the name of the bucket or of the backup is missing");
    server.refused(&backup("s3://backups/monday"), 5, "");
    server.refused(&["diff", "s3://backups/monday", "s3://backups/tuesday"], 1, "there is no backup");
    let gone = server.run_at(&nobody, &["verify", "s3://backups/monday"]);
    assert!(gone.code() == Some(1) && gone.log.contains("cannot be reached"), "{gone:?}");
    let without = Setup::new().environment("AWS_ENDPOINT_URL", format!("http://{}", server.address));
    let without = without.environment("AWS_ACCESS_KEY_ID", "").environment("AWS_SECRET_ACCESS_KEY", "");
    let outcome = without.run(&["verify", "s3://backups/monday"]).1;
    assert!(outcome.code() == Some(2) && outcome.log.contains("AWS_ACCESS_KEY_ID"), "{outcome:?}");
}
