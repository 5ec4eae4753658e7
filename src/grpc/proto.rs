//! The code generated from `proto/`, nested as its packages are: the admin package names types of the data plane by a
//! path relative to both. Nothing here is written by hand.

/// The packages below `sidebus`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    rustdoc::all,
    clippy::all,
    clippy::pedantic,
    clippy::or_fun_call,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod sidebus {
    pub mod v1 {
        tonic::include_proto!("sidebus.v1");
    }
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("sidebus.admin.v1");
        }
    }
}

/// The descriptors of every package, encoded, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sidebus.fds"));

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_descriptors_name_both_packages() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
        let packages: Vec<_> = set.file.iter().map(|file| file.package().to_owned()).collect();
        assert!(packages.iter().any(|name| name == "sidebus.v1"), "{packages:?}");
        assert!(packages.iter().any(|name| name == "sidebus.admin.v1"), "{packages:?}");
    }
}
