//! What can go wrong, told by what the caller can do about it. Which gRPC code that is, `api/status.rs` decides.

use std::fmt;

use super::names::UserName;

/// What our log tells and the caller does not see.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller has not shown who it is, or is nobody (any more).
    #[error("{reason}")]
    Unauthenticated {
        /// Cause and remedy.
        reason: &'static str,
    },
    /// The caller lacks a permission. Reads the same whether the resource is hidden or absent.
    #[error("{0}")]
    Denied(Denial),
    /// There is no such resource, and the caller may know that.
    #[error("{resource} does not exist")]
    Absent {
        /// The name that was asked for.
        resource: String,
    },
    /// The name is taken, or was once and is not given out again.
    #[error("{resource} {problem}")]
    NameTaken {
        /// The name.
        resource: String,
        /// Why it cannot be had, and what to do.
        problem: &'static str,
    },
    /// Fields of the request are wrong: all of them, at once.
    #[error("{0}")]
    Invalid(Violations),
    /// The resource has changed since the caller read it.
    #[error("{resource} has changed since its etag was read; read it again and repeat the change")]
    Stale {
        /// The resource.
        resource: String,
    },
    /// The state of the catalog does not allow it now.
    #[error("{problem}")]
    Precondition {
        /// What stands in the way, in one CamelCase word.
        reason: &'static str,
        /// What the condition is about.
        subject: String,
        /// Cause and remedy.
        problem: String,
    },
    /// Too many calls; later it will work.
    #[error("{reason}")]
    Exhausted {
        /// Cause and remedy.
        reason: &'static str,
    },
    /// The database did not answer; nothing was changed.
    #[error("the catalog's database does not answer; nothing was changed, try again")]
    Store(#[source] Cause),
    /// A mistake of ours or a damaged installation; the log has the cause.
    #[error("the catalog failed; nothing was changed, its log says why")]
    Internal(#[source] Cause),
}

impl Error {
    /// There is no such resource.
    pub fn absent(resource: &dyn fmt::Display) -> Self {
        Self::Absent {
            resource: resource.to_string(),
        }
    }

    /// Something uses it, all of which the caller may see.
    pub fn in_use(resource: &dyn fmt::Display, users: &[impl fmt::Display], remedy: &str) -> Self {
        Self::in_use_unseen(resource, users, 0, remedy)
    }

    /// Something uses it: what the caller may see, and so many others.
    pub fn in_use_unseen(
        resource: &dyn fmt::Display,
        seen: &[impl fmt::Display],
        hidden: usize,
        remedy: &str,
    ) -> Self {
        Self::Precondition {
            reason: "InUse",
            subject: resource.to_string(),
            problem: format!("{resource} is used by {}; {remedy}", listed(seen, hidden)),
        }
    }

    /// Something that cannot be unless the program or its files are broken.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }

    /// For whoever sits at the catalog's machine: there the cause is not hidden.
    pub fn into_cause(self) -> Cause {
        match self {
            Self::Internal(cause) => cause,
            other => Box::new(other),
        }
    }

    /// One wrong field.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, problem);
        Self::Invalid(violations)
    }
}

/// An error stays readable with a thousand users of a thing.
const NAMED_MAX: usize = 5;

/// The first few, then how many more, then how many are not the caller's to see.
fn listed(names: &[impl fmt::Display], hidden: usize) -> String {
    let mut parts = Vec::new();
    if !names.is_empty() {
        let named = names.iter().take(NAMED_MAX).map(ToString::to_string);
        parts.push(named.collect::<Vec<_>>().join(", "));
    }
    let more = names.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    if hidden > 0 {
        parts.push(format!("{hidden} that you may not see"));
    }
    parts.join(" and ")
}

/// People or things of which one will do: `a, b or c`. Of many the first few.
pub fn either(names: &[impl fmt::Display]) -> String {
    let mut named: Vec<String> = names.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = names.len() - named.len();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    match named.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// A permission that the caller lacks. Made of the request's words only, so it cannot tell what exists; but for the
/// people, who are named to those only who may see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The missing permission, such as `connectors.create`.
    pub permission: &'static str,
    /// What it was asked for on, such as `projects/ml`.
    pub resource: String,
    /// The least role that gives it, such as `DEVELOPER on projects/ml`.
    pub role_needed: String,
    /// Who can grant it, as far as the caller may see.
    pub can_grant: Vec<UserName>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            permission,
            resource,
            role_needed,
            can_grant,
        } = self;
        write!(f, "permission {permission} is missing on {resource}")?;
        // The realm is there, and so is what the caller may see people of.
        let seen = !can_grant.is_empty() && role_needed.ends_with(&format!(" on {resource}"));
        if !seen && resource != "realm" {
            f.write_str(", or it does not exist")?;
        }
        write!(f, "; needed is {role_needed}")?;
        if !can_grant.is_empty() {
            write!(f, ", which {} can grant", either(can_grant))?;
        }
        Ok(())
    }
}

/// Wrong fields of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, such as `connector.bucket`.
    pub field: String,
    /// Cause and remedy.
    pub problem: String,
}

impl Violations {
    /// Notes a wrong field.
    pub fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Violation {
            field: field.into(),
            problem: problem.into(),
        });
    }

    /// Passes a good value on and notes what is wrong with a bad one.
    pub fn take<T>(&mut self, field: impl Into<String>, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|problem| self.add(field, problem)).ok()
    }

    /// Nothing, if nothing was noted.
    pub fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(self))
        }
    }

    /// What was noted.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Violation { field, problem }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{field}: {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_as_far_as_they_may_be_seen_and_the_rest_is_counted() {
        let names: Vec<String> = (1..=7).map(|n| format!("u{n}")).collect();
        for (seen, hidden, expected) in [
            (1, 0, "u1"),
            (7, 0, "u1, u2, u3, u4, u5 and 2 more"),
            (1, 2, "u1 and 2 that you may not see"),
            (7, 3, "u1, u2, u3, u4, u5 and 2 more and 3 that you may not see"),
            (0, 3, "3 that you may not see"),
        ] {
            assert_eq!(listed(&names[..seen], hidden), expected);
        }
    }

    #[test]
    fn of_those_who_can_help_the_first_few_are_named() {
        let names: Vec<String> = (1..=7).map(|n| format!("u{n}")).collect();
        for (count, expected) in [
            (0, ""),
            (1, "u1"),
            (2, "u1 or u2"),
            (5, "u1, u2, u3, u4 or u5"),
            (7, "u1, u2, u3, u4, u5 or 2 more"),
        ] {
            assert_eq!(either(&names[..count]), expected);
        }
    }
}
