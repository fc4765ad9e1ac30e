//! What can go wrong, how it is told to a person, and with which exit code. Everything a server answers is decided by
//! its code and its structured details, never by its text.

use std::fmt::Write as _;

use mooring_identity::DialError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::arguments::{Argument, Shape};
use crate::output::clean;

/// The table of exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done                      17  permission denied
  1  something on this machine 18  a limit is reached
 12  unknown error             19  not possible in this state
 13  invalid argument          20  changed by somebody else meanwhile
 14  deadline exceeded         22  the catalog is too old for this command
 15  not found                 23  internal error of the catalog
 16  exists already            24  catalog not reachable
 30  --wait ended badly        26  not logged in, or no longer
 64  the command line is wrong
 Codes from 11 to 26 are 10 + the gRPC code.";

/// Why the program ends without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// Something on this machine: a file, a profile, a terminal.
    Local(String),
    /// There is no usable profile.
    LoggedOut(String),
    /// The server could not be asked, or has refused.
    Call {
        /// Its answer.
        status: Box<Status>,
        /// Where it was asked.
        endpoint: String,
    },
    /// What `--wait` waited for ended badly.
    Waited(String),
}

impl Failure {
    /// The program's exit code, see [`EXIT_CODES`].
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Local(_) => 1,
            Self::LoggedOut(_) => 10 + Code::Unauthenticated as u8,
            Self::Call { status, .. } => 10 + code(status) as u8,
            Self::Waited(_) => 30,
        }
    }

    /// The text for standard error. `arguments` are those of the command, so that a field that was refused can be
    /// named by its flag.
    pub(crate) fn report(&self, arguments: &[Argument]) -> String {
        match self {
            Self::Usage(text) => format!("error: {text}\nSee --help.\n"),
            Self::Local(text) | Self::LoggedOut(text) | Self::Waited(text) => format!("error: {text}\n"),
            Self::Call { status, endpoint } => report_status(status, endpoint, arguments),
        }
    }
}

impl From<mooring_identity::Error> for Failure {
    fn from(error: mooring_identity::Error) -> Self {
        let cause = std::error::Error::source(&error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        Self::Local(format!("{error}{cause}"))
    }
}

/// The code that the failure really has: tonic answers transport errors with several.
pub(crate) fn code(status: &Status) -> Code {
    let sources = || std::iter::successors(std::error::Error::source(status), |error| error.source());
    if sources().any(|error| error.is::<tonic::TimeoutExpired>()) {
        return Code::DeadlineExceeded;
    }
    let broken = sources().any(|error| error.is::<tonic::transport::Error>() || error.is::<DialError>());
    match status.code() {
        Code::Unknown | Code::Cancelled | Code::Internal if broken => Code::Unavailable,
        code => code,
    }
}

fn report_status(status: &Status, endpoint: &str, arguments: &[Argument]) -> String {
    let code = code(status);
    let details = status.get_error_details();
    let mut text = format!("error: {}\n", headline(status, code, endpoint, &details));
    fields(&mut text, &details, arguments);
    preconditions(&mut text, &details, status.message());
    permission(&mut text, &details, status.message());
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        let _ = writeln!(text, "  try again in {} s", delay.as_secs().max(1));
    }
    if let Some(resource) = details
        .resource_info()
        .filter(|info| !status.message().contains(&info.resource_name))
    {
        let _ = writeln!(text, "  {}", clean(&resource.resource_name));
    }
    for link in details
        .help()
        .map(|help| help.links.as_slice())
        .unwrap_or_default()
    {
        let _ = writeln!(text, "  {}: {}", clean(&link.description), clean(&link.url));
    }
    if let Some(remedy) = remedy(code, status) {
        let _ = writeln!(text, "  {remedy}");
    }
    in_flags(&text, arguments)
}

/// Remedies of the catalog speak of fields, such as `connector.secret`; people at a command line type flags. The one
/// place where the one becomes the other.
fn in_flags(text: &str, arguments: &[Argument]) -> String {
    let is_path = |word: &str| {
        let path = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '.');
        !word.is_empty() && word.chars().all(path)
    };
    let flag = |word: &str| {
        let inside = format!("{word}.");
        argument_of(word, arguments)
            // A message that is spread over flags is named by the one that it needs.
            .or_else(|| {
                let mut parts = arguments
                    .iter()
                    .filter(|argument| argument.field_path().starts_with(&inside));
                let first = parts.clone().next();
                parts.find(|argument| argument.shape == Shape::Secret).or(first)
            })
            .map(Argument::shown)
    };
    // Every second part stands between two backticks, unless one is alone.
    let parts: Vec<&str> = text.split('`').collect();
    let mut told = String::new();
    let mut quoted = false;
    for (n, part) in parts.iter().enumerate() {
        let closed = n + 1 < parts.len();
        match (quoted && closed)
            .then(|| flag(part).filter(|_| is_path(part)))
            .flatten()
        {
            Some(flag) => told.push_str(&flag),
            None if quoted && closed => told.extend(["`", part, "`"]),
            None if quoted => told.extend(["`", part]),
            None => told.push_str(part),
        }
        quoted = !quoted;
    }
    told
}

fn headline(status: &Status, code: Code, endpoint: &str, details: &ErrorDetails) -> String {
    if let Some(dial) = DialError::find(status) {
        let cause = std::error::Error::source(dial)
            .map(|cause| format!(" ({cause})"))
            .unwrap_or_default();
        return format!("{dial}{cause}");
    }
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice())
        .unwrap_or_default();
    if !violations.is_empty()
        && violations
            .iter()
            .all(|one| status.message().contains(&one.description))
    {
        // The message repeats the fields, which follow below by their flags.
        return "the catalog refuses these values".to_owned();
    }
    match code {
        Code::DeadlineExceeded if status.message().is_empty() || status.source_is_timeout() => {
            format!("{endpoint} did not answer in time; give it longer with --timeout")
        }
        Code::Unavailable if std::error::Error::source(status).is_some() => {
            format!(
                "the connection to {endpoint} broke ({}); is the catalog running?",
                cause(status)
            )
        }
        _ if status.message().is_empty() => format!("{} ({endpoint})", code.description()),
        _ => clean(status.message()),
    }
}

trait SourceIsTimeout {
    fn source_is_timeout(&self) -> bool;
}

impl SourceIsTimeout for Status {
    fn source_is_timeout(&self) -> bool {
        std::iter::successors(std::error::Error::source(self), |error| error.source())
            .any(|error| error.is::<tonic::TimeoutExpired>())
    }
}

/// The innermost cause: the ones around it say «transport error».
fn cause(status: &Status) -> String {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn fields(text: &mut String, details: &ErrorDetails, arguments: &[Argument]) {
    for violation in details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice())
        .unwrap_or_default()
    {
        let (field, description) = (clean(&violation.field), clean(&violation.description));
        // `[2]` of a list is its third entry.
        let entry = field.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let entry = match entry.map(|(entry, _)| (entry, entry.parse::<usize>())) {
            Some((_, Ok(index))) => format!(" (entry {})", index + 1),
            Some((key, Err(_))) => format!(" ({key})"),
            None => String::new(),
        };
        let _ = match argument_of(&violation.field, arguments) {
            Some(argument) => writeln!(text, "  {}{entry}: {description}", argument.shown()),
            None if field.is_empty() => writeln!(text, "  {description}"),
            None => writeln!(text, "  {field}: {description}"),
        };
    }
}

/// Servers name a field from the request or from the resource down, and an entry of a list by its index.
fn argument_of<'a>(field: &str, arguments: &'a [Argument]) -> Option<&'a Argument> {
    let field = field.split('[').next().unwrap_or_default();
    if field.is_empty() {
        return None;
    }
    let ends_in = |argument: &&Argument| {
        argument
            .field_path()
            .strip_suffix(field)
            .is_some_and(|head| head.is_empty() || head.ends_with('.'))
    };
    arguments
        .iter()
        .find(|argument| argument.field_path() == field)
        .or_else(|| arguments.iter().find(ends_in))
}

fn preconditions(text: &mut String, details: &ErrorDetails, message: &str) {
    let violations = details
        .precondition_failure()
        .map(|failure| failure.violations.as_slice())
        .unwrap_or_default();
    for violation in violations
        .iter()
        .filter(|one| !message.contains(&one.description))
    {
        let (subject, description) = (clean(&violation.subject), clean(&violation.description));
        let _ = match subject.is_empty() {
            true => writeln!(text, "  {description}"),
            false => writeln!(text, "  {subject}: {description}"),
        };
    }
}

/// What the server says about a missing permission beyond its message, and how to find out who can give it.
fn permission(text: &mut String, details: &ErrorDetails, message: &str) {
    let metadata = |key: &str| Some(clean(details.error_info()?.metadata.get(key)?));
    let (Some(permission), Some(resource)) = (metadata("permission"), metadata("resource")) else {
        return;
    };
    let told = [
        ("missing", metadata("permission")),
        ("on", metadata("resource")),
        ("needed", metadata("role_needed")),
    ];
    for (word, value) in told {
        if let Some(value) = value.filter(|value| !value.is_empty() && !message.contains(value)) {
            let _ = writeln!(text, "  {word}: {value}");
        }
    }
    let _ = match metadata("can_grant") {
        // The message names the first few, and says how many more there are.
        Some(people) if people.split(',').take(1).all(|person| message.contains(person)) => Ok(()),
        Some(people) => writeln!(text, "  who can grant it: {}", people.replace(',', ", ")),
        None => writeln!(
            text,
            "  who can grant it: mooring access explain {resource} --permission {permission}"
        ),
    };
}

fn remedy(code: Code, status: &Status) -> Option<&'static str> {
    match code {
        // The catalog may know better.
        Code::Unauthenticated if !status.message().contains("mooring ") => {
            Some("log in again: ask an operator for a join file, then `mooring login --join-file FILE`")
        }
        Code::Unimplemented => Some("the catalog is older than this program; upgrade it first"),
        Code::Aborted => Some("somebody else was faster: read it again, then repeat your change"),
        Code::Unavailable if DialError::find(status).is_some() => Some(
            "the endpoint comes from your profile, see `mooring profiles show`; a login has it from the join file",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
