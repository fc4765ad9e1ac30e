//! How hosts join and renew, over gRPC.

use tonic::{Request, Response, Status};
use uuid::Uuid;

use mooring_proto::agent::v1 as pb;

use super::decode::{split, timestamp};
use super::{Api, words};
use crate::domain::host::HostFacts;
use crate::domain::{Backend, Error};
use crate::ops::enrollment::{Enrolled, Newcomer};
use crate::ops::recovery::{Answered, Recovering};

/// Longest text that is kept of what a machine says of itself.
const FACT_CHARS_MAX: usize = 200;
/// Backends that are kept; there are three.
const BACKENDS_MAX: usize = 16;

#[tonic::async_trait]
impl pb::enrollment_service_server::EnrollmentService for Api {
    async fn enroll(
        &self,
        request: Request<pb::EnrollRequest>,
    ) -> Result<Response<pb::EnrollResponse>, Status> {
        let (_, body) = split(request)?;
        let enrolled = self
            .catalog
            .enroll_host(Newcomer {
                token: &body.token,
                csr_pem: &body.csr_pem,
                hpke_public_key: &body.hpke_public_key,
                hpke_key_signature: &body.hpke_key_signature,
                host_name: &body.host_name,
                facts: facts(body.facts.unwrap_or_default()),
            })
            .await?;
        let Enrolled {
            host,
            realm_uid,
            issued,
            ca_pem,
        } = enrolled;
        Ok(Response::new(pb::EnrollResponse {
            host: host.name.to_string(),
            host_uid: host.meta.uid.to_string(),
            realm_uid: realm_uid.to_string(),
            certificate_pem: issued.certificate_pem,
            ca_pem,
            expire_time: Some(timestamp(issued.not_after)),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let (caller, body) = split(request)?;
        let identity = caller.host(self.catalog.clock.now())?;
        let answered = self
            .catalog
            .renew_host_certificate(identity, &body.csr_pem)
            .await?;
        let (certificate_pem, expire_time, ban) = parts(answered);
        Ok(Response::new(pb::RenewCertificateResponse {
            certificate_pem,
            expire_time,
            ban,
        }))
    }

    async fn begin_recovery(
        &self,
        request: Request<pb::BeginRecoveryRequest>,
    ) -> Result<Response<pb::BeginRecoveryResponse>, Status> {
        let (_, body) = split(request)?;
        let (nonce, end) = self.catalog.begin_recovery(host_uid(&body.host_uid)?);
        Ok(Response::new(pb::BeginRecoveryResponse {
            nonce,
            expire_time: Some(timestamp(end)),
        }))
    }

    async fn recover(
        &self,
        request: Request<pb::RecoverRequest>,
    ) -> Result<Response<pb::RecoverResponse>, Status> {
        let (_, body) = split(request)?;
        let recovering = Recovering {
            host_uid: host_uid(&body.host_uid)?,
            nonce: &body.nonce,
            csr_pem: &body.csr_pem,
            signature: &body.signature,
        };
        let (certificate_pem, expire_time, ban) = parts(self.catalog.recover_host(recovering).await?);
        Ok(Response::new(pb::RecoverResponse {
            certificate_pem,
            expire_time,
            ban,
        }))
    }
}

fn host_uid(text: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(text).map_err(|_| Error::invalid("host_uid", "it is no UUID"))
}

/// Certificate, end and ban: either the first two or the last.
fn parts(answered: Answered) -> (String, Option<prost_types::Timestamp>, Option<pb::SignedBan>) {
    match answered {
        Answered::Issued(issued) => (issued.certificate_pem, Some(timestamp(issued.not_after)), None),
        Answered::Banned(ban) => (String::new(), None, Some(ban)),
    }
}

/// What a machine says of itself, cut to what is kept. Backends that this catalog does not know are left out.
pub(super) fn facts(facts: pb::HostFacts) -> HostFacts {
    let pb::HostFacts {
        agent_version,
        kernel_version,
        backends,
    } = facts;
    HostFacts {
        agent_version: short(agent_version),
        kernel_version: short(kernel_version),
        backends: backends
            .into_iter()
            .take(BACKENDS_MAX)
            .filter_map(|pb::BackendFact { backend, version }| {
                Some((Backend::from_name(&backend)?, short(version)))
            })
            .collect(),
    }
}

fn short(text: String) -> String {
    words::kept(text, FACT_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_is_cut_to_what_is_kept() {
        let backend = |name: &str| pb::BackendFact {
            backend: name.into(),
            version: "1\n2".into(),
        };
        let kept = facts(pb::HostFacts {
            agent_version: "x".repeat(1000),
            kernel_version: "6.18".into(),
            backends: vec![backend("DEFAULT"), backend("ZFS")],
        });
        assert_eq!(kept.agent_version.len(), FACT_CHARS_MAX);
        assert_eq!(kept.backends, [(Backend::Default, "12".to_owned())]);
    }
}
