//! The contract between the services: schemas and the code generated from them.
//!
//! One module for each package of `drivers/`, named `<package>::v1`.

#![allow(
    missing_docs,
    reason = "the comments of the schemas stand on what they describe"
)]

/// `drivers.user.v1`: accounts and tokens.
pub mod user {
    pub mod v1 {
        tonic::include_proto!("drivers.user.v1");
    }
}

/// `drivers.message.v1`: rooms, topics, members and the log.
pub mod message {
    pub mod v1 {
        tonic::include_proto!("drivers.message.v1");
    }
}

/// `drivers.presence.v1`: leases, sessions, typing.
pub mod presence {
    pub mod v1 {
        tonic::include_proto!("drivers.presence.v1");
    }
}

/// `drivers.event.v1`: what is published on the bus.
pub mod event {
    pub mod v1 {
        tonic::include_proto!("drivers.event.v1");
    }
}

/// The compiled schemas with their comments: an encoded
/// `google.protobuf.FileDescriptorSet`, for reflection and for reading options.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
