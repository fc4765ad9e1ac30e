//! Where a foreign program may connect to. It knows no rules of ours, so every address that its endpoint has when it is
//! started must be an allowed one. Unlike our own worker it is not held to them at each connect.

use std::net::{SocketAddr, ToSocketAddrs};

use mooring_control::address::AddressRules;

use super::super::MountError;
use crate::observed::record::Serving;

/// An endpoint, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint<'a> {
    https: bool,
    host: &'a str,
    port: u16,
}

/// Refuses an endpoint that is not `https://host[:port]`, or that leads to where this connector may not go. Blocks for
/// the name service.
pub(super) fn check(serving: &Serving) -> Result<(), MountError> {
    let endpoint = parse(&serving.endpoint).ok_or_else(|| MountError::Store {
        reason: "EndpointInvalid",
        message: format!(
            "{} is no endpoint of the form https://host[:port]; correct the connector",
            serving.endpoint
        ),
    })?;
    let forbidden = |message: String| MountError::Store {
        reason: "EndpointForbidden",
        message,
    };
    let rules = AddressRules::of(&serving.endpoint_rules).map_err(|error| forbidden(error.to_string()))?;
    rules
        .check_scheme(endpoint.https)
        .map_err(|error| forbidden(error.to_string()))?;
    let host = match serving.path_style {
        true => endpoint.host.to_owned(),
        false => format!("{}.{}", serving.bucket, endpoint.host),
    };
    let addresses = (host.as_str(), endpoint.port)
        .to_socket_addrs()
        .map_err(|error| MountError::Store {
            reason: "StoreUnavailable",
            message: format!(
                "the name {host} has no address ({error}); check the connector's endpoint and this host's name service"
            ),
        })?;
    for address in addresses.map(|address: SocketAddr| address.ip()) {
        rules
            .check_address(address)
            .map_err(|error| forbidden(error.to_string()))?;
    }
    Ok(())
}

fn parse(text: &str) -> Option<Endpoint<'_>> {
    let (https, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://")?),
    };
    let standard = if https { 443 } else { 80 };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => match rest.find(':') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        },
    };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    if host.is_empty() || !host.bytes().all(inner) {
        return None;
    }
    let port = match port {
        "" => standard,
        port => {
            let digits = port.strip_prefix(':')?;
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            digits.parse().ok()?
        }
    };
    Some(Endpoint { https, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooring_control::EndpointRules;

    fn serving(endpoint: &str, allowed: &[&str]) -> Serving {
        Serving {
            endpoint: endpoint.to_owned(),
            region: String::new(),
            bucket: "data".to_owned(),
            prefix: String::new(),
            path_style: true,
            cache_size_mib: 0,
            read_only: false,
            endpoint_rules: EndpointRules {
                allow_http: false,
                allowed_networks: allowed.iter().map(|text| (*text).to_owned()).collect(),
            },
            foreign: None,
        }
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        let parsed = |text| parse(text).map(|parts| (parts.https, parts.host, parts.port));
        assert_eq!(parsed("https://s3.example"), Some((true, "s3.example", 443)));
        assert_eq!(parsed("http://10.0.0.1:9000"), Some((false, "10.0.0.1", 9000)));
        assert_eq!(parsed("https://[fd00::1]:9000"), Some((true, "fd00::1", 9000)));
        for text in [
            "ftp://s3.example",
            "https://",
            "https://a,allow_root",
            "https://a\\,b",
            "https://a/b",
            "https://a@b",
            "https://a:1:2",
            "https://a:+1",
            "https://a b",
            "-o",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn inward_addresses_and_plain_http_are_refused_unless_they_are_allowed() {
        let reason = |serving: &Serving| check(serving).map_err(|error| error.reason());
        assert_eq!(
            reason(&serving("https://127.0.0.1:1", &[])),
            Err("EndpointForbidden")
        );
        assert_eq!(
            reason(&serving("https://169.254.169.254", &[])),
            Err("EndpointForbidden")
        );
        assert_eq!(reason(&serving("https://127.0.0.1:1", &["127.0.0.0/8"])), Ok(()));
        assert_eq!(
            reason(&serving("http://127.0.0.1:1", &["127.0.0.0/8"])),
            Err("EndpointForbidden")
        );
        assert_eq!(reason(&serving("https://10.1.1.1", &[])), Ok(()));
    }
}
