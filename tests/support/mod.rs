//! What several test binaries share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod container;
pub(crate) mod identity;
pub(crate) mod proxy;
pub(crate) mod rabbitmq;
