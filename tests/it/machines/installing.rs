//! Packages on fresh machines: from nothing to a folder, and back.

use std::time::Duration;

use mooring_tests::eventually;
use mooring_tests::packages::{FIRST, NEXT};
use mooring_tests::{Machine, World};

use super::{LAKE, give_join_string, mount_id};

#[test]
fn fresh_machines_become_a_catalog_and_a_host_by_their_packages() {
    let mut world = World::with_network();
    world.store.put("there.txt", "before anybody came");
    let catalog = world.machine("catalog");
    let host = world.machine("gpu-1");

    install_catalog(&world, &catalog);
    furnish(&world, &catalog);
    install_host(&catalog, &host);
    catalog.run("mooring activations create --connector ml/lake --pool gpu");
    host.mounted_at(LAKE);
    let read = std::fs::read(host.path(LAKE).join("there.txt")).unwrap();
    assert_eq!(read, b"before anybody came");
    host.shell(&format!("echo mine >{LAKE}/mine.txt"));
    assert_eq!(world.store.get("mine.txt").unwrap(), b"mine\n");
    mounts_are_the_hosts_own(&host);

    upgrading_the_catalog_interrupts_nothing(&catalog, &host);
    a_restored_catalog_is_followed_when_its_operator_says_so(&catalog, &host);
    removing_leaves_mounts_and_installing_again_adopts_them(&host);
    purging_forgets_the_host_and_keeps_the_catalog(&catalog, &host);
}

fn install_catalog(world: &World, catalog: &Machine) {
    let said = catalog.install("mooring-catalog", FIRST);
    catalog.install("mooring-cli", FIRST);
    assert!(said.contains("systemctl enable --now mooring-catalog"), "{said}");
    // Its first start would fix names that nobody has chosen yet.
    assert_eq!(catalog.unit("mooring-catalog", "ActiveState"), "inactive");
    assert!(!catalog.path("/var/lib/mooring-catalog/catalog.db").exists());
    let set = |key: &str, value: &str| format!("s|^#{key} = .*|{key} = {value}|");
    let edits = [
        set("listen", "\"0.0.0.0:7443\""),
        set("endpoint", &format!("\"https://{}:7443\"", catalog.address())),
        set("allow_http", "true"),
        set("allowed_networks", &format!("[\"{}\"]", world.network_cidr())),
    ];
    catalog.shell(&format!(
        "sed -i '{}' /etc/mooring/catalog.toml",
        edits.join("; ")
    ));
    catalog.run("systemctl enable --now mooring-catalog");

    let pid = catalog.unit("mooring-catalog", "MainPID");
    assert_eq!(
        catalog.run(&format!("ps -o user:32= -p {pid}")).trim(),
        "mooring-catalog"
    );
    let status = catalog.shell(&format!("cat /proc/{pid}/status"));
    for fact in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(fact), "{fact}: {status}");
    }
    let mode = catalog.run("stat -c %a:%U /var/lib/mooring-catalog");
    assert_eq!(mode.trim(), "700:mooring-catalog");
    catalog.run("systemd-analyze verify /lib/systemd/system/mooring-catalog.service");
    // From 0, nothing to attack, to 100.
    catalog.run("systemd-analyze security --no-pager --threshold=20 mooring-catalog.service");
}

/// What an operator does after the installation, with the command line of the package.
fn furnish(world: &World, catalog: &Machine) {
    catalog.run("mooring login --join-file /var/lib/mooring-catalog/operator.join");
    catalog.run("mooring communities create research");
    catalog.run("mooring projects create ml --community research");
    catalog.run("mooring pools create gpu --admitted-projects *");
    // On tmpfs: no file of the world may hold the key at its end.
    std::fs::write(catalog.path("/run/typed.key"), &world.store.secret).unwrap();
    catalog.run(&format!(
        "mooring connectors create lake --project ml --endpoint {} --bucket {} --access-key-id {} --mode read-write \
         --new-secret-id lake-key --new-secret-key-file /run/typed.key",
        world.store.endpoint,
        world.store.bucket,
        mooring_tests::store::ACCESS_KEY_ID,
    ));
    catalog.run("rm /run/typed.key");
    let offered = catalog.shell(
        "bash -ic 'source /usr/share/bash-completion/completions/mooring; complete -p mooring' 2>/dev/null",
    );
    assert!(offered.contains("mooring"), "{offered}");
}

fn install_host(catalog: &Machine, host: &Machine) {
    let said = host.install("mooring-agent", FIRST);
    assert!(said.contains("/etc/mooring/host.join"), "{said}");
    assert_eq!(host.run("systemctl is-enabled mooring-agent").trim(), "enabled");
    assert_eq!(host.unit("mooring-agent", "ActiveState"), "inactive");
    catalog.run("mooring join-tokens create --pool gpu --join-string-file /root/gpu.join");
    give_join_string(host, &catalog.path("/root/gpu.join"));
    host.run("systemctl start mooring-agent");
    // Ready means joined: the join string is of no more use.
    let hosts = catalog.run("mooring hosts list");
    assert!(hosts.contains("gpu-1"), "{hosts}");
    host.run("systemd-analyze verify /lib/systemd/system/mooring-agent.service");
}

/// A unit with a mount namespace of its own would mount for itself alone.
fn mounts_are_the_hosts_own(host: &Machine) {
    let agent = host.unit("mooring-agent", "MainPID");
    let workers = host.run("systemctl list-units --plain --no-legend mooring-mount-*");
    assert_eq!(workers.lines().count(), 1, "{workers}");
    let worker = workers.split_whitespace().next().unwrap();
    let worker = host.unit(worker, "MainPID");
    let spaces = host.run(&format!(
        "readlink /proc/1/ns/mnt /proc/{agent}/ns/mnt /proc/{worker}/ns/mnt"
    ));
    let first = spaces.lines().next().unwrap();
    assert!(spaces.lines().all(|space| space == first), "{spaces}");
    let groups = host.shell(&format!("cat /proc/{worker}/cgroup"));
    assert!(
        groups.contains("mooring-mount-") && !groups.contains("mooring-agent"),
        "{groups}"
    );
}

fn upgrading_the_catalog_interrupts_nothing(catalog: &Machine, host: &Machine) {
    let before = catalog.unit("mooring-catalog", "MainPID");
    catalog.install("mooring-catalog", NEXT);
    assert_eq!(catalog.unit("mooring-catalog", "ActiveState"), "active");
    assert_ne!(catalog.unit("mooring-catalog", "MainPID"), before);
    ready(catalog, "the host is back at the upgraded catalog");
    assert!(host.path(LAKE).join("mine.txt").exists());
}

/// The commands of the operator's guide.
fn a_restored_catalog_is_followed_when_its_operator_says_so(catalog: &Machine, host: &Machine) {
    catalog.shell(
        "systemctl stop mooring-catalog
         cp -a /var/lib/mooring-catalog /root/backup
         systemctl start mooring-catalog",
    );
    catalog.run("mooring projects create forgotten --community research");
    catalog.shell(
        "systemctl stop mooring-catalog
         rm -r /var/lib/mooring-catalog
         cp -a /root/backup /var/lib/mooring-catalog
         runuser -u mooring-catalog -- mooring-catalog raise-epoch
         systemctl start mooring-catalog",
    );
    ready(catalog, "the host follows the restored catalog");
    assert!(host.path(LAKE).join("mine.txt").exists());
}

/// Waits until the catalog counts the host as ready.
fn ready(catalog: &Machine, what: &str) {
    eventually(what, Duration::from_secs(30), || {
        let host = catalog.run("mooring -o json hosts get gpu-1");
        if host.contains("HOST_STATE_READY") {
            Ok(())
        } else {
            Err(host)
        }
    });
}

fn removing_leaves_mounts_and_installing_again_adopts_them(host: &Machine) {
    let mount = mount_id(host);
    let said = host.run("dpkg --remove mooring-agent");
    assert!(said.contains(&format!("umount {LAKE}")), "{said}");
    assert_eq!(
        std::fs::read(host.path(LAKE).join("mine.txt")).unwrap(),
        b"mine\n"
    );
    // The identity is still there: it comes back as the same host, without a join string.
    host.run("rm /etc/mooring/host.join");
    host.install("mooring-agent", FIRST);
    assert_eq!(host.unit("mooring-agent", "ActiveState"), "active");
    assert_eq!(mount_id(host), mount);
}

fn purging_forgets_the_host_and_keeps_the_catalog(catalog: &Machine, host: &Machine) {
    let said = host.run("dpkg --purge mooring-agent");
    assert!(said.contains("these folders are kept"), "{said}");
    assert!(host.path(LAKE).join("mine.txt").exists());
    assert!(host.path("/var/lib/mooring-agent/host.toml").exists());
    // Also below another mount root than the usual one.
    host.install("mooring-agent", FIRST);
    host.mounted_at(LAKE);
    host.run("systemctl stop mooring-agent");
    host.shell(&format!(
        "mkdir /srv/elsewhere && mount --bind {LAKE} /srv/elsewhere && umount {LAKE}"
    ));
    let said = host.run("dpkg --purge mooring-agent");
    assert!(said.contains("umount /srv/elsewhere"), "{said}");
    assert!(host.path("/var/lib/mooring-agent/host.toml").exists());
    // As it says: nobody uses it any more, so it is unmounted; the next purge finds nothing that lives.
    host.install("mooring-agent", FIRST);
    host.mounted_at(LAKE);
    host.run("systemctl stop mooring-agent");
    host.run(&format!("umount /srv/elsewhere {LAKE}"));
    host.run("dpkg --purge mooring-agent");
    for folder in [
        "/var/lib/mooring-agent",
        "/var/cache/mooring",
        "/mnt/mooring",
        "/run/mooring",
        "/etc/mooring",
    ] {
        assert!(!host.path(folder).exists(), "{folder} is left");
    }

    let said = catalog.run("dpkg --purge mooring-catalog");
    assert!(said.contains("rm -r /var/lib/mooring-catalog"), "{said}");
    assert!(catalog.path("/var/lib/mooring-catalog/root.key").exists());
}
