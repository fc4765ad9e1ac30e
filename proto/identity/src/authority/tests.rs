//! The authority decides every name itself, whatever a request asks for.

use std::os::unix::fs::MetadataExt;

use time::macros::datetime;
use uuid::Uuid;

use super::*;
use crate::credentials::new_key_and_csr;

const NOW: OffsetDateTime = datetime!(2030-01-01 00:00 UTC);
const DAY: Duration = Duration::from_secs(86_400);

fn domain() -> TrustDomain {
    "mooring".parse().unwrap()
}

#[test]
fn the_authority_is_made_once_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::load_or_create(&dir.path().join("state"), &domain(), NOW).unwrap();
    let again = Authority::load_or_create(&dir.path().join("state"), &domain(), NOW).unwrap();
    assert_eq!(first.key_pin(), again.key_pin());
    assert_eq!(first.ca_pem(), again.ca_pem());
    assert_eq!(
        std::fs::metadata(dir.path().join("state/ca.key")).unwrap().mode() & 0o777,
        0o600
    );
    let error = Authority::load_or_create(&dir.path().join("state"), &"other".parse().unwrap(), NOW)
        .err()
        .unwrap();
    assert!(error.to_string().contains("trust_domain"), "{error}");
}

#[test]
fn a_lost_key_is_not_replaced_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    Authority::load_or_create(dir.path(), &domain(), NOW).unwrap();
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = Authority::load_or_create(dir.path(), &domain(), NOW)
        .err()
        .unwrap();
    assert!(error.to_string().contains("restore it"), "{error}");
    assert!(!dir.path().join("ca.key").exists());
}

#[test]
fn an_issued_certificate_names_the_principal_and_lives_as_told() {
    let ca = Authority::in_memory(&domain(), NOW).unwrap();
    let (key, request) = new_key_and_csr().unwrap();
    let principal = Principal::Host(Uuid::from_u128(5));
    let issued = ca.issue(&request, principal, DAY, NOW).unwrap();
    let identity = issued.identity().unwrap();
    assert_eq!(identity.principal, principal);
    assert_eq!(identity.trust_domain, domain());
    assert_eq!(identity.serial, issued.serial);
    assert_eq!(identity.key_sha256, key.pin());
    assert_eq!(identity.not_after, NOW + DAY);
    assert_eq!(identity.not_before, NOW - BACK_DATE_MAX);
    assert!(identity.is_valid_at(NOW) && !identity.is_valid_at(NOW + DAY + DAY));
    assert_eq!(request_key(&request).unwrap(), key.pin());
}

#[test]
fn two_certificates_for_one_key_have_different_serials() {
    let ca = Authority::in_memory(&domain(), NOW).unwrap();
    let (_, request) = new_key_and_csr().unwrap();
    let principal = Principal::User(Uuid::from_u128(5));
    let serials = [(); 2].map(|()| ca.issue(&request, principal, DAY, NOW).unwrap().serial);
    assert_ne!(serials[0], serials[1]);
}

#[test]
fn names_in_a_request_are_ignored() {
    let ca = Authority::in_memory(&domain(), NOW).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["catalog.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(SanType::URI("spiffe://mooring/user/evil".try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let principal = Principal::User(Uuid::from_u128(6));
    let issued = ca.issue(&request, principal, DAY, NOW).unwrap();
    assert_eq!(issued.identity().unwrap().principal, principal);
    let der = certificate_of(&issued.certificate_pem, "the certificate").unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(
        parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    let ca = Authority::in_memory(&domain(), NOW).unwrap();
    let (_, request) = new_key_and_csr().unwrap();
    let mut der = pem_body(&request);
    let last = der.len() - 1;
    der[last] ^= 1;
    let principal = Principal::User(Uuid::from_u128(6));
    for bad in [
        to_pem(&der),
        "no pem at all".to_owned(),
        "x".repeat(REQUEST_BYTES_MAX + 1),
    ] {
        assert!(matches!(
            ca.issue(&bad, principal, DAY, NOW),
            Err(Error::Request { .. })
        ));
    }
}

#[test]
fn a_server_certificate_is_for_its_names_only_and_no_longer_than_the_ca_lives() {
    let ca = Authority::in_memory(&domain(), NOW).unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
    let server = ca.issue_server(&names, DAY * 100_000, NOW).unwrap();
    assert_eq!(server.not_after(), NOW + CA_LIFE);
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert!(server.is_server_for(name, NOW), "{name}");
    }
    assert!(!server.is_server_for("example.com", NOW));
    assert!(ca.issue_server(&["no spaces".to_owned()], DAY, NOW).is_err());
    assert!(ca.issue_server(&[], DAY, NOW).is_err());
}

fn pem_body(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}
