//! Imports: a project's use of a publication of its community, under a mount name of its own and in an equal or
//! narrower mode.

use uuid::Uuid;

use super::names::{ImportName, PublicationName};
use super::{Id, Meta, Mode, Texts, TextsChange};

/// A project's use of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its name.
    pub name: ImportName,
    /// What every resource has.
    pub meta: Meta,
    /// The project's uid.
    pub project_uid: Uuid,
    /// The publication it uses.
    pub publication: PublicationName,
    /// The publication's uid.
    pub publication_uid: Uuid,
    /// Folder on the hosts; unique in the project, connectors included.
    pub mount_name: Id,
    /// A mode narrower than the publication's; `None` for the publication's own.
    pub mode: Option<Mode>,
}

/// An import to make.
#[derive(Clone, Debug)]
pub struct NewImport {
    /// What people say of it.
    pub texts: Texts,
    /// The publication it uses.
    pub publication: PublicationName,
    /// Folder on the hosts; `None` for the import's id.
    pub mount_name: Option<Id>,
    /// A mode narrower than the publication's.
    pub mode: Option<Mode>,
}

/// A change of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// Folder on the hosts.
    pub mount_name: Option<Id>,
    /// The mode: `Some(None)` for the publication's own.
    pub mode: Option<Option<Mode>>,
    /// The state it was made from.
    pub etag: String,
}

impl ImportChange {
    /// The fields that are given, for the audit.
    pub fn fields(&self) -> Vec<&'static str> {
        let mut fields: Vec<_> = self.texts.fields().collect();
        fields.extend(self.mount_name.is_some().then_some("mount_name"));
        fields.extend(self.mode.is_some().then_some("mode"));
        fields
    }
}

/// Refuses a mode that is wider than what bounds it.
pub fn checked_mode(asked: Option<Mode>, bound: Mode, bound_by: &str) -> Result<(), String> {
    match asked {
        Some(mode) if mode > bound => Err(format!(
            "it is wider than {bound_by}, which is {}; ask for {} or leave it out",
            bound.as_str(),
            bound.as_str()
        )),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_may_be_narrower_than_its_bound_and_never_wider() {
        assert!(checked_mode(None, Mode::ReadOnly, "x").is_ok());
        assert!(checked_mode(Some(Mode::ReadOnly), Mode::ReadWrite, "x").is_ok());
        let problem = checked_mode(
            Some(Mode::ReadWrite),
            Mode::ReadOnly,
            "the publication's greatest mode",
        )
        .unwrap_err();
        assert!(problem.contains("READ_ONLY"), "{problem}");
    }
}
