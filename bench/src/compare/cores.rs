//! Which core is whose.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Error, Result};

/// The cores of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// That of what is loaded.
    pub server: usize,
    load: usize,
}

impl Cores {
    /// These cores; `None`, and a line that says so, where this process may use one only.
    ///
    /// # Errors
    /// `Usage` for cores that it may not use.
    pub fn of_system(server: usize, load: usize) -> Result<Option<Self>> {
        let all = sched_getaffinity(None)
            .map_err(|e| Error::io("asking for the cores of this process", &e.into()))?;
        if all.count() < 2 {
            eprintln!("One core for the node and its load: no figure here compares with a target.");
            return Ok(None);
        }
        for (option, core) in [("--server-core", server), ("--load-core", load)] {
            if core >= CpuSet::MAX_CPU || !all.is_set(core) {
                return Err(Error::Usage(format!(
                    "{option} {core} is no core that this process may use: name another"
                )));
            }
        }
        if server == load {
            return Err(Error::Usage(
                "--server-core and --load-core are the same: what is loaded would pay for the load".into(),
            ));
        }
        Ok(Some(Self { server, load }))
    }

    /// Keeps this thread, and those that it starts from now on, to the core of the load until the guard is dropped.
    pub fn hold_load(&self) -> Result<Held> {
        let failed = |e: rustix::io::Errno| {
            Error::io(format_args!("moving the load to core {}", self.load), &e.into())
        };
        let before = sched_getaffinity(None).map_err(failed)?;
        let mut one = CpuSet::new();
        one.set(self.load);
        sched_setaffinity(None, &one).map_err(failed)?;
        Ok(Held(before))
    }
}

/// Gives the thread its cores back.
pub struct Held(CpuSet);

impl Drop for Held {
    fn drop(&mut self) {
        // It had them before.
        sched_setaffinity(None, &self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_keeps_to_its_core_until_it_is_let_go() {
        let before = sched_getaffinity(None).expect("cores");
        let Ok(Some(cores)) = Cores::of_system(0, 1) else { return };
        let held = cores.hold_load().expect("a core of its own");
        let now = sched_getaffinity(None).expect("cores");
        assert!(now.count() == 1 && now.is_set(1));
        drop(held);
        assert!(sched_getaffinity(None).expect("cores") == before);
    }

    #[test]
    fn cores_that_are_not_there_are_named() {
        for (server, load) in [(0, 100_000), (100_000, 0), (0, 0)] {
            match Cores::of_system(server, load) {
                Err(Error::Usage(why)) => assert!(why.contains("-core"), "{why}"),
                // A machine with one core.
                found => assert!(matches!(found, Ok(None)), "{found:?}"),
            }
        }
    }
}
