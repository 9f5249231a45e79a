//! The resources of this server, and their names in metrics and the log, because paths contain keys.

/// Makes the enum, the list of all variants and their names from one table, so that a new route is one line.
macro_rules! routes {
    ($($(#[doc = $paths:literal])+ $variant:ident = $name:literal;)+) => {
        /// The resources of this server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Route {
            $($(#[doc = $paths])+ $variant,)+
        }

        impl Route {
            /// All of them, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The route's name in metrics and logs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

routes! {
    /// `/{table}/key/{key}`
    Key = "key";
    /// `/{table}/keys`
    Keys = "keys";
    /// `/{table}/store`
    Store = "store";
    /// `/{table}/count`
    Count = "count";
    /// `/{table}/batch`
    Batch = "batch";
    /// `/{table}`
    Table = "table";
    /// `/{table}/subscribe/{key}`, `/{table}/subscribe` and `/_/subscribe`
    Subscribe = "subscribe";
    /// `/{table}/changes` and `/_/changes`
    Changes = "changes";
    /// `/_/ws`
    WebSocket = "websocket";
    /// `/_/link`
    Link = "link";
    /// `/membership`
    Membership = "membership";
    /// `/_/cluster`
    Cluster = "cluster";
    /// `/_/admin/...`
    Admin = "admin";
    /// `/_/strong/...`
    Strong = "strong";
    /// `/_/tables`
    Tables = "tables";
    /// `/_/tables/{table}`
    TableMode = "table_mode";
    /// `/_/txn`
    Transaction = "txn";
    /// `/_/backup`
    Backup = "backup";
    /// `/_/export`
    Export = "export";
    /// `/_/import`
    Import = "import";
    /// `/stats`
    Stats = "stats";
    /// `/metrics`
    Metrics = "metrics";
    /// `/openapi.json`
    OpenApi = "openapi";
    /// `/_/docs` and what it needs
    Docs = "docs";
    /// `/_/`, and what that page needs
    Dashboard = "dashboard";
    /// `/healthz`, `/readyz` and `/version`
    Probe = "probe";
    /// Everything else.
    Unknown = "unknown";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_listed_at_its_number() {
        for (number, route) in Route::ALL.iter().enumerate() {
            assert_eq!(*route as usize, number, "{}", route.name());
        }
    }
}
