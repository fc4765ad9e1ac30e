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
    std::fs::create_dir(folder.join("versitygw")).expect("the folder can be written");
    // It cannot be asked for its port, so it is given one that was free a moment ago.
    let port = store::free_port();
    let secret = store::planted_secret();
    let process = launch(folder, port, &secret);
    let store = Store::new(process, None, format!("http://127.0.0.1:{port}"), bucket, secret);
    eventually("versitygw answers", Duration::from_secs(30), || {
        store.create_bucket()
    });
    store
}

/// Starts it once more after it was killed, over the same folder and at the same port.
///
/// # Panics
/// When it does not answer within 30 s.
pub fn restart(store: &mut Store, folder: &Path) {
    let port = store
        .endpoint
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    store.process = launch(folder, port.expect("the endpoint has a port"), &store.secret);
    eventually("versitygw answers again", Duration::from_secs(30), || {
        store.create_bucket()
    });
}

fn launch(folder: &Path, port: u16, secret: &str) -> Process {
    let mut command = Command::new(tool("bin/versitygw"));
    command
        .env_clear()
        .env("ROOT_ACCESS_KEY", store::ACCESS_KEY_ID)
        .env("ROOT_SECRET_KEY", secret)
        .args(["--quiet", "--port", &format!("127.0.0.1:{port}"), "posix"])
        .arg(folder.join("versitygw"));
    Process::start("versitygw", folder, command)
}
