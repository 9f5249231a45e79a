//! The resources of this server, and their names in metrics and the log, because paths contain keys.

/// The resources of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Route {
    /// `/{table}/key/{key}`
    Key,
    /// `/{table}/keys`
    Keys,
    /// `/{table}/store`
    Store,
    /// `/{table}/count`
    Count,
    /// `/{table}/batch`
    Batch,
    /// `/{table}`
    Table,
    /// `/{table}/subscribe/{key}`, `/{table}/subscribe` and `/_/subscribe`
    Subscribe,
    /// `/_/ws`
    WebSocket,
    /// `/_/link`
    Link,
    /// `/membership`
    Membership,
    /// `/_/cluster`
    Cluster,
    /// `/_/admin/...`
    Admin,
    /// `/_/tables`
    Tables,
    /// `/_/export`
    Export,
    /// `/_/import`
    Import,
    /// `/stats`
    Stats,
    /// `/metrics`
    Metrics,
    /// `/healthz`, `/readyz` and `/version`
    Probe,
    /// Everything else.
    Unknown,
}

impl Route {
    /// All of them, in declaration order.
    pub const ALL: [Self; 19] = [
        Self::Key,
        Self::Keys,
        Self::Store,
        Self::Count,
        Self::Batch,
        Self::Table,
        Self::Subscribe,
        Self::WebSocket,
        Self::Link,
        Self::Membership,
        Self::Cluster,
        Self::Admin,
        Self::Tables,
        Self::Export,
        Self::Import,
        Self::Stats,
        Self::Metrics,
        Self::Probe,
        Self::Unknown,
    ];

    /// The route's name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Keys => "keys",
            Self::Store => "store",
            Self::Count => "count",
            Self::Batch => "batch",
            Self::Table => "table",
            Self::Subscribe => "subscribe",
            Self::WebSocket => "websocket",
            Self::Link => "link",
            Self::Membership => "membership",
            Self::Cluster => "cluster",
            Self::Admin => "admin",
            Self::Tables => "tables",
            Self::Export => "export",
            Self::Import => "import",
            Self::Stats => "stats",
            Self::Metrics => "metrics",
            Self::Probe => "probe",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_listed_at_its_number() {
        for (number, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, number, "{}", route.name());
        }
    }
}
