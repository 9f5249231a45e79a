//! A proxy that can be cut: it forwards connections to a node until the cut, which closes all of them and every new one.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{self, AbortHandle},
};

use crate::error::{Error, Result};

/// A proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Starts to forward to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let failed = |e| Error::io("starting a proxy", &e);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (cut, is_cut) = watch::channel(false);
        let accepting = task::spawn_local(accept(listener, target, is_cut)).abort_handle();
        Ok(Self { address, cut, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, and every new one.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Forwards new connections again.
    pub fn heal(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, is_cut: watch::Receiver<bool>) {
    // An error concerns a single connection, or there are too many: the client tries again.
    loop {
        let accepted = listener.accept().await;
        if let (Ok((stream, _)), false) = (accepted, *is_cut.borrow()) {
            task::spawn_local(forward(stream, target, is_cut.clone()));
        }
    }
}

async fn forward(mut stream: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let forwarding = async {
        let mut node = TcpStream::connect(target).await?;
        // Do not hold a message back until the next one.
        stream.set_nodelay(true)?;
        node.set_nodelay(true)?;
        io::copy_bidirectional(&mut stream, &mut node).await
    };
    tokio::select! {
        // Both ends see that the connection has ended.
        _ = forwarding => {}
        // Also ends when the proxy is dropped.
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_cut_ends_what_is_open_and_what_comes_until_it_heals() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        task::LocalSet::new().block_on(&runtime, async {
            let node = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let proxy = Proxy::start(node.local_addr().expect("bound")).await.expect("a proxy");
            let (mut client, mut server) = through(&proxy, &node).await;
            client.write_all(b"ping").await.expect("written");
            let mut received = [0; 4];
            server.read_exact(&mut received).await.expect("forwarded");
            assert_eq!(&received, b"ping");

            proxy.cut();
            assert!(matches!(client.read(&mut received).await, Ok(0) | Err(_)));
            assert!(matches!(server.read(&mut received).await, Ok(0) | Err(_)));
            let mut late = TcpStream::connect(proxy.address()).await.expect("it listens");
            assert!(matches!(late.read(&mut received).await, Ok(0) | Err(_)));

            proxy.heal();
            through(&proxy, &node).await;
        });
    }

    async fn through(proxy: &Proxy, node: &TcpListener) -> (TcpStream, TcpStream) {
        let (client, accepted) = tokio::join!(TcpStream::connect(proxy.address()), node.accept());
        (client.expect("connected"), accepted.expect("forwarded").0)
    }
}
