//! Compiles every `.proto` below this folder with protox (no protoc needed) into Rust code, and keeps the
//! descriptors, comments included, for the command line and for reflection.

use std::path::{Path, PathBuf};

/// Messages that hold secret bytes, or contain one that does: they get no `Debug`, so no log can hold their values.
const SECRET_MESSAGES: [&str; 9] = [
    "mooring.v1.CreateSecretRequest",
    "mooring.v1.AddSecretVersionRequest",
    "mooring.v1.NewSecret",
    "mooring.v1.CreateConnectorRequest",
    "mooring.v1.JoinToken",
    "mooring.v1.ListJoinTokensResponse",
    "mooring.v1.LoginRequest",
    "mooring.agent.v1.EnrollRequest",
    "mooring.agent.v1.Credential",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    collect(Path::new("mooring"), &mut files)?;
    files.sort();
    println!("cargo:rerun-if-changed=mooring");

    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .skip_debug(SECRET_MESSAGES)
        // Ordered, so that equal messages have equal bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
