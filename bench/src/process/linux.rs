//! Figures from /proc.

use std::{collections::HashSet, fs};

use procfs::{
    ProcError, ProcResult,
    net::{self, TcpState},
    process::{ClearRefs, Process},
};

use crate::error::{Error, Result};

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    read(pid, "its memory", |process| Ok(process.status()?.vmrss)).and_then(|size| kibibytes(pid, size))
}

/// Peak resident memory of a process since its start, or since `reset_peak`.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    read(pid, "its memory", |process| Ok(process.status()?.vmhwm)).and_then(|size| kibibytes(pid, size))
}

/// Resets a process's peak memory to what it has now.
pub fn reset_peak(pid: u32) -> Result<()> {
    read(pid, "its peak memory, to reset it", |process| process.clear_refs(ClearRefs::PeakRSS))
}

/// Processor time of all threads of a process since its start, in seconds; the resolution is 10 ms.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(pid, "its processor time", |process| process.stat())?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// Bytes that a process caused to be written to disks. Writes to memory file systems (tmpfs) do not count.
pub fn written_bytes(pid: u32) -> Result<u64> {
    Ok(read(pid, "what it wrote", |process| process.io())?.write_bytes)
}

/// Memory that the kernel holds for all TCP sockets of this machine.
pub fn socket_bytes() -> Result<u64> {
    // procfs does not read this file.
    const PATH: &str = "/proc/net/sockstat";
    let statistics = fs::read_to_string(PATH).map_err(|e| Error::io(format_args!("reading {PATH}"), &e))?;
    let line = statistics.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1);
    let pages = pages.and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| Error::Failed(format!("{PATH} has no TCP mem")))?;
    Ok(pages * procfs::page_size())
}

/// Client ports whose connection to `server_port` is still open on the server's side. A client that does not read never learns
/// that the server closed its connection; the kernel knows.
pub fn ports_connected_to(server_port: u16) -> Result<HashSet<u16>> {
    let failed = |e: ProcError| Error::Failed(format!("reading the table of connections: {e}"));
    let mut connections = net::tcp().map_err(failed)?;
    // A machine without IPv6 has no such table.
    connections.extend(net::tcp6().unwrap_or_default());
    let open = connections.iter().filter(|connection| {
        connection.state == TcpState::Established && connection.local_address.port() == server_port
    });
    Ok(open.map(|connection| connection.remote_address.port()).collect())
}

fn read<T>(pid: u32, what: &str, read: impl FnOnce(&Process) -> ProcResult<T>) -> Result<T> {
    let process = i32::try_from(pid).map_err(|_| ProcError::NotFound(None)).and_then(Process::new);
    let value = process.and_then(|process| read(&process));
    value.map_err(|e| Error::Failed(format!("asking the system about process {pid} for {what}: {e}")))
}

fn kibibytes(pid: u32, size: Option<u64>) -> Result<u64> {
    // A process that has ended, and that nobody waited for yet, has none.
    let kibibytes =
        size.ok_or_else(|| Error::Failed(format!("process {pid} has no memory: it has ended")))?;
    Ok(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert!(resident_bytes(std::process::id()).expect("this process") > 1 << 20);
        assert!(resident_bytes(u32::MAX).is_err());
        socket_bytes().expect("sockets");
    }

    #[test]
    fn a_process_has_a_peak_that_can_be_reset() {
        let pid = std::process::id();
        reset_peak(pid).expect("this process");
        assert!(peak_bytes(pid).expect("this process") > 1 << 20);
    }

    #[test]
    fn a_process_has_processor_time_and_writes() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).expect("this process");
        while cpu_seconds(pid).expect("this process") <= before {}
        written_bytes(pid).expect("this process");
    }

    #[test]
    fn a_connection_is_seen_until_the_server_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server_port = listener.local_addr().expect("bound").port();
        let client = TcpStream::connect(("127.0.0.1", server_port)).expect("connects");
        let client_port = client.local_addr().expect("connected").port();
        let accepted = listener.accept().expect("accepts");
        assert!(ports_connected_to(server_port).expect("table").contains(&client_port));
        drop(accepted);
        assert!(!ports_connected_to(server_port).expect("table").contains(&client_port));
    }
}
