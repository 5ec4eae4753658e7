//! The bridge on the embedded broker, with its accidents, on paused time.

mod bench;
mod copies;
mod flow;
mod losses;
mod stopping;
