//! What the host serves over gRPC: enrolment on the link address, everything else on the local
//! socket. Handlers parse, call, convert; errors are mapped once, in [`status`].

pub mod catalogues;
pub mod enrolment;
pub mod escalations;
pub mod nodes;
pub mod notices;
pub mod records;
pub mod status;
pub mod summaries;
