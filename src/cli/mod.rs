//! One file per command. Knows no broker: commands talk to a running sidecar through `grpc::client`.
