//! What whoever runs a node reads: its log, its banner, its refusals, and the image's recipe.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{
    DEADLINE, Node, Outcome, Setup,
    cluster::{setup, wait_until_ready},
    wait_until,
};

/// Exit codes of the contract, section 6.
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

fn refused(setup: Setup) -> Outcome {
    setup.try_start().err().expect("it does not start")
}

#[track_caller]
fn assert_says(outcome: &Outcome, code: Option<i32>, words: &[&str]) {
    assert_eq!(outcome.code(), code, "{outcome:?}");
    for word in words {
        assert!(outcome.log.contains(word), "{word}: {outcome:?}");
    }
}

#[test]
fn a_node_logs_one_line_when_it_starts_and_one_when_it_has_stopped() {
    let node = Node::start();
    let address = node.address();
    let (_, outcome) = node.terminate();
    assert_eq!(outcome.stdout, format!("listening on {address}\n"), "the banner is for a terminal");
    let lines: Vec<_> = outcome.log.lines().collect();
    assert_eq!(lines.len(), 3, "{outcome:?}");
    let url = format!("url=http://{address} ");
    assert!(lines[0].contains("started version=0.1.0") && lines[0].contains(&url), "{}", lines[0]);
    assert!(lines[0].ends_with("storage.db"), "{}", lines[0]);
    assert!(lines[1].contains("SIGTERM: stopping"), "{}", lines[1]);
    let took = lines[2].rsplit_once("stopped after ").and_then(|(_, took)| took.strip_suffix(" ms"));
    assert!(took.is_some_and(|took| took.parse::<u64>().is_ok()), "{}", lines[2]);
}

/// The banner, of which programs that collect a log understand nothing, was printed everywhere.
#[test]
fn a_person_at_a_terminal_gets_a_line_to_paste() {
    let folder = tempfile::tempdir().expect("a directory");
    let command = format!("exec {} 127.0.0.1:0", env!("CARGO_BIN_EXE_DynaRust"));
    let output = folder.path().join("typescript");
    // Of util-linux: it runs the command on a terminal of its own.
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--command", &command]).arg(&output).current_dir(folder.path());
    let Ok(mut child) = script.stdin(Stdio::null()).stdout(Stdio::null()).spawn() else {
        eprintln!("SKIPPED: there is no `script` here to make a terminal");
        return;
    };
    let said = || String::from_utf8_lossy(&fs::read(&output).unwrap_or_default()).into_owned();
    wait_until("it serves", DEADLINE, || said().contains("listening on 127.0.0.1:"));
    // Not the terminal's end: where hang-ups are ignored, as under nohup, the node would outlive it.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let children = fs::read_to_string(children).expect("the children of a process");
    let node = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    kill_process(node.expect("the node runs"), Signal::TERM).expect("it can be ended");
    child.wait().expect("it ends with the node");
    for part in ["DynaRust 0.1.0", "durability  always", "curl -X PUT http://127.0.0.1:"] {
        assert!(said().contains(part), "{part}: {}", said());
    }
}

/// Of a node that logs in JSON, the banner, errors of the command line and the error that ended it were text.
#[test]
fn a_log_in_json_is_one_object_a_line_from_the_start_to_the_end() {
    let json = |setup: Setup| setup.flag("--log-format", "json").environment("RUST_LOG", "info");
    let node = json(Setup::new()).start();
    let address = node.address().to_string();
    let (_, outcome) = node.terminate();
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    let messages = messages(&outcome);
    assert_eq!(messages.first().map(String::as_str), Some("started"), "{messages:?}");
    assert!(messages.last().is_some_and(|last| last.starts_with("stopped after ")), "{messages:?}");

    let other = Node::start();
    let taken = other.address().to_string();
    for (setup, code, words) in [
        (json(Setup::new()).flag("--cache", "1B"), USAGE, "--cache"),
        (json(Setup::new()).argument("--no-such-flag"), USAGE, "--no-such-flag"),
        (json(Setup::new()).listen(&taken), FAILED, "port is in use"),
        (json(Setup::new()).listen(&address).join(&address), USAGE, "own address"),
        (
            Setup::new().environment("DYNARUST_LOG_FORMAT", "json").flag("--config", "absent.toml"),
            USAGE,
            "absent.toml",
        ),
    ] {
        let outcome = refused(setup);
        assert_says(&outcome, code, &[]);
        let last = self::messages(&outcome).pop();
        assert!(last.is_some_and(|last| last.contains(words)), "{words}: {outcome:?}");
    }
}

/// What each line of a log in JSON says; fails where one is no object.
#[track_caller]
fn messages(outcome: &Outcome) -> Vec<String> {
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        line["message"].as_str().unwrap_or_else(|| panic!("no message: {line}")).to_owned()
    };
    outcome.log.lines().map(read).collect()
}

/// A member that was down was a line of level INFO, `member node=.. state=Down { since_ms: .. }`, and a link had `role=Initiator`.
#[test]
fn a_member_that_is_down_is_a_warning_and_a_join_that_works_is_none() {
    let first = setup().start();
    let second = setup().join(&first.address().to_string()).start();
    wait_until_ready(&second);
    let address = second.address().to_string();
    for node in [&first, &second] {
        let log = node.log();
        assert!(!log.contains("WARN") && !log.contains("waiting for"), "{log}");
    }
    let id = second.view()["node"].as_str().expect("an id").to_owned();
    let down = format!("node {address} ({}) is down", &id[..8]);
    drop(second);
    wait_until("the first says that it is down", DEADLINE, || first.log().contains(&down));
    let log = first.log();
    let line = log.lines().find(|line| line.contains(&down)).expect("just found");
    assert!(line.contains("WARN"), "{line}");
    for debug_text in [" { ", "since_ms", "Initiator", "Responder", "Some("] {
        assert!(!log.contains(debug_text), "{debug_text}: {log}");
    }
}

/// The first line was that a connection had been lost.
#[test]
fn a_wrong_secret_is_the_first_thing_that_is_said() {
    const SECRET: &str = "correct horse battery staple";
    let with = |secret: &str| Setup::new().environment("CLUSTER_SECRET", secret);
    let first = with(SECRET).start();
    let second = with("another horse battery staple").join(&first.address().to_string()).start();
    for node in [&first, &second] {
        wait_until("it warns", DEADLINE, || node.log().contains("WARN"));
        let log = node.log();
        let warned = log.lines().find(|line| line.contains("WARN")).expect("just found");
        assert!(warned.contains("no secret in common") && warned.contains("CLUSTER_SECRET"), "{warned}");
    }
}

#[test]
fn without_an_address_it_is_6660_of_this_machine_and_a_port_is_one_of_this_machine() {
    let (_, outcome) = Setup::new().run(&["config"]);
    let listen: Vec<_> = outcome.stdout.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(listen, ["listen", "127.0.0.1:6660", "default"], "{outcome:?}");
    for port in ["0", ":0"] {
        let node = Setup::new().listen(port).start();
        assert!(node.address().ip().is_loopback(), "{}", node.address());
        let port = node.address().port();
        for asked in [format!("{port}"), format!(":{port}")] {
            let (_, status) = Setup::new().run(&["status", &asked]);
            assert_eq!(status.code(), Some(0), "{status:?}");
        }
    }
    let outcome = Setup::new().listen("stauts").try_start().err().expect("it does not start");
    assert_says(&outcome, USAGE, &["stauts", "127.0.0.1:6660", "Did you mean the command status?"]);
}

#[test]
fn in_a_container_a_node_says_what_is_missing() {
    let unreachable = "nobody outside it can reach the node";
    let folder = tempfile::tempdir().expect("a directory");
    let log = folder.path().join("log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let first_process = |arguments: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_DynaRust")]).args(arguments);
        unshare.env("container", "podman").env_remove("CLUSTER_SECRET").env_remove("RUST_LOG");
        let log = fs::File::create(&log).expect("a file");
        unshare.current_dir(folder.path()).stdout(Stdio::null()).stderr(log);
        unshare.spawn()
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: it takes root to be the first process of a container");
        return;
    }
    for (listen, is_warned) in [("127.0.0.1:0", true), ("0.0.0.0:0", false)] {
        let mut node =
            first_process(&[listen, "--log", "warn,DynaRust=info,dynarust=info"]).expect("unshare runs");
        let end = if is_warned { unreachable } else { "only nodes of this machine can join" };
        wait_until("it has started", DEADLINE, || said().contains(end));
        node.kill().expect("it runs");
        node.wait().expect("it ends");
        assert_eq!(said().contains(unreachable), is_warned, "{}", said());
        assert_eq!(
            said().contains(" instead") && said().contains("listen on 0.0.0.0:"),
            is_warned,
            "{}",
            said()
        );
    }
    let alone = first_process(&["0.0.0.0:0", "dynarust-node1:6660"]).expect("unshare runs").wait();
    assert_eq!(alone.expect("it ends").code(), USAGE, "{}", said());
    for words in ["JOIN dynarust-node1:6660", "docker run -e CLUSTER_SECRET=..."] {
        assert!(said().contains(words), "{}", said());
    }
    // Elsewhere there is no container to speak of.
    let elsewhere = refused(Setup::new().join("dynarust-node1:6660"));
    assert!(!elsewhere.log.contains("docker run"), "{elsewhere:?}");
}

/// It said "cannot create the storage directory storage.db", and not where that was, for whom, nor how to mend it. Needs root, to run a
/// node as somebody else.
#[test]
fn a_directory_of_somebody_else_is_named_with_the_line_that_mends_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: it takes root to run a node as somebody else");
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    open(folder.path());
    let (binary, home) = (folder.path().join("DynaRust"), folder.path().join("home"));
    // By a process of its own: what this one holds open for writing, another test's new process holds too for a moment, and then the
    // copy cannot be run ("text file busy").
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_DynaRust")).arg(&binary).status();
    assert!(copied.expect("cp runs").success(), "a copy that others may run");
    fs::create_dir(&home).expect("a directory");
    open(&home);
    let output = Command::new(&binary).arg("127.0.0.1:0").uid(6660).gid(6660).current_dir(&home).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), FAILED, "{said}");
    let home = home.display();
    for words in [
        format!("cannot create the storage directory {home}/storage.db as user 6660"),
        format!("{home} belongs to user 0"),
        format!("chown 6660:6660 {home} "),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
}

/// What of the image's recipe cannot be left to whoever builds it next.
#[test]
fn the_image_runs_as_a_number_with_a_command_a_health_check_and_its_version() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name);
    let image = read("Dockerfile");
    for line in [
        "USER 6660:6660",
        r#"ENTRYPOINT ["DynaRust"]"#,
        r#"CMD ["0.0.0.0:6660"]"#,
        r#"    CMD ["DynaRust", "health"]"#,
        concat!("ARG VERSION=", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(image.lines().any(|known| known == line), "{line}");
    }
    assert!(image.contains("CARGO_PROFILE_RELEASE_STRIP=symbols"));
    for label in ["version=\"$VERSION\"", "revision=\"$REVISION\""] {
        assert!(image.contains(&format!("org.opencontainers.image.{label}")), "{label}");
    }
    let compose = read("compose.yaml");
    // docker-compose 1.29 refuses a name at the top.
    assert!(!compose.lines().any(|line| line.starts_with("name:")));
    let ports: Vec<_> = compose.lines().filter(|line| line.contains("ports:")).collect();
    assert!(ports.len() == 3 && ports.iter().all(|line| line.contains("\"127.0.0.1:")), "{ports:?}");
    // Those of the README's containers, which may run on the same machine.
    for name in ["dynarust-node", "dynarust-data", "dynanet", "container_name"] {
        assert!(!compose.contains(name), "{name}");
    }
}

/// The image builds its dependencies from the manifests and empty sources. A benchmark was added to a manifest, and no image could be built any more.
#[test]
fn the_image_has_a_file_for_each_target_of_the_manifests_it_begins_with() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let image = fs::read_to_string(root.join("Dockerfile")).expect("the image's recipe can be read");
    let place = tempfile::tempdir().expect("a directory");
    let (begins, _) = image.split_once("&& cargo build").expect("a first build");
    let begins = begins.replace("\\\n", " ");
    for line in begins.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let to = place.path().join(words.pop().expect("a place"));
        for from in words {
            fs::create_dir_all(&to).expect("a directory");
            let copied = Command::new("cp").arg("-r").args([&root.join(from), &to]).status();
            assert!(copied.expect("cp runs").success(), "{from}");
        }
    }
    let makes = begins.lines().rev().find_map(|line| line.strip_prefix("RUN ")).expect("what it makes");
    let made = Command::new("sh").args(["-c", makes]).current_dir(&place).output().expect("sh runs");
    assert!(made.status.success(), "{made:?}");
    // To name a binary that is not there is the quickest way to have the manifests read as for a build.
    let asked = ["build", "--offline", "--locked", "--bin", "none"];
    let read = Command::new(env!("CARGO")).args(asked).current_dir(&place).output().expect("cargo runs");
    let said = String::from_utf8_lossy(&read.stderr);
    assert!(said.contains("no bin target named `none`"), "{said}");
}

/// `members` of a healthy cluster showed a lag, and nothing that said that all is well.
#[test]
fn members_at_rest_are_in_step_with_keys_beside_rows_and_who_left_has_left() {
    let first = setup().start();
    let second = setup().join(&first.address().to_string()).start();
    wait_until_ready(&second);
    first.put("/t/key/a?w=2", r#"{"value":1}"#).expect(200);
    first.put("/t/key/b?w=2", r#"{"value":1}"#).expect(200);
    first.delete("/t/key/b?w=2").expect(200);
    let asked = first.address().to_string();
    let other = second.address().to_string();
    let line = || {
        let (_, members) = Setup::new().run(&["members", &asked]);
        let line = members.stdout.lines().find(|line| line.contains(&other)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{members:?}"))
    };
    // Two rows, one of them a tombstone; one key.
    let healthy = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words[2..5] == ["alive", "in", "step"] && words[6..10] == ["s", "ago", "1", "2"]
    };
    wait_until("it is in step", 2 * DEADLINE, || healthy(&line()));
    let (_setup, _) = second.terminate();
    wait_until("it has left", DEADLINE, || line().contains(" left "));
    wait_until("the log says so", Duration::from_secs(5), || {
        first.log().contains(&format!("node {other} (")) && first.log().contains(") left")
    });
}
