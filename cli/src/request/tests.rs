//! From the words a person types to the message that is sent.

use prost_reflect::SerializeOptions;
use serde_json::{Value as Json, json};
use time::macros::datetime;

use super::*;
use crate::commands::{self, commands};
use crate::descriptors::Descriptors;

/// Types a line, and returns the request as JSON without its request id.
fn typed(line: &[&str]) -> Result<Json, String> {
    let descriptors = Descriptors::load();
    let commands = commands(&descriptors);
    let tree = commands::tree(&descriptors, &commands);
    let matches = tree
        .try_get_matches_from([&["mooring"], line].concat())
        .map_err(|error| error.to_string())?;
    let (noun, verb, inner) = commands::typed(&matches);
    let command = commands::find(&commands, &noun, &verb).expect("the line is a command");
    let clock = Clock::manual(datetime!(2030-01-01 00:00 UTC));
    let mut request = build(command, &inner, &clock).map_err(|failure| failure.report(&command.arguments))?;
    request.take_field_by_name("request_id");
    let options = SerializeOptions::new().use_proto_field_name(true);
    Ok(request
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap())
}

fn check(line: &str, expected: Json) {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(typed(&words), Ok(expected), "{line}");
}

fn refused(line: &str, because: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let error = typed(&words).unwrap_err();
    assert!(error.contains(because), "{line}: {error}");
}

#[test]
fn fields_of_the_resource_are_flags_and_the_id_is_positional() {
    check(
        "connectors create reports --project ml --endpoint https://s3.example.com --bucket reports --secret key \
         --mode read-write --labels team=ml --labels cost=low --options-virtual-host-style",
        json!({
            "parent": "projects/ml",
            "connector_id": "reports",
            "connector": {
                "endpoint": "https://s3.example.com",
                "bucket": "reports",
                "secret": "projects/ml/secrets/key",
                "mode": "MODE_READ_WRITE",
                "labels": {"cost": "low", "team": "ml"},
                "options": {"virtual_host_style": true},
            },
        }),
    );
}

#[test]
fn an_update_names_what_was_given_and_nothing_else() {
    check(
        "connectors update ml/reports --bucket other --options-virtual-host-style=false --etag e1 --restart-mounts",
        json!({
            "connector": {
                "name": "projects/ml/connectors/reports",
                "bucket": "other",
                "etag": "e1",
                "options": {},
            },
            "update_mask": "bucket,options.virtualHostStyle",
            "restart_mounts": true,
        }),
    );
}

#[test]
fn an_update_can_empty_a_field() {
    check(
        "projects update ml --clear description,labels",
        json!({"project": {"name": "projects/ml"}, "update_mask": "description,labels"}),
    );
    assert_eq!(
        typed(&["projects", "update", "ml", "--description", ""]),
        Ok(json!({"project": {"name": "projects/ml"}, "update_mask": "description"}))
    );
    refused(
        "projects update ml --clear labels --labels a=b",
        "both given and cleared",
    );
    refused("projects update ml", "nothing to change");
    refused("projects update ml --community other", "unexpected argument");
}

#[test]
fn bindings_are_typed_as_member_and_role() {
    check(
        "access update projects/ml --add user:anna=developer --add user:bob=VIEWER --remove user:eve=editor",
        json!({
            "resource": "projects/ml",
            "add": [
                {"role": "ROLE_DEVELOPER", "member": "user:anna"},
                {"role": "ROLE_VIEWER", "member": "user:bob"},
            ],
            "remove": [{"role": "ROLE_EDITOR", "member": "user:eve"}],
        }),
    );
    refused("access update projects/ml --add user:anna", "MEMBER=ROLE");
    refused(
        "access update projects/ml --add user:anna=owner",
        "`owner` is no role: write one of viewer",
    );
    refused(
        "access update projects/ml --add developer=user:anna",
        "--add: write it as MEMBER=ROLE",
    );
}

#[test]
fn durations_numbers_and_one_ofs_are_read() {
    check(
        "join-tokens create --pool gpu --ttl 90m --uses 100 --host-labels rack=a1 --join-string-file x",
        json!({"pool": "pools/gpu", "ttl": "5400s", "uses": 100, "host_labels": {"rack": "a1"}}),
    );
    refused(
        "join-tokens create --pool gpu --user anna --join-string-file x",
        "cannot be used with",
    );
    refused(
        "join-tokens create --pool gpu --ttl soon --join-string-file x",
        "--ttl: write a duration",
    );
    refused(
        "join-tokens create --pool gpu --uses many --join-string-file x",
        "--uses: write a number",
    );
    refused("join-tokens create --pool gpu", "--join-string-file");
}

#[test]
fn lists_are_repeated_or_separated_by_commas() {
    check(
        "pools create gpu --admitted-projects projects/ml,projects/web --admitted-projects projects/lab \
         --project-groups projects/ml=ml-team",
        json!({
            "pool_id": "gpu",
            "pool": {
                "admitted_projects": ["projects/ml", "projects/web", "projects/lab"],
                "project_groups": {"projects/ml": "ml-team"},
            },
        }),
    );
}

#[test]
fn entries_of_a_pool_are_added_and_removed_with_short_names_and_no_mask() {
    check(
        "pools update gpu --add-admitted-projects web,projects/lab --add-project-groups web=web-team \
         --remove-project-groups ml",
        json!({
            "pool": {"name": "pools/gpu"},
            "add_admitted_projects": ["projects/web", "projects/lab"],
            "add_project_groups": {"projects/web": "web-team"},
            "remove_project_groups": ["projects/ml"],
        }),
    );
    check(
        "pools create gpu --admitted-projects * --project-groups ml=ml-team",
        json!({
            "pool_id": "gpu",
            "pool": {"admitted_projects": ["*"], "project_groups": {"projects/ml": "ml-team"}},
        }),
    );
    refused("pools update gpu", "--add-admitted-projects");
}

#[test]
fn secrets_come_from_a_file_and_never_from_a_flag() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.txt");
    std::fs::write(&file, "planted\n").unwrap();
    check(
        &format!(
            "secrets create key --project ml --secret-access-key-file {}",
            file.display()
        ),
        json!({"parent": "projects/ml", "secret_id": "key", "secret_access_key": "planted"}),
    );
    let error = typed(&[
        "secrets",
        "create",
        "key",
        "--project",
        "ml",
        "--secret-access-key=planted",
    ])
    .unwrap_err();
    assert!(
        error.contains("--secret-access-key-file") && !error.contains("planted"),
        "{error}"
    );
    refused(
        "secrets create key --project ml --secret-access-key-file /nonexistent/key",
        "cannot read",
    );
}

#[test]
fn small_messages_are_typed_in_one_word() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.txt");
    std::fs::write(&file, "k").unwrap();
    check(
        &format!(
            "secrets create key --project ml --secret-access-key-file {} \
             --allowed-targets endpoint=https://s3.example.com,bucket=data --allowed-targets endpoint=https://other",
            file.display()
        ),
        json!({
            "parent": "projects/ml",
            "secret_id": "key",
            "secret_access_key": "k",
            "secret": {"allowed_targets": [
                {"endpoint": "https://s3.example.com", "bucket": "data"},
                {"endpoint": "https://other"},
            ]},
        }),
    );
    refused(
        "secrets update ml/key --allowed-targets nonsense",
        "endpoint=…,bucket=…",
    );
}

#[test]
fn names_that_cannot_be_are_refused_before_the_call() {
    refused("connectors get reports", "write it as project/connector");
    refused(
        "connectors create reports --endpoint https://x --bucket b",
        "--project",
    );
    refused(
        "connectors create r --project ml --endpoint https://x --bucket b --mode append",
        "read-only",
    );
}

#[test]
fn a_request_that_creates_carries_an_id_of_its_own() {
    let descriptors = Descriptors::load();
    let commands = commands(&descriptors);
    let tree = commands::tree(&descriptors, &commands);
    let matches = tree
        .try_get_matches_from(["mooring", "users", "create", "anna"])
        .unwrap();
    let (noun, verb, inner) = commands::typed(&matches);
    let command = commands::find(&commands, &noun, &verb).unwrap();
    let clock = Clock::system();
    let ids = [(); 2].map(|()| {
        let request = build(command, &inner, &clock).unwrap();
        request
            .get_field_by_name("request_id")
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    });
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0].len(), 36);
}
