//! Huge pages, 2 MiB where others are 4 KiB. Whoever touches a byte of one has all of it in memory, and what has gone from it
//! stays for as long as anything in it does; the allocator asks for them. A node without a row took 54 MiB with them and 12 without,
//! and reads were no faster.

/// Has this process do without them, whatever the system is set to. Those it has already stay.
pub fn disable() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        // It costs memory and nothing else.
        tracing::debug!(%error, "the system may use huge pages");
    }
}
