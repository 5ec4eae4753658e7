//! One file per command. Knows no broker and no transport: commands talk to a running sidecar through `grpc::client`.

pub mod console;
pub mod exit;
pub mod publish;
pub mod subscribe;
pub mod target;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
