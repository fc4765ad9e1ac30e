//! Becoming a member of the fleet: keys are made here and never leave, the catalog is known by the pin of its CA, and
//! a join token buys a certificate. The keys are on disk before the catalog is asked, so when the reply is lost, asking
//! again with the same keys gives the same host.

use std::path::Path;
use std::time::Duration;

use mooring_identity::{
    ClientTls, Clock, Credentials, DialError, HpkeKeyPair, JoinString, Principal, PrivateKey, client,
};
use mooring_proto::agent::v1 as pb;
use mooring_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::backoff;
use crate::host::{Host, StateError, credential_paths};

/// One attempt. The catalog signs a certificate and writes a row: milliseconds; the rest is for the network.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// File of the HPKE key in the state folder.
pub const HPKE_KEY: &str = "hpke.key";

/// Why this host is no member.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The catalog cannot be reached, or could not answer just now. Worth another try.
    #[error("the catalog cannot be reached")]
    Unreachable(#[source] DialError),
    /// The same, after the connection was made.
    #[error("the catalog could not answer: {0}")]
    Unavailable(String),
    /// The catalog refuses. The text is the catalog's own and names the remedy.
    #[error("the catalog refuses this host: {0}")]
    Refused(String),
    /// The catalog's answer makes no sense; it is of another version, or not what it seems to be.
    #[error("the catalog's answer cannot be used: {0}")]
    Nonsense(&'static str),
    /// The state folder fails.
    #[error(transparent)]
    State(#[from] StateError),
    /// A key or certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] mooring_identity::Error),
}

impl EnrollError {
    fn is_passing(&self) -> bool {
        match self {
            EnrollError::Unreachable(
                DialError::Pin { .. } | DialError::Endpoint { .. } | DialError::Server { .. },
            ) => false,
            EnrollError::Unreachable(_) | EnrollError::Unavailable(_) => true,
            EnrollError::Refused(_)
            | EnrollError::Nonsense(_)
            | EnrollError::State(_)
            | EnrollError::Identity(_) => false,
        }
    }
}

/// Enrols, trying again as long as the trouble may pass.
pub async fn enroll(
    state_dir: &Path,
    join: &JoinString,
    host_name: &str,
    facts: &pb::HostFacts,
    clock: &Clock,
) -> Result<Host, EnrollError> {
    let mut failures = 0;
    loop {
        let error = match attempt(state_dir, join, host_name, facts).await {
            Ok(host) => return Ok(host),
            Err(error) => error,
        };
        if !error.is_passing() {
            return Err(error);
        }
        failures += 1;
        let delay = backoff::CATALOG.delay(failures, clock.jitter());
        tracing::warn!(error = %causes(&error), retry_in = ?delay, "enrolment is tried again");
        tokio::time::sleep(delay).await;
    }
}

async fn attempt(
    state_dir: &Path,
    join: &JoinString,
    host_name: &str,
    facts: &pb::HostFacts,
) -> Result<Host, EnrollError> {
    let paths = credential_paths(state_dir);
    let key = PrivateKey::load_or_create(&paths.key)?;
    let hpke = HpkeKeyPair::load_or_create(&state_dir.join(HPKE_KEY))?;
    let hpke_public = hpke.public_key();
    let request = pb::EnrollRequest {
        token: join.token().to_owned(),
        csr_pem: key.certificate_request()?,
        hpke_public_key: hpke_public.as_bytes().to_vec(),
        hpke_key_signature: key.sign(hpke_public.as_bytes())?,
        host_name: host_name.to_owned(),
        facts: Some(facts.clone()),
    };
    let pinned = client::connect_pinned(&join.endpoint, join.pin)
        .await
        .map_err(EnrollError::Unreachable)?;
    let mut client = EnrollmentServiceClient::new(pinned.channel);
    let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, client.enroll(request))
        .await
        .map_err(|_| EnrollError::Unavailable("no answer in time".to_owned()))?
        .map_err(judge)?
        .into_inner();
    let pb::EnrollResponse {
        host,
        host_uid,
        realm_uid,
        certificate_pem,
        // The CA that the pin has proved is believed, not the one that an answer claims.
        ca_pem: _,
        expire_time: _,
    } = answer;
    let uid = Uuid::try_parse(&host_uid).map_err(|_| EnrollError::Nonsense("its host uid is no UUID"))?;
    if host.is_empty() || realm_uid.is_empty() {
        return Err(EnrollError::Nonsense("it names no host or no realm"));
    }
    let credentials = Credentials::new(key, certificate_pem, pinned.ca_pem)?;
    if credentials.principal() != Some(Principal::Host(uid)) {
        return Err(EnrollError::Nonsense("its certificate is for somebody else"));
    }
    let host = Host {
        name: host,
        uid,
        realm_uid,
        endpoint: join.endpoint.clone(),
    };
    // The certificate last: it is the sign that enrolment is complete.
    host.save(state_dir)?;
    credentials.save(&paths)?;
    tracing::info!(
        host = host.name,
        endpoint = host.endpoint,
        "this machine has become a host"
    );
    Ok(host)
}

/// What the catalog thinks of the identity that this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is a host.
    Accepted,
    /// It is none any more: it was deleted, its certificate has ended, or the database does not know it. The text is the
    /// catalog's own.
    Refused(String),
    /// It is banned, somebody says.
    Banned(pb::SignedBan),
    /// Nobody could be asked, for this reason.
    Unknown(String),
}

/// Asks the catalog that this host has enrolled with whether it still accepts it. A renewal is what it asks for: only
/// a host gets one, it costs nothing, and unlike a session it disturbs no other. Its answer is not kept.
pub async fn standing(host: &Host, credentials: &Credentials) -> Result<Standing, EnrollError> {
    let channel = match ClientTls::new(credentials)?.channel(&host.endpoint) {
        Ok(channel) => channel,
        Err(error) => return Ok(Standing::Unknown(causes(&error))),
    };
    let csr_pem = credentials.key().certificate_request()?;
    let mut client = EnrollmentServiceClient::new(channel);
    let answer = client.renew_certificate(pb::RenewCertificateRequest { csr_pem });
    Ok(match tokio::time::timeout(ATTEMPT_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer
            .into_inner()
            .ban
            .map_or(Standing::Accepted, Standing::Banned),
        Ok(Err(status)) => match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::FailedPrecondition => {
                Standing::Refused(status.message().to_owned())
            }
            _ => Standing::Unknown(match DialError::find(&status) {
                Some(error) => causes(error),
                None => status.message().to_owned(),
            }),
        },
        Err(_) => Standing::Unknown("it does not answer in time".to_owned()),
    })
}

/// Reads a join string from a file, or from the standard input for `-`.
pub fn read_join(path: &Path) -> Result<JoinString, mooring_identity::Error> {
    if path != Path::new("-") {
        return JoinString::read(path);
    }
    let text = std::io::read_to_string(std::io::stdin()).map_err(|source| mooring_identity::Error::File {
        action: "read the join string from",
        path: "the standard input".into(),
        source,
    })?;
    zeroize::Zeroizing::new(text).parse()
}

fn judge(status: Status) -> EnrollError {
    let passing = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            // tonic's words for a connection that broke in the middle.
            | Code::Unknown
    );
    match passing {
        true => EnrollError::Unavailable(status.message().to_owned()),
        false => EnrollError::Refused(status.message().to_owned()),
    }
}

/// An error with its causes, in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
