//! Private networks for tests, for root on Linux: namespaces joined by a bridge, where links can be cut in one or both directions and made
//! to lose packets. Elsewhere there are none, and a test that needs one says so and passes.
//!
//! The bridge is in a namespace too, so nothing outside sees any of it. Tests talk to a node from inside its namespace over the loopback,
//! which still works while the node is cut off.

use std::{
    fs::File,
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::DEADLINE;

/// A namespace's end of its cable to the bridge.
const WIRE: &str = "wire";

/// Namespaces joined by a bridge. Removed at the end, even after a panic.
pub struct Network {
    hub: Namespace,
    members: Vec<Namespace>,
}

/// One network namespace, by name.
#[derive(Clone, Debug)]
pub struct Namespace(String);

impl Network {
    /// A network of this many connected namespaces. `None` if that is impossible here; says why.
    pub fn new(members: usize) -> Option<Self> {
        if !cfg!(target_os = "linux") || run("id", &["-u"]).is_none_or(|user| user.stdout != b"0\n") {
            say("network namespaces need root on Linux");
            return None;
        }
        run("nft", &["--version"])?;
        // If this much is allowed, so is the rest.
        let mut network = Self { hub: Namespace::add()?, members: Vec::new() };
        network.hub.ip("link add bridge type bridge");
        network.hub.ip("link set bridge up");
        for member in 0..members {
            network.members.push(Namespace::add()?);
            network.attach(member);
        }
        Some(network)
    }

    fn attach(&self, member: usize) {
        let namespace = &self.members[member];
        self.hub.ip(&format!("link add port{member} type veth peer name {WIRE} netns {}", namespace.0));
        self.hub.ip(&format!("link set port{member} master bridge up"));
        namespace.ip(&format!("address add {}/24 dev {WIRE}", host(member)));
        namespace.ip(&format!("link set {WIRE} up"));
        namespace.ip("link set lo up");
        namespace.nft("add table inet cut");
        namespace.nft("add chain inet cut in { type filter hook input priority 0; }");
    }

    /// A member's namespace.
    pub fn namespace(&self, member: usize) -> Namespace {
        self.members[member].clone()
    }

    /// The address that a member's node listens on.
    pub fn address(&self, member: usize) -> String {
        format!("{}:6660", host(member))
    }

    /// From now on, nothing that `from` sends reaches `to`. The other direction stays open.
    pub fn cut(&self, from: usize, to: usize) {
        self.rule(to, &format!("ip saddr {} counter drop", host(from)));
    }

    /// Cuts both directions between two members.
    pub fn cut_between(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Cuts both directions between all members.
    pub fn cut_all(&self) {
        for to in 0..self.members.len() {
            self.rule(to, &format!("iifname {WIRE} counter drop"));
        }
    }

    /// From now on, each packet is lost with this probability.
    pub fn lose(&self, percent: u32) {
        for to in 0..self.members.len() {
            self.rule(to, &format!("iifname {WIRE} numgen random mod 100 < {percent} counter drop"));
        }
    }

    /// Restores all connections.
    pub fn heal(&self) {
        for namespace in &self.members {
            namespace.nft("flush chain inet cut in");
        }
    }

    /// How many packets were lost since the last `heal`.
    pub fn lost(&self) -> u64 {
        let listed = |namespace: &Namespace| namespace.nft("list chain inet cut in");
        let rules: String = self.members.iter().map(listed).collect();
        let counted = rules.split("packets ").skip(1).map(|rest| rest.split(' ').next().unwrap_or_default());
        counted.map(|count| count.parse::<u64>().expect("a counter")).sum()
    }

    fn rule(&self, to: usize, rule: &str) {
        self.members[to].nft(&format!("add rule inet cut in {rule}"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.members.iter().chain([&self.hub]) {
            run("ip", &["netns", "delete", &namespace.0]);
        }
    }
}

impl Namespace {
    fn add() -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dynarust-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        Some(Self(name))
    }

    /// A command that runs a program in this namespace. The program replaces its launcher, so the process id is the command's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.env("PATH", path()).args(["netns", "exec", &self.0, program]);
        command
    }

    /// Connects from inside this namespace.
    #[cfg(target_os = "linux")]
    pub fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        use std::os::fd::AsFd;

        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

        let namespace = File::open(format!("/run/netns/{}", self.0))?;
        // A socket stays in the namespace of the thread that opened it, so use a thread just for that.
        let connect = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpStream::connect_timeout(&address, DEADLINE)
        };
        thread::scope(|scope| scope.spawn(connect).join().expect("connecting does not panic"))
    }

    /// There are no namespaces here.
    #[cfg(not(target_os = "linux"))]
    pub fn connect(&self, _: SocketAddr) -> io::Result<TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn ip(&self, command: &str) {
        let arguments: Vec<&str> = ["-n", &self.0].into_iter().chain(command.split(' ')).collect();
        run("ip", &arguments).unwrap_or_else(|| panic!("ip {command} in {}", self.0));
    }

    fn nft(&self, command: &str) -> String {
        let output = run("ip", &["netns", "exec", &self.0, "nft", command]);
        let output = output.unwrap_or_else(|| panic!("nft {command} in {}", self.0));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn host(member: usize) -> String {
    format!("10.66.60.{}", member + 1)
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Runs a program to its end. If it fails, prints why and returns `None`.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).env("PATH", path()).output() {
        Ok(output) if output.status.success() => return Some(output),
        Ok(output) => say(&format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => say(&format!("{program}: {error}")),
    }
    None
}

/// Prints what is missing, bypassing the capture of test output: a test that is skipped must be visible.
pub fn say(what: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "NOT TESTED: {}", what.trim_end());
}
