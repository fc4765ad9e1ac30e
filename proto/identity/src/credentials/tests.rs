//! Credentials on disk: whole or not at all, and only such that belong together.

use std::time::Duration as StdDuration;

use time::macros::datetime;
use uuid::Uuid;

use super::*;
use crate::testing::TestAuthority;

const NOW: OffsetDateTime = datetime!(2030-01-01 00:00 UTC);

fn sample(ca: &TestAuthority) -> Credentials {
    ca.credentials(
        Principal::Host(Uuid::from_u128(1)),
        StdDuration::from_secs(86_400),
        NOW,
    )
}

#[test]
fn credentials_read_back_what_they_wrote_with_a_private_key_file() {
    let ca = TestAuthority::new(NOW);
    let dir = tempfile::tempdir().unwrap();
    let paths = CredentialPaths::in_directory(dir.path(), "host");
    assert!(Credentials::load(&paths).unwrap().is_none());
    let credentials = sample(&ca);
    credentials.save(&paths).unwrap();
    let again = Credentials::load(&paths).unwrap().unwrap();
    assert_eq!(again.serial(), credentials.serial());
    assert_eq!(again.principal(), Some(Principal::Host(Uuid::from_u128(1))));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(&paths.key).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_certificate_of_another_key_or_another_ca_is_refused() {
    let ca = TestAuthority::new(NOW);
    let credentials = sample(&ca);
    let other_key = PrivateKey::generate().unwrap();
    let error = Credentials::new(other_key, credentials.certificate_pem(), credentials.ca_pem())
        .err()
        .unwrap();
    assert!(matches!(error, Error::KeyMismatch));
    let foreign = TestAuthority::new(NOW);
    let same_key = PrivateKey::from_pem(&credentials.key().to_pem()).unwrap();
    let error = Credentials::new(same_key, credentials.certificate_pem(), foreign.ca_pem())
        .err()
        .unwrap();
    assert!(matches!(error, Error::ForeignCertificate { .. }));
}

#[test]
fn renewal_is_due_at_half_life_give_or_take_a_tenth() {
    let credentials = sample(&TestAuthority::new(NOW));
    let life = credentials.not_after() - credentials.not_before();
    for (jitter, expected) in [(0.0, 0.4), (0.5, 0.5), (1.0, 0.6)] {
        let share = (credentials.renew_at(jitter) - credentials.not_before()) / life;
        assert!((share - expected).abs() < 0.001, "{jitter}: {share}");
    }
}

#[test]
fn a_short_lived_certificate_is_not_due_at_once() {
    let ca = TestAuthority::new(NOW);
    let credentials = ca.credentials(
        Principal::Host(Uuid::from_u128(1)),
        StdDuration::from_secs(10),
        NOW,
    );
    assert!(credentials.renew_at(0.0) > NOW);
}

#[test]
fn a_key_text_is_not_repeated_in_errors() {
    let error = PrivateKey::from_pem("-----BEGIN PRIVATE KEY-----\nplanted\n")
        .err()
        .unwrap();
    assert!(!format!("{error:?}").contains("planted"));
}
