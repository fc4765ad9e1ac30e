//! Display name, description and labels: the words people give to a resource. They have bounds and nothing else.

use super::{Labels, Violations};

const DISPLAY_NAME_CHARS_MAX: usize = 128;
const DESCRIPTION_CHARS_MAX: usize = 2048;
const LABELS_MAX: usize = 64;
const LABEL_KEY_BYTES_MAX: usize = 63;
const LABEL_VALUE_BYTES_MAX: usize = 256;

/// What people say of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// Name for people.
    pub display_name: String,
    /// What it is for.
    pub description: String,
    /// Keys and values for their own use.
    pub labels: Labels,
}

/// New texts; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextsChange {
    /// Name for people.
    pub display_name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Keys and values for their own use.
    pub labels: Option<Labels>,
}

impl Texts {
    /// Checks the bounds; `prefix` is where in the request the texts were found, such as `project`.
    pub fn check(self, prefix: &str, violations: &mut Violations) -> Self {
        check_display_name(&self.display_name, prefix, violations);
        check_description(&self.description, prefix, violations);
        check_labels(&self.labels, prefix, violations);
        self
    }

    /// Takes the new texts.
    pub fn apply(&mut self, change: TextsChange) {
        let TextsChange {
            display_name,
            description,
            labels,
        } = change;
        if let Some(display_name) = display_name {
            self.display_name = display_name;
        }
        if let Some(description) = description {
            self.description = description;
        }
        if let Some(labels) = labels {
            self.labels = labels;
        }
    }
}

impl TextsChange {
    /// Checks the bounds of what is given.
    pub fn check(self, prefix: &str, violations: &mut Violations) -> Self {
        if let Some(text) = &self.display_name {
            check_display_name(text, prefix, violations);
        }
        if let Some(text) = &self.description {
            check_description(text, prefix, violations);
        }
        if let Some(labels) = &self.labels {
            check_labels(labels, prefix, violations);
        }
        self
    }

    /// The fields that are given, for the audit.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let Self {
            display_name,
            description,
            labels,
        } = self;
        [
            display_name.is_some().then_some("display_name"),
            description.is_some().then_some("description"),
            labels.is_some().then_some("labels"),
        ]
        .into_iter()
        .flatten()
    }
}

fn check_display_name(text: &str, prefix: &str, violations: &mut Violations) {
    if text.chars().count() > DISPLAY_NAME_CHARS_MAX {
        violations.add(
            format!("{prefix}.display_name"),
            "it is longer than 128 characters; shorten it",
        );
    } else if text.chars().any(char::is_control) {
        violations.add(
            format!("{prefix}.display_name"),
            "it has line breaks or control characters; leave them out",
        );
    }
}

fn check_description(text: &str, prefix: &str, violations: &mut Violations) {
    if text.chars().count() > DESCRIPTION_CHARS_MAX {
        violations.add(
            format!("{prefix}.description"),
            "it is longer than 2048 characters; shorten it",
        );
    } else if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        violations.add(
            format!("{prefix}.description"),
            "it has control characters; leave them out",
        );
    }
}

/// Checks labels; also used for the labels that hosts get from a join token.
pub fn check_labels(labels: &Labels, prefix: &str, violations: &mut Violations) {
    let field = || format!("{prefix}.labels");
    if labels.len() > LABELS_MAX {
        violations.add(
            field(),
            format!("there are {} of them; at most 64 are kept", labels.len()),
        );
    }
    for (key, value) in labels {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if key.is_empty() || key.len() > LABEL_KEY_BYTES_MAX || !key.chars().all(good) {
            violations.add(
                field(),
                format!("the key {key:?} is not 1 to 63 letters, digits, `-`, `_`, `.` or `/`"),
            );
        }
        if value.len() > LABEL_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            violations.add(
                field(),
                format!(
                    "the value of {key:?} is longer than 256 bytes or has control characters; shorten it"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_texts_that_are_too_long_are_named_at_once() {
        let mut violations = Violations::default();
        Texts {
            display_name: "n".repeat(129),
            description: "d".repeat(2049),
            labels: Labels::from([("bad key".into(), "v".into())]),
        }
        .check("project", &mut violations);
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            ["project.display_name", "project.description", "project.labels"]
        );
    }

    #[test]
    fn texts_within_their_bounds_pass() {
        let mut violations = Violations::default();
        Texts {
            display_name: "ä".repeat(128),
            description: "two\nlines".into(),
            labels: Labels::from([("team/x".into(), "ml".into())]),
        }
        .check("project", &mut violations);
        assert!(violations.is_empty());
    }
}
