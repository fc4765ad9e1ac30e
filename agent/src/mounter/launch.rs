//! Starting a worker so that it outlives the agent: a session of its own, no terminal, no inherited descriptor, an
//! empty environment, and nothing on its command line but the path of its socket.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What of the agent's environment a worker may know: how much to log, and which CAs this machine trusts.
const ENVIRONMENT: [&str; 3] = ["MOORING_LOG", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Starts `program serve --control SOCKET`. `setsid` (util-linux) makes the session and then becomes the program:
/// signals from the agent's terminal or to its process group do not reach the worker.
pub(super) fn launch(program: &Path, control_socket: &Path, log: &Path) -> io::Result<Child> {
    let log = File::options().append(true).create(true).mode(0o600).open(log)?;
    let mut command = Command::new("setsid");
    command
        .arg(program)
        .arg("serve")
        .arg("--control")
        .arg(control_socket);
    command.current_dir("/").env_clear();
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn()
}

/// The last line of a worker's log, for people who read a condition instead of a log.
pub(super) fn last_words(log: &Path) -> String {
    const SHOWN_CHARS_MAX: usize = 300;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("it has logged nothing")
        .chars()
        .take(SHOWN_CHARS_MAX)
        .collect()
}
