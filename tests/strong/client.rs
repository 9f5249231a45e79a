//! A client that knows what it does not know: a request is done, surely not done, or nobody knows.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::harness::{
    DEADLINE,
    cluster::Cluster,
    http::{Connection, Request, Response},
    network::{Namespace, Network},
};

/// Where a member listens. It stays so over restarts.
#[derive(Clone)]
pub struct Door {
    address: SocketAddr,
    namespace: Option<Namespace>,
}

/// The doors of all members of a cluster.
pub fn doors(cluster: &Cluster, members: usize, network: Option<&Network>) -> Vec<Door> {
    let door = |member| Door {
        address: cluster.address(member).parse().expect("an address"),
        namespace: network.map(|network| network.namespace(member)),
    };
    (0..members).map(door).collect()
}

impl Door {
    fn open(&self) -> io::Result<Connection> {
        let stream = match &self.namespace {
            Some(namespace) => namespace.connect(self.address),
            None => TcpStream::connect_timeout(&self.address, DEADLINE),
        };
        Connection::over(stream?)
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Fate {
    /// The node answered it.
    Done(Response),
    /// It had no effect, and never will.
    Refused,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// A client of all members.
pub struct Client {
    doors: Vec<Door>,
    open: Vec<Option<Connection>>,
    /// How long it waits for an answer.
    patience: Duration,
}

impl Client {
    pub fn new(doors: &[Door], patience: Duration) -> Self {
        Self { doors: doors.to_vec(), open: doors.iter().map(|_| None).collect(), patience }
    }

    /// Sends a request to a member.
    pub fn send(&mut self, member: usize, request: &Request) -> Fate {
        let connection = match self.open[member].take().map_or_else(|| self.doors[member].open(), Ok) {
            Ok(connection) => connection,
            Err(_) => return Fate::Refused,
        };
        self.exchange(member, connection, request).unwrap_or(Fate::Unknown)
    }

    fn exchange(&mut self, member: usize, mut connection: Connection, request: &Request) -> io::Result<Fate> {
        connection.write(&request.to_bytes())?;
        if !connection.has_answer(self.patience) {
            return Ok(Fate::Unknown);
        }
        let response = connection.receive("PUT")?;
        self.open[member] = Some(connection);
        Ok(match response.status {
            503 => Fate::Refused,
            500..=599 => Fate::Unknown,
            _ => Fate::Done(response),
        })
    }
}
