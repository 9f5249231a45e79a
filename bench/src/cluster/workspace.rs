//! The directory for the data of a measurement's nodes. It is removed when the measurement ends.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::node::Node;
use crate::{
    binary::BinaryOptions,
    error::{Error, Result},
};

/// Where nodes run, and from what.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct WorkspaceOptions {
    /// Directory for the data of what is measured, on the disk to measure [default: the system's directory for temporary files]
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// Where the binary is.
    #[command(flatten)]
    pub binary: BinaryOptions,
}

impl WorkspaceOptions {
    /// A workspace there. Workloads use `table`.
    ///
    /// # Errors
    /// `Usage` where there is no binary; `Io` if the directory cannot be made.
    pub fn create(&self, table: &str) -> Result<Workspace> {
        Workspace::new(self.binary.find()?, self.directory.as_deref(), table)
    }
}

/// A directory, and how many nodes have data in it.
#[derive(Debug)]
pub struct Workspace {
    binary: PathBuf,
    core: Option<usize>,
    directory: PathBuf,
    table: String,
    nodes: Cell<u32>,
}

impl Workspace {
    /// Creates a directory below `parent`, or below the system's directory for temporary files. Nodes start from `binary`, and
    /// workloads use `table`.
    pub fn new(binary: PathBuf, parent: Option<&Path>, table: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dynarust-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = parent.map_or_else(std::env::temp_dir, Path::to_owned).join(name);
        fs::create_dir(&directory)
            .map_err(|e| Error::io(format_args!("creating {}", directory.display()), &e))?;
        Ok(Self { binary, core: None, directory, table: table.to_owned(), nodes: Cell::new(0) })
    }

    /// The same, whose nodes run on this core alone.
    pub fn on_core(mut self, core: Option<usize>) -> Self {
        self.core = core;
        self
    }

    /// What nodes start from.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Where the data is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A node with an empty directory, not started yet.
    pub fn node(&self) -> Result<Node> {
        let number = self.nodes.get();
        self.nodes.set(number + 1);
        Node::new(self.binary.clone(), self.core, self.directory.join(format!("node{number}")), &self.table)
    }

    /// Starts a cluster of `count` nodes.
    pub async fn cluster(&self, count: usize) -> Result<Vec<Node>> {
        self.cluster_of(count, |_| Ok(())).await
    }

    /// Starts a cluster of `count` nodes, each once it is prepared.
    pub async fn cluster_of(
        &self,
        count: usize,
        prepare: impl Fn(&mut Node) -> Result<()>,
    ) -> Result<Vec<Node>> {
        let mut nodes: Vec<Node> = Vec::new();
        for _ in 0..count {
            let mut node = self.node()?;
            prepare(&mut node)?;
            if let Some(first) = nodes.first() {
                node.join(first.address().to_string());
            }
            node.start().await?;
            nodes.push(node);
        }
        super::view::in_sync(&nodes.iter().collect::<Vec<_>>()).await?;
        Ok(nodes)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // If that fails, the data stays among temporary files.
        fs::remove_dir_all(&self.directory).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_leaves_nothing_behind() {
        let workspace = Workspace::new("DynaRust".into(), None, "t").expect("a directory");
        let directory = workspace.directory.clone();
        workspace.node().expect("a node");
        assert!(directory.join("node0").is_dir());
        drop(workspace);
        assert!(!directory.exists());
    }

    #[test]
    fn a_directory_that_cannot_be_created_is_named() {
        let error = Workspace::new("DynaRust".into(), Some(Path::new("/proc/nowhere")), "t")
            .expect_err("no directory");
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
