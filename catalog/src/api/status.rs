//! From the domain's errors to gRPC's: the only place that knows codes. Every status carries `ErrorInfo`, and what
//! else helps: fields, preconditions, the resource, when to try again. The cause stays in our log.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::{Denial, Error};

/// The domain of our `ErrorInfo` reasons.
const DOMAIN: &str = "mooring";
/// When to try again what failed for a moment: longer than a failover of SQLite's lock, short for a person.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let mut details = ErrorDetails::new();
        let mut error_info = ErrorInfo {
            domain: DOMAIN.into(),
            ..ErrorInfo::default()
        };
        let mut info = |reason: &str, metadata: &[(&str, &str)]| {
            error_info.reason = reason.into();
            error_info.metadata = metadata
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
        };
        let code = match &error {
            Error::Unauthenticated { reason: _ } => {
                info("UNAUTHENTICATED", &[]);
                Code::Unauthenticated
            }
            Error::Denied(Denial {
                permission,
                resource,
                role_needed,
                can_grant,
            }) => {
                let people: Vec<String> = can_grant.iter().map(ToString::to_string).collect();
                let people = people.join(",");
                let mut metadata = vec![
                    ("permission", *permission),
                    ("resource", resource),
                    ("role_needed", role_needed),
                ];
                if !people.is_empty() {
                    metadata.push(("can_grant", &people));
                }
                info("PERMISSION_MISSING", &metadata);
                Code::PermissionDenied
            }
            Error::Absent { resource } => {
                info("NOT_FOUND", &[("resource", resource)]);
                details.set_resource_info(kind_of(resource), resource, "", "it does not exist");
                Code::NotFound
            }
            Error::NameTaken { resource, problem } => {
                info("NAME_TAKEN", &[("resource", resource)]);
                details.set_resource_info(kind_of(resource), resource, "", *problem);
                Code::AlreadyExists
            }
            Error::Invalid(violations) => {
                info("INVALID_FIELDS", &[]);
                for violation in violations.iter() {
                    details.add_bad_request_violation(&violation.field, &violation.problem);
                }
                Code::InvalidArgument
            }
            Error::Stale { resource } => {
                info("ETAG_MISMATCH", &[("resource", resource)]);
                details.set_resource_info(kind_of(resource), resource, "", "it has changed");
                Code::Aborted
            }
            Error::Precondition {
                reason,
                subject,
                problem,
            } => {
                info("PRECONDITION", &[("reason", reason), ("resource", subject)]);
                details.add_precondition_failure_violation(*reason, subject, problem);
                Code::FailedPrecondition
            }
            Error::Exhausted { reason: _ } => {
                info("TOO_MANY_CALLS", &[]);
                details.set_retry_info(Some(RETRY_AFTER));
                Code::ResourceExhausted
            }
            Error::Store(cause) => {
                tracing::warn!(cause = %Chain(cause.as_ref()), "the database does not answer");
                info("DATABASE_UNAVAILABLE", &[]);
                details.set_retry_info(Some(RETRY_AFTER));
                Code::Unavailable
            }
            Error::Internal(cause) => {
                tracing::error!(cause = %Chain(cause.as_ref()), "a call fails by a mistake or by damage");
                info("INTERNAL", &[]);
                Code::Internal
            }
        };
        with_info(Status::with_error_details(code, message, details), &error_info)
    }
}

/// The rpc has no rule, so for callers it does not exist.
pub(super) fn unknown_call() -> Status {
    Status::new(
        Code::Unimplemented,
        "this catalog has no such call; it may be older than the caller",
    )
}

/// `google.rpc.ErrorInfo` with its metadata in order: the crate's own keeps them in a hash map, and then the same denial
/// has other bytes each time.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// Puts the info in front of the other details.
fn with_info(status: Status, info: &ErrorInfo) -> Status {
    let mut details = tonic_types::Status::decode(status.details()).unwrap_or_default();
    details.code = status.code() as i32;
    details.message = status.message().to_owned();
    let info = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(),
        value: info.encode_to_vec(),
    };
    details.details.insert(0, info);
    Status::with_details(status.code(), status.message(), details.encode_to_vec().into())
}

/// The kind of resource in a name, such as `connectors`: the last collection.
fn kind_of(resource: &str) -> &str {
    let parts: Vec<&str> = resource.split('/').collect();
    parts.len().checked_sub(2).map_or(resource, |index| parts[index])
}

/// An error and what caused it, in one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_in_the_status() {
        let mut violations = crate::domain::Violations::default();
        violations.add("connector.bucket", "it has dots; remedy");
        violations.add("connector.endpoint", "it has a path; remedy");
        let status = Status::from(Error::Invalid(violations));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELDS");
        assert!(status.message().contains("connector.bucket: it has dots"));
    }

    #[test]
    fn causes_of_internal_errors_stay_inside() {
        let status = Status::from(Error::internal("planted detail"));
        assert!(!format!("{status:?}").contains("planted"));
    }

    #[test]
    fn the_kind_of_a_resource_is_its_last_collection() {
        assert_eq!(kind_of("projects/ml/connectors/x"), "connectors");
        assert_eq!(kind_of("realm"), "realm");
    }
}
