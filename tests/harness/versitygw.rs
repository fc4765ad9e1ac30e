//! versitygw, an S3 server that is not ours, so that we do not test ourselves against ourselves.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::programs::tool;
use crate::store::Store;
use crate::{eventually, store};

/// Starts versitygw over a folder below `folder`, with one bucket.
///
/// # Panics
/// When the program is missing or does not answer within 30 s.
pub fn start(folder: &Path, bucket: &str) -> Store {
    let data = folder.join("versitygw");
    std::fs::create_dir(&data).expect("the folder can be written");
    // It cannot be asked for its port, so it is given one that was free a moment ago.
    let port = store::free_port();
    let secret = store::planted_secret();
    let mut command = Command::new(tool("bin/versitygw"));
    command
        .env_clear()
        .env("ROOT_ACCESS_KEY", store::ACCESS_KEY_ID)
        .env("ROOT_SECRET_KEY", &secret)
        .args(["--quiet", "--port", &format!("127.0.0.1:{port}"), "posix"])
        .arg(&data);
    let process = Process::start("versitygw", folder, command);
    let store = Store::new(process, None, format!("http://127.0.0.1:{port}"), bucket, secret);
    eventually("versitygw answers", Duration::from_secs(30), || {
        store.create_bucket()
    });
    store
}
