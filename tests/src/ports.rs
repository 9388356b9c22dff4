//! Addresses for hosts that are to listen later.
//!
//! Promises an address that no other call of this process gets, and that the system gives to
//! nobody by itself: its own choice lies above.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that the system takes for outgoing connections.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// How far apart processes begin to look.
const APART: u32 = 397;

/// An address on loopback that nobody listens at.
///
/// # Panics
///
/// Every port is taken.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = std::process::id().wrapping_mul(APART) % u32::from(COUNT);
    let free = (0..COUNT).find_map(|_| {
        let offset = begin + u32::from(NEXT.fetch_add(1, Ordering::Relaxed) % COUNT);
        let port = FIRST + u16::try_from(offset % u32::from(COUNT)).ok()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).is_ok().then_some(address)
    });
    free.expect("no port is free")
}
