//! How hosts come, stay away, come back and leave: lost replies, ended certificates, cordon, drain, ban, copies.

mod leaving;
mod lost_replies;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use mooring_tests::process::Process;
use mooring_tests::programs::program;
use mooring_tests::{Host, World, eventually, mounts};
use serde_json::Value;

/// As short as certificates are, so that stories see them end.
const SHORT_LIVES: &str = "certificate_lifetime = \"10s\"";

#[test]
fn a_host_that_was_off_until_its_certificate_had_ended_comes_back_by_itself_with_its_mounts() {
    let mut world = World::with_catalog_config(SHORT_LIVES);
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let mount = world.activate(&host);
    let workers = host.workers();
    host.stop_agent();
    outlast_certificates(&mount.path);
    host.start();
    host_is(&world, &host, "READY");
    assert!(
        host.agent_log().contains("the host has proved its key"),
        "{}",
        host.agent_log()
    );
    assert_eq!(host.workers(), workers, "nothing was mounted anew");
    world
        .operator
        .mooring(&format!("activations delete {}", mount.activation));
    gone(&mount.path);
    world.activation_is(&mount.activation, "INACTIVE");
}

#[test]
fn a_cordoned_host_gets_nothing_new_and_a_drained_one_waits_for_open_files() {
    let mut world = World::start();
    let host = world.host();
    let first = world.activate(&host);
    world.operator.mooring(&format!("hosts cordon {}", host.id));
    world.connector("ml", "other", "");
    let second = world
        .operator
        .json("activations create --connector ml/other --pool desks");
    let second = second["name"].as_str().unwrap().to_owned();
    let waits = world.operator.json(&format!("activations get {second}"));
    assert!(waits["message"].as_str().unwrap().contains("uncordon"), "{waits}");
    assert!(mounts::is_mounted(&first.path), "what it has, it keeps");
    world.operator.mooring(&format!("hosts uncordon {}", host.id));
    world.mounted_at(&host.path("ml", "other"));

    let open = std::fs::File::create(first.path.join("open.txt")).unwrap();
    world.operator.mooring(&format!("hosts drain {}", host.id));
    gone(&host.path("ml", "other"));
    let draining = host_is(&world, &host, "DRAINING");
    eventually("one mount is left", Duration::from_secs(20), || {
        let shown = shown(&world, &host);
        let said = shown["message"].as_str().unwrap_or_default();
        let waits = said.contains(&first.activation) && said.contains("fuser -vm");
        if shown["mountCount"] == 1 && waits {
            Ok(())
        } else {
            Err(shown.to_string())
        }
    });
    assert!(mounts::is_mounted(&first.path), "{draining}");
    drop(open);
    host_is(&world, &host, "DRAINED");
    gone(&first.path);
    assert!(
        world.store.get("open.txt").is_ok(),
        "and what was written is there"
    );
    world.activation_is(&first.activation, "PENDING");

    world.operator.mooring(&format!("hosts uncordon {}", host.id));
    world.mounted_at(&first.path);
    world.mounted_at(&host.path("ml", "other"));
    world.activation_is(&first.activation, "ACTIVE");
}

#[test]
fn a_host_with_mounts_is_deleted_by_force_only_and_keeps_them_whatever_the_catalog_answers_then() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let mount = world.activate(&host);
    world.activation_is(&mount.activation, "ACTIVE");
    let refused = world.operator.refused(&format!("hosts delete {}", host.id));
    assert!(refused.contains("hosts drain"), "{refused}");
    world
        .operator
        .mooring(&format!("hosts delete {} --force", host.id));
    eventually("the agent is refused", Duration::from_secs(20), || {
        let log = host.agent_log();
        if log.contains("does not know this host") {
            Ok(())
        } else {
            Err(log)
        }
    });
    // Also after a restart, which asks anew.
    host.kill_agent();
    host.start();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        let kept = std::fs::read(mount.path.join("kept.txt"));
        assert_eq!(kept.ok().as_deref(), Some(&b"kept"[..]), "{}", host.agent_log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_banned_host_unmounts_everything_wipes_its_keys_and_comes_back_by_a_persons_hand_only() {
    let mut world = World::start();
    world.expect_in_logs("this host is banned");
    let mut host = world.host();
    let mount = world.activate(&host);
    let open = std::fs::File::create(mount.path.join("open.txt")).unwrap();
    // It is being emptied already, with a day of patience for that file: a ban does not wait for it.
    world.operator.mooring(&format!("hosts drain {}", host.id));
    eventually("the unmount is under way", Duration::from_secs(20), || {
        let log = host.agent_log();
        if log.contains("action=Stop") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let told = Instant::now();
    world
        .operator
        .run(&["hosts", "ban", &host.id, "--reason", "sold with its disk"]);
    gone(&mount.path);
    let state = host.folder().join("state");
    eventually("the keys are wiped", Duration::from_secs(60), || {
        let left: Vec<_> = ["host.key", "hpke.key", "ledger"]
            .into_iter()
            .filter(|name| state.join(name).exists())
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}\n{}", host.agent_log()))
        }
    });
    println!(
        "unmounted and wiped {} ms after the ban",
        told.elapsed().as_millis()
    );
    assert_eq!(host.workers(), Vec::<u32>::new());
    drop(open);
    eventually("the catalog knows", Duration::from_secs(20), || {
        let banned = host_is(&world, &host, "BANNED");
        // A default that is left out.
        match banned.get("mountCount").and_then(Value::as_i64).unwrap_or(0) {
            0 => Ok(()),
            _ => Err(banned.to_string()),
        }
    });
    world.activation_is(&mount.activation, "PENDING");

    // Its join file is there, and is not used.
    host.kill_agent();
    let mut again = host.launch();
    assert_eq!(again.ends(Duration::from_secs(20)).code(), Some(77));
    assert!(
        again.output().contains("sold with its disk"),
        "{}",
        again.output()
    );

    let join = join_file(&world, "again");
    world.operator.mooring(&format!("hosts delete {}", host.id));
    let enrolled = enroll(&host, &join);
    assert!(enrolled.status.success(), "{enrolled:?}");
    host.start();
    world.mounted_at(&mount.path);
}

#[test]
fn a_copy_of_a_hosts_state_folder_is_refused_and_told_and_the_host_goes_on() {
    let mut world = World::start();
    world.expect_in_logs("two machines use the state folder of one host");
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let mount = world.activate(&host);
    let folder = world.path().join("copy");
    std::fs::create_dir_all(folder.join("mnt")).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(host.folder().join("state"))
        .arg(&folder)
        .status();
    assert!(copied.unwrap().success());
    let config = std::fs::read_to_string(host.folder().join("agent.toml")).unwrap();
    let from = host.folder().display().to_string();
    let config = config.replace(&from, &folder.display().to_string());
    std::fs::write(folder.join("agent.toml"), config).unwrap();
    // Another machine: it has an id of its own.
    std::fs::write(folder.join("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]).arg(
        "[ ! -e /etc/machine-id ] || mount --bind \"$0\" /etc/machine-id; exec \"$1\" run --config \"$2\"",
    );
    command
        .arg(folder.join("machine-id"))
        .arg(program("mooring-agent"))
        .arg(folder.join("agent.toml"));
    let mut copy = Process::start("agent", &folder, command);
    eventually("the copy is refused", Duration::from_secs(60), || {
        let log = copy.output();
        if log.contains("one of the two is a copy") {
            Ok(())
        } else {
            Err(log)
        }
    });
    eventually("the host says so", Duration::from_secs(20), || {
        let shown = shown(&world, &host);
        let said = shown["message"].as_str().unwrap_or_default();
        if said.contains("CLONED") {
            Ok(())
        } else {
            Err(shown.to_string())
        }
    });
    assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
    copy.stop();
    end_programs_of(&folder);
    // Its own agent gets in at once after a restart.
    host.kill_agent();
    host.start();
    let second = world.connector_and_activation("second");
    world.mounted_at(&host.path("ml", "second"));
    world.activation_is(&second, "ACTIVE");
}

/// Ends what serves mounts for an agent in this folder, whose mounts are in a namespace of their own.
fn end_programs_of(folder: &Path) {
    let marker = folder.join("run").display().to_string();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&marker) {
            let pid = entry.file_name();
            let _ = Command::new("kill").arg("-9").arg(pid).status();
        }
    }
}

trait Activated {
    /// A connector of project `ml`, active on pool `desks`.
    fn connector_and_activation(&self, id: &str) -> String;
}

impl Activated for World {
    fn connector_and_activation(&self, id: &str) -> String {
        self.connector("ml", id, "");
        let answer = self
            .operator
            .json(&format!("activations create --connector ml/{id} --pool desks"));
        answer["name"].as_str().unwrap().to_owned()
    }
}

fn join_file(world: &World, name: &str) -> std::path::PathBuf {
    let join = world.path().join(format!("{name}.join"));
    world.operator.mooring(&format!(
        "join-tokens create --pool desks --join-string-file {}",
        join.display()
    ));
    join
}

fn enroll(host: &Host, join: &Path) -> Output {
    Command::new(program("mooring-agent"))
        .arg("enroll")
        .arg("--config")
        .arg(host.folder().join("agent.toml"))
        .arg("--join-file")
        .arg(join)
        .output()
        .unwrap()
}

fn shown(world: &World, host: &Host) -> Value {
    let id = host.id.trim_start_matches("hosts/");
    world.operator.json(&format!("hosts get hosts/{id}"))
}

/// Waits until a host has a state; answers it then.
fn host_is(world: &World, host: &Host, state: &str) -> Value {
    let wanted = format!("HOST_STATE_{state}");
    let (_, found) = eventually(
        &format!("{} is {state}", host.id),
        Duration::from_secs(60),
        || match shown(world, host) {
            found if found["state"] == wanted.as_str() => Ok(found),
            found => Err(format!("{found}\n{}", host.agent_log())),
        },
    );
    found
}

/// Waits until every certificate of now has ended, and looks at a mount meanwhile.
fn outlast_certificates(path: &Path) {
    let start = Instant::now();
    eventually("the certificates have ended", Duration::from_secs(20), || {
        assert_eq!(std::fs::read(path.join("kept.txt")).unwrap(), b"kept");
        match start.elapsed() {
            passed if passed > Duration::from_secs(12) => Ok(()),
            passed => Err(format!("{passed:?}")),
        }
    });
}

fn gone(path: &Path) {
    eventually("it is unmounted", Duration::from_secs(30), || {
        if mounts::is_mounted(path) {
            Err("still mounted".to_owned())
        } else {
            Ok(())
        }
    });
}
