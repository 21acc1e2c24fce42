//! Compiles the schemas with protox, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

const SCHEMAS: [&str; 4] = [
    "drivers/user/v1/user_service.proto",
    "drivers/message/v1/message_service.proto",
    "drivers/presence/v1/presence_service.proto",
    "drivers/event/v1/event.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=drivers");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(SCHEMAS)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
