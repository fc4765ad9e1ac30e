//! Whether two machines use the state folder of one host. A host that restarts, reboots or is moved to another machine
//! must get in at once, and a copy of it must not: both come with the same key. What tells them apart is time. Of two
//! machines one connects while the other's stream is open; and the start of an agent that another has followed never
//! comes back, unless there are two. Pure: memory of one host.

use std::collections::VecDeque;

use time::{Duration, OffsetDateTime};

/// Who sits at the other end of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// Tells machines apart; empty if the machine has no id of its own.
    pub machine: String,
    /// The kernel's boot.
    pub boot: String,
    /// The agent's start.
    pub instance: String,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it looks like.
    pub kind: Copy,
    /// Both were heard of in turns, so there are two machines. Not certain is that of a machine that lost power a moment ago
    /// and comes back with another id: its old stream looks open until the connection is given up.
    pub is_certain: bool,
}

/// What a copy looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// Another machine's stream is open.
    OtherMachine,
    /// Two agents take turns.
    TakingTurns,
}

/// How often a start of an agent that was followed by another may come back. Once it may: a Hello can be so late on its way
/// that a restarted agent overtakes it.
const RETURNS_MAX: u32 = 1;
/// Earlier starts that are remembered; a copy comes back within a few turns.
const REMEMBERED_MAX: usize = 8;
/// How long a copy is kept out after the host was last heard of: the host's agent may be restarting.
const KEPT_OUT: Duration = Duration::minutes(1);
/// Greetings that may come at once: a flapping network, or orders that do not follow on each other. Each costs a whole
/// snapshot.
const GREETINGS_BURST: i32 = 10;
/// Beyond that one in this time.
const GREETING_EACH: Duration = Duration::seconds(1);
/// A copy tries again every 30 s at most. Who was refused once and not again for this long was none.
const FORGIVEN_AFTER: Duration = Duration::minutes(10);

/// Who has come for one host.
#[derive(Debug, Default)]
pub(super) struct Seats {
    current: Option<Seat>,
    /// When the current one last said something.
    heard: Option<OffsetDateTime>,
    /// Starts that were followed by another, and how often they came back.
    followed: VecDeque<(String, u32)>,
    /// Who was not let in.
    refused: VecDeque<Refused>,
    /// When all greetings would have been asked for at their pace.
    greeted_until: Option<OffsetDateTime>,
}

#[derive(Debug)]
struct Refused {
    /// A machine, or the start of an agent.
    who: String,
    /// When it last tried.
    last: OffsetDateTime,
    /// The current one has said something since the first refusal.
    is_answered: bool,
    /// It has tried again after that.
    is_copy: bool,
}

impl Seats {
    /// Lets somebody in, or not. `open` says whether the current one's stream is.
    pub(super) fn take(&mut self, newcomer: Seat, open: bool, now: OffsetDateTime) -> Result<(), Refusal> {
        self.check(&newcomer, open, now)?;
        self.refused
            .retain(|refused| refused.who != newcomer.machine && refused.who != newcomer.instance);
        if let Some(current) = &self.current
            && current.instance != newcomer.instance
        {
            let known = |instance: &str| self.followed.iter().position(|(known, _)| known == instance);
            let (before, left) = (known(&newcomer.instance), known(&current.instance));
            if let Some(before) = before {
                self.followed[before].1 += 1;
            }
            if left.is_none() {
                self.followed.push_back((current.instance.clone(), 0));
                if self.followed.len() > REMEMBERED_MAX {
                    self.followed.pop_front();
                }
            }
        }
        self.current = Some(newcomer);
        self.heard = Some(now);
        Ok(())
    }

    /// Whether somebody would be let in. Who would not is remembered.
    pub(super) fn check(&mut self, newcomer: &Seat, open: bool, now: OffsetDateTime) -> Result<(), Refusal> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        let known = !current.machine.is_empty() && !newcomer.machine.is_empty();
        let (kind, who) = match known && current.machine != newcomer.machine {
            true => (Copy::OtherMachine, &newcomer.machine),
            false => (Copy::TakingTurns, &newcomer.instance),
        };
        let occupied = open
            && match kind {
                Copy::OtherMachine => true,
                Copy::TakingTurns => {
                    current.instance != newcomer.instance
                        && self
                            .followed
                            .iter()
                            .any(|(instance, returns)| instance == who && *returns >= RETURNS_MAX)
                }
            };
        self.refused.retain(|refused| now - refused.last < FORGIVEN_AFTER);
        let before = self.refused.iter_mut().find(|refused| refused.who == *who);
        let is_recent = self.heard.is_some_and(|heard| now - heard < KEPT_OUT);
        let kept_out = is_recent && before.as_ref().is_some_and(|before| before.is_copy);
        if !occupied && !kept_out {
            return Ok(());
        }
        let is_certain = match before {
            Some(before) => {
                before.is_copy |= before.is_answered;
                before.last = now;
                before.is_copy
            }
            None => {
                if self.refused.len() == REMEMBERED_MAX {
                    self.refused.pop_front();
                }
                self.refused.push_back(Refused {
                    who: who.clone(),
                    last: now,
                    is_answered: false,
                    is_copy: false,
                });
                false
            }
        };
        Err(Refusal { kind, is_certain })
    }

    /// Whether the host may be greeted once more, which is noted.
    pub(super) fn may_be_greeted(&mut self, now: OffsetDateTime) -> bool {
        let until = self.greeted_until.map_or(now, |until| until.max(now));
        let ahead = until - now;
        // A clock that was set back by far counts as none.
        let may = ahead < GREETING_EACH * GREETINGS_BURST || ahead > Duration::minutes(1);
        if may {
            let begun = if ahead > Duration::minutes(1) { now } else { until };
            self.greeted_until = Some(begun + GREETING_EACH);
        }
        may
    }

    /// The current one says something.
    pub(super) fn heard(&mut self, now: OffsetDateTime) {
        self.heard = Some(now);
        for refused in &mut self.refused {
            refused.is_answered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn seat(machine: &str, boot: &str, instance: &str) -> Seat {
        Seat {
            machine: machine.into(),
            boot: boot.into(),
            instance: instance.into(),
        }
    }

    fn after(seconds: i64) -> OffsetDateTime {
        START + Duration::seconds(seconds)
    }

    fn refused(kind: Copy, is_certain: bool) -> Result<(), Refusal> {
        Err(Refusal { kind, is_certain })
    }

    #[test]
    fn restarts_reconnects_and_reboots_get_in_at_once_also_while_the_old_stream_seems_open() {
        let mut seats = Seats::default();
        for n in 0..50 {
            let boot = format!("boot-{}", n / 5);
            let start = seat("m", &boot, &format!("start-{n}"));
            assert_eq!(seats.take(start.clone(), true, START), Ok(()), "start {n}");
            assert_eq!(seats.take(start, true, START), Ok(()), "and again");
        }
        assert!(seats.followed.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn another_machine_gets_in_when_the_first_is_gone_and_not_while_it_is_there() {
        let mut seats = Seats::default();
        let (one, two) = (seat("one", "b", "i"), seat("two", "c", "j"));
        seats.take(one.clone(), false, START).unwrap();
        assert_eq!(
            seats.take(two.clone(), true, START),
            refused(Copy::OtherMachine, false)
        );
        assert_eq!(seats.take(one.clone(), true, START), Ok(()), "the first goes on");
        // A disk that was put into another machine.
        assert_eq!(seats.take(two, false, START), Ok(()));
        assert_eq!(seats.take(one, true, START), refused(Copy::OtherMachine, false));
    }

    #[test]
    fn a_machine_that_lost_power_and_comes_back_with_another_id_is_never_taken_for_a_copy() {
        let mut seats = Seats::default();
        seats.take(seat("one", "b", "i"), false, START).unwrap();
        seats.heard(after(9));
        // Its old stream looks open until the connection is given up.
        let again = seat("two", "c", "j");
        for second in 10..40 {
            let outcome = seats.check(&again, true, after(second));
            assert_eq!(outcome, refused(Copy::OtherMachine, false), "{second}");
        }
        assert_eq!(seats.take(again, false, after(40)), Ok(()));
    }

    #[test]
    fn a_copy_is_certain_when_both_are_heard_in_turns_and_does_not_get_in_while_the_host_restarts() {
        let mut seats = Seats::default();
        let (host, copy) = (seat("one", "b", "i"), seat("two", "c", "j"));
        seats.take(host, false, START).unwrap();
        let outcome = seats.check(&copy, true, after(1));
        assert_eq!(outcome, refused(Copy::OtherMachine, false));
        seats.heard(after(2));
        let outcome = seats.check(&copy, true, after(3));
        assert_eq!(outcome, refused(Copy::OtherMachine, true));
        seats.heard(after(4));
        // The host's agent is stopped.
        let outcome = seats.take(copy.clone(), false, after(20));
        assert_eq!(outcome, refused(Copy::OtherMachine, true));
        assert_eq!(seats.take(seat("one", "b", "k"), false, after(21)), Ok(()));
        let outcome = seats.take(copy.clone(), false, after(22));
        assert_eq!(outcome, refused(Copy::OtherMachine, true));
        assert_eq!(seats.take(copy, false, after(90)), Ok(()), "the host is gone");
    }

    #[test]
    fn who_was_refused_long_ago_is_no_copy_the_next_time() {
        let mut seats = Seats::default();
        let other = seat("two", "c", "j");
        seats.take(seat("one", "b", "i"), false, START).unwrap();
        assert!(seats.check(&other, true, after(1)).is_err());
        seats.heard(after(2));
        let outcome = seats.check(&other, true, after(3600));
        assert_eq!(outcome, refused(Copy::OtherMachine, false));
    }

    #[test]
    fn a_copy_with_the_same_machine_id_is_known_by_taking_turns() {
        let mut seats = Seats::default();
        let (one, two) = (seat("m", "b", "one"), seat("m", "c", "two"));
        seats.take(one.clone(), true, START).unwrap();
        seats.take(two.clone(), true, START).unwrap();
        seats.take(one.clone(), true, START).unwrap();
        seats.take(two.clone(), true, START).unwrap();
        assert_eq!(
            seats.take(one.clone(), true, START),
            refused(Copy::TakingTurns, false)
        );
        seats.heard(START);
        assert_eq!(seats.take(two, true, START), Ok(()), "one of them stays");
        assert_eq!(seats.take(one, true, START), refused(Copy::TakingTurns, true));
    }

    #[test]
    fn greetings_of_one_host_have_a_pace() {
        let mut seats = Seats::default();
        let asked =
            |seats: &mut Seats, second| (0..20).filter(|_| seats.may_be_greeted(after(second))).count();
        assert_eq!(asked(&mut seats, 1000), 10);
        assert_eq!(asked(&mut seats, 1003), 3);
        assert_eq!(asked(&mut seats, 2000), 10);
        assert_eq!(asked(&mut seats, 0), 10, "after the clock was set back");
    }

    #[test]
    fn a_hello_that_was_overtaken_by_a_restart_makes_nobody_a_copy() {
        let mut seats = Seats::default();
        seats.take(seat("m", "b", "new"), true, START).unwrap();
        // The old agent's last Hello arrives late, and ends the new one's stream.
        seats.take(seat("m", "b", "old"), true, START).unwrap();
        assert_eq!(seats.take(seat("m", "b", "new"), true, START), Ok(()));
        assert_eq!(seats.take(seat("m", "b", "newer"), true, START), Ok(()));
    }
}
