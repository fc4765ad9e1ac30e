//! One host of the fleet: enrols, keeps a session and keeps its certificate, with the delays of a real agent. What is
//! said on the session is in `session.rs`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooring_agent::backoff::{self, Backoff};
use mooring_identity::{ClientTls, Clock, Credentials, HpkeKeyPair, JoinString, PrivateKey, client};
use mooring_proto::agent::v1 as pb;
use mooring_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::mounts::{Mounts, facts};

mod session;

use session::End;

/// As the real agent's.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
const RENEWAL_RETRY: Backoff = Backoff {
    min: Duration::from_millis(200),
    max: Duration::from_secs(60),
};
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// A machine that is about to become a host.
pub(crate) struct Agent {
    /// Its place in the fleet; no two have the same.
    pub(crate) number: usize,
    pub(crate) join: Arc<JoinString>,
    pub(crate) board: Arc<Board>,
    pub(crate) clock: Clock,
}

/// What makes it a host.
struct Member {
    uid: uuid::Uuid,
    realm_uid: String,
    tls: Arc<ClientTls>,
    credentials: Mutex<Arc<Credentials>>,
    /// Counts the renewals.
    renewed: watch::Sender<u64>,
}

impl Agent {
    /// Lives until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {} // cancel-safe: no state
            () = self.live() => {} // dropped, it leaves what a machine leaves that loses its power
        }
    }

    async fn live(&self) {
        let member = self.enrol().await;
        self.board.enrolled.add(1);
        tokio::join!(self.keep_session(&member), self.keep_certificate(&member));
    }

    /// Each machine has an address of its own: the catalog counts newcomers by address.
    fn source(&self) -> Ipv4Addr {
        let [_, high, middle, low] = u32::try_from(self.number)
            .expect("a fleet is smaller than the loopback network")
            .to_be_bytes();
        Ipv4Addr::new(127, high + 1, middle, low)
    }

    async fn enrol(&self) -> Member {
        let mut failures = 0;
        // Made once, as on a real host: the same keys with the same token are the same host.
        let key = PrivateKey::generate().expect("keys can be made");
        let hpke = HpkeKeyPair::generate();
        loop {
            match self.try_to_enrol(&key, &hpke).await {
                Ok(member) => return member,
                Err(error) => {
                    self.board.enrol_retries.add(1);
                    self.board.ended(format!("enrolment: {error:#}"));
                    failures += 1;
                    sleep(backoff::CATALOG.delay(failures, self.clock.jitter())).await;
                }
            }
        }
    }

    async fn try_to_enrol(&self, key: &PrivateKey, hpke: &HpkeKeyPair) -> anyhow::Result<Member> {
        let public = hpke.public_key();
        let request = pb::EnrollRequest {
            token: self.join.token().to_owned(),
            csr_pem: key.certificate_request()?,
            hpke_public_key: public.as_bytes().to_vec(),
            hpke_key_signature: key.sign(public.as_bytes())?,
            host_name: format!("machine-{}", self.number),
            facts: Some(facts()),
        };
        let endpoint = &self.join.endpoint;
        let pinned = client::connect_pinned_from(self.source().into(), endpoint, self.join.pin).await?;
        let mut client = EnrollmentServiceClient::new(pinned.channel);
        let answer = timeout(ATTEMPT_TIMEOUT, client.enroll(request))
            .await??
            .into_inner();
        let own = PrivateKey::from_pem(&key.to_pem())?;
        let credentials = Credentials::new(own, answer.certificate_pem, pinned.ca_pem)?;
        Ok(Member {
            uid: answer.host_uid.parse()?,
            realm_uid: answer.realm_uid,
            tls: ClientTls::new(&credentials)?,
            credentials: Mutex::new(Arc::new(credentials)),
            renewed: watch::Sender::new(0),
        })
    }

    async fn keep_session(&self, member: &Member) {
        let mut mounts = Mounts::default();
        let mut failures = 0;
        let mut dialled = None;
        loop {
            let begun = Instant::now();
            let reason = match self.attend(member, &mut mounts, &mut dialled).await {
                End::Renewed => {
                    failures = 0;
                    continue;
                }
                End::Because(reason) => reason,
            };
            self.board.ended(format!("session: {reason}"));
            failures = if begun.elapsed() > GOOD_AFTER {
                1
            } else {
                failures + 1
            };
            sleep(backoff::CATALOG.delay(failures, self.clock.jitter())).await;
        }
    }

    async fn keep_certificate(&self, member: &Member) {
        let mut mood = self.board.mood();
        let mut asked = mood.borrow_and_update().renew;
        loop {
            let credentials = member.credentials.lock().clone();
            let due = credentials.renew_at(self.clock.jitter()) - self.clock.now();
            let due = sleep(Duration::try_from(due).unwrap_or_default());
            let within = tokio::select! {
                () = due => Duration::ZERO, // cancel-safe: no state
                within = renewal_asked(&mut mood, &mut asked) => within, // cancel-safe: `asked` moves at its end only
            };
            sleep(within.mul_f64(self.clock.jitter())).await;
            let mut failures = 0;
            while let Err(error) = self.renew(member, &credentials).await {
                self.board.renewals_failed.add(1);
                self.board.ended(format!("renewal: {error:#}"));
                failures += 1;
                sleep(RENEWAL_RETRY.delay(failures, self.clock.jitter())).await;
            }
            self.board.renewed.add(1);
            member.renewed.send_modify(|count| *count += 1);
        }
    }

    async fn renew(&self, member: &Member, credentials: &Credentials) -> anyhow::Result<()> {
        let csr_pem = credentials.key().certificate_request()?;
        let channel = member
            .tls
            .channel_from(self.source().into(), &self.join.endpoint)?;
        let mut client = EnrollmentServiceClient::new(channel);
        let request = pb::RenewCertificateRequest { csr_pem };
        let answer = timeout(ATTEMPT_TIMEOUT, client.renew_certificate(request)).await??;
        let renewed = credentials.renewed(answer.into_inner().certificate_pem)?;
        member.tls.replace(&renewed)?;
        *member.credentials.lock() = Arc::new(renewed);
        Ok(())
    }
}

/// Waits until the director asks for one more renewal than before.
async fn renewal_asked(mood: &mut watch::Receiver<crate::board::Mood>, asked: &mut u64) -> Duration {
    let known = *asked;
    let now = mood.wait_for(|mood| mood.renew > known).await;
    let now = *now.expect("the board outlives its hosts");
    *asked = now.renew;
    now.renew_within
}
