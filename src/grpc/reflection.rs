//! Server reflection, in both versions that clients ask for: what services a listener has, and what their messages are.

use tonic_reflection::server::Builder;

use super::{
    descriptors,
    services::{Access, Services},
};
use crate::error::{Error, Result};

/// Adds reflection of all services that are there now.
///
/// # Errors
/// `Io` if the descriptors do not fit together, which a test would have shown.
pub fn add(services: Services) -> Result<Services> {
    let names: Vec<_> = services.names().collect();
    let builder = || {
        let builder = descriptors::SETS
            .into_iter()
            // So that tools show the details of errors.
            .chain([tonic_types::pb::FILE_DESCRIPTOR_SET])
            .fold(Builder::configure(), |builder, set| builder.register_encoded_file_descriptor_set(set))
            .with_service_name("grpc.reflection.v1.ServerReflection")
            .with_service_name("grpc.reflection.v1alpha.ServerReflection");
        names.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let wrong = |error: tonic_reflection::server::Error| Error::Io(format!("gRPC reflection: {error}"));
    let v1 = builder().build_v1().map_err(wrong)?;
    let v1alpha = builder().build_v1alpha().map_err(wrong)?;
    Ok(services.add(Access::Open, v1).add(Access::Open, v1alpha))
}
