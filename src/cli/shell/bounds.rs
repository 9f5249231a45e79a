//! Which keys of a table, for the commands that take some of them.

/// Which keys.
#[derive(Debug, clap::Args)]
pub struct Bounds {
    /// Only keys that begin with this
    #[arg(long)]
    prefix: Option<String>,
    /// Only keys at or above this one
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// Only keys below this one
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
}

impl Bounds {
    /// Passes those that are given to a query, which takes them by these methods: the prefix, the start and the end.
    pub fn apply<Q>(&self, query: Q, [prefix, start, end]: [fn(Q, String) -> Q; 3]) -> Q {
        let given = [(prefix, &self.prefix), (start, &self.start), (end, &self.end)];
        given.into_iter().fold(query, |query, (take, bound)| match bound {
            Some(bound) => take(query, bound.clone()),
            None => query,
        })
    }
}
