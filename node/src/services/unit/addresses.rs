//! Where children dial a unit, and where it dials its parent.

use std::sync::PoisonError;

use super::Unit;

/// Addresses of a unit and of its parent, `host:port`.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    own: Vec<String>,
    parent: Vec<String>,
}

impl Unit {
    /// Children dial the unit at these from here on.
    pub fn dialled_at(&self, addresses: Vec<String>) {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).own = addresses;
    }

    /// Where children dial the unit.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).own.clone()
    }

    /// The unit dials its parent at these from here on, in this order.
    pub fn dials(&self, addresses: Vec<String>) {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner).parent = addresses;
    }

    /// Where the unit dials its parent.
    pub fn parent_addresses(&self) -> Vec<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).parent.clone()
    }
}
