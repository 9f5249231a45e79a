//! Clusters of real nodes: start, stop and wait for single members, and compare them with each other and with what was written.

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener,
    ops::Index,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    DEADLINE, Node, Outcome, Setup,
    http::{Connection, Request, Response},
    network::Network,
    wait_until,
};

/// The secret of all clusters here.
pub const SECRET: &str = "three may keep it if two of them are nodes";

/// How long a cluster may take to converge. A difference shows two seconds after it arises at the earliest, and a peer that was away is
/// dialed with growing pauses.
pub const CONVERGENCE: Duration = Duration::from_secs(45);

/// Nodes of one cluster. Each keeps its directory and address.
pub struct Cluster {
    members: Vec<Place>,
}

enum Place {
    Running(Node),
    Stopped(Setup),
    /// Only while one state changes to the other.
    Changing,
}

/// A directory and an address for a node that has the secret and compares ten times a second.
pub fn setup() -> Setup {
    bare_setup().environment("CLUSTER_SECRET", SECRET)
}

/// As `setup`, without a secret.
pub fn bare_setup() -> Setup {
    Setup::new().listen(&free_address()).flag("--sync-interval", "100ms")
}

/// A local address that no other test uses. It stays the node's over restarts: on Linux each node has a loopback address of its own, with a
/// port outside the range for outgoing connections.
pub fn free_address() -> String {
    let process = std::process::id();
    first_free(|number| {
        if cfg!(target_os = "linux") {
            let port = 10_000 + process / 250 % 20_000;
            format!("127.{}.{}.{}:{port}", 1 + process % 250, number / 250, 1 + number % 250)
        } else {
            "127.0.0.1:0".to_owned()
        }
    })
}

/// As `free_address`, but of 127.0.0.1: what browsers show of every other loopback address.
pub fn free_localhost_address() -> String {
    let process = std::process::id();
    first_free(|number| format!("127.0.0.1:{}", 10_000 + (process * 50 + number) % 20_000))
}

/// The first address of those of all numbers that nobody listens on.
fn first_free(address: impl Fn(u32) -> String) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        if let Ok(listener) = TcpListener::bind(address(NEXT.fetch_add(1, Ordering::Relaxed))) {
            return listener.local_addr().expect("it has an address").to_string();
        }
    }
}

impl Cluster {
    /// A cluster of this size that holds the same data and whose members are linked.
    pub fn start(members: usize) -> Self {
        Self::start_with(members, |setup| setup)
    }

    /// As `start`, with each setup changed.
    pub fn start_with(members: usize, change: impl Fn(Setup) -> Setup) -> Self {
        Self::start_from((0..members).map(|_| change(setup())).collect())
    }

    /// A node in each namespace of a network.
    pub fn start_in(network: &Network, members: usize) -> Self {
        Self::start_in_with(network, members, |setup| setup)
    }

    /// As `start_in`, with each setup changed.
    pub fn start_in_with(network: &Network, members: usize, change: impl Fn(Setup) -> Setup) -> Self {
        let setup = |member| setup().listen(&network.address(member)).inside(network.namespace(member));
        Self::start_from((0..members).map(|member| change(setup(member))).collect())
    }

    /// Starts the first node, and the others as nodes that join it.
    pub fn start_from(setups: Vec<Setup>) -> Self {
        let first = setups[0].listen.clone();
        let setups = setups.into_iter().enumerate();
        let setups = setups.map(|(at, setup)| if at == 0 { setup } else { setup.join(&first) });
        let cluster = Self { members: setups.map(|setup| Place::Running(setup.start())).collect() };
        cluster.wait_until_ready_and_linked();
        cluster
    }

    /// Adds a node that joins through the first running one.
    pub fn add(&mut self, setup: Setup) -> usize {
        let through = self.running().next().expect("one runs").address().to_string();
        self.place(setup.join(&through))
    }

    /// Adds a node that joins through this member.
    pub fn add_through(&mut self, setup: Setup, member: usize) -> usize {
        let through = self.address(member);
        self.place(setup.join(&through))
    }

    /// Adds a node that finds the others as its setup says.
    pub fn place(&mut self, setup: Setup) -> usize {
        self.members.push(Place::Running(setup.start()));
        self.members.len() - 1
    }

    /// Adds a node that is already running.
    pub fn adopt(&mut self, node: Node) -> usize {
        self.members.push(Place::Running(node));
        self.members.len() - 1
    }

    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().filter_map(|place| match place {
            Place::Running(node) => Some(node),
            Place::Stopped(_) | Place::Changing => None,
        })
    }

    /// Whether a member runs.
    pub fn is_running(&self, member: usize) -> bool {
        matches!(self.members[member], Place::Running(_))
    }

    /// The address of a member, running or not.
    pub fn address(&self, member: usize) -> String {
        match &self.members[member] {
            Place::Running(node) => node.address().to_string(),
            Place::Stopped(setup) => setup.listen.clone(),
            Place::Changing => unreachable!("a change is complete when it returns"),
        }
    }

    /// Ends a member as `kill -9` does.
    pub fn kill(&mut self, member: usize) {
        self.change(member, |place| match place {
            Place::Running(node) => Place::Stopped(node.kill()),
            Place::Stopped(_) | Place::Changing => panic!("it does not run"),
        });
    }

    /// Ends a member with SIGTERM, and returns how it ended.
    pub fn terminate(&mut self, member: usize) -> Outcome {
        self.end(member, Node::terminate)
    }

    /// Waits until a member ends by itself, and returns how it ended.
    pub fn wait(&mut self, member: usize) -> Outcome {
        self.end(member, Node::wait)
    }

    fn end(&mut self, member: usize, end: impl FnOnce(Node) -> (Setup, Outcome)) -> Outcome {
        let mut outcome = None;
        self.change(member, |place| match place {
            Place::Running(node) => {
                let (setup, ended) = end(node);
                outcome = Some(ended);
                Place::Stopped(setup)
            }
            Place::Stopped(_) | Place::Changing => panic!("it does not run"),
        });
        outcome.expect("it ended just now")
    }

    /// Restarts a stopped member as it was.
    pub fn restart(&mut self, member: usize) {
        self.restart_with(member, |setup| setup);
    }

    /// Restarts a stopped member with a changed setup.
    pub fn restart_with(&mut self, member: usize, change: impl FnOnce(Setup) -> Setup) {
        self.change(member, |place| match place {
            Place::Stopped(setup) => Place::Running(change(setup).start()),
            Place::Running(_) | Place::Changing => panic!("it runs"),
        });
    }

    /// The setup of a stopped member.
    pub fn setup(&self, member: usize) -> &Setup {
        match &self.members[member] {
            Place::Stopped(setup) => setup,
            Place::Running(_) | Place::Changing => panic!("it runs"),
        }
    }

    fn change(&mut self, member: usize, change: impl FnOnce(Place) -> Place) {
        let place = std::mem::replace(&mut self.members[member], Place::Changing);
        self.members[member] = change(place);
    }

    /// Waits until all running members are ready and linked with each other.
    pub fn wait_until_ready_and_linked(&self) {
        self.running().for_each(wait_until_ready);
        self.wait_until_linked();
    }

    /// Waits until all running members are linked with each other.
    pub fn wait_until_linked(&self) {
        for node in self.running() {
            for other in self.running().filter(|other| other.address() != node.address()) {
                let what = format!("{} is linked with {}", node.address(), other.address());
                wait_until(&what, CONVERGENCE, || {
                    let member = member(node, &other.address().to_string());
                    member["state"] == "alive" && member["linked"] == true
                });
            }
        }
    }

    /// Waits until all running members have the same roots, and checks that their rows are equal. Returns how long it took.
    pub fn wait_until_equal(&self) -> Duration {
        let begun = Instant::now();
        while !self.is_equal() {
            if begun.elapsed() > CONVERGENCE {
                let held: Vec<_> = self.running().map(|node| (roots(node), node.view())).collect();
                panic!("not converged within {CONVERGENCE:?}: {held:#?}");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let took = begun.elapsed();
        let mut exports = self.running().map(|node| (node.address(), export(node)));
        let (_, first) = exports.next().expect("one runs");
        for (address, export) in exports {
            assert!(export == first, "{address} has the same roots as the first member, but other rows");
        }
        took
    }

    /// Waits until all running members know, durably, that all members hold what was written up to now.
    pub fn wait_until_agreed(&self) {
        // The second instant is found after the first is durable.
        for _ in 0..2 {
            let begun = Instant::now();
            for node in self.running() {
                wait_until(&format!("{} agrees", node.address()), CONVERGENCE, || {
                    let age_ms = node.view()["floor_age_ms"].as_u64();
                    age_ms.is_some_and(|age_ms| Duration::from_millis(age_ms) < begun.elapsed())
                });
            }
        }
    }

    fn is_equal(&self) -> bool {
        let mut all = self.running().map(roots);
        let first = all.next().expect("one runs");
        first.is_some() && all.all(|roots| roots == first)
    }

    /// The sum of a figure over all links of all running members.
    pub fn sum(&self, figure: &str) -> u64 {
        let figures = self.running().flat_map(|node| {
            let view = node.view();
            let members = view["members"].as_array().expect("members").clone();
            members.into_iter().map(|member| member[figure].as_u64().unwrap_or_default())
        });
        figures.sum()
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, member: usize) -> &Node {
        match &self.members[member] {
            Place::Running(node) => node,
            Place::Stopped(_) | Place::Changing => panic!("member {member} does not run"),
        }
    }
}

/// Waits until a node is ready.
pub fn wait_until_ready(node: &Node) {
    wait_until(&format!("{} is ready", node.address()), CONVERGENCE, || node.get("/readyz").status == 200);
}

/// A member by address, as a node sees it; null if it sees none. If several had the address, the linked one.
pub fn member(node: &Node, address: &str) -> Value {
    let view = node.view();
    let members = view["members"].as_array().expect("members").iter();
    let found = members.filter(|member| member["address"] == address);
    found.max_by_key(|member| member["linked"] == true).cloned().unwrap_or_default()
}

/// The root of each table that has rows; `None` while the node does not know it.
fn roots(node: &Node) -> Option<BTreeMap<String, (String, u64)>> {
    let tables = node.get("/_/tables").expect(200).json();
    let tables = tables.as_array().expect("a list of tables").clone();
    let count = |table: &Value, name: &str| table[name].as_u64().expect("a count");
    let filled = tables.iter().filter(|table| count(table, "keys") + count(table, "tombstones") > 0);
    let roots = filled.map(|table| {
        let root = table["root"].as_str()?.to_owned();
        Some((table["name"].as_str()?.to_owned(), (root, count(table, "keys"))))
    });
    roots.collect()
}

/// All rows of a node with their versions, in the same order on every node.
fn export(node: &Node) -> Vec<String> {
    let exported = node.get("/_/export").expect(200);
    let rows = exported.text().lines().filter(|line| line.starts_with(r#"{"table""#));
    let mut lines: Vec<String> = rows.map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// A client that moves on to another node if one does not answer, or says to try another.
pub struct Client {
    addresses: Vec<std::net::SocketAddr>,
    at: usize,
    connection: Option<Connection>,
    /// How often it moved on.
    pub moves: u64,
}

/// How often a request may go round all nodes before it fails.
const ROUNDS_MAX: usize = 200;

impl Client {
    /// A client of this cluster that starts with one member.
    pub fn new(cluster: &Cluster, at: usize) -> Self {
        let addresses = (0..cluster.members.len())
            .map(|member| cluster.address(member).parse().expect("an address of this machine"))
            .collect();
        Self { addresses, at, connection: None, moves: 0 }
    }

    /// The response of the first node that gives one.
    pub fn send(&mut self, request: &Request) -> Response {
        self.send_watched(request, || {})
    }

    /// As `send`. Calls `unanswered` each time it is unknown whether the request was carried out.
    pub fn send_watched(&mut self, request: &Request, mut unanswered: impl FnMut()) -> Response {
        let mut last = String::new();
        for _ in 0..ROUNDS_MAX * self.addresses.len() {
            match self.try_send(request) {
                Ok(response) if response.status != 503 => return response,
                Ok(refused) => last = refused.to_string(),
                Err(error) => {
                    unanswered();
                    last = error.to_string();
                }
            }
            self.connection = None;
            self.at = (self.at + 1) % self.addresses.len();
            self.moves += 1;
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("no node of {:?} answers: {last}", self.addresses);
    }

    fn try_send(&mut self, request: &Request) -> io::Result<Response> {
        if self.connection.is_none() {
            let stream = std::net::TcpStream::connect_timeout(&self.addresses[self.at], DEADLINE)?;
            self.connection = Some(Connection::over(stream)?);
        }
        self.connection.as_mut().expect("just opened").try_send(request)
    }
}
