//! Where a mount may connect to: the endpoint rules, judged on every address that a name resolves to.
//!
//! A connector is written by a project, and the worker runs inside the operator's network: without
//! these rules an endpoint that resolves inward would make the worker a door to local services and to
//! the cloud's metadata service. Pure. Private networks (10/8, fc00::/7, …) are allowed: that is where
//! most S3 servers outside of clouds live.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::EndpointRules;

/// Metadata services outside the link-local ranges: AWS over IPv6, Alibaba, Oracle, Azure's wire server.
const METADATA_ADDRESSES: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Which endpoints a mount may talk to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRules {
    allow_http: bool,
    allowed: Allowed,
}

/// A network in CIDR notation, such as `10.0.0.0/8`; a bare address is a network of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

/// The text is no network.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not a network: write an address and a prefix length, such as 10.0.0.0/8")]
pub struct NetworkError {
    text: String,
}

/// Why an endpoint may not be used; both have the same remedy, a change by the operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// The scheme is http and the operator did not allow it.
    #[error("the endpoint uses http: use https, or have the operator set allow_http")]
    PlainHttp,
    /// The address belongs to the host, its link or its cloud.
    #[error(
        "the endpoint's address {0} is loopback, link-local or a metadata service: have the operator add it to allowed_networks"
    )]
    Inward(IpAddr),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Allowed {
    Everything,
    Outward { exempt: Vec<Network> },
}

impl AddressRules {
    /// No rules: for standalone mounts, whose user could connect anywhere himself.
    pub fn anything() -> AddressRules {
        AddressRules {
            allow_http: true,
            allowed: Allowed::Everything,
        }
    }

    /// The rules for supervised mounts: nothing inward but `exempt`, and http only if allowed.
    pub fn guarded(allow_http: bool, exempt: Vec<Network>) -> AddressRules {
        AddressRules {
            allow_http,
            allowed: Allowed::Outward { exempt },
        }
    }

    /// The rules that came with an order.
    pub fn of(rules: &EndpointRules) -> Result<AddressRules, NetworkError> {
        let exempt = rules
            .allowed_networks
            .iter()
            .map(|network| network.parse())
            .collect::<Result<_, _>>()?;
        Ok(AddressRules::guarded(rules.allow_http, exempt))
    }

    /// May this scheme be used?
    pub fn check_scheme(&self, https: bool) -> Result<(), AddressError> {
        if https || self.allow_http {
            Ok(())
        } else {
            Err(AddressError::PlainHttp)
        }
    }

    /// May this address be connected to?
    pub fn check_address(&self, address: IpAddr) -> Result<(), AddressError> {
        let Allowed::Outward { exempt } = &self.allowed else {
            return Ok(());
        };
        let address = unwrap_embedded(address);
        if exempt.iter().any(|network| network.contains(address)) || !is_inward(address) {
            return Ok(());
        }
        Err(AddressError::Inward(address))
    }
}

impl Network {
    /// Is the address in the network?
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                u64::from(base.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix_bits))
                    .unwrap_or(0);
                base.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let refuse = || NetworkError {
            text: text.to_owned(),
        };
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = base.trim().parse().map_err(|_| refuse())?;
        let bits_max = if base.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            None => bits_max,
            Some(bits) => bits
                .trim()
                .parse()
                .ok()
                .filter(|bits| *bits <= bits_max)
                .ok_or_else(refuse)?,
        };
        Ok(Network { base, prefix_bits })
    }
}

/// IPv4 addresses that travel inside IPv6 ones (mapped, NAT64) are judged as what they reach.
fn unwrap_embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)))
        }
        _ => address,
    }
}

fn is_inward(address: IpAddr) -> bool {
    if METADATA_ADDRESSES.contains(&address) {
        return true;
    }
    match address {
        // 0.0.0.0/8 counts, since connecting to 0.0.0.0 reaches the host itself.
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.octets()[0] == 0
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(rules: &AddressRules, address: &str) -> bool {
        rules.check_address(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn inward_addresses_are_refused_in_every_disguise() {
        let rules = AddressRules::guarded(false, Vec::new());
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "fd00:ec2::254",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
        ] {
            assert!(!allowed(&rules, address), "{address} must be refused");
        }
        for address in ["10.1.2.3", "192.168.1.1", "52.216.1.1", "2600::1", "fd12::1"] {
            assert!(allowed(&rules, address), "{address} must be allowed");
        }
    }

    #[test]
    fn exempt_networks_are_allowed_and_only_they() {
        let exempt = vec!["127.0.0.0/8".parse().unwrap(), "fe80::/10".parse().unwrap()];
        let rules = AddressRules::guarded(true, exempt);
        assert!(allowed(&rules, "127.0.0.1"));
        assert!(allowed(&rules, "::ffff:127.0.0.1"));
        assert!(allowed(&rules, "fe80::1"));
        assert!(!allowed(&rules, "::1"));
        assert!(!allowed(&rules, "169.254.169.254"));
    }

    #[test]
    fn http_needs_permission() {
        assert_eq!(
            AddressRules::guarded(false, Vec::new()).check_scheme(false),
            Err(AddressError::PlainHttp)
        );
        assert!(
            AddressRules::guarded(false, Vec::new())
                .check_scheme(true)
                .is_ok()
        );
        assert!(
            AddressRules::guarded(true, Vec::new())
                .check_scheme(false)
                .is_ok()
        );
        assert!(AddressRules::anything().check_scheme(false).is_ok());
        assert!(allowed(&AddressRules::anything(), "127.0.0.1"));
    }

    #[test]
    fn networks_are_parsed_strictly() {
        assert!(
            "0.0.0.0/0"
                .parse::<Network>()
                .unwrap()
                .contains("9.9.9.9".parse().unwrap())
        );
        assert!(
            "::/0"
                .parse::<Network>()
                .unwrap()
                .contains("2600::1".parse().unwrap())
        );
        assert!(
            "10.0.0.1"
                .parse::<Network>()
                .unwrap()
                .contains("10.0.0.1".parse().unwrap())
        );
        for text in ["", "10.0.0.0/33", "::/129", "host/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text:?} must be refused");
        }
    }
}
