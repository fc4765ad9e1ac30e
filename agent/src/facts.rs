//! What this machine is: told to the catalog at enrolment and at each connection.

use mooring_proto::agent::v1 as pb;

use crate::backends::Detector;

/// Version of this agent.
pub const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Asks the kernel and the installed programs.
pub async fn gather(detector: &mut Detector) -> pb::HostFacts {
    pb::HostFacts {
        agent_version: AGENT_VERSION.to_owned(),
        kernel_version: kernel_release(),
        backends: detector.look().await,
    }
}

/// The kernel's release, such as `6.12.9-amd64`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether a kernel of this release sends a FUSE request again when its server has died before the answer (Linux 6.9).
/// A release that cannot be read is taken for a new one: then the worker says what was negotiated.
pub fn kernel_sends_again(release: &str) -> bool {
    let mut numbers = release
        .split(|char: char| !char.is_ascii_digit())
        .map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= (6, 9),
        (None, _) | (_, None) => true,
    }
}

/// The id of this boot: tells the catalog a reboot from a reconnect.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Tells this machine from others, and from a copy of its state folder on another one. A hash, because the id itself is
/// nobody else's business; empty if the machine has none.
pub fn machine_id() -> String {
    let id = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"]
        .iter()
        .find_map(|path| {
            let id = std::fs::read_to_string(path).ok()?.trim().to_owned();
            // What an image has before its first boot.
            (!id.is_empty() && id != "uninitialized").then_some(id)
        });
    id.map(|id| {
        // SHA-256, in hexadecimal.
        mooring_identity::KeyPin::of_public_key(format!("mooring machine {id}").as_bytes()).to_string()
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_9_do_not_send_again() {
        for (release, sends) in [
            ("6.1.0-28-amd64", false),
            ("6.8.0-51-generic", false),
            ("5.15", false),
            ("6.9.0", true),
            ("6.18.44-x", true),
            ("7.0", true),
            ("rolling", true),
        ] {
            assert_eq!(kernel_sends_again(release), sends, "{release}");
        }
    }
}
