//! Publications: connectors that are offered in a community, and how an offer is taken back.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::names::{ConnectorName, PublicationName};
use super::{Meta, Mode, Texts, TextsChange};

/// How long a draining publication's imports go on when nobody says.
pub const DRAIN_GRACE_DEFAULT: Duration = Duration::from_secs(600);
/// Longest drain: what shall go on for longer is not being withdrawn.
pub const DRAIN_GRACE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A connector that is offered in a community.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: PublicationName,
    /// What every resource has.
    pub meta: Meta,
    /// The community's uid.
    pub community_uid: Uuid,
    /// The connector. The name stays when the connector is deleted after the end of the offer.
    pub connector: ConnectorName,
    /// The connector's uid.
    pub connector_uid: Uuid,
    /// The greatest mode of an import; `None` for the connector's own.
    pub max_mode: Option<Mode>,
    /// Whether it can be imported.
    pub state: PublicationState,
}

impl Publication {
    /// The ceiling when the same connector is offered again after a withdrawal: what is asked for, else what it was, so
    /// that no importer may write who could not before. `connector` is the connector's mode of now.
    pub fn ceiling_of_new_offer(&self, asked: Option<Mode>, connector: Mode) -> Option<Mode> {
        asked.or_else(|| self.max_mode.map(|before| before.min(connector)))
    }
}

/// A publication to make.
#[derive(Clone, Debug)]
pub struct NewPublication {
    /// What people say of it.
    pub texts: Texts,
    /// The greatest mode of an import.
    pub max_mode: Option<Mode>,
}

/// A change of a publication.
#[derive(Clone, Debug, Default)]
pub struct PublicationChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// The greatest mode of an import: `Some(None)` for the connector's own.
    pub max_mode: Option<Option<Mode>>,
    /// The state it was made from.
    pub etag: String,
}

impl PublicationChange {
    /// The fields that are given, for the audit.
    pub fn fields(&self) -> Vec<&'static str> {
        let mut fields: Vec<_> = self.texts.fields().collect();
        fields.extend(self.max_mode.is_some().then_some("max_mode"));
        fields
    }
}

/// Whether a publication can be imported and activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicationState {
    /// It can.
    Published,
    /// No new imports and activations; what is active ends at `until`.
    Withdrawing {
        /// When the rest is unmounted.
        until: OffsetDateTime,
    },
    /// Over.
    Withdrawn,
}

/// What a withdrawal does with active imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Fails while there are any.
    Block,
    /// Lets them go on for the grace.
    Drain {
        /// How long.
        grace: Duration,
    },
    /// Unmounts them now.
    Force,
}

/// What has to be done to withdraw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithdrawalStep {
    /// It is over already; nothing changes.
    Nothing,
    /// Refuse: imports are active.
    Refuse,
    /// Go on until then, then [`WithdrawalStep::End`].
    Drain {
        /// When the rest is unmounted.
        until: OffsetDateTime,
    },
    /// End it now, and deactivate every active import.
    End,
}

impl PublicationState {
    /// As it is stored and shown, without the time.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "PUBLISHED",
            Self::Withdrawing { .. } => "WITHDRAWING",
            Self::Withdrawn => "WITHDRAWN",
        }
    }

    /// Reads what [`PublicationState::as_str`] wrote, with the time that belongs to it.
    pub fn from_name(text: &str, until: Option<OffsetDateTime>) -> Option<Self> {
        match (text, until) {
            ("PUBLISHED", None) => Some(Self::Published),
            ("WITHDRAWING", Some(until)) => Some(Self::Withdrawing { until }),
            ("WITHDRAWN", None) => Some(Self::Withdrawn),
            _ => None,
        }
    }

    /// Whether new imports and activations may be made of it.
    pub fn is_open(self) -> bool {
        match self {
            Self::Published => true,
            Self::Withdrawing { .. } | Self::Withdrawn => false,
        }
    }

    /// What withdrawing means in this state. A drain may be asked for again, with a longer or a shorter grace.
    pub fn withdraw(self, how: Withdrawal, active_imports: usize, now: OffsetDateTime) -> WithdrawalStep {
        match (self, how) {
            (Self::Withdrawn, _) => WithdrawalStep::Nothing,
            (Self::Published | Self::Withdrawing { .. }, Withdrawal::Force) => WithdrawalStep::End,
            (Self::Published | Self::Withdrawing { .. }, Withdrawal::Block) => match active_imports {
                0 => WithdrawalStep::End,
                _ => WithdrawalStep::Refuse,
            },
            (Self::Published | Self::Withdrawing { .. }, Withdrawal::Drain { grace }) => {
                if active_imports == 0 || grace.is_zero() {
                    WithdrawalStep::End
                } else {
                    WithdrawalStep::Drain { until: now + grace }
                }
            }
        }
    }

    /// Whether a drain is over: its time has come, or nothing is left that it waits for.
    pub fn drain_is_over(self, active_imports: usize, now: OffsetDateTime) -> bool {
        match self {
            Self::Withdrawing { until } => active_imports == 0 || until <= now,
            Self::Published | Self::Withdrawn => false,
        }
    }
}

/// The grace that was asked for, or why it cannot be.
pub fn checked_grace(asked: Option<Duration>) -> Result<Duration, String> {
    match asked {
        None => Ok(DRAIN_GRACE_DEFAULT),
        Some(grace) if grace > DRAIN_GRACE_MAX => Err("it is more than 30 days; give a shorter one".into()),
        Some(grace) => Ok(grace),
    }
}

/// Says which active imports keep a publication from being withdrawn: those in `seen` by name, the rest as a number.
pub fn blocked_message(seen: &[String], hidden: usize) -> String {
    let mut blockers = seen.join(", ");
    if hidden > 0 {
        let rest = format!("{hidden} that you may not see");
        blockers = if blockers.is_empty() {
            rest
        } else {
            format!("{blockers} and {rest}")
        };
    }
    format!(
        "imports are active: {blockers}; deactivate them, or give `withdrawal` as DRAIN (they end after a grace) or FORCE (they end now)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const GRACE: Duration = Duration::from_secs(60);

    #[test]
    fn a_withdrawal_does_what_its_mode_says() {
        let drain = Withdrawal::Drain { grace: GRACE };
        let until = T + GRACE;
        let draining = PublicationState::Withdrawing { until: T + GRACE / 2 };
        use PublicationState::{Published, Withdrawn};
        for (state, how, active, expected) in [
            (Published, Withdrawal::Block, 0, WithdrawalStep::End),
            (Published, Withdrawal::Block, 1, WithdrawalStep::Refuse),
            (Published, drain, 0, WithdrawalStep::End),
            (Published, drain, 1, WithdrawalStep::Drain { until }),
            (
                Published,
                Withdrawal::Drain {
                    grace: Duration::ZERO,
                },
                1,
                WithdrawalStep::End,
            ),
            (Published, Withdrawal::Force, 1, WithdrawalStep::End),
            (draining, Withdrawal::Block, 1, WithdrawalStep::Refuse),
            (draining, drain, 1, WithdrawalStep::Drain { until }),
            (draining, Withdrawal::Force, 1, WithdrawalStep::End),
            (Withdrawn, Withdrawal::Block, 0, WithdrawalStep::Nothing),
            (Withdrawn, drain, 0, WithdrawalStep::Nothing),
            (Withdrawn, Withdrawal::Force, 0, WithdrawalStep::Nothing),
        ] {
            assert_eq!(
                state.withdraw(how, active, T),
                expected,
                "{state:?} {how:?} {active}"
            );
        }
    }

    #[test]
    fn a_drain_ends_with_its_grace_or_its_last_import() {
        let draining = PublicationState::Withdrawing { until: T + GRACE };
        assert!(!draining.drain_is_over(1, T));
        assert!(draining.drain_is_over(0, T));
        assert!(draining.drain_is_over(1, T + GRACE));
        assert!(!PublicationState::Published.drain_is_over(0, T));
    }

    #[test]
    fn only_what_is_published_can_be_imported() {
        assert!(PublicationState::Published.is_open());
        assert!(!PublicationState::Withdrawing { until: T }.is_open());
        assert!(!PublicationState::Withdrawn.is_open());
    }

    #[test]
    fn a_blocked_withdrawal_names_what_may_be_seen_and_counts_the_rest() {
        let seen = ["projects/web/imports/reports".to_owned()];
        assert!(
            blocked_message(&seen, 2).contains("projects/web/imports/reports and 2 that you may not see")
        );
        assert!(blocked_message(&seen, 0).contains("active: projects/web/imports/reports; deactivate"));
        assert!(blocked_message(&[], 2).contains("active: 2 that you may not see; deactivate"));
    }

    #[test]
    fn a_grace_is_at_most_thirty_days() {
        assert_eq!(checked_grace(None), Ok(DRAIN_GRACE_DEFAULT));
        assert!(checked_grace(Some(DRAIN_GRACE_MAX + GRACE)).is_err());
    }
}
