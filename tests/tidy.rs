//! House rules that a machine can see: layers, sizes, and what stands at the top level. See README, «Architecture».

use std::path::{Path, PathBuf};
use std::process::Command;

/// Files above this are split by noun.
const LINES_MAX: usize = 600;

#[test]
fn nothing_but_the_agreed_names_stands_at_the_top_level() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "agent",
        "catalog",
        "cli",
        "deploy",
        "proto",
        "tests",
    ];
    let mut others: Vec<String> = tracked()
        .iter()
        .filter_map(|path| path.iter().next()?.to_str().map(str::to_owned))
        .filter(|name| !name.starts_with('.') && !allowed.contains(&name.as_str()))
        .collect();
    others.dedup();
    assert!(others.is_empty(), "beside the agreed names: {others:?}");
}

#[test]
fn every_source_file_says_what_it_is_and_is_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            wrong.push(format!(
                "{}: its first line does not say what it is (`//! …`)",
                path.display()
            ));
        }
        if text.lines().count() > LINES_MAX {
            wrong.push(format!(
                "{}: more than {LINES_MAX} lines, split it by noun",
                path.display()
            ));
        }
        if path.ends_with("mod.rs") {
            wrong.push(format!(
                "{}: `foo.rs` beside `foo/`, never `mod.rs`",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn each_foreign_layer_is_used_in_its_own_place_only() {
    // What is looked for; where it may stand.
    let rules: [(&str, &[&str]); 10] = [
        ("sea_orm", &["catalog/src/store"]),
        ("sea_orm_migration", &["catalog/src/store"]),
        ("aws_sdk_s3", &["agent/fs/src/store/s3", "tests/s3/"]),
        ("fuser::", &["agent/fs/src/fuse", "agent/fs/src/errno.rs"]),
        ("allow(unsafe_code", &["agent/fs/src/sys.rs"]),
        (
            "rustls::",
            &[
                "proto/identity/",
                "agent/fs/src/store/http",
                "tests/s3/",
                "catalog/src/main.rs",
                "agent/src/main.rs",
                "agent/fs/src/main.rs",
                "cli/src/main.rs",
            ],
        ),
        ("mooring_catalog", &["catalog/"]),
        ("mooring_agent", &["agent/src", "agent/tests", "tests/fleet/"]),
        (
            "tonic::",
            &[
                "catalog/src/api",
                "catalog/src/main.rs",
                "catalog/src/testing",
                "agent/src",
                "cli/",
                "proto/",
                "tests/",
            ],
        ),
        ("anyhow", &["/main.rs", "tests/"]),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let name = path.display().to_string();
        if name == "tests/tidy.rs" {
            continue;
        }
        for (needle, places) in rules {
            if places.iter().any(|place| name.contains(place)) {
                continue;
            }
            for (number, line) in code_lines(&text) {
                if line.contains(needle) {
                    wrong.push(format!(
                        "{name}:{number}: `{needle}` belongs to {}",
                        places.join(", ")
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn rules_and_plans_do_no_input_or_output() {
    let pure = ["catalog/src/domain", "agent/src/plan"];
    let banned = [
        "tokio::",
        "std::fs",
        "std::net::Tcp",
        "async fn",
        ".await",
        "std::process",
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let name = path.display().to_string();
        if !pure.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in code_lines(&text) {
            for needle in banned.iter().filter(|needle| line.contains(**needle)) {
                wrong.push(format!("{name}:{number}: `{needle}` in a file that only decides"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_banned_package_is_in_the_lock_file() {
    let bans: toml::Table = read(".deny.toml").parse().expect(".deny.toml is TOML");
    let lock = read("Cargo.lock");
    for ban in bans["bans"]["deny"].as_array().expect("bans are a list") {
        let name = ban["name"].as_str().expect("a ban has a name");
        assert!(
            !lock.contains(&format!("name = \"{name}\"")),
            "{name}: {}",
            ban["reason"]
        );
    }
}

#[test]
fn nothing_tracked_names_a_path_of_one_machine() {
    // Split, so that this file does not name them either.
    let homes = [
        concat!("/wo", "rk/main"),
        concat!("/ro", "ot/."),
        concat!("/ho", "me/"),
    ];
    let mut wrong = Vec::new();
    for path in tracked() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else {
            continue;
        };
        if path.ends_with("Cargo.lock") {
            continue;
        }
        for home in homes.iter().filter(|home| text.contains(**home)) {
            wrong.push(format!("{}: {home}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Lines that are code: comments are free to name any layer.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for path in tracked() {
        if path.extension().is_some_and(|extension| extension == "rs") && root().join(&path).exists() {
            let text = read(path.to_str().expect("paths are UTF-8"));
            found.push((path, text));
        }
    }
    found
}

fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["ls-files"])
        .output()
        .expect("git is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("paths are UTF-8")
        .lines()
        .map(PathBuf::from)
        .collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests' folder is below the workspace's")
}
