//! A whole installation: store, catalog, operator, and as many people and hosts as the story needs.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cut::Cut;
use crate::host::Host;
use crate::machine::Machine;
use crate::network::Network;
use crate::person::Person;
use crate::process::Process;
use crate::programs::program;
use crate::store::{self, Store};
use crate::{eventually, mounts, versitygw};

/// What a story plays in. Fields are dropped in their order: hosts first, the folder last.
pub struct World {
    hosts: u32,
    /// The catalog's process; `None` while it is away.
    catalog: Option<Process>,
    catalog_address: String,
    /// The operator at a terminal.
    pub operator: Person,
    /// The S3 server.
    pub store: Store,
    network: Option<Network>,
    announced: Vec<String>,
    folder: tempfile::TempDir,
}

/// A mounted activation.
pub struct Mounted {
    /// Its name, `projects/{project}/activations/{activation}`.
    pub activation: String,
    /// From the command to the folder.
    pub took: Duration,
    /// The folder on the host it was waited for.
    pub path: PathBuf,
}

impl World {
    /// A world on our own S3 server, with community `research`, project `ml`, pool `desks` and connector `lake`.
    pub fn start() -> World {
        World::build(None, "", |folder, address| Store::start(folder, address, "lake"))
    }

    /// The same on versitygw.
    pub fn on_versitygw() -> World {
        World::build(None, "", |folder, _| versitygw::start(folder, "lake"))
    }

    /// A world with a network, on whose bridge catalog and store listen and hosts are namespaces.
    pub fn with_network() -> World {
        World::build(Some(Network::new()), "", |folder, address| {
            Store::start(folder, address, "lake")
        })
    }

    /// A world whose catalog has more lines in its configuration.
    pub fn with_catalog_config(lines: &str) -> World {
        World::build(None, lines, |folder, address| {
            Store::start(folder, address, "lake")
        })
    }

    fn build(network: Option<Network>, lines: &str, store: impl FnOnce(&Path, Ipv4Addr) -> Store) -> World {
        let folder = tempfile::Builder::new()
            .prefix("mooring-world-")
            .tempdir()
            .expect("a folder can be made");
        let address = network.as_ref().map_or(Ipv4Addr::LOCALHOST, Network::address);
        let store = store(folder.path(), address);
        // A fixed port, so that a catalog that comes back is found again.
        let catalog_address = format!("{address}:{}", store::free_port());
        let networks = network.as_ref().map_or("127.0.0.0/8".to_owned(), Network::cidr);
        let config = format!(
            "listen = \"{catalog_address}\"\nstate_dir = \"{}\"\n{lines}\n[connector_endpoints]\nallow_http = true\n\
             allowed_networks = [\"{networks}\"]\n",
            folder.path().join("catalog").display(),
        );
        std::fs::write(folder.path().join("catalog.toml"), config).expect("the folder can be written");
        let catalog = start_catalog(folder.path());
        let operator = Person::log_in(
            folder.path(),
            "operator",
            &folder.path().join("catalog/operator.join"),
        );
        let world = World {
            hosts: 0,
            catalog: Some(catalog),
            catalog_address,
            operator,
            store,
            network,
            announced: Vec::new(),
            folder,
        };
        world.furnish();
        world
    }

    /// What most stories need.
    fn furnish(&self) {
        let operator = &self.operator;
        operator.mooring("communities create research");
        operator.mooring("projects create ml --community research");
        operator.mooring("pools create desks --admitted-projects *");
        self.connector("ml", "lake", "--mode read-write");
    }

    /// Creates a connector to the store's bucket in `project`, with its secret `<id>-key`.
    pub fn connector(&self, project: &str, id: &str, more: &str) {
        let key = self.secret_file();
        self.operator.mooring(&format!(
            "connectors create {id} --project {project} --endpoint {} --bucket {} --access-key-id {} \
             --new-secret-id {id}-key --new-secret-key-file {} {more}",
            self.store.endpoint,
            self.store.bucket,
            store::ACCESS_KEY_ID,
            key.display(),
        ));
        std::fs::remove_file(key).expect("the key file is ours");
    }

    /// The store's secret key in a file, for a command that takes it from there.
    pub fn secret_file(&self) -> PathBuf {
        let path = self.path().join("typed.key");
        std::fs::write(&path, &self.store.secret).expect("the folder can be written");
        path
    }

    /// A new user who has logged in, without any role.
    pub fn person(&self, id: &str) -> Person {
        let join = self.path().join(format!("{id}.join"));
        self.operator.mooring(&format!("users create {id}"));
        self.operator.mooring(&format!(
            "join-tokens create --user {id} --join-string-file {}",
            join.display()
        ));
        Person::log_in(self.path(), id, &join)
    }

    /// A new host in pool `desks`; in a namespace of its own if the world has a network.
    pub fn host(&mut self) -> Host {
        self.host_in("desks")
    }

    /// A new host in a pool.
    pub fn host_in(&mut self, pool: &str) -> Host {
        self.hosts += 1;
        let name = format!("host-{}", self.hosts);
        let join = self.join_file(&name, &format!("--pool {pool}"));
        let namespace = self.network.as_mut().map(Network::namespace);
        Host::join(self.folder.path(), &name, &join, namespace)
    }

    /// A join string, in `<name>.join` of the world's folder.
    pub fn join_file(&self, name: &str, of: &str) -> PathBuf {
        let join = self.path().join(format!("{name}.join"));
        self.operator.mooring(&format!(
            "join-tokens create {of} --join-string-file {}",
            join.display()
        ));
        join
    }

    /// A fresh machine with an init system of its own, on which nothing of ours is installed.
    ///
    /// # Panics
    /// When the world has no network.
    pub fn machine(&mut self, name: &str) -> Machine {
        let network = self
            .network
            .as_mut()
            .expect("a machine needs a world with a network");
        Machine::boot(self.folder.path(), name, network.namespace())
    }

    /// Activates connector `lake` of project `ml` on pool `desks` and waits until it is mounted on `host`.
    pub fn activate(&self, host: &Host) -> Mounted {
        self.activate_connector(host, "ml", "lake")
    }

    /// Activates a connector on pool `desks` and waits until it is mounted on `host`.
    pub fn activate_connector(&self, host: &Host, project: &str, connector: &str) -> Mounted {
        let start = std::time::Instant::now();
        let answer = self.operator.json(&format!(
            "activations create --connector {project}/{connector} --pool desks"
        ));
        let activation = answer["name"]
            .as_str()
            .expect("an activation has a name")
            .to_owned();
        let path = host.path(project, connector);
        self.mounted_at(&path);
        Mounted {
            activation,
            took: start.elapsed(),
            path,
        }
    }

    /// Waits until something is mounted at `path` and answers there.
    pub fn mounted_at(&self, path: &Path) {
        eventually(
            &format!("{} is mounted", path.display()),
            Duration::from_secs(20),
            || {
                if !mounts::is_mounted(path) {
                    return Err("nothing is mounted there".to_owned());
                }
                mounts::answers(path)
            },
        );
    }

    /// Waits until an activation has a state, such as `ACTIVE`.
    pub fn activation_is(&self, activation: &str, state: &str) -> Value {
        let wanted = format!("ACTIVATION_STATE_{state}");
        let (_, found) = eventually(
            &format!("{activation} is {state}"),
            Duration::from_secs(20),
            || {
                let found = self.operator.json(&format!("activations get {activation}"));
                if found["state"] == wanted.as_str() {
                    Ok(found)
                } else {
                    Err(found.to_string())
                }
            },
        );
        found
    }

    /// Kills the catalog without a word.
    pub fn kill_catalog(&mut self) {
        if let Some(mut catalog) = self.catalog.take() {
            catalog.kill();
        }
    }

    /// Starts the catalog again, on the same address and state.
    pub fn start_catalog(&mut self) {
        self.catalog = Some(start_catalog(self.folder.path()));
    }

    /// Cuts the catalog off from all hosts, or from the one with this address.
    pub fn cut_catalog(&self, host: Option<Ipv4Addr>) -> Cut {
        self.cut(&self.catalog_address, host)
    }

    /// Cuts the store off from all hosts.
    pub fn cut_store(&self) -> Cut {
        self.cut(&self.store.endpoint, None)
    }

    fn cut(&self, address: &str, host: Option<Ipv4Addr>) -> Cut {
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.expect("an address of the world ends with its port");
        let network = self.network.as_ref().expect("only a network has cables");
        network.cut(port, host)
    }

    /// The world's network in CIDR notation.
    ///
    /// # Panics
    /// When it has none.
    pub fn network_cidr(&self) -> String {
        self.network.as_ref().expect("it has a network").cidr()
    }

    /// `address:port` of the catalog.
    pub fn catalog_address(&self) -> &str {
        &self.catalog_address
    }

    /// What the catalog has said.
    pub fn catalog_log(&self) -> String {
        std::fs::read_to_string(self.path().join("catalog.log")).unwrap_or_default()
    }

    /// The world's folder: logs, states, profiles.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Announces an error that the story causes: lines of logs with this text in them are no defect.
    pub fn expect_in_logs(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Files below the world's folder, mounts left out, in which `needle` stands.
    pub fn files_with(&self, needle: &str) -> Vec<String> {
        let found = Command::new("find")
            .arg(self.path())
            .args([
                "-xdev", "-type", "f", "-exec", "grep", "-l", "-a", "-F", "-e", needle, "{}", "+",
            ])
            .output()
            .expect("find is installed");
        String::from_utf8_lossy(&found.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn unannounced_errors(&self) -> Vec<String> {
        let logs = Command::new("find")
            .arg(self.path())
            .args([
                "-xdev",
                "-name",
                "*.log",
                "-exec",
                "grep",
                "-H",
                "-E",
                "ERROR|panicked at",
                "{}",
                "+",
            ])
            .output()
            .expect("find is installed");
        String::from_utf8_lossy(&logs.stdout)
            .lines()
            .filter(|line| !self.announced.iter().any(|text| line.contains(text.as_str())))
            .map(str::to_owned)
            .collect()
    }
}

fn start_catalog(folder: &Path) -> Process {
    let mut command = Command::new(program("mooring-catalog"));
    command
        .arg("serve")
        .arg("--config")
        .arg(folder.join("catalog.toml"));
    let mut catalog = Process::start("catalog", folder, command);
    catalog.says("mooring-catalog listens on ");
    if !folder.join("profile-operator").exists() {
        catalog.says("log in as the operator: ");
    }
    catalog
}

impl Drop for World {
    fn drop(&mut self) {
        // Bare mount points of hosts that a story has made by itself cannot be removed as long as they are immutable.
        let _ = Command::new("chattr")
            .args(["-R", "-f", "-i"])
            .arg(self.folder.path())
            .output();
        if std::thread::panicking() {
            return;
        }
        if let Some(mut catalog) = self.catalog.take() {
            catalog.stop();
        }
        let errors = self.unannounced_errors();
        assert!(
            errors.is_empty(),
            "errors in the logs that the story did not announce:\n{}",
            errors.join("\n")
        );
        let leaks = self.files_with(&self.store.secret);
        assert!(leaks.is_empty(), "the secret key stands in {leaks:?}");
    }
}
