//! Compiles every `.proto` below this folder with protox (no protoc needed) into Rust code, and keeps the
//! descriptors, comments included, for the command line and for reflection.

use std::path::{Path, PathBuf};

use protox::prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value};

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
    let described = with_comments_only(&compiler.encode_file_descriptor_set())?;
    std::fs::write(out.join("descriptors.bin"), described)?;
    tonic_prost_build::configure()
        .skip_debug(SECRET_MESSAGES)
        // Ordered, so that equal messages have equal bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The descriptors with our comments and without the places in the sources: those are a third of the bytes and most of
/// the messages, which the command line reads at every start. Read without types, since options would not survive those.
fn with_comments_only(encoded: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let known = DescriptorPool::global();
    let set = known
        .get_message_by_name("google.protobuf.FileDescriptorSet")
        .ok_or("descriptor.proto is not among the well-known files")?;
    let mut set = DynamicMessage::decode(set, encoded)?;
    for file in messages(&mut set, "file") {
        let package = file
            .get_field_by_name("package")
            .and_then(|name| Some(name.as_str()?.to_owned()));
        if !package.is_some_and(|package| package.starts_with("mooring.")) {
            file.clear_field_by_name("source_code_info");
        }
        if let Some(Value::Message(info)) = file.get_field_by_name_mut("source_code_info")
            && let Some(Value::List(locations)) = info.get_field_by_name_mut("location")
        {
            locations.retain(|location| {
                location
                    .as_message()
                    .is_some_and(|location| location.has_field_by_name("leading_comments"))
            });
            for location in locations.iter_mut().filter_map(Value::as_message_mut) {
                location.clear_field_by_name("span");
            }
        }
    }
    Ok(set.encode_to_vec())
}

/// The messages in a repeated field.
fn messages<'a>(
    message: &'a mut DynamicMessage,
    field: &str,
) -> impl Iterator<Item = &'a mut DynamicMessage> {
    let list = message.get_field_by_name_mut(field).and_then(Value::as_list_mut);
    list.into_iter().flatten().filter_map(Value::as_message_mut)
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
