//! Ports for programs that take one by its number.

use std::net::TcpListener;
use std::ops::Range;

/// Below those that the system gives to whoever asks for any port, and to connections that go out (Linux: from 32768 on): nobody takes
/// one between this look and the start of its program, or while a broker starts again.
const PORTS: Range<u16> = 10_240..32_768;

/// So many ports that nobody listens on now, no two the same.
pub(crate) fn free<const COUNT: usize>() -> [u16; COUNT] {
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(COUNT);
    while listeners.len() < COUNT {
        // One that is taken is none.
        listeners.extend(TcpListener::bind(("127.0.0.1", fastrand::u16(PORTS))));
    }
    std::array::from_fn(|index| listeners[index].local_addr().expect("a bound port").port())
}
