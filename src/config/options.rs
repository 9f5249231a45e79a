//! Builds the options of each layer from the settings.

use std::{net::SocketAddr, num::NonZero, sync::Arc, time::Duration};

use super::{
    Config,
    memory::{self, Shares},
};
use crate::{
    core::memory_pressure::MemoryPressure,
    error::Result,
    http::{
        self, Certificates,
        access::{AccessControl, AccessOptions, JwtOptions},
        request::rate_limit::{Rate, RateLimits},
    },
    node,
    replication::{
        self,
        link::{connect::SystemNetwork, secret::Secrets},
    },
    storage,
};

/// By default one address may have this fraction of all connections.
const CONNECTION_SHARES: usize = 4;

impl Config {
    /// The options of the node that listens at `listen`. It reports `address` as its own until it learns a better one.
    pub fn node_options(
        &self,
        address: String,
        listen: SocketAddr,
        secrets: Secrets,
        shares: &Shares,
        pressure: &MemoryPressure,
    ) -> node::Options {
        node::Options {
            address,
            storage: self.storage_options(shares, pressure),
            clock_drift_max_ms: milliseconds(self.max_clock_drift),
            value_bytes_max: self.max_value.0,
            replication: self.replication_options(listen, secrets),
            strong_backend: self.strong_backend.clone(),
            new_tables: self.new_tables,
            etcd_api: self.etcd.is_some(),
            backups: self.backup_dir.clone().map(|directory| node::BackupSchedule {
                directory,
                every: self.backup_every,
                keep: self.backup_keep,
                key_file: self.backup_key_file.clone(),
                recipient: self.backup_recipient.clone(),
            }),
        }
    }

    fn replication_options(&self, listen: SocketAddr, secrets: Secrets) -> replication::Options {
        replication::Options {
            join: self.join.iter().map(|address| address.as_str().to_owned()).collect(),
            advertise: self.advertise.as_ref().map(|address| address.0.as_str().to_owned()),
            listen,
            secrets,
            tombstone_grace_ms: milliseconds(self.tombstone_grace),
            forget_after_ms: milliseconds(self.forget_after),
            round_ms: milliseconds(self.sync_interval),
            clock_drift_max_ms: milliseconds(self.max_clock_drift),
            strong_log_entries: replication::strong::LOG_ENTRIES,
            network: Arc::new(SystemNetwork),
        }
    }

    fn storage_options(&self, shares: &Shares, pressure: &MemoryPressure) -> storage::Options {
        storage::Options {
            data: self.data.clone(),
            durability: self.durability,
            cache_bytes: shares.cache,
            buffers: storage::Buffers {
                decoded_bytes: shares.decoded,
                changes_bytes: shares.changes,
                recents_max: shares.recents,
                pressure: pressure.clone(),
            },
            scrub_bytes_per_second: self.scrub_rate.0,
            tables_max: self.max_tables,
            subscriptions_max: self.max_subscriptions,
            set_aside_damaged: self.set_aside_damaged,
            environment: storage::Environment::of_system(milliseconds(self.max_clock_drift)),
            peers: replication::peers(!self.join.is_empty()),
        }
    }

    fn rate_limits(&self) -> RateLimits {
        // The limits of the settings leave no other number.
        let number =
            |number: usize| u32::try_from(number).ok().and_then(NonZero::new).unwrap_or(NonZero::<u32>::MIN);
        let rate = |per_second: usize| Rate {
            per_second: number(per_second),
            burst: number(self.rate_limit_burst.unwrap_or(per_second)),
        };
        RateLimits::new(self.rate_limit_per_token.map(rate), self.rate_limit_per_address.map(rate))
    }

    /// The options of the HTTP server.
    ///
    /// # Errors
    /// Those of `shares`; `Config` if the certificate or key does not load, or a file of tokens or keys. We check this here, before the node opens its database or its
    /// port.
    pub fn http_options(&self, limit: &memory::Limit, pressure: &MemoryPressure) -> Result<http::Options> {
        let shares = self.shares(limit)?;
        let tls = self.tls_cert.clone().zip(self.tls_key.clone()).map(|(cert, key)| http::Tls {
            cert,
            key,
            client_ca: self.tls_client_ca.clone(),
            clients: self.tls_client_auth.unwrap_or_default(),
        });
        let tls = tls.map(Certificates::load).transpose()?;
        let access = AccessControl::load(AccessOptions {
            tokens: self.tokens.clone(),
            jwks: self.jwks.clone(),
            jwt: JwtOptions {
                issuer: self.jwt_issuer.as_ref().map(|issuer| issuer.0.clone()),
                audience: self.jwt_audience.as_ref().map(|audience| audience.0.clone()),
            },
        })?;
        Ok(http::Options {
            connections_max: self.max_connections,
            connections_per_address_max: self
                .max_connections_per_address
                .unwrap_or(self.max_connections.div_ceil(CONNECTION_SHARES)),
            connections_per_loopback_max: self.max_connections_per_address.unwrap_or(self.max_connections),
            body_memory_bytes: shares.bodies,
            memory_budget_bytes: limit.bytes,
            memory_pressure: pressure.clone(),
            body_bytes_max: shares.body_max,
            batch_ops_max: self.max_batch_ops,
            body_rate_min: self.min_body_rate.0,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            body_timeout: self.body_timeout,
            stall_timeout: self.stall_timeout,
            shutdown_timeout: self.shutdown_timeout,
            cors_origins: self.cors_origin.iter().map(|origin| origin.0.clone()).collect(),
            allowed_hosts: self.allowed_host.iter().map(|host| host.0.clone()).collect(),
            tls,
            access,
            rate_limits: self.rate_limits(),
            spans: None,
        })
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("no setting allows more than a year")
}
