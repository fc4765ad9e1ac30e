//! The command line as a person meets it.

use mooring_tests::{Person, World};

#[test]
fn errors_name_cause_and_remedy_and_have_their_exit_codes() {
    let mut world = World::start();
    let code = |person: &Person, line: &str| {
        person
            .output(&line.split_whitespace().collect::<Vec<_>>())
            .status
            .code()
            .unwrap()
    };
    let usage = code(&world.operator, "connectors create --no-such-flag");
    let absent = code(&world.operator, "projects get nowhere");
    let invalid = code(&world.operator, "projects create Not_An_Id --community research");
    let taken = code(&world.operator, "projects create ml --community research");
    println!("exit codes: usage {usage}, absent {absent}, invalid {invalid}, taken {taken}");
    let mut codes = vec![0, usage, absent, invalid, taken];
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), 5, "each kind of failure has its own code");

    world.kill_catalog();
    let refusal = world.operator.refused("--timeout 3s projects list");
    assert!(
        refusal.contains(world.catalog_address()),
        "it names the catalog it cannot reach: {refusal}"
    );
    world.start_catalog();
}

#[test]
fn help_teaches_and_the_shell_completes() {
    let world = World::start();
    let help = world.operator.mooring("connectors create --help");
    for word in ["--bucket", "--endpoint", "--mode", "read-write", "Examples"] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
    assert!(world.operator.mooring("completion bash").contains("mooring"));
    for format in ["table", "json", "yaml"] {
        assert!(
            world
                .operator
                .mooring(&format!("-o {format} projects list"))
                .contains("projects/ml"),
            "{format}"
        );
    }
}

#[test]
fn a_secret_is_no_flag() {
    let world = World::start();
    let refusal = world
        .operator
        .refused("secrets create more --project ml --secret-access-key hunter2hunter2");
    assert!(
        refusal.contains("-file") || refusal.contains("stdin") || refusal.contains("standard input"),
        "{refusal}"
    );
    assert!(
        !world
            .operator
            .mooring("secrets list --project ml")
            .contains("more")
    );
}

#[test]
fn an_importer_sees_a_withdrawal_coming_and_nothing_gets_wider_by_offering_again() {
    let mut world = World::start();
    let host = world.host();
    world.connector("ml", "pond", "--mode read-write");
    let operator = &world.operator;
    operator.mooring("projects create web --community research");
    operator.mooring("publications publish ml/pond --community research --max-mode read-only");
    operator.mooring("imports create pond --project web --publication research/pond");
    let told = operator.mooring("activations create --import web/pond --pool desks --wait");
    assert!(
        told.contains("is ACTIVE: mounted on 1 of 1 host (after"),
        "{told}"
    );
    assert!(
        told.contains("the folder is web/pond below the mount root"),
        "{told}"
    );

    operator.mooring("publications withdraw research/pond --withdrawal drain --grace 10m");
    let found = world.activation_is("web/pond-desks", "DEGRADED");
    let message = found["message"].as_str().unwrap();
    assert!(
        message.contains("is being withdrawn, so this is unmounted at"),
        "{message}"
    );
    let folder = host.path("web", "pond");
    std::fs::read_dir(&folder).unwrap();

    operator.mooring("publications publish ml/pond --community research");
    let found = world.activation_is("web/pond-desks", "ACTIVE");
    assert_eq!(found["mode"], "MODE_READ_ONLY");
    let refused = std::fs::write(folder.join("no"), "no").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    operator.mooring("publications withdraw research/pond --withdrawal force");
    let found = world.activation_is("web/pond-desks", "INACTIVE");
    assert!(
        found["message"].as_str().unwrap().contains("offer it again"),
        "{found}"
    );
    assert_eq!(operator.mooring("activations list --project web"), "");
    let all = operator.mooring("activations list --project web --show-inactive");
    assert!(all.contains("projects/web/activations/pond-desks"), "{all}");
}
