//! The program as a whole against a catalog that answers from memory: login, renewal, pages, retries, waiting,
//! deadlines and exit codes. What the real catalog says is told by the stories in the tests crate.

#![allow(missing_docs, clippy::unwrap_used, unreachable_pub, reason = "a test")]

#[path = "calls/catalog.rs"]
mod catalog;

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mooring_identity::JoinString;

use crate::catalog::{TOKEN, USERS, World, no_file_holds};

#[test]
fn a_person_logs_in_with_a_join_file_and_is_known_from_then_on() {
    let world = World::start();
    let (code, _, err) = world.told(&["auth", "whoami"]);
    assert_eq!(code, 26);
    assert!(err.contains("mooring login"), "{err}");

    let told = world.log_in();
    assert!(
        told.contains("users/anna") && told.contains(&world.endpoint),
        "{told}"
    );
    assert!(!told.contains(TOKEN));
    let (out, _) = world.succeeds(&["auth", "whoami"]);
    assert!(out.contains("users/anna"), "{out}");
    let (out, _) = world.succeeds(&["-o", "json", "profiles", "list"]);
    let profiles: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(profiles["profiles"][0]["name"], "default");
    assert_eq!(profiles["profiles"][0]["current"], true);
    assert!(
        no_file_holds(&world.config(), TOKEN),
        "the token is used up and kept nowhere"
    );
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let world = World::start();
    world.fake.lose.store(1, Ordering::Relaxed);
    world.log_in();
    assert_eq!(world.fake.logins.load(Ordering::Relaxed), 2);
    let keys = world.fake.keys.lock().unwrap().clone();
    assert_eq!(keys[0], keys[1]);

    // Also by a second run of the program.
    let other = World::start();
    other.fake.lose.store(99, Ordering::Relaxed);
    let join = other.join_file(TOKEN);
    let words = ["login", "--join-file", join.to_str().unwrap()];
    assert_eq!(other.told(&words).0, 24);
    other.fake.lose.store(0, Ordering::Relaxed);
    other.succeeds(&words);
    let keys = other.fake.keys.lock().unwrap().clone();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn a_wrong_token_and_a_wrong_pin_are_refused() {
    let world = World::start();
    let join = world.join_file("other-token");
    let (code, _, err) = world.told(&["login", "--join-file", join.to_str().unwrap()]);
    assert_eq!(code, 26);
    assert!(err.contains("token") && !err.contains("other-token"), "{err}");

    let elsewhere = World::start();
    let path = world.folder.path().join("moved.join");
    JoinString::new(&elsewhere.endpoint, TOKEN, world.fake.ca.pin())
        .write(&path)
        .unwrap();
    let (code, _, err) = world.told(&["login", "--join-file", path.to_str().unwrap()]);
    assert_eq!(code, 24);
    assert!(err.contains("pin"), "{err}");
    assert_eq!(
        elsewhere.fake.logins.load(Ordering::Relaxed),
        0,
        "the token was not shown to a stranger"
    );
}

#[test]
fn the_certificate_renews_at_half_of_its_life_and_after_its_end() {
    let world = World::start();
    *world.fake.life.lock().unwrap() = Duration::from_secs(2);
    world.log_in();
    std::thread::sleep(Duration::from_secs(3));
    *world.fake.life.lock().unwrap() = Duration::from_secs(86_400);
    world.succeeds(&["auth", "whoami"]);
    assert_eq!(world.fake.renewals.load(Ordering::Relaxed), 1);
    world.succeeds(&["auth", "whoami"]);
    assert_eq!(
        world.fake.renewals.load(Ordering::Relaxed),
        1,
        "the renewed one was kept"
    );
}

#[test]
fn lists_come_in_all_their_pages_up_to_the_limit() {
    let world = World::logged_in();
    let count = |words: &[&str]| {
        let (out, err) = world.succeeds(words);
        let list: serde_json::Value = serde_json::from_str(&out).unwrap();
        (list["users"].as_array().unwrap().len(), err)
    };
    let (rows, err) = count(&["-o", "json", "users", "list"]);
    assert_eq!(rows, 1000);
    assert!(err.contains("--limit 0"), "{err}");
    assert_eq!(
        count(&["-o", "json", "users", "list", "--limit", "0"]),
        (USERS, String::new())
    );
    assert_eq!(count(&["-o", "json", "users", "list", "--limit", "1500"]).0, 1500);
    let (out, _) = world.succeeds(&["users", "list", "--limit", "2"]);
    assert_eq!(out.lines().count(), 3, "{out}");
    let (out, err) = world.succeeds(&["activations", "list", "--project", "ml"]);
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("", "no activations\n--show-inactive lists more\n")
    );
}

#[test]
fn a_busy_catalog_is_asked_again_a_few_times() {
    let world = World::logged_in();
    world.fake.busy.store(2, Ordering::Relaxed);
    world.succeeds(&["users", "get", "anna"]);
    world.fake.busy.store(9, Ordering::Relaxed);
    let (code, _, err) = world.told(&["users", "get", "anna"]);
    assert_eq!(code, 24);
    assert!(err.contains("busy") && err.contains("try again"), "{err}");
    assert_eq!(world.fake.busy.load(Ordering::Relaxed), 6, "three attempts");
}

#[test]
fn waiting_ends_with_the_state_that_the_proto_names() {
    let world = World::logged_in();
    let create = |pool: &str, more: &[&str]| {
        let words = [
            "activations",
            "create",
            "--connector",
            "ml/lake",
            "--pool",
            pool,
            "--wait",
        ];
        world.told(&[&words, more].concat())
    };
    let (code, out, err) = create("gpu", &[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with("projects/ml/activations/gpu is ACTIVE: mounted on 2 of 2 hosts (after "),
        "{out}"
    );
    assert!(
        out.ends_with("; the folder is ml/lake below the mount root\n"),
        "{out}"
    );
    assert!(
        err.contains("projects/ml/activations/gpu is PENDING: mounted on 0 of 2 hosts"),
        "{err}"
    );
    let (_, out, _) = create("gpu", &["-o", "json"]);
    let last: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(last["state"], "ACTIVATION_STATE_ACTIVE");

    let (code, _, err) = create("broken", &[]);
    assert_eq!(code, 30);
    assert!(
        err.contains("is FAILED: mounted on 1 of 2 hosts") && err.contains("; the bucket does not exist"),
        "{err}"
    );
    assert!(
        err.contains("mooring activations get projects/ml/activations/broken"),
        "{err}"
    );

    let start = Instant::now();
    let (code, _, err) = create("slow", &["--timeout", "1s"]);
    assert_eq!(code, 14);
    assert!(err.contains("the time is up, but it goes on"), "{err}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn every_call_has_a_deadline() {
    let world = World::logged_in();
    let start = Instant::now();
    let (code, _, err) = world.told(&["--timeout", "500ms", "auth", "server-info"]);
    assert_eq!(code, 14);
    assert!(err.contains("--timeout"), "{err}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn refusals_have_exit_codes_and_name_flags() {
    let world = World::logged_in();
    let (code, _, err) = world.told(&["users", "create", "Anna"]);
    assert_eq!(code, 13);
    assert!(err.contains("<USER_ID>: it must be lower case"), "{err}");
    assert_eq!(world.told(&["users", "disable", "nobody"]).0, 15);
    assert_eq!(world.told(&["activations", "delete", "ml/a"]).0, 19);
    let (code, _, err) = world.told(&["users", "enable", "anna"]);
    assert_eq!(code, 22);
    assert!(err.contains("upgrade"), "{err}");
    assert_eq!(world.told(&["users", "create", "--no-such-flag"]).0, 64);
    assert_eq!(world.told(&["users", "update", "anna"]).0, 64);
    assert_eq!(world.told(&["no-such-noun"]).0, 64);
    let (code, _, err) = world.told(&["users", "grant"]);
    assert_eq!(code, 64);
    assert!(
        err.contains("`mooring users` knows: create, delete, disable"),
        "{err}"
    );
    let (_, err) = world.succeeds(&["users", "delete", "anna"]);
    assert_eq!(err, "users delete: done\n");
    world.succeeds(&["users", "update", "anna", "--display-name", "Anna"]);
}

#[test]
fn a_catalog_that_is_gone_is_named() {
    let world = World::logged_in();
    let World {
        endpoint,
        folder,
        runtime,
        ..
    } = world;
    runtime.shutdown_background();
    let output = Command::new(env!("CARGO_BIN_EXE_mooring"))
        .env("MOORING_CONFIG_DIR", folder.path().join("config"))
        .args(["auth", "whoami"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(24));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains(endpoint.trim_start_matches("https://")), "{err}");
    assert!(err.contains("profiles show"), "{err}");
}

#[test]
fn a_port_without_tls_is_told_from_the_catalog() {
    use std::io::{Read, Write};
    let world = World::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let join = world.join_file(TOKEN);
    let join = join.to_str().unwrap();
    let endpoint = format!("https://localhost:{port}");
    let (code, _, err) = world.told(&["login", "--join-file", join, "--endpoint", &endpoint]);
    server.join().unwrap();
    assert_eq!(code, 24);
    assert!(
        err.contains(&format!("localhost:{port} does not speak TLS")),
        "{err}"
    );

    let plain = world.endpoint.replace("https:", "http:");
    let (code, _, err) = world.told(&["login", "--join-file", join, "--endpoint", &plain]);
    assert_eq!(code, 24);
    assert!(err.contains("write it as https://"), "{err}");
}

#[test]
fn profiles_are_chosen_and_removed() {
    let world = World::logged_in();
    let join = world.join_file(TOKEN);
    world.succeeds(&["--profile", "lab", "login", "--join-file", join.to_str().unwrap()]);
    world.succeeds(&["profiles", "use", "lab"]);
    let (out, _) = world.succeeds(&["profiles", "show"]);
    assert!(out.contains("lab") && !out.contains("default"), "{out}");
    world.succeeds(&["profiles", "remove", "default"]);
    assert_eq!(world.told(&["--profile", "default", "auth", "whoami"]).0, 26);
    assert_eq!(world.told(&["profiles", "use", "nowhere"]).0, 26);
    world.succeeds(&["auth", "whoami"]);
}
