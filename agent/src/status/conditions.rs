//! The six conditions of a mount, one function each: whether, in a word why, and in a sentence what to do.

use mooring_control::WorkerStatus;
use mooring_proto::v1::{ConditionStatus, ConditionType, Mode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Condition, CrashLoop, Facts, Succession};
use crate::backends::Foreign;
use crate::mounter::through::Touched;
use crate::mounter::{MountError, NO_KEY_SENT};
use crate::observed::Seen;

/// One of each type, in the order of the proto.
pub(super) fn of(facts: &Facts<'_>, now: OffsetDateTime) -> Vec<Condition> {
    let findings = [
        (ConditionType::CredentialReady, credential_ready(facts)),
        (ConditionType::EndpointReachable, endpoint_reachable(facts)),
        (ConditionType::Mounted, mounted(facts)),
        (ConditionType::Writable, writable(facts)),
        (ConditionType::SpecCurrent, spec_current(facts)),
        (ConditionType::Healthy, healthy(facts)),
    ];
    findings
        .into_iter()
        .map(
            |(
                kind,
                Finding {
                    status,
                    reason,
                    message,
                },
            )| Condition {
                kind,
                status,
                reason: reason.to_owned(),
                message,
                since: now,
            },
        )
        .collect()
}

struct Finding {
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

fn yes(reason: &'static str, message: &str) -> Finding {
    Finding {
        status: ConditionStatus::True,
        reason,
        message: message.to_owned(),
    }
}

fn no(reason: &'static str, message: impl Into<String>) -> Finding {
    Finding {
        status: ConditionStatus::False,
        reason,
        message: message.into(),
    }
}

fn unknown(reason: &'static str, message: &str) -> Finding {
    Finding {
        status: ConditionStatus::Unknown,
        reason,
        message: message.to_owned(),
    }
}

fn credential_ready(facts: &Facts<'_>) -> Finding {
    if let Some(MountError::Credential { reason, message }) = facts.failure {
        return no(reason, message.clone());
    }
    let spec = facts.order.and_then(|order| order.spec.as_ref().ok());
    if spec.is_some_and(|spec| spec.credential.is_none()) {
        return no("NoCredential", NO_KEY_SENT);
    }
    match worker_status(facts) {
        Some(status) if status.key_refused => no(
            "KeyRefused",
            format!(
                "the S3 service refuses the key ({}); check the bucket's policy, or add a new version to the secret",
                status.store_error.as_deref().unwrap_or("it gives no reason")
            ),
        ),
        Some(_) => match Foreign::of(facts.about.backend) {
            None => yes("Accepted", "the worker has a key, and the S3 service accepts it"),
            Some(program) => yes(
                "AcceptedAtMount",
                &format!(
                    "the S3 service accepted the key when this was mounted; whether it still does {} does not tell",
                    program.name()
                ),
            ),
        },
        None => unknown("NotTried", "the key was not tried yet"),
    }
}

fn endpoint_reachable(facts: &Facts<'_>) -> Finding {
    if let Some(MountError::Store { reason, message }) = facts.failure {
        return no(reason, message.clone());
    }
    match worker_status(facts) {
        Some(WorkerStatus {
            store_error: Some(error),
            key_refused: false,
            ..
        }) => no(
            "StoreUnavailable",
            format!(
                "the last request to the S3 service failed: {error}; check the connector's endpoint and this host's network"
            ),
        ),
        Some(_) => match Foreign::of(facts.about.backend) {
            None => yes("Reachable", "the S3 service answers"),
            Some(program) => yes(
                "ReachableAtMount",
                &format!(
                    "the S3 service answered when this was mounted; whether it still does {} does not tell",
                    program.name()
                ),
            ),
        },
        None => unknown("NotTried", "the S3 service was not asked yet"),
    }
}

fn mounted(facts: &Facts<'_>) -> Finding {
    if let Some(Err(unusable)) = facts.order.map(|order| order.spec.as_ref())
        && !facts.is_mounted()
    {
        return no(unusable.reason, unusable.message.clone());
    }
    match (&facts.seen, facts.touched()) {
        (Seen::Foreign(file_system), _) => no(
            "PlaceTaken",
            format!(
                "something else ({file_system}) is mounted at {}; unmount it: umount {}",
                facts.path.display(),
                facts.path.display()
            ),
        ),
        (Seen::Mounted(_) | Seen::Unrecorded, Some(Touched::Answers)) if facts.is_mounted() => {
            match facts.removing {
                false => yes("Mounted", "the mount answers"),
                true => no("Unmounting", parting(facts)),
            }
        }
        (Seen::Mounted(_) | Seen::Unrecorded, Some(Touched::Fails(error))) if facts.is_mounted() => no(
            "MountFails",
            format!("the mount answers with an error: {error}; restart it"),
        ),
        (Seen::Mounted(_) | Seen::Unrecorded, Some(Touched::Silent | Touched::Disconnected) | None)
            if facts.is_mounted() =>
        {
            no("NotAnswering", not_answering(facts))
        }
        (Seen::Dead(_), _) => match (facts.crash_loop, &facts.succession) {
            (Some(crash_loop), _) => no("CrashLoop", crash_loop_message(crash_loop)),
            (None, Succession::Possible) => match facts.failure {
                None => no(
                    "WorkerDied",
                    "the mount's worker has died; another one goes on with the mount, and whoever uses it waits",
                ),
                Some(error) => no(
                    "WorkerDied",
                    format!("the mount's worker has died; this is tried again: {error}"),
                ),
            },
            (None, Succession::KernelTooOld(_) | Succession::NotKept | Succession::Alone(_)) => {
                match facts.failure {
                    None => no("WorkerDied", "the mount's worker has died; it is mounted anew"),
                    Some(error) => no(
                        "WorkerDied",
                        format!(
                            "the mount's worker has died, and it cannot be mounted anew yet; this is tried again: {error}"
                        ),
                    ),
                }
            }
        },
        _ => match facts.failure {
            Some(error) if facts.crash_loop.is_some() => no(
                "CrashLoop",
                format!(
                    "its workers fail one after the other, and it is tried again less and less often: {error}"
                ),
            ),
            Some(error) => no(error.reason(), error.to_string()),
            None if facts.removing => no("Unmounting", "it is being unmounted"),
            None => no("Mounting", "it is being mounted"),
        },
    }
}

fn parting(facts: &Facts<'_>) -> String {
    format!(
        "it is being unmounted; what waits for its upload, and programs that have something open in it, hold that up until \
         the grace ends. Who they are says: fuser -vm {}",
        facts.path.display()
    )
}

fn not_answering(facts: &Facts<'_>) -> String {
    let worker = facts.mounted().map(|record| record.worker.pid);
    match (worker, &facts.succession) {
        (Some(pid), Succession::Possible) => format!(
            "the mount hangs: it does not answer in time. Its worker is process {pid}; if this lasts, end that: kill -9 {pid}. \
             Another worker goes on with open files and with what waits for its upload"
        ),
        (Some(pid), Succession::KernelTooOld(_) | Succession::NotKept | Succession::Alone(_)) => format!(
            "the mount does not answer in time. The program that serves it is process {pid}; if this lasts, end that: kill -9 \
             {pid}. It is mounted anew, and what is open in it is lost"
        ),
        (None, _) => format!(
            "the mount does not answer in time; if this lasts, take it away, and it is mounted anew: umount --lazy {}",
            facts.path.display()
        ),
    }
}

fn crash_loop_message(crash_loop: CrashLoop<'_>) -> String {
    format!(
        "its worker has died {} times in a row, and is started less and less often; it last said: {}",
        crash_loop.failures,
        crash_loop.words.unwrap_or("nothing")
    )
}

fn writable(facts: &Facts<'_>) -> Finding {
    if facts.about.mode != Mode::ReadWrite {
        return no("ReadOnly", "it is mounted read-only, as ordered");
    }
    if !facts.is_mounted() {
        return unknown("NotMounted", "it is not mounted");
    }
    match worker_status(facts).and_then(|status| status.writable) {
        Some(false) => no(
            "StoreRefusesWrites",
            "the S3 service refused the last write; check what the key may do in the bucket",
        ),
        Some(true) => yes("Writable", "the S3 service accepted the last write"),
        None => yes(
            "NotWrittenYet",
            "nothing was written yet, and nothing is known against it",
        ),
    }
}

fn spec_current(facts: &Facts<'_>) -> Finding {
    if facts.orphan {
        return no(
            "Orphaned",
            format!(
                "the catalog no longer lists this mount, and has not ordered its removal; it is kept. To have it in the \
                 catalog again, activate a connector with this folder ({}): if it is the same bucket, the mount goes on \
                 without interruption. To end it, unmount it on this host when nobody uses it: umount {}",
                facts.path.display(),
                facts.path.display()
            ),
        );
    }
    if let Some(Err(unusable)) = facts.order.map(|order| order.spec.as_ref()) {
        return no(unusable.reason, unusable.message.clone());
    }
    match facts.mounted() {
        Some(record) if facts.is_current() => {
            if record.unix_group == facts.about.unix_group {
                yes("Current", "what is mounted is what the catalog orders")
            } else {
                no("GroupAtNextMount", group_at_next_mount(facts))
            }
        }
        Some(_) => match facts.failure {
            Some(error) => no(
                error.reason(),
                format!("{error}. The mount goes on as it was ordered before, and the change is tried again"),
            ),
            None => no("Outdated", "the order has changed; it is mounted anew"),
        },
        None => unknown("NotMounted", "it is not mounted"),
    }
}

/// A change of the group interrupts nobody: the folder follows at once, the files when they are mounted next.
fn group_at_next_mount(facts: &Facts<'_>) -> String {
    let files = match &facts.about.unix_group {
        Some(group) => format!(
            "only group {group} may enter the project's folder now, and its members can use the files"
        ),
        None => "only root may enter the project's folder now; the files show it".to_owned(),
    };
    format!(
        "{files} once this is mounted again; open files were not interrupted for it. To have it at once, unmount it on \
         this host when nobody uses it, and it is mounted again by itself: umount {}",
        facts.path.display()
    )
}

fn healthy(facts: &Facts<'_>) -> Finding {
    if !facts.is_mounted() {
        return unknown("NotMounted", "it is not mounted");
    }
    match facts.probe.map(|probe| &probe.worker) {
        None => unknown("NotAsked", "its worker was not asked yet"),
        // Nobody can give it another key or find its program.
        Some(Err(error)) if facts.seen == Seen::Unrecorded => no(
            "WorkerSilent",
            format!(
                "{error}; files may still be served, and another key does not reach it. Unmount it when nobody uses it, and it \
                 is mounted again by itself: umount {}",
                facts.path.display()
            ),
        ),
        Some(Err(error)) => no(
            "WorkerSilent",
            format!("{error}; files may still be served. If this lasts, restart the mount"),
        ),
        Some(Ok(status)) => {
            // A key that cannot be given to a live mount is no death, however often it is tried.
            let died = !matches!(
                facts.failure,
                Some(MountError::Credential { .. } | MountError::Store { .. })
            );
            if let Some(crash_loop) = facts.crash_loop.filter(|_| died) {
                return no("CrashLoop", crash_loop_message(crash_loop));
            }
            if let (Some(error @ MountError::UpgradeRefused { message }), true) =
                (facts.failure, facts.outdated)
            {
                return no(
                    error.reason(),
                    format!(
                        "another mooring-fs is installed, and cannot take this mount over: {message}. The mount goes on with \
                         the one that it has; install one that works"
                    ),
                );
            }
            // What concerns another order is said of that.
            if let (Some(error @ (MountError::Host { .. } | MountError::NotNoted { .. })), true) =
                (facts.failure, facts.is_current())
            {
                return no(
                    error.reason(),
                    format!("{error}. The mount goes on as it is, and this is tried again"),
                );
            }
            match remarks(facts, status) {
                None => yes("Healthy", "nothing else is wrong"),
                Some((reason, message)) => Finding {
                    status: ConditionStatus::True,
                    reason,
                    message,
                },
            }
        }
    }
}

/// What people should know although nothing is broken.
fn remarks(facts: &Facts<'_>, status: &WorkerStatus) -> Option<(&'static str, String)> {
    let mut remarks = Vec::new();
    let mut reason = "Remarks";
    match (&facts.succession, facts.outdated) {
        (Succession::Possible, true) => remarks.push(
            "its worker runs another mooring-fs than the one that is installed, and is replaced without interruption when \
             the agent starts or is reloaded (systemctl reload mooring-agent)"
                .to_owned(),
        ),
        (Succession::KernelTooOld(_) | Succession::NotKept | Succession::Alone(_), true) => remarks.push(
            "its worker runs another mooring-fs than the one that is installed; it stays until this is mounted again"
                .to_owned(),
        ),
        (
            Succession::Possible
            | Succession::KernelTooOld(_)
            | Succession::NotKept
            | Succession::Alone(_),
            false,
        ) => {}
    }
    match &facts.succession {
        Succession::Possible => {}
        Succession::KernelTooOld(release) => {
            reason = "RemountOnCrash";
            remarks.push(format!(
                "should its worker die, it is mounted anew and open files fail: this kernel ({release}) cannot hand a live \
                 mount on; Linux 6.9 and later can"
            ));
        }
        Succession::Alone(program) => {
            reason = "RemountOnCrash";
            remarks.push(format!(
                "should {} die, it is mounted anew, open files fail, and what is not in the store yet is lost; DEFAULT's mounts go on",
                program.name()
            ));
        }
        Succession::NotKept => {
            reason = "RemountOnCrash";
            remarks.push(
                "should its worker die, it is mounted anew and open files fail: this worker cannot be succeeded; the one of \
                 the next mount can, if there is room in run_dir for what it must know, and if agent and mooring-fs are \
                 of one release"
                    .to_owned(),
            );
        }
    }
    if let Some(successions) = facts.mounted().map(|record| record.successions)
        && successions.deaths > 0
    {
        remarks.push(format!(
            "its worker has died {} times, and another one went on each time without interrupting anybody, the last time \
             {}; the log in the agent's run_dir says more",
            successions.deaths,
            successions
                .last
                .and_then(|last| last.format(&Rfc3339).ok())
                .unwrap_or_else(|| "at an unknown moment".to_owned())
        ));
    }
    if status.hidden_keys.count > 0 {
        remarks.push(format!(
            "{} keys of the bucket are no file names and are not shown, such as {}",
            status.hidden_keys.count,
            status
                .hidden_keys
                .examples
                .iter()
                .map(|key| format!("{key:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    if status.activity.conflict_copies > 0 {
        remarks.push(format!(
            "{} files were saved as conflict copies because somebody else had changed them; look for them beside the originals",
            status.activity.conflict_copies
        ));
    }
    (!remarks.is_empty()).then(|| (reason, remarks.join("; ")))
}

/// What the worker says, while there is a mount it could say it of.
fn worker_status<'a>(facts: &'a Facts<'_>) -> Option<&'a WorkerStatus> {
    if !facts.is_mounted() {
        return None;
    }
    facts.probe?.worker.as_ref().ok()
}
