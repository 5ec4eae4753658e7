//! Ports for programs that take one by its number.

use std::net::TcpListener;

/// So many ports that nobody listens on now, no two the same.
pub(crate) fn free<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound port").port())
}
