//! The SDK's errors → [`StoreError`], in one place. Decided by type, code and status, never by text.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::store::StoreError;
use crate::store::http::{ConnectError, NoProgress};
use crate::store::retry::{Again, Failure};

/// What an SDK call's failure means.
pub(super) fn failure<E>(error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match &error {
        SdkError::ServiceError(answer) => answered(
            answer.err().code(),
            answer.raw().status().as_u16(),
            answer.err().message(),
        ),
        // An answer that is no S3: a proxy's page, or a body that broke off.
        SdkError::ResponseError(answer) => match answer.raw().status().as_u16() {
            200..300 => unavailable(&error),
            status => answered(None, status, None),
        },
        SdkError::ConstructionFailure(_) => local(&error, false),
        SdkError::DispatchFailure(dispatch) => local(&error, !dispatch.is_user()),
        SdkError::TimeoutError(_) => unavailable(&error),
        _ => unavailable(&error),
    }
}

/// What the failure of one key in a DeleteObjects batch means; such entries have a code but no status.
pub(super) fn of_batch_entry(code: Option<&str>) -> StoreError {
    let status = match code {
        Some("AccessDenied") => 403,
        Some("InternalError") => 500,
        Some(_) | None => 400,
    };
    answered(code, status, None).error
}

/// An error's texts from the outermost to the innermost, for reasons that people read.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        // Some layers repeat their source's text in their own.
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// The store answered with an error.
fn answered(code: Option<&str>, status: u16, message: Option<&str>) -> Failure {
    let word = || code.map_or_else(|| format!("HTTP {status}"), str::to_owned);
    let never = |error| Failure {
        error,
        again: Again::Never,
    };
    let passing = |again| {
        let reason = match message {
            Some(message) => format!("{}: {message}", word()),
            None => word(),
        };
        Failure {
            error: StoreError::Unavailable { reason },
            again,
        }
    };
    match (code, status) {
        (Some("NoSuchBucket"), _) => never(StoreError::NoSuchBucket),
        (Some("NoSuchKey" | "NoSuchUpload" | "NotFound"), _) => never(StoreError::NotFound),
        // S3's 409 for a conditional write that met another one: the condition did not hold.
        (Some("PreconditionFailed" | "ConditionalRequestConflict"), _) => {
            never(StoreError::PreconditionFailed)
        }
        (Some("NotImplemented" | "MethodNotAllowed"), _) => never(StoreError::Unsupported),
        (
            Some(
                "SlowDown"
                | "Throttling"
                | "ThrottlingException"
                | "TooManyRequests"
                | "RequestLimitExceeded",
            ),
            _,
        ) => passing(Again::Slower),
        (Some("RequestTimeout" | "OperationAborted" | "InternalError"), _) => passing(Again::Soon),
        (_, 404) => never(StoreError::NotFound),
        (_, 412) => never(StoreError::PreconditionFailed),
        (_, 401 | 403) => never(StoreError::Denied { code: word() }),
        (_, 405 | 501) => never(StoreError::Unsupported),
        (_, 429 | 503) => passing(Again::Slower),
        (_, 408 | 409 | 500..) => passing(Again::Soon),
        (_, _) => never(StoreError::Refused { code: word() }),
    }
}

/// Nothing came back. A request that could not even be made or signed will not be better next time.
fn local(error: &(dyn Error + 'static), made: bool) -> Failure {
    let never = |error| Failure {
        error,
        again: Again::Never,
    };
    for cause in causes(error) {
        if let Some(ConnectError::Forbidden(forbidden)) = cause.downcast_ref() {
            return never(StoreError::Refused {
                code: forbidden.to_string(),
            });
        }
        if let Some(connect) = connect_error(cause) {
            return match connect {
                ConnectError::OtherScheme { server, speaks_tls } => never(StoreError::OtherScheme {
                    server: server.clone(),
                    speaks_tls: *speaks_tls,
                }),
                // The layers above say no more than «connect error».
                _ => unavailable(connect),
            };
        }
        if let Some(silence) = cause.downcast_ref::<NoProgress>() {
            return Failure {
                error: StoreError::Unavailable {
                    reason: silence.to_string(),
                },
                again: Again::AfterSilence(silence.0),
            };
        }
        if let Some(credentials) = cause.downcast_ref::<CredentialsError>() {
            return never(StoreError::Denied {
                code: format!("no credentials: {}", chain(credentials)),
            });
        }
    }
    if made {
        unavailable(error)
    } else {
        never(StoreError::Refused { code: chain(error) })
    }
}

fn unavailable(error: &(dyn Error + 'static)) -> Failure {
    Failure {
        error: StoreError::Unavailable { reason: chain(error) },
        again: Again::Soon,
    }
}

/// Those that reading a connection brings to light hide in an error of the system, which does not name them as its cause.
fn connect_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a ConnectError> {
    cause.downcast_ref::<ConnectError>().or_else(|| {
        let hidden = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
        hidden.downcast_ref::<ConnectError>()
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&'a (dyn Error + 'static)| (*cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: Option<&str>, status: u16) -> (String, Again) {
        let Failure { error, again } = answered(code, status, None);
        (error.to_string(), again)
    }

    #[test]
    fn codes_and_statuses_say_what_can_be_done() {
        let expected = [
            (Some("NoSuchBucket"), 404, "no such bucket", Again::Never),
            (Some("NoSuchKey"), 404, "no such object", Again::Never),
            (None, 404, "no such object", Again::Never),
            (None, 412, "the object has changed", Again::Never),
            (
                Some("ConditionalRequestConflict"),
                409,
                "the object has changed",
                Again::Never,
            ),
            (
                Some("SignatureDoesNotMatch"),
                403,
                "the store denies access (SignatureDoesNotMatch)",
                Again::Never,
            ),
            (None, 403, "the store denies access (HTTP 403)", Again::Never),
            (
                Some("NotImplemented"),
                501,
                "the store does not support this request",
                Again::Never,
            ),
            (
                Some("SlowDown"),
                503,
                "the store is not reachable: SlowDown",
                Again::Slower,
            ),
            (
                Some("InternalError"),
                500,
                "the store is not reachable: InternalError",
                Again::Soon,
            ),
            (None, 502, "the store is not reachable: HTTP 502", Again::Soon),
            (
                Some("EntityTooLarge"),
                400,
                "the store refuses the request (EntityTooLarge)",
                Again::Never,
            ),
            (
                Some("PermanentRedirect"),
                301,
                "the store refuses the request (PermanentRedirect)",
                Again::Never,
            ),
        ];
        for (code, status, text, again) in expected {
            assert_eq!(check(code, status), (text.to_owned(), again), "{code:?} {status}");
        }
    }
}
