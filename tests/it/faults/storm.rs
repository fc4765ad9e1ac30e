//! Everything goes wrong now and then: nothing fails, and no byte is wrong.

use std::fs;

use mooring_tests::Folder;
use mooring_tests::programs::rounds;
use serde_json::json;

/// The share of requests that each fault hits. All of them together leave an operation with its six attempts one
/// failure in a hundred thousand.
const SHARE: f64 = 0.02;

#[test]
fn a_storm_of_faults_changes_no_byte_and_fails_no_operation() {
    let folder = Folder::start();
    let other = folder.mount_again("other", &["--metadata-ttl", "0s"]);
    let error = |status: u16, code: &str, when: &str| json!({"error": {"status": status, "code": code, "when": when}});
    let faults = [
        ("GetObject", error(500, "InternalError", "before")),
        ("GetObject", error(503, "SlowDown", "before")),
        ("GetObject", json!({"no_reply": {}})),
        ("GetObject", json!({"reset": {"at_byte": 20_000}})),
        ("GetObject", json!({"truncate": {"at_byte": 40_000}})),
        ("GetObject", json!({"stall": {"millis": 300}})),
        ("PutObject", error(500, "InternalError", "before")),
        ("PutObject", error(500, "InternalError", "after")),
        ("PutObject", error(503, "SlowDown", "before")),
        ("PutObject", json!({"no_reply": {"when": "after"}})),
        ("PutObject", json!({"reset_request": {"at_byte": 30_000}})),
        ("HeadObject", error(500, "InternalError", "before")),
        ("ListObjectsV2", error(503, "SlowDown", "before")),
        ("DeleteObject", json!({"no_reply": {"when": "after"}})),
    ];
    let set: Vec<_> = faults
        .iter()
        .map(|(operation, action)| {
            folder
                .store
                .fault(&json!({"operations": [operation], "probability": SHARE, "action": action}))
        })
        .collect();
    let count = rounds(100, 4000);
    for number in 0..count {
        let bytes: Vec<u8> = (0..60_000_u32)
            .map(|at| (at.wrapping_mul(31).wrapping_add(number) >> 3) as u8)
            .collect();
        let name = format!("file-{}", number % 50);
        fs::write(folder.at(&name), &bytes).unwrap_or_else(|error| panic!("write {number}: {error}"));
        let read = fs::read(other.at(&name)).unwrap_or_else(|error| panic!("read {number}: {error}"));
        assert!(read == bytes, "wrong bytes in round {number}");
        if number % 10 == 9 {
            fs::remove_file(folder.at(&name)).unwrap_or_else(|error| panic!("remove {number}: {error}"));
        }
    }
    let hits: Vec<u64> = set.iter().map(mooring_tests::Fault::hits).collect();
    println!(
        "{count} files written, read elsewhere and compared through {} faults: {hits:?}",
        hits.iter().sum::<u64>()
    );
    assert!(
        hits.iter().sum::<u64>() >= u64::from(count) / 20,
        "the faults have happened: {hits:?}"
    );
    drop(set);
    other.unmount();
}
