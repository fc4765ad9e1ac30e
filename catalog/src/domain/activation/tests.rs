//! The state machine as tables: what hosts say → how far the activation is.

use super::*;

fn part(n: u32, report: Option<(MountState, &str)>) -> HostPart {
    HostPart {
        host: format!("hosts/h{n}"),
        host_state: HostState::Ready,
        generation: 1,
        credential_missing: None,
        report: report.map(|(state, message)| PartReport {
            state,
            generation: 1,
            message: message.into(),
        }),
    }
}

fn mounted(n: u32) -> HostPart {
    part(n, Some((MountState::Mounted, "")))
}

fn failed(n: u32) -> HostPart {
    part(n, Some((MountState::Failed, "the endpoint does not answer")))
}

#[test]
fn the_effective_mode_is_the_least_of_all() {
    use Mode::{ReadOnly as Ro, ReadWrite as Rw};
    assert_eq!(effective_mode(Rw, [None, None, None]), Rw);
    assert_eq!(
        effective_mode(Ro, [Some(Rw), Some(Rw), Some(Rw)]),
        Ro,
        "nothing widens a connector"
    );
    assert_eq!(effective_mode(Rw, [Some(Ro), Some(Rw), None]), Ro);
    assert_eq!(effective_mode(Rw, [Some(Rw), Some(Ro), Some(Rw)]), Ro);
    assert_eq!(effective_mode(Rw, [None, None, Some(Ro)]), Ro);
}

#[test]
fn an_empty_pool_is_pending_and_says_how_to_add_a_host() {
    let outlook = outlook_of_live("gpu", &[]);
    assert_eq!(outlook.state, ActivationState::Pending);
    assert!(
        outlook.message.contains("mooring join-tokens create --pool gpu"),
        "{}",
        outlook.message
    );
}

#[test]
fn a_mount_that_failed_for_want_of_a_key_is_told_with_the_catalogs_reason() {
    let keyless = HostPart {
        credential_missing: Some("projects/ml/connectors/a has no secret; give it one".into()),
        ..part(1, Some((MountState::Failed, "the catalog has sent no key")))
    };
    let outlook = outlook_of_live("gpu", &[keyless]);
    assert_eq!(outlook.state, ActivationState::Failed);
    assert!(outlook.message.contains("has no secret"), "{}", outlook.message);
}

#[test]
fn a_live_activation_follows_its_hosts() {
    use ActivationState::{Active, Degraded, Failed, Pending};
    let waiting = || part(2, None);
    let lost = || HostPart {
        host_state: HostState::Lost,
        ..mounted(2)
    };
    let away = || HostPart {
        host_state: HostState::NotReady,
        ..mounted(2)
    };
    let old = || HostPart {
        generation: 2,
        ..mounted(2)
    };
    let ill = || part(2, Some((MountState::Degraded, "the key is refused")));
    let keyless = || HostPart {
        credential_missing: Some("the secret has no enabled version".into()),
        ..waiting()
    };
    for (parts, state, n, message) in [
        (vec![waiting()], Pending, 0, "hosts/h2: waits to be mounted"),
        (vec![mounted(1)], Active, 1, ""),
        (vec![mounted(1), mounted(2)], Active, 2, ""),
        (vec![mounted(1), away()], Active, 2, ""),
        (
            vec![mounted(1), waiting()],
            Degraded,
            1,
            "hosts/h2: waits to be mounted",
        ),
        (
            vec![mounted(1), failed(2)],
            Degraded,
            1,
            "hosts/h2: the endpoint does not answer",
        ),
        (
            vec![mounted(1), ill()],
            Degraded,
            2,
            "hosts/h2: the key is refused",
        ),
        (
            vec![mounted(1), lost()],
            Degraded,
            2,
            "hosts/h2: the host has not been heard of",
        ),
        (
            vec![mounted(1), old()],
            Degraded,
            2,
            "hosts/h2: the mount does not yet follow",
        ),
        (
            vec![failed(1)],
            Failed,
            0,
            "hosts/h1: the endpoint does not answer",
        ),
        (vec![failed(1), failed(2)], Failed, 0, "1 more host is not ready"),
        (
            vec![failed(1), waiting()],
            Pending,
            0,
            "hosts/h1: the endpoint does not answer; and 1 more",
        ),
        (
            vec![keyless()],
            Pending,
            0,
            "hosts/h2: the secret has no enabled version",
        ),
    ] {
        let outlook = outlook_of_live("gpu", &parts);
        assert_eq!((outlook.state, outlook.mounted_hosts), (state, n), "{parts:?}");
        assert_eq!(outlook.desired_hosts, count(parts.len()));
        assert!(
            outlook.message.contains(message),
            "{} lacks {message}",
            outlook.message
        );
        assert_eq!(outlook.message.is_empty(), state == Active);
    }
}

#[test]
fn an_ended_activation_waits_for_every_host_that_is_not_lost() {
    let lost = HostPart {
        host_state: HostState::Lost,
        ..mounted(2)
    };
    let outlook = outlook_of_ended(&[mounted(1), lost.clone()]);
    assert_eq!(outlook.state, ActivationState::Deactivating);
    assert_eq!(outlook.mounted_hosts, 1);
    assert!(outlook.message.contains("waits for hosts/h1") && outlook.message.contains("hosts/h2 is lost"));

    let outlook = outlook_of_ended(&[lost]);
    assert_eq!(outlook.state, ActivationState::Inactive);
    assert!(
        outlook
            .message
            .contains("hosts/h2 is lost and unmounts when it returns")
    );

    let outlook = outlook_of_ended(&[]);
    assert_eq!(
        (outlook.state, outlook.message.as_str()),
        (ActivationState::Inactive, "")
    );
}

#[test]
fn a_long_list_of_hosts_is_cut() {
    let parts: Vec<_> = (0..5).map(mounted).collect();
    let message = outlook_of_ended(&parts).message;
    assert!(
        message.contains("hosts/h0, hosts/h1, hosts/h2 and 2 more"),
        "{message}"
    );
}

#[test]
fn an_activation_is_named_after_its_target_and_pool() {
    let target = Target::Connector("projects/ml/connectors/reports".parse().unwrap());
    let pool = |id: &str| PoolName::new(id.parse().unwrap());
    assert_eq!(default_id(&target, &pool("gpu")).as_str(), "reports-gpu");
    assert!(default_id(&target, &pool(&"p".repeat(63))).as_str().len() <= 63);
}

#[test]
fn a_grace_is_half_a_minute_by_default_and_a_day_at_most() {
    assert_eq!(checked_grace(None), Ok(GRACE_DEFAULT));
    assert_eq!(checked_grace(Some(Duration::ZERO)), Ok(Duration::ZERO));
    assert!(checked_grace(Some(GRACE_MAX + GRACE_DEFAULT)).is_err());
}
