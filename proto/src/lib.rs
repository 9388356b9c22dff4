//! The contract of Lianxi: generated messages and services, and the signed envelope.
//!
//! Sources are the commented files under `proto/lianxi`. [`envelope`] signs and verifies by the keys
//! of [`suite`], [`cells`] commits to a summary's figures, [`merkle`] and [`note`] to a journal; all
//! need nothing but this crate, so that another program can check what a node signed.

pub mod cells;
pub mod envelope;
pub mod merkle;
pub mod note;
pub mod suite;

/// The whole contract as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// What statements carry.
pub mod types {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("lianxi.types.v1");
    }
}

/// How a unit joins.
pub mod enrolment {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("lianxi.enrolment.v1");
    }
}

/// The connection between a child and its parent.
pub mod link {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("lianxi.link.v1");
    }
}

/// What local users and systems call.
pub mod local {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("lianxi.local.v1");
    }
}

/// What the IT staff of a host call.
pub mod admin {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("lianxi.admin.v1");
    }
}
