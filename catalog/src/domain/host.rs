//! Hosts: their id, how they are by the time since they were last heard of, and how often they are asked to speak.
//!
//! A host's state is never stored: it follows from the time it was last seen, and from what an operator has ordered and
//! the host has yet to do, so no clock that stops and no server that dies can leave a host READY.

use std::time::Duration;

use mooring_identity::KeyPin;
use time::OffsetDateTime;
use uuid::Uuid;

use super::names::{HostName, PoolName};
use super::{Backend, Id, Meta, TextsChange};

/// A machine that runs an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// What every resource has.
    pub meta: Meta,
    /// The pool it belongs to.
    pub pool: PoolName,
    /// The pool's uid.
    pub pool_uid: Uuid,
    /// Whether it takes no new mounts.
    pub unschedulable: bool,
    /// When its agent was last heard of.
    pub seen_time: Option<OffsetDateTime>,
    /// What the machine is.
    pub facts: HostFacts,
    /// When its certificate ends.
    pub certificate_expire_time: OffsetDateTime,
    /// What credentials are sealed for: an X25519 key.
    pub hpke_public_key: Vec<u8>,
    /// The key of its certificates: no other key speaks for it.
    pub key: KeyPin,
    /// Since when it is being drained, or is empty.
    pub drain_time: Option<OffsetDateTime>,
    /// Why it is no member of the fleet any more.
    pub ban: Option<Ban>,
    /// When a copy of its state folder was last refused.
    pub clone_time: Option<OffsetDateTime>,
}

/// The end of a host's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// When it was ordered.
    pub time: OffsetDateTime,
    /// Why, in the operator's words.
    pub reason: String,
    /// When the host told that it has carried the ban out: nothing is mounted, and its keys are wiped.
    pub done: Option<OffsetDateTime>,
}

impl Host {
    /// Whether it is banned and has not told yet that it carried the ban out: it may never have heard of it.
    pub fn has_a_ban_to_carry_out(&self) -> bool {
        self.ban.as_ref().is_some_and(|ban| ban.done.is_none())
    }

    /// Whether a copy of its state folder was refused lately: one that is about tries again within half a minute.
    pub fn is_cloned(&self, now: OffsetDateTime) -> bool {
        const SHOWN: time::Duration = time::Duration::days(1);
        self.clone_time.is_some_and(|noted| now - noted < SHOWN)
    }

    /// How it is now, with so many mounts left.
    pub fn state(&self, now: OffsetDateTime, lost_after: Duration, mounts: i32) -> HostState {
        let duty = Duty {
            seen_time: self.seen_time,
            is_drained: self.drain_time.is_some(),
            is_banned: self.ban.is_some(),
        };
        duty.state(now, lost_after, mounts)
    }
}

/// As much of a host as its state follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    /// When its agent was last heard of.
    pub seen_time: Option<OffsetDateTime>,
    /// Whether it is being drained, or is empty.
    pub is_drained: bool,
    /// Whether it is banned.
    pub is_banned: bool,
}

impl Duty {
    /// How the host is now, with so many mounts left.
    pub fn state(self, now: OffsetDateTime, lost_after: Duration, mounts: i32) -> HostState {
        if self.is_banned {
            return HostState::Banned;
        }
        match (self.is_drained, host_state(self.seen_time, now, lost_after)) {
            // Its machine may be off for the maintenance that it was drained for.
            (true, _) if mounts == 0 => HostState::Drained,
            // Nothing is known of what is left, and nobody should wait for it.
            (_, HostState::Lost) => HostState::Lost,
            (true, _) => HostState::Draining,
            (false, state) => state,
        }
    }
}

/// The reason for a ban that was given, or what is wrong with it.
pub fn checked_ban_reason(given: &str) -> Result<String, String> {
    const CHARS_MAX: usize = 256;
    let given = given.trim();
    if given.chars().count() > CHARS_MAX || given.chars().any(char::is_control) {
        return Err(format!(
            "it has more than {CHARS_MAX} characters, or control characters"
        ));
    }
    Ok(if given.is_empty() {
        "no reason given"
    } else {
        given
    }
    .to_owned())
}

/// What a machine is, as its agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Version of the agent.
    pub agent_version: String,
    /// Version of the kernel.
    pub kernel_version: String,
    /// Backends it can mount with, and their versions.
    pub backends: Vec<(Backend, String)>,
}

impl HostFacts {
    /// Whether its agent has told what it can mount with, and our own filesystem is not among it.
    pub fn lack_default(&self) -> bool {
        let is_default = |(backend, _): &(Backend, String)| *backend == Backend::Default;
        !self.agent_version.is_empty() && !self.backends.iter().any(is_default)
    }
}

/// A change of a host.
#[derive(Clone, Debug, Default)]
pub struct HostChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// Whether it takes no new mounts.
    pub unschedulable: Option<bool>,
    /// The state it was made from.
    pub etag: String,
}

impl HostChange {
    /// The fields that are given, for the audit.
    pub fn fields(&self) -> Vec<&'static str> {
        let mut fields: Vec<_> = self.texts.fields().collect();
        fields.extend(self.unschedulable.is_some().then_some("unschedulable"));
        fields
    }
}

/// How a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// Heard of within half of `host_lost_after`.
    Ready,
    /// Not heard of for a short time.
    NotReady,
    /// Not heard of for `host_lost_after`. Work that waits for hosts waits no longer for this one.
    Lost,
    /// Being emptied.
    Draining,
    /// Empty, and takes no mounts.
    Drained,
    /// No member of the fleet any more.
    Banned,
}

impl HostState {
    /// Whether work that waits for hosts waits for this one.
    pub fn is_waited_for(self) -> bool {
        match self {
            Self::Ready | Self::NotReady | Self::Draining | Self::Drained => true,
            Self::Lost | Self::Banned => false,
        }
    }
}

/// The state of a host that was last heard of at `seen`.
pub fn host_state(seen: Option<OffsetDateTime>, now: OffsetDateTime, lost_after: Duration) -> HostState {
    // A clock that jumped back shows a time in the future; the host was heard of just now then.
    let silence = match seen {
        Some(seen) => Duration::try_from(now - seen).unwrap_or_default(),
        None => return HostState::Lost,
    };
    if silence >= lost_after {
        HostState::Lost
    } else if silence >= lost_after / 2 {
        HostState::NotReady
    } else {
        HostState::Ready
    }
}

/// How often a host reports when nothing changes: a sixth of `lost_after`, so that two lost reports in a row still
/// leave it READY; at most ten seconds, at least half a second.
pub fn heartbeat_interval(lost_after: Duration) -> Duration {
    (lost_after / 6).clamp(Duration::from_millis(500), Duration::from_secs(10))
}

/// The id of a host that calls itself `host_name`, the `attempt`th (from 0) in the search for one that is free:
/// the first label in lower case, other characters as hyphens, from the second attempt on with a number.
pub fn host_id(host_name: &str, attempt: u32) -> Id {
    let suffix = match attempt {
        0 => String::new(),
        n => format!("-{}", u64::from(n) + 1),
    };
    id_with(host_name, &suffix)
}

/// The id of a host whose name is that of many: with the last ten digits of its uid, which are random.
pub fn host_id_of(host_name: &str, uid: Uuid) -> Id {
    let uid = uid.simple().to_string();
    id_with(host_name, &format!("-{}", &uid[uid.len() - 10..]))
}

fn id_with(host_name: &str, suffix: &str) -> Id {
    let label = host_name.split('.').next().unwrap_or_default();
    let mut id = String::new();
    for c in label.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            id.push(c);
        } else if !id.is_empty() && !id.ends_with('-') {
            id.push('-');
        }
    }
    // 63 is the longest id; eleven characters are the longest suffix: a hyphen and ten digits.
    id.truncate(52);
    let id = id.trim_end_matches('-');
    let id = if id.is_empty() { "host" } else { id };
    format!("{id}{suffix}")
        .parse()
        .expect("1 to 63 letters, digits and inner hyphens, by the lines above")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(60);

    #[test]
    fn a_host_goes_from_ready_over_not_ready_to_lost_as_silence_grows() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1000);
        let state = |seconds: i64| host_state(Some(now - time::Duration::seconds(seconds)), now, LOST_AFTER);
        assert_eq!(state(0), HostState::Ready);
        assert_eq!(state(29), HostState::Ready);
        assert_eq!(state(30), HostState::NotReady);
        assert_eq!(state(59), HostState::NotReady);
        assert_eq!(state(60), HostState::Lost);
        assert_eq!(
            state(-5),
            HostState::Ready,
            "a clock that jumped back loses no host"
        );
        assert_eq!(host_state(None, now, LOST_AFTER), HostState::Lost);
    }

    #[test]
    fn an_operators_order_shows_in_the_state_until_it_is_carried_out() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1000);
        let state = |silent: i64, drained: bool, banned: bool, mounts: i32| {
            let host = Host {
                seen_time: Some(now - time::Duration::seconds(silent)),
                drain_time: drained.then_some(now),
                ban: banned.then(|| Ban {
                    time: now,
                    reason: "stolen".into(),
                    done: None,
                }),
                ..host()
            };
            host.state(now, LOST_AFTER, mounts)
        };
        assert_eq!(state(0, false, false, 3), HostState::Ready);
        assert_eq!(state(0, true, false, 3), HostState::Draining);
        assert_eq!(state(40, true, false, 3), HostState::Draining);
        assert_eq!(state(70, true, false, 3), HostState::Lost, "nobody waits for it");
        assert_eq!(state(0, true, false, 0), HostState::Drained);
        assert_eq!(state(70, true, false, 0), HostState::Drained, "it may be off");
        assert_eq!(state(0, true, true, 3), HostState::Banned);
        assert_eq!(state(70, false, true, 0), HostState::Banned);
        assert!(!HostState::Banned.is_waited_for() && HostState::Draining.is_waited_for());
    }

    #[test]
    fn a_host_counts_as_copied_for_a_day_after_the_copy_was_last_refused() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1000);
        let copied = Host {
            clone_time: Some(now),
            ..host()
        };
        assert!(copied.is_cloned(now) && copied.is_cloned(now + time::Duration::hours(23)));
        assert!(!copied.is_cloned(now + time::Duration::days(1)) && !host().is_cloned(now));
    }

    #[test]
    fn a_ban_has_a_reason_of_one_line() {
        assert_eq!(checked_ban_reason(" stolen ").unwrap(), "stolen");
        assert_eq!(checked_ban_reason("").unwrap(), "no reason given");
        assert!(checked_ban_reason("a\nb").is_err());
        assert!(checked_ban_reason(&"x".repeat(257)).is_err());
    }

    fn host() -> Host {
        let now = OffsetDateTime::UNIX_EPOCH;
        Host {
            name: "hosts/gpu-1".parse().unwrap(),
            meta: Meta::new(
                Uuid::from_u128(1),
                crate::domain::Texts::default(),
                String::new(),
                now,
            ),
            pool: "pools/gpu".parse().unwrap(),
            pool_uid: Uuid::from_u128(2),
            unschedulable: false,
            seen_time: None,
            facts: HostFacts::default(),
            certificate_expire_time: now,
            hpke_public_key: Vec::new(),
            key: KeyPin::of_public_key(b""),
            drain_time: None,
            ban: None,
            clone_time: None,
        }
    }

    #[test]
    fn two_lost_heartbeats_leave_a_host_ready() {
        for seconds in [4, 30, 60, 600] {
            let lost_after = Duration::from_secs(seconds);
            assert!(heartbeat_interval(lost_after) * 3 <= lost_after / 2, "{seconds}");
        }
    }

    #[test]
    fn a_host_id_is_made_of_the_first_label_of_its_name() {
        for (name, expected) in [
            ("gpu-1", "gpu-1"),
            ("GPU_1.cluster.local", "gpu-1"),
            ("--x--", "x"),
            ("", "host"),
            ("...", "host"),
            ("../../etc", "host"),
            ("ünïx", "n-x"),
        ] {
            assert_eq!(host_id(name, 0).as_str(), expected, "{name}");
        }
        assert_eq!(host_id("gpu-1", 1).as_str(), "gpu-1-2");
        assert_eq!(host_id("gpu-1", 2).as_str(), "gpu-1-3");
        assert_eq!(host_id(&"a".repeat(300), u32::MAX).as_str().len(), 63);
        let uid = Uuid::from_u128(0xabcdef);
        assert_eq!(host_id_of("gpu-1", uid).as_str(), "gpu-1-0000abcdef");
        assert_eq!(host_id_of(&"a".repeat(300), uid).as_str().len(), 63);
    }
}
