//! What the operating system says of the target: its resident memory, and its sockets as the kernel sees them. Linux only, as
//! it is read from /proc; elsewhere these figures are an error that says so.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

use crate::error::{Error, Result};

/// Pages in which the kernel counts its socket memory.
const PAGE_BYTES: u64 = 4096;
/// `TCP_ESTABLISHED` as /proc/net/tcp writes it.
const ESTABLISHED: &str = "01";

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most resident memory that a process has had since its start, or since `forget_peak`.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Has the peak of a process's memory start again at what it is now.
pub fn forget_peak(pid: u32) -> Result<()> {
    // The 5 is the kernel's own number for it: proc(5).
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").map_err(|e| Error::io(format_args!("writing {path}"), &e))
}

/// Processor time that a process has taken since its start, all threads, in seconds. True to 10 ms.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    /// In which the kernel states times to programs, whatever its own clock ticks at.
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = cpu_ticks(&read(&format!("/proc/{pid}/stat"))?);
    ticks
        .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
        .ok_or_else(|| Error::Io(format!("process {pid} states no times")))
}

/// Bytes that a process has caused to be written to disks. What lies in memory (tmpfs) counts nothing.
pub fn written_bytes(pid: u32) -> Result<u64> {
    let io = read(&format!("/proc/{pid}/io"))?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    bytes.ok_or_else(|| Error::Io(format!("process {pid} states no write_bytes")))
}

fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes << 10)
        .ok_or_else(|| Error::Io(format!("process {pid} states no {name}")))
}

/// User and system time of a line of /proc/PID/stat. The name of the program stands in parentheses, and may hold any itself.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The state is field 3, utime 14 and stime 15: proc(5).
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

/// What a directory takes on disk, as `du` counts: blocks, not lengths.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let reading = |e| Error::io(format_args!("reading {}", directory.display()), &e);
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let metadata = entry.metadata().map_err(reading)?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * BLOCK_BYTES };
    }
    Ok(bytes)
}

/// Bytes as the figures have them.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Memory that the kernel holds for all TCP sockets of this machine.
pub fn socket_bytes() -> Result<u64> {
    let statistics = read("/proc/net/sockstat")?;
    let line = statistics.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1);
    let pages = pages.and_then(|pages| pages.parse::<u64>().ok());
    pages
        .map(|pages| pages * PAGE_BYTES)
        .ok_or_else(|| Error::Io("/proc/net/sockstat states no TCP mem".into()))
}

/// Ports of the clients whose connection to `server_port` is still open on the server's side. A client that does not read never
/// learns that it was closed; the kernel knows.
pub fn ports_connected_to(server_port: u16) -> Result<HashSet<u16>> {
    let mut ports = HashSet::new();
    // A machine without IPv6 has no second file.
    for table in [read("/proc/net/tcp")?, fs::read_to_string("/proc/net/tcp6").unwrap_or_default()] {
        ports.extend(table.lines().skip(1).filter_map(|line| {
            let mut columns = line.split_ascii_whitespace().skip(1);
            let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
            (state == ESTABLISHED && port(local)? == server_port).then(|| port(remote))?
        }));
    }
    Ok(ports)
}

fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(format_args!("reading {path}"), &e))
}

#[cfg(all(test, target_os = "linux"))]
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
    fn a_process_has_a_peak_that_can_be_forgotten() {
        let pid = std::process::id();
        forget_peak(pid).expect("this process");
        assert!(peak_bytes(pid).expect("this process") > 1 << 20);
    }

    #[test]
    fn times_are_found_whatever_the_program_is_called() {
        let stat = "7 (a) R (b)) S 1 7 7 0 -1 4194560 900 0 0 0 12 34 0 0 20 0 9 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(46));
        assert_eq!(cpu_ticks("7 (a) S 1 7"), None);
        let pid = std::process::id();
        assert!(cpu_seconds(pid).expect("this process") >= 0.0);
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
