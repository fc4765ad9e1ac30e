//! Hosts as network namespaces on one bridge.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::cut::Cut;

/// Numbers the bridges of one test run, so that stories can run side by side.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// A bridge with an address of its own, to which namespaces are plugged. Removed on drop.
pub struct Network {
    number: u8,
    plugged: u8,
}

/// A network namespace that reaches its network's bridge and nothing else. Removed on drop.
pub struct Namespace {
    name: String,
    address: Ipv4Addr,
}

impl Network {
    /// Makes the bridge.
    pub fn new() -> Network {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = Network { number, plugged: 0 };
        let bridge = network.bridge();
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("addr add {}/24 dev {bridge}", network.address()));
        ip(&format!("link set {bridge} up"));
        network
    }

    /// The address at which namespaces reach what runs outside them.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// The whole network in CIDR notation.
    pub fn cidr(&self) -> String {
        format!("10.77.{}.0/24", self.number)
    }

    /// Makes a namespace and plugs it in.
    pub fn namespace(&mut self) -> Namespace {
        self.plugged += 1;
        let (network, host) = (self.number, self.plugged);
        let name = format!("mooring-{network}-{host}");
        let (outer, inner) = (format!("mo{network}x{host}"), format!("mi{network}x{host}"));
        let address = Ipv4Addr::new(10, 77, network, 1 + host);
        ip(&format!("netns add {name}"));
        ip(&format!("link add {outer} type veth peer name {inner}"));
        ip(&format!("link set {outer} master {} up", self.bridge()));
        ip(&format!("link set {inner} netns {name}"));
        ip(&format!("-n {name} addr add {address}/24 dev {inner}"));
        ip(&format!("-n {name} link set {inner} up"));
        ip(&format!("-n {name} link set lo up"));
        Namespace { name, address }
    }

    /// Cuts off what listens on one of our ports, from all that is plugged in or from one address only.
    pub fn cut(&self, port: u16, host: Option<Ipv4Addr>) -> Cut {
        Cut::new(&self.bridge(), port, host)
    }

    fn bridge(&self) -> String {
        format!("mooring{}", self.number)
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.bridge()]).output();
    }
}

impl Namespace {
    /// A command that runs inside. Only the network is its own: mounts are the machine's, so that a story sees them.
    ///
    /// (`ip netns exec` would give it a mount namespace too; `nsenter` does not.)
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// What stands for it in the file system.
    pub fn path(&self) -> std::path::PathBuf {
        std::path::Path::new("/run/netns").join(&self.name)
    }

    /// Its address on the bridge.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("ip is installed by tests/run");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
