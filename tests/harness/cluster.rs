//! Clusters of real nodes: started and ended one by one, waited for, and compared with each other and with what was written.

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

/// How long a cluster may take to be of one mind. A difference is seen two seconds after it came about at the earliest, and a
/// peer that was away is dialled again with some patience.
pub const CONVERGENCE: Duration = Duration::from_secs(45);

/// Some nodes of one cluster, each with a directory and an address that it keeps.
pub struct Cluster {
    members: Vec<Place>,
}

enum Place {
    Running(Node),
    Stopped(Setup),
    /// Only while one turns into the other.
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

/// An address of this machine that no other test has. It stays the node's over restarts: on Linux each has a loopback address
/// of its own, at a port from which the system makes no connections.
fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = if cfg!(target_os = "linux") {
            let port = 10_000 + process / 250 % 20_000;
            format!("127.{}.{}.{}:{port}", 1 + process % 250, number / 250, 1 + number % 250)
        } else {
            "127.0.0.1:0".to_owned()
        };
        if let Ok(listener) = TcpListener::bind(&address) {
            return listener.local_addr().expect("it has an address").to_string();
        }
    }
}

impl Cluster {
    /// So many nodes that hold and see the same.
    pub fn start(members: usize) -> Self {
        Self::start_with(members, |setup| setup)
    }

    /// As `start`, each from a setup that was changed so.
    pub fn start_with(members: usize, change: impl Fn(Setup) -> Setup) -> Self {
        Self::start_from((0..members).map(|_| change(setup())).collect())
    }

    /// A node in each namespace of a network.
    pub fn start_in(network: &Network, members: usize) -> Self {
        Self::start_in_with(network, members, |setup| setup)
    }

    /// A node in each namespace of a network, each of its setup changed.
    pub fn start_in_with(network: &Network, members: usize, change: impl Fn(Setup) -> Setup) -> Self {
        let setup = |member| setup().listen(&network.address(member)).inside(network.namespace(member));
        Self::start_from((0..members).map(|member| change(setup(member))).collect())
    }

    /// Starts the first, and the others as those that join it.
    pub fn start_from(setups: Vec<Setup>) -> Self {
        let first = setups[0].listen.clone();
        let setups = setups.into_iter().enumerate();
        let setups = setups.map(|(at, setup)| if at == 0 { setup } else { setup.join(&first) });
        let cluster = Self { members: setups.map(|setup| Place::Running(setup.start())).collect() };
        cluster.wait_until_ready_and_linked();
        cluster
    }

    /// Adds one that joins through the first that runs.
    pub fn add(&mut self, setup: Setup) -> usize {
        let through = self.running().next().expect("one runs").address().to_string();
        self.place(setup.join(&through))
    }

    /// Adds one that joins through that member.
    pub fn add_through(&mut self, setup: Setup, member: usize) -> usize {
        let through = self.address(member);
        self.place(setup.join(&through))
    }

    /// Adds one that finds the others as its setup says.
    pub fn place(&mut self, setup: Setup) -> usize {
        self.members.push(Place::Running(setup.start()));
        self.members.len() - 1
    }

    /// Adds one that was started.
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

    /// The address of a member, running or not.
    pub fn address(&self, member: usize) -> String {
        match &self.members[member] {
            Place::Running(node) => node.address().to_string(),
            Place::Stopped(setup) => setup.listen.clone(),
            Place::Changing => unreachable!("changes are over when they return"),
        }
    }

    /// Ends one as `kill -9` does.
    pub fn kill(&mut self, member: usize) {
        self.change(member, |place| match place {
            Place::Running(node) => Place::Stopped(node.kill()),
            Place::Stopped(_) | Place::Changing => panic!("it does not run"),
        });
    }

    /// Ends one by SIGTERM; how it ended.
    pub fn terminate(&mut self, member: usize) -> Outcome {
        self.end(member, Node::terminate)
    }

    /// Waits until one ends by itself; how it did.
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

    /// Starts one that was ended, as it was started before.
    pub fn restart(&mut self, member: usize) {
        self.restart_with(member, |setup| setup);
    }

    /// Starts one that was ended, from a setup that was changed so.
    pub fn restart_with(&mut self, member: usize, change: impl FnOnce(Setup) -> Setup) {
        self.change(member, |place| match place {
            Place::Stopped(setup) => Place::Running(change(setup).start()),
            Place::Running(_) | Place::Changing => panic!("it runs"),
        });
    }

    /// The setup of one that was ended.
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

    /// Waits until all that run are ready, and linked with each other.
    pub fn wait_until_ready_and_linked(&self) {
        self.running().for_each(wait_until_ready);
        self.wait_until_linked();
    }

    /// Waits until all that run are linked with each other.
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

    /// Waits until all that run hold the same, by their roots, and looks whether it is the same. How long it took.
    pub fn wait_until_equal(&self) -> Duration {
        let begun = Instant::now();
        while !self.is_equal() {
            if begun.elapsed() > CONVERGENCE {
                let held: Vec<_> = self.running().map(|node| (roots(node), node.view())).collect();
                panic!("not of one mind within {CONVERGENCE:?}: {held:#?}");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let took = begun.elapsed();
        let mut exports = self.running().map(|node| (node.address(), export(node)));
        let (_, first) = exports.next().expect("one runs");
        for (address, export) in exports {
            assert!(export == first, "{address} has the roots of the first, but other rows");
        }
        took
    }

    /// Waits until all that run know, and will know after a crash, that all members hold what was written up to now.
    pub fn wait_until_agreed(&self) {
        // The second instant is found after the first was kept.
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

    /// The sum of a figure over all links of all that run.
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

/// A member as a node sees it, by its address; null where it sees none. Of several that had it, the one that is linked.
pub fn member(node: &Node, address: &str) -> Value {
    let view = node.view();
    let members = view["members"].as_array().expect("members").iter();
    let found = members.filter(|member| member["address"] == address);
    found.max_by_key(|member| member["linked"] == true).cloned().unwrap_or_default()
}

/// The root of each table that has rows; `None` while the node cannot tell.
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

/// All rows of a node with their versions, in an order that is the same on every node.
fn export(node: &Node) -> Vec<String> {
    let exported = node.get("/_/export").expect(200);
    let rows = exported.text().lines().filter(|line| line.starts_with(r#"{"table""#));
    let mut lines: Vec<String> = rows.map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// A client that goes to another node when one does not answer, or says that another should be asked.
pub struct Client {
    addresses: Vec<std::net::SocketAddr>,
    at: usize,
    connection: Option<Connection>,
    /// How often it went on to the next.
    pub moves: u64,
}

/// A request may go round all nodes so often before it counts as failed.
const ROUNDS_MAX: usize = 200;

impl Client {
    /// A client of these, which begins with one of them.
    pub fn new(cluster: &Cluster, at: usize) -> Self {
        let addresses = (0..cluster.members.len())
            .map(|member| cluster.address(member).parse().expect("an address of this machine"))
            .collect();
        Self { addresses, at, connection: None, moves: 0 }
    }

    /// The answer of whichever node gives one.
    pub fn send(&mut self, request: &Request) -> Response {
        self.send_watched(request, || {})
    }

    /// As `send`. `unanswered` is told of each time that nothing says whether the request was carried out.
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
