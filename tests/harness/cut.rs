//! Cables that are cut: packets of a network to and from a port vanish without an answer, as when a switch or a route is
//! lost. Connections that exist hang; new ones get nowhere.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers the cuts of one test run.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A cable that is cut. Dropping it mends it.
pub struct Cut {
    table: String,
}

impl Cut {
    /// Cuts off what listens on a port of ours from a bridge; for one host of it only if so.
    pub(crate) fn new(bridge: &str, port: u16, host: Option<Ipv4Addr>) -> Cut {
        let table = format!("mooring-cut-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (from, to) = host.map_or_else(Default::default, |host| {
            (format!("ip saddr {host}"), format!("ip daddr {host}"))
        });
        nft(&format!(
            "table inet {table} {{
                chain arriving {{
                    type filter hook input priority 0; policy accept;
                    iifname \"{bridge}\" {from} tcp dport {port} drop
                }}
                chain leaving {{
                    type filter hook output priority 0; policy accept;
                    oifname \"{bridge}\" {to} tcp sport {port} drop
                }}
            }}"
        ));
        Cut { table }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        // The rules are this run's own and end with it; a story that is failing says so itself.
        let _ = Command::new("nft")
            .args(["delete", "table", "inet", &self.table])
            .output();
    }
}

fn nft(rules: &str) {
    let mut nft = Command::new("nft")
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft is installed by tests/run");
    nft.stdin
        .take()
        .expect("it was asked for")
        .write_all(rules.as_bytes())
        .expect("nft reads");
    let output = nft.wait_with_output().expect("nft ends");
    assert!(
        output.status.success(),
        "{rules}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
