//! Who calls on the local socket, and whether they may: judged before a handler sees the request.
//!
//! Promises that no request reaches a handler without a line in the table of [`rules`] and a
//! [`Caller`] in its extensions. The caller is told by the system's word for the other end of the
//! socket. Nothing here acts: what a call does is its handler's.

mod layer;
pub mod rules;

use tonic::{Request, Status};

pub use layer::AccessLayer;

/// Who makes a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user of the operating system.
    pub uid: u32,
}

/// Who makes this request.
///
/// # Errors
///
/// Internal: the request did not come through [`AccessLayer`].
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("a request came without its caller"))
}

/// The users of the operating system that may call.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The one that runs the node.
    pub own_uid: u32,
}

impl Access {
    /// Tells the caller by the user at the other end of the socket.
    ///
    /// # Errors
    ///
    /// Permission denied, for any but the user that runs the node, and root.
    pub fn identify(&self, uid: Option<u32>) -> Result<Caller, Status> {
        match uid {
            Some(uid) if uid == self.own_uid || uid == 0 => Ok(Caller { uid }),
            Some(uid) => {
                tracing::warn!(uid, "caller of the local socket refused");
                Err(Status::permission_denied(format!(
                    "user {uid} may not give commands to this node: give them as the user that \
                     runs it"
                )))
            }
            None => {
                tracing::warn!("caller of the local socket cannot be told");
                Err(Status::permission_denied("the system does not tell who is calling"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_user_but_the_nodes_own_and_root_is_refused() {
        let access = Access { own_uid: 1_000 };
        for uid in [0, 1_000] {
            assert_eq!(access.identify(Some(uid)).unwrap().uid, uid);
        }
        for uid in [Some(1_001), Some(65_534), None] {
            let refused = access.identify(uid).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        }
    }
}
