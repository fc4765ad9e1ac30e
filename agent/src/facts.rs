//! What this machine is: told to the catalog at enrolment and at each connection.

use std::path::Path;
use std::time::Duration;

use mooring_proto::agent::v1 as pb;

/// Version of this agent.
pub const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program that only prints its version and takes longer is broken.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the kernel and the installed programs.
pub async fn gather(mooring_fs: &Path) -> pb::HostFacts {
    let backends = match version_of(mooring_fs).await {
        Ok(version) => vec![pb::BackendFact {
            backend: "DEFAULT".to_owned(),
            version,
        }],
        Err(error) => {
            tracing::error!(program = %mooring_fs.display(), %error,
                "mooring-fs cannot be run, so nothing can be mounted; install it, or correct mooring_fs");
            Vec::new()
        }
    };
    pb::HostFacts {
        agent_version: AGENT_VERSION.to_owned(),
        kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
        backends,
    }
}

/// The id of this boot: tells the catalog a reboot from a reconnect.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

async fn version_of(program: &Path) -> std::io::Result<String> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, output)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    if !output.status.success() {
        return Err(std::io::Error::other(format!(
            "--version ends with {}",
            output.status
        )));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().last();
    Ok(version.unwrap_or("unknown").to_owned())
}
