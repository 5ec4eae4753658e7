//! The bridge on the embedded broker, with its accidents, on paused time.

mod bench;
mod brakes;
mod breaking;
mod bursts;
mod copies;
mod crashes;
mod flow;
mod held;
mod kept;
mod keys;
mod letters;
mod losses;
mod misfits;
mod neighbours;
mod pipes;
mod reconnecting;
mod renewing;
mod residence;
mod stopping;
mod unreadable;
