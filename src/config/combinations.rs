//! Settings that go together, or do not.

use super::Config;
use crate::error::{Error, Result};

impl Config {
    /// Checks the settings of backups against each other.
    pub(super) fn check_backups(&self) -> Result<()> {
        if self.backup_key_file.is_some() && self.backup_recipient.is_some() {
            return Err(Error::Config(
                "backup-key-file and backup-recipient both say how backups are encrypted: leave one of them out".into(),
            ));
        }
        if self.backup_dir.is_none() && (self.backup_key_file.is_some() || self.backup_recipient.is_some()) {
            return Err(Error::Config(
                "backup-key-file and backup-recipient need backup-dir, the directory of the backups".into(),
            ));
        }
        Ok(())
    }

    /// Checks the settings of access against each other.
    pub(super) fn check_access(&self) -> Result<()> {
        let has_rules = self.tokens.is_some() || self.jwks.is_some();
        if self.no_auth && has_rules {
            return Err(Error::Config(
                "no-auth goes with neither tokens nor jwks: leave it out to ask clients for tokens".into(),
            ));
        }
        if self.jwks.is_none() && (self.jwt_issuer.is_some() || self.jwt_audience.is_some()) {
            return Err(Error::Config(
                "jwt-issuer and jwt-audience need jwks, the keys that sign JWTs".into(),
            ));
        }
        Ok(())
    }
}
