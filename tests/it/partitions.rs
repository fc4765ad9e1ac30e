//! Cables that are cut between hosts and what they need, while orders change and agents die: hosts are told everything,
//! in order, and nothing that nobody removed goes away.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mooring_tests::cut::Cut;
use mooring_tests::history::{self, Recorder};
use mooring_tests::programs::rounds;
use mooring_tests::{Host, World, eventually, mounts};

/// Longer than a heartbeat of the stories' hosts, and than the first retries of their connections.
const CUT: Duration = Duration::from_millis(1500);

/// What is cut in a round.
#[derive(Clone, Copy, Debug)]
enum Cutting {
    Catalog,
    CatalogFromOne,
    Store,
    Both,
}

#[test]
fn hosts_that_are_cut_off_and_killed_miss_no_order_and_take_none_twice() {
    let mut world = World::with_network();
    world.store.put("kept.txt", "kept");
    world.connector("ml", "swinging", "");
    let mut hosts = [world.host(), world.host()];
    let recorder = Recorder::start(&[&hosts[0], &hosts[1]]);
    let lake = world.activate(&hosts[0]);
    world.mounted_at(&hosts[1].path("ml", "lake"));
    let mounts = [mount_of(&hosts[0]), mount_of(&hosts[1])];

    let kinds = [
        Cutting::Catalog,
        Cutting::Store,
        Cutting::CatalogFromOne,
        Cutting::Both,
    ];
    let mut swinging = None;
    for round in 0..rounds(4, 50) {
        let cutting = kinds[round as usize % kinds.len()];
        let cuts = cut(&world, &hosts, cutting);
        let deaf: Vec<&Host> = match cutting {
            Cutting::Catalog | Cutting::Both => hosts.iter().collect(),
            Cutting::CatalogFromOne => vec![&hosts[0]],
            Cutting::Store => Vec::new(),
        };
        let heard: Vec<i64> = deaf.iter().map(|host| history::revision_of(host)).collect();
        swinging = swing(&world, swinging);
        let waiting =
            matches!(cutting, Cutting::Store | Cutting::Both).then(|| write_behind(&hosts[0], round));
        lake_is_served(&hosts, cutting);
        for (host, heard) in deaf.iter().zip(heard) {
            assert_eq!(history::revision_of(host), heard, "{} is not cut off", host.id);
        }
        let killed = &mut hosts[(round / 4 + round) as usize % 2];
        killed.kill_agent();
        // It is ready without its catalog.
        killed.start();
        let waited = waiting.inspect(|writer| assert!(!writer.is_finished(), "the store is not cut off"));
        drop(cuts);
        if let Some(writer) = waited {
            writer.join().unwrap().unwrap();
            let path = format!("round-{round}");
            assert_eq!(world.store.get(&path).unwrap(), b"sent in the end");
        }
        let took = settled(&world, &hosts, swinging.as_deref());
        println!(
            "round {round}, {cutting:?}: all as wished {} ms after the cables were mended",
            took.as_millis()
        );
        for (host, mount) in hosts.iter().zip(&mounts) {
            assert_eq!(mount_of(host), *mount, "{} was mounted anew", host.id);
        }
    }

    let history = recorder.finish();
    let events = world.operator.json("audit list projects/ml");
    let changes = history::changes(&events);
    assert!(changes.len() as u32 > rounds(4, 50), "{events}");
    println!(
        "{} states of ledgers, {} changes",
        history.states(),
        changes.len()
    );
    let faults = history.faults(&changes);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    world.activation_is(&lake.activation, "ACTIVE");
}

/// Cuts cables.
fn cut(world: &World, hosts: &[Host; 2], cutting: Cutting) -> Vec<Cut> {
    match cutting {
        Cutting::Catalog => vec![world.cut_catalog(None)],
        Cutting::CatalogFromOne => vec![world.cut_catalog(hosts[0].address())],
        Cutting::Store => vec![world.cut_store()],
        Cutting::Both => vec![world.cut_catalog(None), world.cut_store()],
    }
}

/// Writes a file that cannot be uploaded before the cable to the store is mended.
fn write_behind(host: &Host, round: u32) -> JoinHandle<std::io::Result<()>> {
    let path = host.path("ml", "lake").join(format!("round-{round}"));
    std::thread::spawn(move || std::fs::write(path, "sent in the end"))
}

/// Orders something while cables are cut: what is there shall go, and what is not shall come. Returns what is there now.
fn swing(world: &World, there: Option<String>) -> Option<String> {
    let Some(activation) = there else {
        let answer = world
            .operator
            .json("activations create --connector ml/swinging --pool desks");
        return answer["name"].as_str().map(str::to_owned);
    };
    world
        .operator
        .mooring(&format!("activations delete {activation} --grace 1s"));
    None
}

/// As long as cables are cut, mounts are there, and serve if they can reach their store.
fn lake_is_served(hosts: &[Host; 2], cutting: Cutting) {
    let start = Instant::now();
    while start.elapsed() < CUT {
        for host in hosts {
            let lake = host.path("ml", "lake");
            assert!(mounts::is_mounted(&lake), "{} has lost its mount", host.id);
            if matches!(cutting, Cutting::Catalog | Cutting::CatalogFromOne) {
                assert_eq!(std::fs::read(lake.join("kept.txt")).unwrap(), b"kept");
                std::fs::write(lake.join(&host.id), "still here").unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until every host has what is wished, and only that. Returns how long that took.
fn settled(world: &World, hosts: &[Host; 2], swinging: Option<&str>) -> Duration {
    let (took, ()) = eventually("all hosts are as wished", Duration::from_secs(60), || {
        for host in hosts {
            let path = host.path("ml", "swinging");
            if mounts::is_mounted(&path) != swinging.is_some() {
                return Err(format!(
                    "{}: swinging is wished: {swinging:?}\n{}",
                    host.id,
                    host.agent_log()
                ));
            }
        }
        let known = world.operator.mooring("-o json activations list --project ml");
        if known.contains("ACTIVATION_STATE_DEACTIVATING") || known.contains("ACTIVATION_STATE_PENDING") {
            return Err(known);
        }
        Ok(())
    });
    took
}

fn mount_of(host: &Host) -> u64 {
    mounts::mount_id(&host.path("ml", "lake")).expect("it is mounted")
}
