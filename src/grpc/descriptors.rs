//! What the services of this server look like, for reflection and for the metrics.

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic_reflection::pb;

use super::{health, proto};

/// The descriptors of all services of this server.
pub const SETS: [&[u8]; 4] =
    [proto::DESCRIPTORS, health::DESCRIPTOR, pb::v1::FILE_DESCRIPTOR_SET, pb::v1alpha::FILE_DESCRIPTOR_SET];

/// What a method is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Whether its clients send any number of messages, instead of one.
    pub takes_stream: bool,
    /// Whether it answers with any number of messages.
    pub gives_stream: bool,
}

/// All methods that listeners may have: `package.Service/Method`.
pub fn methods() -> impl Iterator<Item = (String, Method)> {
    let sets = SETS.into_iter().filter_map(|set| FileDescriptorSet::decode(set).ok());
    let services = sets.flat_map(|set| set.file).flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| (format!("{package}.{}", service.name()), service))
    });
    services.flat_map(|(name, service)| {
        service.method.into_iter().map(move |method| {
            let (takes_stream, gives_stream) = (method.client_streaming(), method.server_streaming());
            (format!("{name}/{}", method.name()), Method { takes_stream, gives_stream })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_by_its_path() {
        let methods: Vec<_> = methods().collect();
        for (name, takes_stream, gives_stream) in [
            ("dynarust.v1.Kv/Get", false, false),
            ("dynarust.v1.Kv/Txn", false, false),
            ("grpc.health.v1.Health/Watch", false, true),
            ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true, true),
            ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true, true),
        ] {
            let method = (name.to_owned(), Method { takes_stream, gives_stream });
            assert!(methods.contains(&method), "{method:?} in {methods:?}");
        }
    }
}
