//! Orders as agents read them, and what a Hello says of its host.

use uuid::Uuid;

use mooring_proto::agent::v1 as pb;

use crate::api::words;
use crate::domain::assignment::{Assignment, AssignmentSpec, RemovalOrder};
use crate::ops::session::streams::Seat;
use crate::ops::session::{Greeting, Orders, SealedAssignment, SealedKey};

/// Assignments that are looked at in a Hello: as many mounts as are kept of a report.
const HELD_MAX: usize = 10_000;

/// Longest id of a machine, a boot or a start: a UUID has 36.
const ID_CHARS_MAX: usize = 200;

/// Who says a Hello.
pub(super) fn seat(hello: &pb::Hello) -> Seat {
    let id = |given: &String| words::kept(given.clone(), ID_CHARS_MAX);
    Seat {
        machine: id(&hello.machine_id),
        boot: id(&hello.boot_id),
        instance: id(&hello.instance),
    }
}

/// What a host says it holds. Uids that are none cannot be ours and are left out.
pub(super) fn held(hello: &pb::Hello) -> Vec<(Uuid, i64)> {
    let uid = |held: &pb::HeldAssignment| Some((Uuid::try_parse(&held.uid).ok()?, held.generation));
    hello.held.iter().take(HELD_MAX).filter_map(uid).collect()
}

pub(super) fn welcome(greeting: Greeting) -> pb::Welcome {
    let Greeting {
        realm,
        heartbeat_interval,
    } = greeting;
    pb::Welcome {
        realm_uid: realm.uid.to_string(),
        epoch: realm.epoch,
        revision: realm.revision,
        heartbeat_interval: prost_types::Duration::try_from(heartbeat_interval).ok(),
    }
}

pub(super) fn snapshot(orders: Orders) -> pb::Snapshot {
    let Orders {
        revision,
        assignments,
        removals,
        offline_max,
        ban: _,
    } = orders;
    pb::Snapshot {
        revision,
        assignments: assignments.into_iter().map(assignment).collect(),
        removals: removals.into_iter().filter_map(removal).collect(),
        offline_max: offline_max.and_then(|max| max.try_into().ok()),
    }
}

pub(super) fn delta(from_revision: i64, orders: Orders) -> pb::Delta {
    let Orders {
        revision,
        assignments,
        removals,
        offline_max,
        ban: _,
    } = orders;
    pb::Delta {
        from_revision,
        to_revision: revision,
        upserts: assignments.into_iter().map(assignment).collect(),
        removals: removals.into_iter().filter_map(removal).collect(),
        offline_max: offline_max.and_then(|max| max.try_into().ok()),
    }
}

fn assignment(sealed: SealedAssignment) -> pb::Assignment {
    let SealedAssignment { assignment, key } = sealed;
    pb::Assignment {
        uid: assignment.uid.to_string(),
        generation: assignment.generation,
        spec_hash: assignment.spec_hash,
        spec: Some(spec(assignment.spec)),
        credential: key.map(|key| {
            let SealedKey {
                version,
                encapsulated_key,
                ciphertext,
                recipient_key_sha256,
                fingerprint,
            } = key;
            pb::SealedCredential {
                secret_version: version.to_string(),
                encapsulated_key,
                ciphertext,
                recipient_key_sha256: recipient_key_sha256.to_vec(),
                key_fingerprint: fingerprint.to_vec(),
            }
        }),
    }
}

fn spec(spec: AssignmentSpec) -> pb::AssignmentSpec {
    let AssignmentSpec {
        activation,
        connector,
        project_id,
        mount_name,
        endpoint,
        region,
        bucket,
        prefix,
        mode,
        backend,
        virtual_host_style,
        cache_size,
        unix_group,
        allow_http,
        allowed_networks,
    } = spec;
    pb::AssignmentSpec {
        activation,
        connector,
        project_id,
        mount_name,
        endpoint,
        region,
        bucket,
        prefix,
        mode: words::mode(Some(mode)),
        backend: words::backend(Some(backend)),
        virtual_host_style,
        unix_group: unix_group.unwrap_or_default(),
        endpoint_rules: Some(pb::EndpointRules {
            allow_http,
            allowed_networks,
        }),
        cache_size_mib: cache_size.mib(),
    }
}

fn removal(assignment: Assignment) -> Option<pb::Removal> {
    let RemovalOrder { reason, grace } = assignment.removal?;
    Some(pb::Removal {
        assignment_uid: assignment.uid.to_string(),
        revision: assignment.revision,
        reason: reason.to_owned(),
        grace: prost_types::Duration::try_from(grace).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_calls_itself_is_cut_to_what_is_remembered() {
        let hello = pb::Hello {
            instance: "x".repeat(1_000_000),
            boot_id: "a\u{1b}[2Jb".into(),
            machine_id: "m".into(),
            ..pb::Hello::default()
        };
        let Seat {
            machine,
            boot,
            instance,
        } = seat(&hello);
        assert_eq!(instance.len(), ID_CHARS_MAX);
        assert_eq!((boot.as_str(), machine.as_str()), ("a[2Jb", "m"));
    }
}
