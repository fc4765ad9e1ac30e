//! Places for connections: so many in all, and so many for one source. A guard holds each; dropping it gives it back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// How many there are, and who has them.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    of_one_max: usize,
    taken: Mutex<Taken>,
}

/// `all` is the sum of `by_source`, in which no source has 0: so it never holds more entries than there are places.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One place.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    pub(super) fn new(max: usize, of_one_max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            of_one_max,
            taken: Mutex::default(),
        })
    }

    /// Takes a place for this address, if there is one left for it.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let source = source_of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.all >= self.max || of_source >= self.of_one_max {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, of_source + 1);
        drop(taken);
        Some(Place {
            places: Arc::clone(self),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(of_source) = taken.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

/// Whom an address counts for. A customer or a laptop has a /64 of IPv6 to itself, so its addresses are one source.
fn source_of(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_has_its_share_and_all_together_have_theirs() {
        let places = Places::new(3, 2);
        let first = places.take(address("10.0.0.1")).unwrap();
        let _second = places.take(address("::ffff:10.0.0.1")).unwrap();
        assert!(places.take(address("10.0.0.1")).is_none(), "its share is taken");
        let _third = places.take(address("10.0.0.2")).unwrap();
        assert!(places.take(address("10.0.0.3")).is_none(), "all are taken");
        drop(first);
        let again = places.take(address("10.0.0.1"));
        assert!(again.is_some());
        drop(again);
        assert_eq!(places.taken.lock().unwrap().by_source.len(), 2);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let places = Places::new(10, 1);
        let _one = places.take(address("2001:db8::1")).unwrap();
        assert!(places.take(address("2001:db8::2")).is_none());
        assert!(places.take(address("2001:db8:0:1::1")).is_some());
    }
}
