//! Which settings go together.

use super::{Config, Setting, memory, types::ByteSize};
use crate::{
    error::{Error, Result},
    node::StrongBackend,
};

impl Config {
    /// Validates settings, alone and against each other.
    ///
    /// # Errors
    /// `Config`; the text says where the value was set and what is allowed.
    pub fn new(settings: &[Setting]) -> Result<Self> {
        let config = Self::read(settings)?;
        config.check_addresses()?;
        config.check_etcd()?;
        config.check_tls()?;
        config.check_access()?;
        config.check_rate_limits()?;
        config.check_backups()?;
        if config.max_body < config.max_value {
            return wrong(format!(
                "max-body ({} bytes) is below max-value ({} bytes): the largest value must fit into a body",
                config.max_body.0, config.max_value.0
            ));
        }
        config.check_body_memory()?;
        if config.max_connections_per_address == Some(0) {
            return wrong("max-connections-per-address is 0: nobody could connect; set at least 1");
        }
        if config.otlp_endpoint.is_some() && !cfg!(feature = "otlp") {
            return wrong(
                "otlp-endpoint: this build sends no spans: make one with `cargo build --release --features otlp`",
            );
        }
        Ok(config)
    }

    /// Each listener has an address of its own.
    fn check_addresses(&self) -> Result<()> {
        let addresses =
            [("LISTEN", Some(&self.listen)), ("--grpc", self.grpc.as_ref()), ("--etcd", self.etcd.as_ref())];
        let given: Vec<_> =
            addresses.into_iter().filter_map(|(name, address)| Some((name, address?))).collect();
        for (place, (name, address)) in given.iter().enumerate() {
            if let Some((other, _)) = given[..place].iter().find(|(_, other)| other.overlaps(address)) {
                return wrong(format!(
                    "{name} {}: {other} is the same address. Choose another port: each protocol has a listener of its own",
                    address.as_str()
                ));
            }
        }
        Ok(())
    }

    fn check_etcd(&self) -> Result<()> {
        match self.etcd.is_some() && self.strong_backend != StrongBackend::Raft {
            true => wrong(
                "etcd needs strong-backend raft: with an etcd behind the strong tables, have clients of etcd use that one",
            ),
            false => Ok(()),
        }
    }

    fn check_tls(&self) -> Result<()> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return wrong("tls-cert and tls-key belong together: one of them is missing");
        }
        if self.tls_client_ca.is_some() && self.tls_cert.is_none() {
            return wrong("tls-client-ca needs tls-cert: without TLS clients show no certificate");
        }
        if self.tls_client_auth.is_some() && self.tls_client_ca.is_none() {
            return wrong("tls-client-auth needs tls-client-ca, the authorities for clients");
        }
        Ok(())
    }

    fn check_access(&self) -> Result<()> {
        let has_rules = self.tokens.is_some() || self.jwks.is_some();
        if self.no_auth && has_rules {
            return wrong(
                "no-auth goes with neither tokens nor jwks: leave it out to ask clients for tokens",
            );
        }
        if self.jwks.is_none() && (self.jwt_issuer.is_some() || self.jwt_audience.is_some()) {
            return wrong("jwt-issuer and jwt-audience need jwks, the keys that sign JWTs");
        }
        Ok(())
    }

    fn check_backups(&self) -> Result<()> {
        if self.backup_key_file.is_some() && self.backup_recipient.is_some() {
            return wrong(
                "backup-key-file and backup-recipient both say how backups are encrypted: leave one of them out",
            );
        }
        if self.backup_dir.as_ref().is_some_and(|directory| directory.starts_with("s3:")) {
            return wrong(
                "backup-dir names a directory, and scheduled backups go into no bucket: have the system's own schedule (cron, a CronJob) run \
                 `DynaRust backup s3://BUCKET/NAME`",
            );
        }
        if self.backup_dir.is_none() && (self.backup_key_file.is_some() || self.backup_recipient.is_some()) {
            return wrong(
                "backup-key-file and backup-recipient need backup-dir, the directory of the backups",
            );
        }
        Ok(())
    }

    fn check_rate_limits(&self) -> Result<()> {
        let has_limit = self.rate_limit_per_token.or(self.rate_limit_per_address).is_some();
        match self.rate_limit_burst.is_some() && !has_limit {
            true => wrong(
                "rate-limit-burst needs rate-limit-per-token or rate-limit-per-address: without them there is no limit",
            ),
            false => Ok(()),
        }
    }

    fn check_body_memory(&self) -> Result<()> {
        let least = memory::BODIES * self.max_body.0;
        match self.body_memory {
            Some(ByteSize(budget)) if budget < least => wrong(format!(
                "body-memory ({budget} bytes) is below four times max-body ({} bytes): the node could never take the largest batch",
                self.max_body.0
            )),
            Some(_) | None => Ok(()),
        }
    }
}

fn wrong<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Config(why.into()))
}
