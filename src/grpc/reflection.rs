//! gRPC reflection of the services that a door really serves. Knows no service.

use tonic::service::Routes;

use super::proto::FILE_DESCRIPTOR_SET;

/// The routes with both versions of reflection beside them: older tools still ask for v1alpha.
///
/// # Errors
/// The descriptors are broken: a bug of the build.
pub(super) fn added(routes: Routes, services: &[&str]) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        // The descriptors hold the services of every door.
        services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}
