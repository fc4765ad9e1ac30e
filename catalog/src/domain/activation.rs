//! Activations: the wish that a target be mounted on the hosts of a pool, and how far the hosts are.
//!
//! How far they are is never stored: it follows from what was ordered and what hosts have reported last, so the two
//! cannot disagree. What is stored is only the wish itself, and that it has ended.

use std::fmt;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::host::HostState;
use super::names::{ActivationName, ConnectorName, ImportName, PoolName};
use super::publication::{Publication, PublicationState};
use super::{Id, Meta, Mode};

/// How long hosts wait for open files when nobody says.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait for open files.
pub const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Ended activations that are kept of a project: a look back of months for people, and an end for scripts that make a
/// new name each time. An older one is in the audit.
pub const ENDED_KEPT_MAX: u64 = 1000;

/// The wish that a target be mounted on the hosts of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Its name.
    pub name: ActivationName,
    /// What every resource has.
    pub meta: Meta,
    /// The project's uid.
    pub project_uid: Uuid,
    /// What is mounted.
    pub target: Target,
    /// The target's uid.
    pub target_uid: Uuid,
    /// The connector behind the target.
    pub connector_uid: Uuid,
    /// The publication between them, if the target is an import.
    pub publication_uid: Option<Uuid>,
    /// The pool on whose hosts.
    pub pool: PoolName,
    /// The pool's uid.
    pub pool_uid: Uuid,
    /// The mode that was asked for; `None` for the target's own.
    pub asked_mode: Option<Mode>,
    /// When it was ended; `None` while it is live.
    pub end_time: Option<OffsetDateTime>,
}

/// What is activated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A connector of the project.
    Connector(ConnectorName),
    /// An import of the project.
    Import(ImportName),
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let import = text.parse().map(Self::Import);
        import.or_else(|_| text.parse().map(Self::Connector))
    }
}

impl Target {
    /// The last part of its name.
    pub fn id(&self) -> &Id {
        match self {
            Self::Connector(name) => name.id(),
            Self::Import(name) => name.id(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connector(name) => name.fmt(f),
            Self::Import(name) => name.fmt(f),
        }
    }
}

/// An activation to make.
#[derive(Clone, Debug)]
pub struct NewActivation {
    /// What is mounted.
    pub target: Target,
    /// On whose hosts.
    pub pool: PoolName,
    /// A mode narrower than the target's.
    pub mode: Option<Mode>,
}

/// The id of an activation whose maker chose none.
pub fn default_id(target: &Target, pool: &PoolName) -> Id {
    let text: String = format!("{}-{}", target.id(), pool.id())
        .chars()
        .take(super::names::ID_LENGTH_MAX)
        .collect();
    text.trim_end_matches('-')
        .parse()
        .expect("two ids and a hyphen, cut to the longest id")
}

/// The grace that was asked for, or why it cannot be.
pub fn checked_grace(asked: Option<Duration>) -> Result<Duration, String> {
    match asked {
        None => Ok(GRACE_DEFAULT),
        Some(grace) if grace > GRACE_MAX => Err("it is more than 24 hours; give a shorter one".into()),
        Some(grace) => Ok(grace),
    }
}

/// How far the hosts of an activation are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationState {
    /// No host has it yet.
    Pending,
    /// Every host has it, and all is well.
    Active,
    /// Some hosts have it, or something is wrong on some.
    Degraded,
    /// Being unmounted.
    Deactivating,
    /// Unmounted everywhere.
    Inactive,
    /// No host can mount it; the hosts go on trying.
    Failed,
}

/// What a host does with a mount, as it has reported it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountState {
    /// Being mounted.
    Mounting,
    /// Mounted, and its program answers through the mount.
    Mounted,
    /// Mounted, but something is wrong.
    Degraded,
    /// Being unmounted.
    Unmounting,
    /// Not mounted any more.
    Unmounted,
    /// Could not be mounted; the host tries again.
    Failed,
    /// Held by the host, but not listed by the catalog.
    Orphaned,
}

impl MountState {
    const ALL: [Self; 7] = [
        Self::Mounting,
        Self::Mounted,
        Self::Degraded,
        Self::Unmounting,
        Self::Unmounted,
        Self::Failed,
        Self::Orphaned,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mounting => "MOUNTING",
            Self::Mounted => "MOUNTED",
            Self::Degraded => "DEGRADED",
            Self::Unmounting => "UNMOUNTING",
            Self::Unmounted => "UNMOUNTED",
            Self::Failed => "FAILED",
            Self::Orphaned => "ORPHANED",
        }
    }

    /// Reads what [`MountState::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether files can be reached through it.
    pub fn is_mounted(self) -> bool {
        match self {
            Self::Mounted | Self::Degraded => true,
            Self::Mounting | Self::Unmounting | Self::Unmounted | Self::Failed | Self::Orphaned => false,
        }
    }
}

/// One host's part of an activation: its assignment, and what it says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPart {
    /// Resource name of the host.
    pub host: String,
    /// How the host is.
    pub host_state: HostState,
    /// Generation that is wanted.
    pub generation: i64,
    /// Why there is no key for the host; `None` when there is one.
    pub credential_missing: Option<String>,
    /// What it has reported; `None` for nothing yet.
    pub report: Option<PartReport>,
}

/// What a host has reported of its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    /// How the mount is.
    pub state: MountState,
    /// Generation that is mounted.
    pub generation: i64,
    /// The most important condition in one sentence; empty when all is well.
    pub message: String,
}

/// How far an activation is, in numbers and in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The state.
    pub state: ActivationState,
    /// How many hosts shall have it.
    pub desired_hosts: i32,
    /// How many have reported it mounted.
    pub mounted_hosts: i32,
    /// What is missing; empty when all is well.
    pub message: String,
}

/// The least of the modes that bound a mount: of the connector, of publication and import if there are such, and of
/// what was asked for.
pub fn effective_mode(connector: Mode, bounds: impl IntoIterator<Item = Option<Mode>>) -> Mode {
    bounds.into_iter().flatten().fold(connector, Mode::min)
}

/// How far a live activation is. `pool` is the pool's id.
pub fn outlook_of_live(pool: &str, parts: &[HostPart]) -> Outlook {
    let mounted = parts.iter().filter(|part| part.is_mounted()).count();
    let outlook = |state, message: String| Outlook {
        state,
        desired_hosts: count(parts.len()),
        mounted_hosts: count(mounted),
        message,
    };
    if parts.is_empty() {
        return outlook(
            ActivationState::Pending,
            format!(
                "the pool has no hosts that take mounts; add one with: mooring join-tokens create --pool {pool} \
                 --join-string-file {pool}.join (or let a cordoned one take mounts: mooring hosts uncordon HOST)"
            ),
        );
    }
    // The worst part speaks for all: people mend one thing after the other.
    let worst = parts.iter().max_by_key(|part| part.trouble().rank());
    let (rank, sentence) = worst.map_or((0, String::new()), |part| {
        (part.trouble().rank(), part.sentence())
    });
    let others = parts
        .iter()
        .filter(|part| part.trouble().rank() > 0)
        .count()
        .saturating_sub(1);
    let message = match others {
        0 => sentence,
        1 => format!("{sentence}; and 1 more host is not ready"),
        n => format!("{sentence}; and {n} more hosts are not ready"),
    };
    let every_part_failed = parts.iter().all(|part| part.trouble() == Trouble::Failed);
    let state = match (mounted, rank) {
        (_, 0) => ActivationState::Active,
        (0, _) if every_part_failed => ActivationState::Failed,
        (0, _) => ActivationState::Pending,
        (_, _) => ActivationState::Degraded,
    };
    outlook(state, message)
}

/// Adds which cordoned or drained hosts of the pool have no part in a live activation: nobody misses what is not counted.
pub fn told_of_cordoned(mut outlook: Outlook, parts: &[HostPart], cordoned: &[String]) -> Outlook {
    /// Enough to begin with.
    const NAMED_MAX: usize = 3;
    let has_part = |host: &String| parts.iter().any(|part| part.host == *host);
    let left_out: Vec<&str> = cordoned
        .iter()
        .filter(|host| !has_part(host))
        .map(String::as_str)
        .collect();
    if left_out.is_empty() {
        return outlook;
    }
    if !outlook.message.is_empty() {
        outlook.message.push_str("; ");
    }
    let hosts = match left_out.len() {
        1 => "1 host of the pool takes no new mounts and is left out".to_owned(),
        n => format!("{n} hosts of the pool take no new mounts and are left out"),
    };
    let named = left_out[..left_out.len().min(NAMED_MAX)].join(", ");
    let more = match left_out.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    outlook.message.push_str(&format!("{hosts}: {named}{more}"));
    outlook
}

/// How far an activation is that has ended. `remaining` are the hosts that have not yet said that it is unmounted.
/// A host that is lost is waited for no longer: it is named, and it unmounts when it comes back. One that is banned has
/// been told to unmount everything, and answers for nothing any more.
pub fn outlook_of_ended(remaining: &[HostPart]) -> Outlook {
    let (lost, waited): (Vec<_>, Vec<_>) = remaining
        .iter()
        .filter(|part| part.host_state != HostState::Banned)
        .partition(|part| !part.host_state.is_waited_for());
    let mut message = Vec::new();
    if !waited.is_empty() {
        message.push(format!("waits for {} to unmount", names(&waited)));
        message.extend(
            waited
                .iter()
                .filter_map(|part| part.report.as_ref())
                .find_map(|report| (!report.message.is_empty()).then(|| report.message.clone())),
        );
    }
    if !lost.is_empty() {
        let verb = if lost.len() == 1 {
            "is lost and unmounts when it returns"
        } else {
            "are lost and unmount when they return"
        };
        message.push(format!("{} {verb}", names(&lost)));
    }
    Outlook {
        state: if waited.is_empty() {
            ActivationState::Inactive
        } else {
            ActivationState::Deactivating
        },
        desired_hosts: 0,
        mounted_hosts: count(waited.iter().filter(|part| part.is_mounted()).count()),
        message: message.join("; "),
    }
}

/// An activation whose publication is being taken back, or was: when it ends, and what the importer can do. What is
/// mounted works until then, but not for good, so nobody should believe that all is well.
pub fn told_of_withdrawal(mut outlook: Outlook, publication: &Publication, ended: bool) -> Outlook {
    let name = &publication.name;
    let notice = match publication.state {
        PublicationState::Published => return outlook,
        PublicationState::Withdrawing { until } if !ended => format!(
            "{name} is being withdrawn, so this is unmounted at {}; copy what you need before, or ask the publisher to \
             offer it again",
            to_the_second(until)
        ),
        PublicationState::Withdrawing { .. } | PublicationState::Withdrawn => format!(
            "{name} is withdrawn, so this cannot be activated again; ask the publisher to offer it again, or delete the \
             import"
        ),
    };
    if outlook.state == ActivationState::Active {
        outlook.state = ActivationState::Degraded;
    }
    outlook.message = if outlook.message.is_empty() {
        notice
    } else {
        format!("{}; {notice}", outlook.message)
    };
    outlook
}

fn to_the_second(time: OffsetDateTime) -> String {
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!(
        "{year}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC",
        u8::from(month)
    )
}

/// What is wrong with a part, the least first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Underway,
    Outdated,
    Degraded,
    Lost,
    CredentialMissing,
    Failed,
}

impl Trouble {
    fn rank(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Underway => 1,
            Self::Outdated => 2,
            Self::Degraded => 3,
            Self::Lost => 4,
            Self::CredentialMissing => 5,
            Self::Failed => 6,
        }
    }
}

impl HostPart {
    fn is_mounted(&self) -> bool {
        self.report
            .as_ref()
            .is_some_and(|report| report.state.is_mounted())
    }

    fn trouble(&self) -> Trouble {
        if self.host_state == HostState::Lost {
            return Trouble::Lost;
        }
        let of_report = match &self.report {
            None => Trouble::Underway,
            Some(report) => match report.state {
                MountState::Failed => Trouble::Failed,
                MountState::Degraded | MountState::Orphaned => Trouble::Degraded,
                MountState::Mounting | MountState::Unmounting | MountState::Unmounted => Trouble::Underway,
                MountState::Mounted if report.generation < self.generation => Trouble::Outdated,
                MountState::Mounted => Trouble::None,
            },
        };
        // A mount that works goes on working with the key it has; one that does not cannot begin without.
        match of_report {
            Trouble::Failed => Trouble::Failed,
            _ if self.credential_missing.is_some() => Trouble::CredentialMissing,
            other => other,
        }
    }

    fn sentence(&self) -> String {
        let host = &self.host;
        let said = |fallback: &str| match &self.report {
            Some(report) if !report.message.is_empty() => format!("{host}: {}", report.message),
            _ => format!("{host}: {fallback}"),
        };
        match self.trouble() {
            Trouble::None => String::new(),
            Trouble::Underway => said("waits to be mounted"),
            Trouble::Outdated => format!("{host}: the mount does not yet follow the latest change"),
            Trouble::Degraded => said("the mount is degraded"),
            Trouble::Lost => format!(
                "{host}: the host has not been heard of; see that its agent runs and reaches the catalog"
            ),
            Trouble::CredentialMissing => {
                format!(
                    "{host}: {}",
                    self.credential_missing
                        .as_deref()
                        .unwrap_or("there is no usable key")
                )
            }
            // The catalog knows better than the host why there is no key.
            Trouble::Failed => match &self.credential_missing {
                Some(missing) => format!("{host}: {missing}"),
                None => said("the mount failed"),
            },
        }
    }
}

/// At most three names, the rest as a number.
fn names(parts: &[&HostPart]) -> String {
    const NAMED_MAX: usize = 3;
    let named: Vec<&str> = parts
        .iter()
        .take(NAMED_MAX)
        .map(|part| part.host.as_str())
        .collect();
    match parts.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
