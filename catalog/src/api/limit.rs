//! Limits of the calls that need no certificate: a bucket of tokens for each address, and one for all together, so that
//! guessing tokens is slow and a flood of newcomers does not starve the fleet. Time comes in as an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Calls that one address may make at once; a person who mistypes a path a few times is not stopped.
const ADDRESS_BURST: f64 = 20.0;
/// Calls that one address may make each second after that. Fleets behind one NAT gateway join at this rate.
const ADDRESS_PER_SECOND: f64 = 5.0;
/// Calls of all addresses at once: a rack that is switched on.
const ALL_BURST: f64 = 400.0;
/// Calls of all addresses each second after that. Each costs an ECDSA check, a signature and a write: 1 ms of a core.
const ALL_PER_SECOND: f64 = 100.0;
/// Addresses remembered. When there are more, those with full buckets are forgotten, which changes nothing for them;
/// 64 Ki entries are about 4 MiB.
const ADDRESSES_MAX: usize = 65_536;

/// The limits, shared by all calls of one server.
pub struct Limiter(Mutex<State>);

struct State {
    all: Bucket,
    addresses: HashMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Limiter {
    /// Full buckets.
    pub fn new(now: Instant) -> Self {
        let all = Bucket { tokens: ALL_BURST, filled: now };
        Self(Mutex::new(State { all, addresses: HashMap::new() }))
    }

    /// Takes one call of `address`, or answers how long to wait before the next attempt.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut state = self.0.lock();
        let State { all, addresses } = &mut *state;
        // First of all: what this refuses leaves no trace, so a flood of addresses cannot grow the table.
        all.fill(ALL_BURST, ALL_PER_SECOND, now);
        all.ready(ALL_PER_SECOND)?;
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.retain(|_, bucket| {
                bucket.fill(ADDRESS_BURST, ADDRESS_PER_SECOND, now);
                bucket.tokens < ADDRESS_BURST
            });
            if addresses.len() >= ADDRESSES_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let own = addresses.entry(address).or_insert(Bucket { tokens: ADDRESS_BURST, filled: now });
        own.fill(ADDRESS_BURST, ADDRESS_PER_SECOND, now);
        // Both or neither: a refused address must not empty the bucket of all.
        own.ready(ADDRESS_PER_SECOND)?;
        own.tokens -= 1.0;
        all.tokens -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn fill(&mut self, burst: f64, per_second: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * per_second).min(burst);
        self.filled = self.filled.max(now);
    }

    fn ready(&self, per_second: f64) -> Result<(), Duration> {
        if self.tokens >= 1.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn one_address_is_slowed_down_and_told_when_to_come_back() {
        let start = Instant::now();
        let limiter = Limiter::new(start);
        for _ in 0..20 {
            limiter.admit(address(1), start).unwrap();
        }
        let wait = limiter.admit(address(1), start).unwrap_err();
        assert!(wait <= Duration::from_millis(200), "{wait:?}");
        assert!(limiter.admit(address(2), start).is_ok(), "others are not held back");
        assert!(limiter.admit(address(1), start + wait).is_ok());
        assert!(limiter.admit(address(1), start + wait).is_err());
    }

    #[test]
    fn all_addresses_together_have_a_limit_too() {
        let start = Instant::now();
        let limiter = Limiter::new(start);
        let admitted = (0..1000).filter(|n| limiter.admit(address(*n), start).is_ok()).count();
        assert_eq!(admitted, 400);
        assert!(limiter.admit(address(5000), start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory() {
        let start = Instant::now();
        let limiter = Limiter::new(start);
        for n in 0..100_000 {
            let _ = limiter.admit(address(n), start + Duration::from_millis(u64::from(n)));
        }
        assert!(limiter.0.lock().addresses.len() <= ADDRESSES_MAX);
    }
}
