//! Whether two machines use the state folder of one host. A host that restarts, reboots or is moved to another machine
//! must get in at once, and a copy of it must not: both come with the same key. What tells them apart is time. Of two
//! machines one connects while the other's stream is open; and the start of an agent that another has followed never
//! comes back, unless there are two. Pure: memory of one host.

use std::collections::VecDeque;

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

/// Who has come for one host.
#[derive(Debug, Default)]
pub(super) struct Seats {
    current: Option<Seat>,
    /// Starts that were followed by another, and how often they came back.
    followed: VecDeque<(String, u32)>,
}

impl Seats {
    /// Lets somebody in, or not. `open` says whether the current one's stream is.
    pub(super) fn take(&mut self, newcomer: Seat, open: bool) -> Result<(), Copy> {
        if let Some(current) = &self.current {
            let known = !current.machine.is_empty() && !newcomer.machine.is_empty();
            if open && known && current.machine != newcomer.machine {
                return Err(Copy::OtherMachine);
            }
            if current.instance != newcomer.instance {
                let before = self
                    .followed
                    .iter_mut()
                    .find(|(instance, _)| *instance == newcomer.instance);
                if let Some((_, returns)) = before {
                    if open && *returns >= RETURNS_MAX {
                        return Err(Copy::TakingTurns);
                    }
                    *returns += 1;
                }
                let left = current.instance.clone();
                if !self.followed.iter().any(|(instance, _)| *instance == left) {
                    self.followed.push_back((left, 0));
                    if self.followed.len() > REMEMBERED_MAX {
                        self.followed.pop_front();
                    }
                }
            }
        }
        self.current = Some(newcomer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(machine: &str, boot: &str, instance: &str) -> Seat {
        Seat {
            machine: machine.into(),
            boot: boot.into(),
            instance: instance.into(),
        }
    }

    #[test]
    fn restarts_reconnects_and_reboots_get_in_at_once_also_while_the_old_stream_seems_open() {
        let mut seats = Seats::default();
        for n in 0..50 {
            let boot = format!("boot-{}", n / 5);
            let start = seat("m", &boot, &format!("start-{n}"));
            assert_eq!(seats.take(start.clone(), true), Ok(()), "start {n}");
            assert_eq!(seats.take(start, true), Ok(()), "and again");
        }
        assert!(seats.followed.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn another_machine_gets_in_when_the_first_is_gone_and_not_while_it_is_there() {
        let mut seats = Seats::default();
        seats.take(seat("one", "b", "i"), false).unwrap();
        assert_eq!(seats.take(seat("two", "c", "j"), true), Err(Copy::OtherMachine));
        assert_eq!(
            seats.take(seat("one", "b", "i"), true),
            Ok(()),
            "the first goes on"
        );
        // A disk that was put into another machine.
        assert_eq!(seats.take(seat("two", "c", "j"), false), Ok(()));
        assert_eq!(seats.take(seat("one", "b", "i"), true), Err(Copy::OtherMachine));
    }

    #[test]
    fn a_copy_with_the_same_machine_id_is_known_by_taking_turns() {
        let mut seats = Seats::default();
        let (one, two) = (seat("m", "b", "one"), seat("m", "c", "two"));
        seats.take(one.clone(), true).unwrap();
        seats.take(two.clone(), true).unwrap();
        seats.take(one.clone(), true).unwrap();
        seats.take(two.clone(), true).unwrap();
        assert_eq!(seats.take(one.clone(), true), Err(Copy::TakingTurns));
        assert_eq!(seats.take(two, true), Ok(()), "one of them stays");
        assert_eq!(seats.take(one, true), Err(Copy::TakingTurns));
    }

    #[test]
    fn a_hello_that_was_overtaken_by_a_restart_makes_nobody_a_copy() {
        let mut seats = Seats::default();
        seats.take(seat("m", "b", "new"), true).unwrap();
        // The old agent's last Hello arrives late, and ends the new one's stream.
        seats.take(seat("m", "b", "old"), true).unwrap();
        assert_eq!(seats.take(seat("m", "b", "new"), true), Ok(()));
        assert_eq!(seats.take(seat("m", "b", "newer"), true), Ok(()));
    }
}
