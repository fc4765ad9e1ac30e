//! A throw-away authority for tests, of this crate and of others. Nothing here touches a disk.

use std::time::Duration;

use time::OffsetDateTime;

use crate::credentials::new_key_and_csr;
use crate::{Authority, Credentials, KeyPin, Principal, TrustDomain};

/// An authority of the trust domain `mooring` that exists in memory only. Its methods panic: they are for tests.
pub struct TestAuthority(Authority);

impl TestAuthority {
    /// Makes one.
    pub fn new(now: OffsetDateTime) -> Self {
        Self(
            Authority::in_memory(&Self::trust_domain(), now)
                .expect("a CA in memory needs nothing that can fail"),
        )
    }

    /// The trust domain of all its identities.
    pub fn trust_domain() -> TrustDomain {
        "mooring".parse().expect("the name is well formed")
    }

    /// The authority itself.
    pub fn authority(&self) -> &Authority {
        &self.0
    }

    /// The CA's certificate in PEM.
    pub fn ca_pem(&self) -> &str {
        self.0.ca_pem()
    }

    /// The CA's pin.
    pub fn pin(&self) -> KeyPin {
        self.0.key_pin()
    }

    /// A key with a client certificate.
    pub fn credentials(&self, principal: Principal, life: Duration, now: OffsetDateTime) -> Credentials {
        let (key, request) = new_key_and_csr().expect("a key in memory needs nothing that can fail");
        let issued = self
            .0
            .issue(&request, principal, life, now)
            .expect("our own request is well formed");
        Credentials::new(key, issued.certificate_pem, self.0.ca_pem()).expect("it was issued for this key")
    }

    /// A key with a server certificate for `localhost` and `127.0.0.1`.
    pub fn server(&self, life: Duration, now: OffsetDateTime) -> Credentials {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.0
            .issue_server(&names, life, now)
            .expect("the names are well formed")
    }
}
