//! Workers of which the kernel knows many names, and little room for what their successors must know.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mooring_tests::disk::SmallDisk;
use mooring_tests::eventually;
use mooring_tests::folder::scratch;
use mooring_tests::programs::rounds;
use mooring_tests::store::Store;

use super::keeper::Keeper;
use super::load::pause_of;

const NAMES: u64 = 200_000;

/// An unoptimised build takes ten times as long to read what it must know, and others use the two cores meanwhile; what
/// is told apart is a pause that grows with the square of the names.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Long enough that looking at them all does not ask the store for each.
const TTL: Duration = Duration::from_secs(600);

/// Has one program look at everything in a folder, as `ls -l` does.
fn look_at_all(path: &Path, names: u64) {
    let script = "opendir(D, $ARGV[0]) or die $!; my $n = 0; \
        while (my $e = readdir D) { my @s = lstat(\"$ARGV[0]/$e\") or die \"$e: $!\"; $n += $s[7] == 1 } print $n";
    let looked = Command::new("perl")
        .args(["-e", script])
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&looked.stderr);
    assert!(looked.status.success(), "perl says {said}");
    assert_eq!(String::from_utf8_lossy(&looked.stdout), names.to_string());
}

fn kibibytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().blocks() / 2)
        .sum()
}

#[test]
fn a_worker_of_two_hundred_thousand_names_is_succeeded_after_a_short_pause_too() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    store.fill("many/", NAMES, 1);
    let mut keeper = Keeper::mount_believing(scratch.path(), &store, TTL);
    look_at_all(&keeper.at("many"), NAMES);
    let known = ["many/0000000", "many/0123456", "many/0199999"];
    let numbers = |keeper: &Keeper| known.map(|name| fs::metadata(keeper.at(name)).unwrap().ino());
    let before = numbers(&keeper);
    let mut open = File::open(keeper.at(known[1])).unwrap();
    let table = kibibytes_in(&scratch.path().join("succession"));

    let mount = keeper.path().to_owned();
    let mut pauses: Vec<_> = (0..rounds(3, 20))
        .map(|_| pause_of(&mount, || keeper.succeed()))
        .collect();
    pauses.sort();

    assert_eq!(numbers(&keeper), before);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 1);
    drop(open);
    println!(
        "{} deaths with {NAMES} names, {table} KiB to be read: pause p50 {:?}, slowest {:?}",
        pauses.len(),
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1]
    );
    keeper.unmount();
    assert!(pauses[pauses.len() - 1] <= PAUSE_MAX, "{pauses:?}");
}

#[test]
fn a_kernel_that_knows_more_names_than_there_is_room_for_lets_go_of_those_that_nobody_uses() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    let names = 120_000;
    store.fill("many/", names, 1);
    store.put("used/dated", b"x");
    // A quarter of it, 8 MiB, is what the worker may take, and less than what all names together need.
    let disk = SmallDisk::at(scratch.path().join("succession"), 32 << 10);
    let mut keeper = Keeper::mount_believing(scratch.path(), &store, TTL);
    let used = File::open(keeper.at("used")).unwrap();
    let number = fs::metadata(keeper.at("used/dated")).unwrap().ino();
    // Known nowhere but here as long as nobody writes to it.
    let dated = Command::new("perl")
        .args(["-e", "utime 981173106, 981173106, $ARGV[0] or die $!"])
        .arg(keeper.at("used/dated"))
        .status();
    assert!(dated.unwrap().success());
    let mut writer = File::create(keeper.at("used/written")).unwrap();
    writer.write_all(b"before").unwrap();

    look_at_all(&keeper.at("many"), names);
    keeper.succeed();

    let dated = fs::metadata(keeper.at("used/dated")).unwrap();
    assert_eq!((dated.ino(), dated.mtime()), (number, 981_173_106));
    writer.write_all(b" and after").unwrap();
    drop((writer, used));
    assert_eq!(store.get("used/written").unwrap(), b"before and after");
    let left = kibibytes_in(&scratch.path().join("succession"));
    // Whoever dies while the kernel still lets go leaves that to the next one, which begins with it when something is used.
    let (_, kibibytes) = eventually("the table is within its share", Duration::from_secs(30), || {
        drop(File::open(keeper.at("used/written")).unwrap());
        match kibibytes_in(&scratch.path().join("succession")) {
            within if within < 8 << 10 => Ok(within),
            beyond => Err(format!("{beyond} KiB")),
        }
    });
    println!("{names} names looked at: {left} KiB for the successor, soon {kibibytes} KiB");
    keeper.unmount();
    drop(disk);
}

#[test]
fn a_successor_goes_on_where_there_is_no_room_to_write_anew_what_the_dead_worker_has_left() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    let names = 30_000;
    store.fill("many/", names, 1);
    let folder = scratch.path().join("succession");
    let disk = SmallDisk::at(folder.clone(), 16 << 10);
    let mut keeper = Keeper::mount_believing(scratch.path(), &store, TTL);
    look_at_all(&keeper.at("many"), names);
    let mut writer = File::create(keeper.at("written")).unwrap();
    writer.write_all(b"before").unwrap();
    let table = kibibytes_in(&folder);
    let left = 1280;
    assert!(table > left, "there is room for {table} KiB once more");
    disk.fill_but(left);

    keeper.succeed();
    writer.write_all(b" and after").unwrap();
    keeper.succeed();
    drop(writer);
    assert_eq!(store.get("written").unwrap(), b"before and after");

    // An upgrade does not end a worker that is well for one that would have nowhere to write.
    disk.make_room();
    disk.fill_but(256);
    let refused = keeper.prepare().unwrap_err();
    assert!(refused.contains("nothing can be written"), "{refused}");
    disk.make_room();
    keeper.unmount();
    drop(disk);
}
