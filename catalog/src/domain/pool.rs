//! Pools: groups of hosts, which projects they admit, and which Unix group may enter a project's mounts on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::names::{PoolName, ProjectName};
use super::{Error, Meta, Texts, TextsChange, Violations};

/// Projects that one pool can name. More than that is what `*` is for.
const ADMITTED_MAX: usize = 10_000;
/// Longest name of a group that useradd(8) makes.
const GROUP_NAME_BYTES_MAX: usize = 32;

/// Less than this is over before a host has noticed that its connection is gone.
const OFFLINE_MIN: Duration = Duration::from_secs(10);

/// A group of compute hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// What every resource has.
    pub meta: Meta,
    /// Who may activate on it.
    pub admission: Admission,
    /// Who may enter the mounts of a project.
    pub groups: BTreeMap<ProjectName, GroupName>,
    /// How long a host may start mounts without the catalog.
    pub offline_max: Option<Duration>,
}

/// A pool to create.
#[derive(Clone, Debug)]
pub struct NewPool {
    /// What people say of it.
    pub texts: Texts,
    /// Who may activate on it.
    pub admission: Admission,
    /// Who may enter the mounts of a project.
    pub groups: BTreeMap<ProjectName, GroupName>,
    /// How long a host may start mounts without the catalog.
    pub offline_max: Option<Duration>,
}

/// A change of a pool.
#[derive(Clone, Debug, Default)]
pub struct PoolChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// Who may activate on it.
    pub admission: Option<AdmissionChange>,
    /// Who may enter the mounts of a project.
    pub groups: Option<GroupsChange>,
    /// How long a host may start mounts without the catalog; `Some(None)` means without end.
    pub offline_max: Option<Option<Duration>>,
    /// The state it was made from.
    pub etag: String,
}

impl PoolChange {
    /// The fields that are given, for the audit.
    pub fn fields(&self) -> Vec<&'static str> {
        let mut fields: Vec<_> = self.texts.fields().collect();
        fields.extend(self.admission.is_some().then_some("admitted_projects"));
        fields.extend(self.groups.is_some().then_some("project_groups"));
        fields.extend(self.offline_max.is_some().then_some("offline_max"));
        fields
    }
}

/// A change of who may activate on a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmissionChange {
    /// These from now on, and no others.
    Replace(Admission),
    /// Some more, and some no longer.
    Adjust {
        /// To admit besides.
        add: BTreeSet<ProjectName>,
        /// To admit no longer.
        remove: BTreeSet<ProjectName>,
    },
}

/// A change of who may enter the mounts of projects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupsChange {
    /// These from now on, and no others.
    Replace(BTreeMap<ProjectName, GroupName>),
    /// Some projects get a group, some lose theirs.
    Adjust {
        /// To add or to change.
        set: BTreeMap<ProjectName, GroupName>,
        /// For root only from now on.
        remove: BTreeSet<ProjectName>,
    },
}

impl Pool {
    /// The projects that it speaks of.
    pub fn named_projects(&self) -> BTreeSet<&ProjectName> {
        let admitted = match &self.admission {
            Admission::Every => None,
            Admission::Only(projects) => Some(projects),
        };
        admitted.into_iter().flatten().chain(self.groups.keys()).collect()
    }

    /// Changes who may activate on it, or says why that cannot be.
    pub fn change_admission(&mut self, change: AdmissionChange) -> Result<(), Error> {
        let (add, remove) = match change {
            AdmissionChange::Replace(admission) => {
                self.admission = admission;
                return Ok(());
            }
            AdmissionChange::Adjust { add, remove } => (add, remove),
        };
        match &mut self.admission {
            // Whoever is to be admitted is already.
            Admission::Every if remove.is_empty() => Ok(()),
            Admission::Every => Err(Error::invalid(
                "remove_admitted_projects",
                "the pool admits every project, so none can be taken out; name those that remain with \
                 `pool.admitted_projects`",
            )),
            Admission::Only(projects) => {
                projects.retain(|project| !remove.contains(project));
                projects.extend(add);
                if projects.len() > ADMITTED_MAX {
                    let problem = too_many(projects.len());
                    return Err(Error::invalid("add_admitted_projects", problem));
                }
                Ok(())
            }
        }
    }

    /// Changes who may enter the mounts of projects.
    pub fn change_groups(&mut self, change: GroupsChange) {
        match change {
            GroupsChange::Replace(groups) => self.groups = groups,
            GroupsChange::Adjust { set, remove } => {
                self.groups.retain(|project, _| !remove.contains(project));
                self.groups.extend(set);
            }
        }
    }
}

/// The bound that was given, none for zero; or what is wrong with it.
pub fn checked_offline_max(given: Option<Duration>) -> Result<Option<Duration>, String> {
    match given.filter(|given| !given.is_zero()) {
        Some(given) if given < OFFLINE_MIN => Err(format!(
            "it is less than {} s, after which a host has hardly noticed that it is alone; 0s means without end",
            OFFLINE_MIN.as_secs()
        )),
        given => Ok(given),
    }
}

/// Which projects may activate on a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of them.
    Every,
    /// These.
    Only(BTreeSet<ProjectName>),
}

impl Admission {
    /// Whether a project may.
    pub fn admits(&self, project: &ProjectName) -> bool {
        match self {
            Self::Every => true,
            Self::Only(projects) => projects.contains(project),
        }
    }

    /// Reads a list of project names, or `*`. Notes what is wrong under `field`.
    pub fn parse(texts: &[String], field: &str, violations: &mut Violations) -> Self {
        if texts.len() > ADMITTED_MAX {
            violations.add(field, too_many(texts.len()));
            return Self::Every;
        }
        if texts.iter().any(|text| text == "*") {
            if texts.len() > 1 {
                violations.add(field, "`*` admits every project already; leave the others out");
            }
            return Self::Every;
        }
        Self::Only(parse_projects(texts, field, violations))
    }

    /// As it is stored and shown.
    pub fn to_texts(&self) -> Vec<String> {
        match self {
            Self::Every => vec!["*".to_owned()],
            Self::Only(projects) => projects.iter().map(ToString::to_string).collect(),
        }
    }
}

fn too_many(count: usize) -> String {
    format!("there would be {count} projects; at most {ADMITTED_MAX} are kept, `*` admits all")
}

/// Reads a list of project names. Notes what is wrong under `field`.
pub fn parse_projects(texts: &[String], field: &str, violations: &mut Violations) -> BTreeSet<ProjectName> {
    let mut projects = BTreeSet::new();
    for (n, text) in texts.iter().enumerate() {
        projects.extend(violations.take(format!("{field}[{n}]"), text.parse::<ProjectName>()));
    }
    projects
}

/// Name of a Unix group. A number is none: it would be taken for a gid, and gids differ from host to host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupName(Box<str>);

impl GroupName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for GroupName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let good = text.len() <= GROUP_NAME_BYTES_MAX && text.starts_with(first) && text.chars().all(rest);
        if !good {
            return Err(
                "it is no name of a Unix group; use 1 to 32 letters, digits, `_`, `-` and `.`, beginning with a letter"
                    .into(),
            );
        }
        Ok(Self(text.into()))
    }
}

/// Reads project names with their groups. Notes what is wrong under `field`.
pub fn parse_groups<'a>(
    entries: impl IntoIterator<Item = (&'a String, &'a String)>,
    field: &str,
    violations: &mut Violations,
) -> BTreeMap<ProjectName, GroupName> {
    let mut groups = BTreeMap::new();
    for (project, group) in entries {
        let at = format!("{field}[{project:?}]");
        let name = violations.take(at.clone(), project.parse::<ProjectName>());
        let group = violations.take(at, group.parse::<GroupName>());
        groups.extend(name.zip(group));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProjectName {
        text.parse().unwrap()
    }

    #[test]
    fn a_pool_admits_the_projects_it_names_or_all() {
        let mut violations = Violations::default();
        let only = Admission::parse(&["projects/ml".into()], "f", &mut violations);
        assert!(only.admits(&name("projects/ml")) && !only.admits(&name("projects/web")));
        assert!(Admission::parse(&["*".into()], "f", &mut violations).admits(&name("projects/web")));
        assert!(
            !Admission::parse(&[], "f", &mut violations).admits(&name("projects/ml")),
            "nobody by default"
        );
        assert!(violations.is_empty());
        assert_eq!(only.to_texts(), ["projects/ml"]);
    }

    fn pool(admission: Admission) -> Pool {
        Pool {
            name: "pools/gpu".parse().unwrap(),
            meta: Meta::new(
                uuid::Uuid::nil(),
                Texts::default(),
                String::new(),
                time::OffsetDateTime::UNIX_EPOCH,
            ),
            admission,
            groups: BTreeMap::from([(name("projects/ml"), "ml-team".parse().unwrap())]),
            offline_max: None,
        }
    }

    #[test]
    fn projects_are_admitted_and_taken_out_one_by_one() {
        let set = |names: &[&str]| names.iter().map(|text| name(text)).collect::<BTreeSet<_>>();
        let adjust = |add: &[&str], remove: &[&str]| AdmissionChange::Adjust {
            add: set(add),
            remove: set(remove),
        };
        let mut some = pool(Admission::Only(set(&["projects/ml", "projects/web"])));
        some.change_admission(adjust(
            &["projects/lab", "projects/ml"],
            &["projects/web", "projects/no"],
        ))
        .unwrap();
        assert_eq!(some.admission.to_texts(), ["projects/lab", "projects/ml"]);
        let mut every = pool(Admission::Every);
        every.change_admission(adjust(&["projects/lab"], &[])).unwrap();
        assert_eq!(every.admission, Admission::Every);
        let refused = every.change_admission(adjust(&[], &["projects/ml"])).unwrap_err();
        assert!(
            refused.to_string().contains("name those that remain"),
            "{refused}"
        );
        every
            .change_admission(AdmissionChange::Replace(Admission::Only(set(&[]))))
            .unwrap();
        assert_eq!(every.admission, Admission::Only(set(&[])));
    }

    #[test]
    fn the_groups_of_other_projects_stay() {
        let mut pool = pool(Admission::Every);
        let web: GroupName = "web-team".parse().unwrap();
        pool.change_groups(GroupsChange::Adjust {
            set: BTreeMap::from([(name("projects/web"), web.clone())]),
            remove: BTreeSet::new(),
        });
        assert_eq!(pool.groups.len(), 2);
        pool.change_groups(GroupsChange::Adjust {
            set: BTreeMap::new(),
            remove: BTreeSet::from([name("projects/ml")]),
        });
        assert_eq!(pool.groups, BTreeMap::from([(name("projects/web"), web)]));
    }

    #[test]
    fn wrong_names_are_told_all_at_once() {
        let mut violations = Violations::default();
        Admission::parse(
            &["ml".into(), "projects/ok".into(), "".into()],
            "pool.admitted_projects",
            &mut violations,
        );
        Admission::parse(
            &["*".into(), "projects/ok".into()],
            "pool.admitted_projects",
            &mut violations,
        );
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "pool.admitted_projects[0]",
                "pool.admitted_projects[2]",
                "pool.admitted_projects"
            ]
        );
    }

    #[test]
    fn a_group_is_a_name_and_never_a_number_or_an_option() {
        for good in ["ml-team", "_x", "A.b"] {
            assert!(good.parse::<GroupName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "0",
            "1000",
            "-x",
            "a b",
            "a\n",
            "ä",
            &"g".repeat(33),
            "a:b",
            "../x",
        ] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bound_on_starts_is_at_least_ten_seconds_and_zero_is_none() {
        let given = |seconds: u64| checked_offline_max(Some(Duration::from_secs(seconds)));
        assert_eq!(checked_offline_max(None), Ok(None));
        assert_eq!(given(0), Ok(None));
        assert_eq!(given(10), Ok(Some(Duration::from_secs(10))));
        assert!(given(9).unwrap_err().contains("10 s"));
    }
}
