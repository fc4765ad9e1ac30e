//! Endpoints: which URLs of S3 services a connector may name. What a name resolves to is checked again by the worker, at
//! every connect; here the form is checked, and addresses that are written out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest endpoint: a scheme, a DNS name of 253 bytes and a port.
const LENGTH_MAX: usize = 300;

/// What the operator allows beyond public addresses over https.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointRules {
    /// Plain http is allowed.
    pub allow_http: bool,
    /// Networks that are allowed although they are loopback, link-local or metadata addresses.
    pub allowed_networks: Vec<Network>,
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

/// The URL of an S3 service: scheme, host and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint(Box<str>);

impl Endpoint {
    /// Judges an endpoint. A lone trailing slash is dropped; the host is lower-cased.
    pub fn parse(text: &str, rules: &EndpointRules) -> Result<Self, String> {
        let endpoint = Self::of_form(text)?;
        if endpoint.scheme() == "http" && !rules.allow_http {
            return Err("it is plain http, which this installation does not allow; use https, or ask the operator for \
                        `connector_endpoints.allow_http`"
                .into());
        }
        rules.check_host(endpoint.host())?;
        Ok(endpoint)
    }

    /// Judges the form only: for where a secret may be used, which the connector's own endpoint is compared with.
    pub fn of_form(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "it is missing; give the URL of the S3 service, such as `https://s3.example.com`".into(),
            );
        }
        if text.len() > LENGTH_MAX
            || text
                .chars()
                .any(|c| c.is_control() || c.is_whitespace() || !c.is_ascii())
        {
            return Err("it is no URL: too long, or with spaces, control or non-ASCII characters".into());
        }
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| {
                ["http", "https"]
                    .iter()
                    .any(|known| scheme.eq_ignore_ascii_case(known))
            })
            .ok_or("it does not begin with https://; write it as `https://s3.example.com`")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['?', '#']) {
            return Err("it has a query or fragment; leave out what comes after the host and port".into());
        }
        if rest.contains('@') {
            return Err("it has user info; leave it out, keys belong into a secret".into());
        }
        if rest.contains(['/', '\\']) {
            return Err("it has a path; leave it out, the bucket and prefix have fields of their own".into());
        }
        let authority: http::uri::Authority = rest.parse().map_err(
            |_| "its host or port is not valid; write it as `https://host` or `https://host:port`",
        )?;
        if authority.host().is_empty()
            || (rest.contains(':') && !rest.ends_with(']') && authority.port_u16().is_none())
        {
            return Err(
                "its host or port is not valid; write it as `https://host` or `https://host:port`".into(),
            );
        }
        check_host_form(authority.host())?;
        let scheme = scheme.to_ascii_lowercase();
        let default_port = if scheme == "https" { 443 } else { 80 };
        let host = authority.host().to_ascii_lowercase();
        let text = match authority.port_u16().filter(|port| *port != default_port) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        Ok(Self(text.into()))
    }

    /// What was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The URL, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    fn host(&self) -> &str {
        let authority = self.0.split_once("://").map_or("", |(_, authority)| authority);
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EndpointRules {
    fn check_host(&self, host: &str) -> Result<(), String> {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let inward = |what: &str| {
            Err(format!(
                "it points to {what}; use the service's public address, or ask the operator to add the network to \
                 `connector_endpoints.allowed_networks`"
            ))
        };
        if let Ok(address) = bare.parse::<IpAddr>() {
            return match inward_kind(address) {
                Some(what) if !self.allows(address) => inward(what),
                Some(_) | None => Ok(()),
            };
        }
        let name = bare.trim_end_matches('.');
        if (name == "localhost" || name.ends_with(".localhost"))
            && !self.allows(IpAddr::V4(Ipv4Addr::LOCALHOST))
        {
            return inward("the host itself");
        }
        if name == "metadata.google.internal" && !self.allows(IpAddr::V4(METADATA)) {
            return inward("a cloud's metadata service");
        }
        Ok(())
    }

    /// Whether an address is in an allowed network.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allowed_networks
            .iter()
            .any(|network| network.contains(address))
    }
}

/// The metadata service of most clouds.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// What an address is that points inward; `None` for others. Private networks are fine: most S3 services of our users
/// are there.
fn inward_kind(address: IpAddr) -> Option<&'static str> {
    let address = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Some("the host itself"),
        IpAddr::V4(v4) if v4 == METADATA || v4 == Ipv4Addr::new(100, 100, 100, 200) => {
            Some("a cloud's metadata service")
        }
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.is_broadcast() || v4.is_multicast() => {
            Some("no single host (unspecified, broadcast or multicast)")
        }
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.is_loopback() => Some("the host itself"),
        IpAddr::V6(v6) if v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) => {
            Some("a cloud's metadata service")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() => {
            Some("no single host (unspecified or multicast)")
        }
        IpAddr::V6(_) => None,
    }
}

/// DNS names, IPv4 and bracketed IPv6. Numbers that resolvers take for addresses (`0x7f.1`, `2130706433`) are refused:
/// they have no use but to hide one.
fn check_host_form(host: &str) -> Result<(), String> {
    if let Some(inside) = host.strip_prefix('[') {
        let inside = inside.strip_suffix(']').unwrap_or(inside);
        return match inside.parse::<Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("its host is no IPv6 address; write it as `https://[2001:db8::1]`".into()),
        };
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    let numeric =
        last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    if name.len() > 253 || !name.split('.').all(label) || numeric {
        return Err(
            "its host is neither a DNS name nor an IP address in the usual form; write it as \
                    `https://s3.example.com` or `https://192.0.2.1`"
                .into(),
        );
    }
    Ok(())
}

impl Network {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix_bits).unwrap_or(0);
                u32::from(network) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix_bits).unwrap_or(0);
                u128::from(network) & mask == u128::from(address) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(address)) => address
                .to_ipv4_mapped()
                .is_some_and(|address| self.contains(IpAddr::V4(address))),
            (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem =
            || format!("{text:?} is no network in CIDR notation; write it as `127.0.0.0/8` or `::1/128`");
        let (address, bits) = text.split_once('/').ok_or_else(problem)?;
        let address: IpAddr = address.parse().map_err(|_| problem())?;
        let prefix_bits: u32 = bits.parse().map_err(|_| problem())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        if prefix_bits > bits_max {
            return Err(problem());
        }
        Ok(Self { address, prefix_bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = Endpoint::parse(text, &EndpointRules::default());
        match (parsed, expected) {
            (Ok(endpoint), Ok(expected)) => assert_eq!(endpoint.as_str(), expected, "{text}"),
            (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{text}: {problem}"),
            (parsed, expected) => panic!("{text}: {parsed:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_lone_trailing_slash_and_the_default_port_are_dropped() {
        check("https://s3.example.com/", Ok("https://s3.example.com"));
        check("HTTPS://S3.Example.com:443", Ok("https://s3.example.com"));
        check("https://s3.example.com:9000", Ok("https://s3.example.com:9000"));
        check("https://10.1.2.3:9000", Ok("https://10.1.2.3:9000"));
        check("https://[2001:db8::1]:9000/", Ok("https://[2001:db8::1]:9000"));
    }

    #[test]
    fn what_is_more_than_scheme_host_and_port_is_refused_by_name() {
        check("https://s3.example.com/path", Err("path"));
        check("https://s3.example.com//", Err("path"));
        check("https://s3.example.com?x=1", Err("query"));
        check("https://user:pass@s3.example.com", Err("user info"));
        check("s3.example.com", Err("https://"));
        check("ftp://s3.example.com", Err("https://"));
        check("https://", Err("host"));
        check("https://host:99999", Err("port"));
        check("https://host:", Err("port"));
        check("https://a b", Err("spaces"));
        check("", Err("missing"));
        check("https://-o/", Err("DNS name"));
        check("http://s3.example.com", Err("allow_http"));
    }

    #[test]
    fn endpoints_that_point_inward_are_refused_however_they_are_written() {
        for host in [
            "127.0.0.1",
            "127.9.9.9:9000",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "localhost",
            "a.localhost",
            "localhost.",
            "169.254.169.254",
            "169.254.1.1",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "0.0.0.0",
            "[::]",
            "metadata.google.internal",
            "100.100.100.200",
            "255.255.255.255",
        ] {
            check(&format!("https://{host}"), Err("allowed_networks"));
        }
        for host in ["0x7f.1", "2130706433", "0177.0.0.1", "127.1"] {
            check(&format!("https://{host}"), Err("usual form"));
        }
    }

    #[test]
    fn the_operator_can_allow_networks_and_http() {
        let rules = EndpointRules {
            allow_http: true,
            allowed_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        };
        for text in [
            "http://127.0.0.1:9000",
            "http://localhost:9000",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
        ] {
            assert!(Endpoint::parse(text, &rules).is_ok(), "{text}");
        }
        assert!(Endpoint::parse("http://169.254.169.254", &rules).is_err());
    }

    #[test]
    fn networks_contain_what_their_prefix_says() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains("10.1.255.255".parse().unwrap()));
        assert!(!network.contains("10.2.0.0".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()));
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8"] {
            assert!(text.parse::<Network>().unwrap_err().contains("CIDR"));
        }
    }
}
