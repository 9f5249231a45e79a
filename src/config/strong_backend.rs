//! The setting `strong-backend`: `raft`, or the addresses of an etcd.

use super::types::{Address, SettingType};
use crate::node::StrongBackend;

impl SettingType for StrongBackend {
    const PLACEHOLDER: &'static str = "raft|etcd://HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "raft" {
            return Ok(Self::Raft);
        }
        let Some(rest) = text.strip_prefix("etcd://") else {
            return Err("not one of: raft, etcd://HOST:PORT[,HOST:PORT...]".into());
        };
        #[cfg(not(feature = "etcd"))]
        if !rest.is_empty() {
            return Err(format!("an etcd, and {}", crate::replication::strong::backend::WITHOUT_ETCD));
        }
        if let Some(part) = ["@", "/", "?"].into_iter().find(|part| rest.contains(part)) {
            return Err(format!(
                "not etcd://HOST:PORT[,HOST:PORT...]: nothing but addresses may follow, and there is {part:?}; user names, TLS and \
                 paths are not supported"
            ));
        }
        let addresses = rest.split(',').map(|address| endpoint(address.trim()));
        addresses.collect::<Result<_, _>>().map(Self::Etcd)
    }
}

/// An address of etcd: unlike a node's own, it has a host.
fn endpoint(text: &str) -> Result<String, String> {
    let address = Address::parse(text)?;
    match address.as_str() == text && address.port() != 0 {
        true => Ok(text.to_owned()),
        false => {
            Err("not etcd://HOST:PORT: a host and a port are missing, such as etcd://127.0.0.1:2379".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_raft_nor_an_etcd_is_refused() {
        assert_eq!(StrongBackend::parse("raft"), Ok(StrongBackend::Raft));
        for wrong in ["", "etcd", "zookeeper://a:1", "http://127.0.0.1:2379"] {
            let why = StrongBackend::parse(wrong).expect_err(wrong);
            assert!(why.contains("raft") && why.contains("etcd://"), "{wrong}: {why}");
        }
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn an_etcd_has_one_address_or_more() {
        let parsed = StrongBackend::parse("etcd://10.0.0.1:2379,etcd.example.com:2379");
        let expected = ["10.0.0.1:2379", "etcd.example.com:2379"].map(str::to_owned).to_vec();
        assert_eq!(parsed, Ok(StrongBackend::Etcd(expected)));
        let wrong = [
            "etcd://",
            "etcd://2379",
            "etcd://a:b",
            "etcd://u:p@a:1",
            "etcd://a:1/x",
            "etcd://a:1,",
            "etcd://a:0",
        ];
        for wrong in wrong {
            let why = StrongBackend::parse(wrong).expect_err(wrong);
            assert!(why.starts_with("not "), "{wrong}: {why}");
        }
    }

    #[cfg(not(feature = "etcd"))]
    #[test]
    fn a_build_without_etcd_says_so() {
        let why = StrongBackend::parse("etcd://127.0.0.1:2379").expect_err("no such feature");
        assert!(why.contains("--features etcd"), "{why}");
    }
}
