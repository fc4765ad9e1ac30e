//! Leaving, and not leaving after all: a ban that is carried out late or in two parts, a drain that is called off.

use std::io::Write as _;

use super::*;

/// Keys and orders that a ban wipes, as far as they are there.
fn left(host: &Host) -> Vec<&'static str> {
    let state = host.folder().join("state");
    ["host.key", "host.crt", "hpke.key", "ledger"]
        .into_iter()
        .filter(|name| state.join(name).exists())
        .collect()
}

#[test]
fn a_banned_machine_is_enrolled_anew_only_when_it_has_carried_its_ban_out() {
    let mut world = World::start();
    world.expect_in_logs("this host is banned");
    let mut host = world.host();
    let mount = world.activate(&host);
    host.stop_agent();
    world
        .operator
        .run(&["hosts", "ban", &host.id, "--reason", "sold with its disk"]);
    let unheard = shown(&world, &host);
    let said = unheard["message"].as_str().unwrap_or_default();
    assert!(said.contains("perhaps it has not heard"), "{unheard}");

    let join = join_file(&world, "again");
    let refused = enroll(&host, &join);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("Start mooring-agent once"),
        "{words}"
    );
    assert!(words.contains("sold with its disk"), "{words}");
    assert_eq!(left(&host), ["host.key", "host.crt", "hpke.key", "ledger"]);
    assert!(mounts::is_mounted(&mount.path), "nothing was changed");

    let mut banned = host.launch();
    assert_eq!(banned.ends(Duration::from_secs(60)).code(), Some(77));
    assert_eq!(left(&host), Vec::<&str>::new(), "{}", banned.output());
    assert!(!mounts::is_mounted(&mount.path));
    let enrolled = enroll(&host, &join);
    assert!(enrolled.status.success(), "{enrolled:?}");
    host.start();
    world.mounted_at(&mount.path);
    // What it was banned for is over: the statement of then is about another host.
    host.stop_agent();
    host.start();
}

#[test]
fn a_wipe_that_a_power_loss_has_cut_off_is_finished_by_the_next_start() {
    let mut world = World::start();
    world.expect_in_logs("this host is banned");
    let mut host = world.host();
    host.stop_agent();
    world
        .operator
        .run(&["hosts", "ban", &host.id, "--reason", "stolen"]);
    // Asked whether it may enrol anew, it hears of the ban, and writes it down.
    let join = join_file(&world, "again");
    assert!(!enroll(&host, &join).status.success());
    let state = host.folder().join("state");
    assert!(state.join("ban").exists());
    std::fs::remove_file(state.join("hpke.key")).unwrap();

    let mut again = host.launch();
    assert_eq!(again.ends(Duration::from_secs(20)).code(), Some(77));
    assert!(again.output().contains("stolen"), "{}", again.output());
    assert_eq!(left(&host), Vec::<&str>::new());
}

#[test]
fn a_drain_that_is_called_off_leaves_alone_what_is_in_use() {
    let mut world = World::start();
    let host = world.host();
    let mount = world.activate(&host);
    let workers = host.workers();
    let mut open = std::fs::File::create(mount.path.join("open.txt")).unwrap();
    world.operator.mooring(&format!("hosts drain {}", host.id));
    eventually("the unmount is under way", Duration::from_secs(20), || {
        let log = host.agent_log();
        if log.contains("action=Stop") {
            Ok(())
        } else {
            Err(log)
        }
    });
    world.operator.mooring(&format!("hosts uncordon {}", host.id));
    let back = host_is(&world, &host, "READY");
    assert_eq!(back["mountCount"], 1, "{back}");
    world.activation_is(&mount.activation, "ACTIVE");
    // It would be unmounted at the next attempt, if the order still held.
    open.write_all(b"goes on").unwrap();
    drop(open);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(mounts::is_mounted(&mount.path), "{}", host.agent_log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::read(mount.path.join("open.txt")).unwrap(), b"goes on");
    assert_eq!(host.workers(), workers, "nothing was mounted anew");
}

#[test]
fn a_host_that_is_without_its_catalog_for_too_long_starts_no_mounts_and_keeps_those_it_has() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let mount = world.activate(&host);
    world.operator.mooring("pools update desks --offline-max 10s");
    let bounded = host.folder().join("state/heard");
    eventually("the host knows its bound", Duration::from_secs(20), || {
        if bounded.exists() {
            Ok(())
        } else {
            Err(host.agent_log())
        }
    });
    world.kill_catalog();
    let workers = host.workers();
    let begun = Instant::now();
    eventually("the bound is over", Duration::from_secs(30), || {
        assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
        match begun.elapsed() {
            passed if passed > Duration::from_secs(13) => Ok(()),
            passed => Err(format!("{passed:?}")),
        }
    });
    assert_eq!(host.workers(), workers, "what is mounted stays");

    // As after a boot: nothing is mounted, and there is only the ledger.
    host.kill_agent();
    mounts::detach_below(&mount.path);
    host.start();
    eventually("the host says why", Duration::from_secs(20), || {
        let status = host.listing();
        if status.contains("without its catalog") {
            Ok(())
        } else {
            Err(status)
        }
    });
    assert!(!mounts::is_mounted(&mount.path));
    world.start_catalog();
    world.mounted_at(&mount.path);
    world.activation_is(&mount.activation, "ACTIVE");
}
