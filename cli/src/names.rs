//! Resource names with less typing: `ml/reports` where `projects/ml/connectors/reports` is meant. The field's pattern
//! says how, and ids that one argument of a command names need not be repeated in another.

use std::collections::HashMap;

/// A pattern such as `projects/{project}/connectors/{connector}`.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
enum Segment {
    Literal(String),
    Variable(String),
}

/// Ids by the variable that they fill.
pub(crate) type Ids = HashMap<String, String>;

impl Pattern {
    /// Reads a pattern as the protos write it; `None` for an empty one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let segment = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(variable) => Segment::Variable(variable.to_owned()),
            None => Segment::Literal(part.to_owned()),
        };
        Some(Self {
            text: text.to_owned(),
            segments: text.split('/').map(segment).collect(),
        })
    }

    /// What stands in help texts for a value: `PROJECT/CONNECTOR`.
    pub(crate) fn value_name(&self) -> String {
        self.variables()
            .map(str::to_uppercase)
            .collect::<Vec<_>>()
            .join("/")
    }

    /// The ids in a value that names all of them, in full or short; `None` for anything else.
    pub(crate) fn ids(&self, value: &str) -> Option<Ids> {
        let parts: Vec<&str> = value.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        if parts.len() == self.segments.len() && self.begins_like(&parts) {
            return self.match_whole(&parts);
        }
        let variables: Vec<&str> = self.variables().collect();
        if parts.len() != variables.len() || self.begins_like(&parts) {
            return None;
        }
        Some(pairs(variables, &parts))
    }

    /// The full name that `value` means. Leading ids that are missing are taken from `known`.
    pub(crate) fn complete(&self, value: &str, known: &Ids) -> Result<String, String> {
        let ids = match self.ids(value) {
            Some(ids) => ids,
            None => self.ids_with(value, known).ok_or_else(|| {
                format!(
                    "`{value}` is not a name; write it as {} or {}",
                    self.value_name().to_lowercase(),
                    self.text
                )
            })?,
        };
        let part = |segment: &Segment| match segment {
            Segment::Literal(text) => text.clone(),
            Segment::Variable(name) => ids.get(name).cloned().unwrap_or_default(),
        };
        Ok(self.segments.iter().map(part).collect::<Vec<_>>().join("/"))
    }

    fn ids_with(&self, value: &str, known: &Ids) -> Option<Ids> {
        let parts: Vec<&str> = value.split('/').collect();
        let variables: Vec<&str> = self.variables().collect();
        let missing = variables
            .len()
            .checked_sub(parts.len())
            .filter(|missing| *missing > 0)?;
        if parts.iter().any(|part| part.is_empty()) || self.begins_like(&parts) {
            return None;
        }
        let leading: Vec<&str> = variables[..missing]
            .iter()
            .map(|name| known.get(*name).map(String::as_str))
            .collect::<Option<_>>()?;
        Some(pairs(variables, &[leading, parts].concat()))
    }

    /// Whether the value spells the pattern's first word, and so means to be a full name.
    fn begins_like(&self, parts: &[&str]) -> bool {
        matches!((self.segments.first(), parts.first()), (Some(Segment::Literal(word)), Some(part)) if word == part)
            && parts.len() > 1
    }

    fn match_whole(&self, parts: &[&str]) -> Option<Ids> {
        let mut ids = Ids::new();
        for (segment, part) in self.segments.iter().zip(parts) {
            match segment {
                Segment::Literal(word) if word == part => {}
                Segment::Literal(_) => return None,
                Segment::Variable(name) => {
                    ids.insert(name.clone(), (*part).to_owned());
                }
            }
        }
        Some(ids)
    }

    fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Variable(name) => Some(name.as_str()),
        })
    }
}

fn pairs(variables: Vec<&str>, parts: &[&str]) -> Ids {
    variables
        .into_iter()
        .zip(parts)
        .map(|(name, part)| (name.to_owned(), (*part).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, value: &str, known: &[(&str, &str)], expected: Option<&str>) {
        let known = known
            .iter()
            .map(|(name, id)| ((*name).to_owned(), (*id).to_owned()))
            .collect();
        let completed = Pattern::parse(pattern).unwrap().complete(value, &known);
        assert_eq!(
            completed.as_deref().ok(),
            expected,
            "{pattern} {value}: {completed:?}"
        );
    }

    const CONNECTOR: &str = "projects/{project}/connectors/{connector}";

    #[test]
    fn short_names_are_completed_and_full_ones_stay() {
        check(
            CONNECTOR,
            "ml/reports",
            &[],
            Some("projects/ml/connectors/reports"),
        );
        check(
            CONNECTOR,
            "projects/ml/connectors/reports",
            &[],
            Some("projects/ml/connectors/reports"),
        );
        check("pools/{pool}", "gpu", &[], Some("pools/gpu"));
        check("pools/{pool}", "pools/gpu", &[], Some("pools/gpu"));
        check("pools/{pool}", "pools", &[], Some("pools/pools"));
        check("joinTokens/{join_token}", "t1", &[], Some("joinTokens/t1"));
    }

    #[test]
    fn an_id_that_the_command_names_elsewhere_need_not_be_repeated() {
        check(
            CONNECTOR,
            "reports",
            &[("project", "ml")],
            Some("projects/ml/connectors/reports"),
        );
        check(
            CONNECTOR,
            "web/reports",
            &[("project", "ml")],
            Some("projects/web/connectors/reports"),
        );
        let version = "projects/{project}/secrets/{secret}/versions/{version}";
        check(
            version,
            "ml/key/3",
            &[],
            Some("projects/ml/secrets/key/versions/3"),
        );
        check(
            version,
            "3",
            &[("project", "ml"), ("secret", "key")],
            Some("projects/ml/secrets/key/versions/3"),
        );
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        check(CONNECTOR, "reports", &[], None);
        check(CONNECTOR, "", &[("project", "ml")], None);
        check(CONNECTOR, "ml/", &[], None);
        check(CONNECTOR, "a/b/c", &[], None);
        check(CONNECTOR, "projects/ml", &[], None);
        check(CONNECTOR, "projects/ml/secrets/reports", &[], None);
        check("pools/{pool}", "a/b", &[], None);
    }
}
