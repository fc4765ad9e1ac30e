//! How a host asks for its next certificate: with the one that it has, as long as that counts; with its key alone once it
//! has ended, because the host was off or the catalog away. Both answer a ban instead, if there is one.

use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{ClientTls, Credentials, StatementKind};
use mooring_proto::agent::v1 as pb;
use mooring_proto::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::enroll::causes;

/// One call.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// What a host that asks for a certificate gets.
#[derive(Debug)]
pub enum Answer {
    /// A certificate in PEM.
    Certificate(String),
    /// It is banned, somebody says.
    Ban(pb::SignedBan),
}

/// Why it gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The certificate in use counts no longer for the catalog, whatever our clock says.
    #[error("{0}")]
    Ended(String),
    /// Anything else, in one line.
    #[error("{0}")]
    Other(String),
}

/// Asks with the certificate that `tls` shows.
pub async fn renew(
    tls: &Arc<ClientTls>,
    endpoint: &str,
    credentials: &Credentials,
) -> Result<Answer, Refusal> {
    let csr_pem = request(credentials)?;
    let mut client = client(tls, endpoint)?;
    let answer = call(client.renew_certificate(pb::RenewCertificateRequest { csr_pem })).await?;
    let pb::RenewCertificateResponse {
        certificate_pem,
        expire_time: _,
        ban,
    } = answer;
    Ok(answered(certificate_pem, ban))
}

/// Asks with the host's key alone: it signs what the catalog gives it to sign.
pub async fn recover(endpoint: &str, credentials: &Credentials, host_uid: Uuid) -> Result<Answer, Refusal> {
    let csr_pem = request(credentials)?;
    let tls = ClientTls::without_certificate(credentials.ca_pem()).map_err(|error| other(&error))?;
    let mut client = client(&tls, endpoint)?;
    let begin = pb::BeginRecoveryRequest {
        host_uid: host_uid.to_string(),
    };
    let nonce = call(client.begin_recovery(begin)).await?.nonce;
    let statement = [host_uid.as_bytes().as_slice(), &nonce].concat();
    let signature = credentials
        .key()
        .sign(&StatementKind::Recovery.signed_bytes(&statement))
        .map_err(|error| other(&error))?;
    let recover = pb::RecoverRequest {
        host_uid: host_uid.to_string(),
        nonce,
        csr_pem,
        signature,
    };
    let pb::RecoverResponse {
        certificate_pem,
        expire_time: _,
        ban,
    } = call(client.recover(recover)).await?;
    Ok(answered(certificate_pem, ban))
}

fn answered(certificate_pem: String, ban: Option<pb::SignedBan>) -> Answer {
    ban.map_or(Answer::Certificate(certificate_pem), Answer::Ban)
}

fn request(credentials: &Credentials) -> Result<String, Refusal> {
    credentials
        .key()
        .certificate_request()
        .map_err(|error| other(&error))
}

fn client(
    tls: &Arc<ClientTls>,
    endpoint: &str,
) -> Result<EnrollmentServiceClient<tonic::transport::Channel>, Refusal> {
    let channel = tls.channel(endpoint).map_err(|error| other(&error))?;
    Ok(EnrollmentServiceClient::new(channel))
}

async fn call<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Refusal> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Err(_) => Err(Refusal::Other("the catalog does not answer in time".to_owned())),
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) if status.code() == Code::Unauthenticated => {
            Err(Refusal::Ended(status.message().to_owned()))
        }
        Ok(Err(status)) => Err(other(&status)),
    }
}

fn other(error: &dyn std::error::Error) -> Refusal {
    Refusal::Other(causes(error))
}
