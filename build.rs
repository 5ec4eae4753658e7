//! Compiles the wire contract in `proto/` without protoc, and keeps its descriptors for gRPC reflection.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["sidebus/v1/sidebus.proto", "sidebus/admin/v1/admin.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    #[expect(clippy::disallowed_methods, reason = "cargo tells a build script where to write through the environment")]
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("sidebus.fds"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // A body is shared memory from the broker's buffer to the socket, never copied.
        .bytes(".")
        // A stable order of headers, for tests and for eyes.
        .btree_map(".")
        // A Message is 696 bytes: the rare reply would make every settlement that large.
        .boxed(".sidebus.v1.Ack.reply")
        .compile_fds(descriptors)?;
    Ok(())
}
