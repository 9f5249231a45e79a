//! What the services of this server look like, for reflection and for the metrics.

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic_reflection::pb;

use super::{health, proto};

/// The descriptors of all services of this server.
pub const SETS: [&[u8]; 4] =
    [proto::DESCRIPTORS, health::DESCRIPTOR, pb::v1::FILE_DESCRIPTOR_SET, pb::v1alpha::FILE_DESCRIPTOR_SET];

/// All methods that listeners may have: `package.Service/Method`.
pub fn methods() -> impl Iterator<Item = String> {
    let sets = SETS.into_iter().filter_map(|set| FileDescriptorSet::decode(set).ok());
    let services = sets.flat_map(|set| set.file).flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| (format!("{package}.{}", service.name()), service))
    });
    services.flat_map(|(name, service)| {
        service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_by_its_path() {
        let methods: Vec<String> = methods().collect();
        for method in [
            "dynarust.v1.Kv/Get",
            "dynarust.v1.Kv/Txn",
            "grpc.health.v1.Health/Watch",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(methods.iter().any(|known| known == method), "{method} in {methods:?}");
        }
    }
}
