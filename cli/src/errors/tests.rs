//! How refusals read.

use std::collections::HashMap;
use std::time::Duration;

use tonic_types::FieldViolation;

use super::*;
use crate::commands::{commands, find};
use crate::descriptors::Descriptors;

const ENDPOINT: &str = "https://catalog:7443";

fn report(status: Status) -> (u8, String) {
    let descriptors = Descriptors::load();
    let commands = commands(&descriptors);
    let failure = Failure::Call {
        status: Box::new(status),
        endpoint: ENDPOINT.to_owned(),
    };
    let arguments = &find(&commands, "connectors", "create").unwrap().arguments;
    (failure.exit_code(), failure.report(arguments))
}

#[test]
fn a_refused_field_is_named_by_its_flag() {
    let details = ErrorDetails::with_bad_request(vec![
        FieldViolation::new("connector.bucket", "must not contain dots"),
        FieldViolation::new("mount_name", "must not contain slashes"),
        FieldViolation::new("connector.labels[2]", "too long"),
        FieldViolation::new("elsewhere", "wrong"),
    ]);
    let (code, text) = report(Status::with_error_details(
        Code::InvalidArgument,
        "2 fields are wrong",
        details,
    ));
    assert_eq!(code, 13);
    assert_eq!(
        text,
        "error: 2 fields are wrong\n  --bucket: must not contain dots\n  \
         --mount-name: must not contain slashes\n  --labels (entry 3): too long\n  elsewhere: wrong\n"
    );
}

#[test]
fn a_denial_names_the_permission_and_who_can_help() {
    let metadata = HashMap::from([
        ("permission".to_owned(), "connectors.create".to_owned()),
        ("resource".to_owned(), "projects/ml".to_owned()),
    ]);
    let details = ErrorDetails::with_error_info("PERMISSION_MISSING", "mooring", metadata);
    let (code, text) = report(Status::with_error_details(
        Code::PermissionDenied,
        "not allowed",
        details,
    ));
    assert_eq!(code, 17);
    assert_eq!(
        text,
        "error: not allowed\n  missing: connectors.create\n  on: projects/ml\n  \
         who can grant it: mooring access explain projects/ml --permission connectors.create\n"
    );
}

#[test]
fn people_who_can_grant_are_named_once() {
    let metadata = HashMap::from([
        ("permission".to_owned(), "connectors.create".to_owned()),
        ("resource".to_owned(), "projects/ml".to_owned()),
        ("can_grant".to_owned(), "users/anna,users/bob".to_owned()),
    ]);
    let details = ErrorDetails::with_error_info("PERMISSION_MISSING", "mooring", metadata);
    let denied = |message| Status::with_error_details(Code::PermissionDenied, message, details.clone());
    let (_, text) = report(denied("connectors.create on projects/ml"));
    assert_eq!(
        text,
        "error: connectors.create on projects/ml\n  who can grant it: users/anna, users/bob\n"
    );
    let (_, text) = report(denied(
        "connectors.create on projects/ml: ask users/anna, users/bob",
    ));
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn remedies_speak_of_flags() {
    for (remedy, told) in [
        ("give `connector.secret` too", "give --secret too"),
        (
            "give `secret` too, or `mount_name`",
            "give --secret too, or --mount-name",
        ),
        (
            "it is given together with `new_secret`",
            "it is given together with --new-secret-key-file",
        ),
        (
            "run `mooring login`, or write `*`",
            "run `mooring login`, or write `*`",
        ),
        (
            "a lone ` stays, as does `realm`",
            "a lone ` stays, as does `realm`",
        ),
        ("a lone ` after `bucket` stays", "a lone ` after `bucket` stays"),
    ] {
        assert_eq!(
            report(Status::invalid_argument(remedy)).1,
            format!("error: {told}\n")
        );
    }
}

#[test]
fn a_message_that_repeats_its_details_is_not_shown_twice() {
    let details =
        ErrorDetails::with_bad_request(vec![FieldViolation::new("connector.bucket", "it has dots")]);
    let (_, text) = report(Status::with_error_details(
        Code::InvalidArgument,
        "connector.bucket: it has dots",
        details,
    ));
    assert_eq!(
        text,
        "error: the catalog refuses these values\n  --bucket: it has dots\n"
    );

    let problem = "projects/ml/connectors/lake is used by projects/ml/activations/a; deactivate it first";
    let details =
        ErrorDetails::with_precondition_failure_violation("InUse", "projects/ml/connectors/lake", problem);
    let (code, text) = report(Status::with_error_details(
        Code::FailedPrecondition,
        problem,
        details,
    ));
    assert_eq!((code, text), (19, format!("error: {problem}\n")));
}

#[test]
fn a_retry_is_told_in_seconds() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(300)));
    let (code, text) = report(Status::with_error_details(Code::Unavailable, "busy", details));
    assert_eq!((code, text.as_str()), (24, "error: busy\n  try again in 1 s\n"));
}

#[test]
fn a_catalog_that_is_not_there_is_named_with_a_remedy() {
    let dial = DialError::Connect {
        authority: "catalog:7443".to_owned(),
        source: std::sync::Arc::new(std::io::ErrorKind::ConnectionRefused.into()),
    };
    let (code, text) = report(Status::from_error(Box::new(dial)));
    assert_eq!(code, 24);
    assert!(
        text.contains("catalog:7443 cannot be reached; is the catalog running"),
        "{text}"
    );
    assert!(text.contains("mooring profiles show"), "{text}");
}

#[test]
fn a_server_cannot_move_the_cursor() {
    let (_, text) = report(Status::internal("bad \u{1b}[2J news"));
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn the_table_of_exit_codes_tells_the_truth() {
    for code in 1..=16u8 {
        let (exit, _) = report(Status::new(Code::from(i32::from(code)), "text"));
        assert_eq!(exit, 10 + code);
    }
    assert_eq!(Failure::LoggedOut(String::new()).exit_code(), 26);
    assert_eq!(Failure::Usage(String::new()).exit_code(), 64);
    for exit in ["1 ", "12 ", "17 ", "24 ", "26 ", "30 ", "64 "] {
        assert!(EXIT_CODES.contains(exit));
    }
}
