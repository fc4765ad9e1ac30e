//! The words of modes, backends and states: between the domain's enums and the protos', in one place for all nouns.

use mooring_proto::v1 as pb;

use super::decode::timestamp;
use crate::domain::activation::{ActivationState, MountState};
use crate::domain::host::HostState;
use crate::domain::mount::{Condition, ConditionStatus, ConditionType};
use crate::domain::publication::PublicationState;
use crate::domain::{Backend, Mode, Violations};

/// What is kept of a text that a machine or a program says: so many characters, and none that controls a terminal.
pub fn kept(text: String, chars_max: usize) -> String {
    // Nearly all of it, with each heartbeat of each host.
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
    if text.len() <= chars_max && text.bytes().all(is_plain) {
        return text;
    }
    text.chars().filter(|c| !c.is_control()).take(chars_max).collect()
}

/// A mode that may be left out.
pub fn optional_mode(field: &str, number: i32, violations: &mut Violations) -> Option<Mode> {
    match pb::Mode::try_from(number) {
        Ok(pb::Mode::Unspecified) => None,
        Ok(pb::Mode::ReadOnly) => Some(Mode::ReadOnly),
        Ok(pb::Mode::ReadWrite) => Some(Mode::ReadWrite),
        Err(_) => {
            violations.add(field, "it is no mode; use READ_ONLY or READ_WRITE");
            None
        }
    }
}

/// A backend that may be left out.
pub fn optional_backend(field: &str, number: i32, violations: &mut Violations) -> Option<Backend> {
    match pb::Backend::try_from(number) {
        Ok(pb::Backend::Unspecified) => None,
        Ok(pb::Backend::Default) => Some(Backend::Default),
        Ok(pb::Backend::Geesefs) => Some(Backend::Geesefs),
        Ok(pb::Backend::S3fs) => Some(Backend::S3fs),
        Err(_) => {
            violations.add(field, "it is no backend; use DEFAULT, GEESEFS or S3FS");
            None
        }
    }
}

/// A span of time that may be left out. Negative ones are refused.
pub fn optional_duration(
    field: &str,
    given: Option<prost_types::Duration>,
    violations: &mut Violations,
) -> Option<std::time::Duration> {
    let parsed = given?
        .try_into()
        .map_err(|_| "it is negative or too long; give it in seconds, such as `60s`".to_owned());
    violations.take(field, parsed)
}

/// A mode; `None` is UNSPECIFIED.
pub fn mode(mode: Option<Mode>) -> i32 {
    match mode {
        None => pb::Mode::Unspecified,
        Some(Mode::ReadOnly) => pb::Mode::ReadOnly,
        Some(Mode::ReadWrite) => pb::Mode::ReadWrite,
    }
    .into()
}

/// A backend; `None` is UNSPECIFIED.
pub fn backend(backend: Option<Backend>) -> i32 {
    match backend {
        None => pb::Backend::Unspecified,
        Some(Backend::Default) => pb::Backend::Default,
        Some(Backend::Geesefs) => pb::Backend::Geesefs,
        Some(Backend::S3fs) => pb::Backend::S3fs,
    }
    .into()
}

/// How a publication is; `None` is UNSPECIFIED.
pub fn publication_state(state: Option<PublicationState>) -> i32 {
    match state {
        None => pb::PublicationState::Unspecified,
        Some(PublicationState::Published) => pb::PublicationState::Published,
        Some(PublicationState::Withdrawing { until: _ }) => pb::PublicationState::Withdrawing,
        Some(PublicationState::Withdrawn) => pb::PublicationState::Withdrawn,
    }
    .into()
}

/// How an activation is.
pub fn activation_state(state: ActivationState) -> i32 {
    match state {
        ActivationState::Pending => pb::ActivationState::Pending,
        ActivationState::Active => pb::ActivationState::Active,
        ActivationState::Degraded => pb::ActivationState::Degraded,
        ActivationState::Deactivating => pb::ActivationState::Deactivating,
        ActivationState::Inactive => pb::ActivationState::Inactive,
        ActivationState::Failed => pb::ActivationState::Failed,
    }
    .into()
}

/// How a host is.
pub fn host_state(state: HostState) -> i32 {
    match state {
        HostState::Ready => pb::HostState::Ready,
        HostState::NotReady => pb::HostState::NotReady,
        HostState::Lost => pb::HostState::Lost,
        HostState::Draining => pb::HostState::Draining,
        HostState::Drained => pb::HostState::Drained,
        HostState::Banned => pb::HostState::Banned,
    }
    .into()
}

/// How a mount is.
pub fn mount_state(state: MountState) -> i32 {
    match state {
        MountState::Mounting => pb::MountState::Mounting,
        MountState::Mounted => pb::MountState::Mounted,
        MountState::Degraded => pb::MountState::Degraded,
        MountState::Unmounting => pb::MountState::Unmounting,
        MountState::Unmounted => pb::MountState::Unmounted,
        MountState::Failed => pb::MountState::Failed,
        MountState::Orphaned => pb::MountState::Orphaned,
    }
    .into()
}

/// How a mount is, as a host says. A word that this catalog does not know yet is something between mounting and mounted.
pub fn mount_state_of(number: i32) -> MountState {
    match pb::MountState::try_from(number) {
        Ok(pb::MountState::Mounting | pb::MountState::Unspecified) => MountState::Mounting,
        Ok(pb::MountState::Mounted) => MountState::Mounted,
        Ok(pb::MountState::Degraded) => MountState::Degraded,
        Ok(pb::MountState::Unmounting) => MountState::Unmounting,
        Ok(pb::MountState::Unmounted) => MountState::Unmounted,
        Ok(pb::MountState::Failed) => MountState::Failed,
        Ok(pb::MountState::Orphaned) => MountState::Orphaned,
        Err(_) => MountState::Degraded,
    }
}

/// A condition.
pub fn condition(condition: Condition) -> pb::Condition {
    let Condition {
        kind,
        status,
        reason,
        message,
        since,
    } = condition;
    pb::Condition {
        r#type: match kind {
            ConditionType::CredentialReady => pb::ConditionType::CredentialReady,
            ConditionType::EndpointReachable => pb::ConditionType::EndpointReachable,
            ConditionType::Mounted => pb::ConditionType::Mounted,
            ConditionType::Writable => pb::ConditionType::Writable,
            ConditionType::SpecCurrent => pb::ConditionType::SpecCurrent,
            ConditionType::Healthy => pb::ConditionType::Healthy,
        }
        .into(),
        status: match status {
            ConditionStatus::True => pb::ConditionStatus::True,
            ConditionStatus::False => pb::ConditionStatus::False,
            ConditionStatus::Unknown => pb::ConditionStatus::Unknown,
        }
        .into(),
        reason,
        message,
        since: since.map(timestamp),
    }
}

/// What a condition speaks of, as a host says; `None` for what this catalog does not know yet.
pub fn condition_type_of(number: i32) -> Option<ConditionType> {
    match pb::ConditionType::try_from(number).ok()? {
        pb::ConditionType::Unspecified => None,
        pb::ConditionType::CredentialReady => Some(ConditionType::CredentialReady),
        pb::ConditionType::EndpointReachable => Some(ConditionType::EndpointReachable),
        pb::ConditionType::Mounted => Some(ConditionType::Mounted),
        pb::ConditionType::Writable => Some(ConditionType::Writable),
        pb::ConditionType::SpecCurrent => Some(ConditionType::SpecCurrent),
        pb::ConditionType::Healthy => Some(ConditionType::Healthy),
    }
}

/// Whether a condition holds, as a host says.
pub fn condition_status_of(number: i32) -> ConditionStatus {
    match pb::ConditionStatus::try_from(number) {
        Ok(pb::ConditionStatus::True) => ConditionStatus::True,
        Ok(pb::ConditionStatus::False) => ConditionStatus::False,
        Ok(pb::ConditionStatus::Unknown | pb::ConditionStatus::Unspecified) | Err(_) => {
            ConditionStatus::Unknown
        }
    }
}
