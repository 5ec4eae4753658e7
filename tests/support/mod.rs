//! What several test binaries share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod container;
pub(crate) mod deadly;
pub(crate) mod examples;
pub(crate) mod fail_points;
pub(crate) mod handler;
pub(crate) mod identity;
pub(crate) mod lives;
pub(crate) mod management;
pub(crate) mod mount;
pub(crate) mod nodes;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod publisher;
pub(crate) mod rabbitmq;
pub(crate) mod raw;
pub(crate) mod scene;
pub(crate) mod tokens;
pub(crate) mod wait;
