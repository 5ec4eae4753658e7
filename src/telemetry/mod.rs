//! Logs and metrics: how they look, what they are called. Knows no other room; domain never comes here.

pub mod logs;
pub mod metrics;
pub mod seldom;
