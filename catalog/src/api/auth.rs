//! Who the caller is, and logging in, over gRPC.

use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{split, timestamp};
use crate::ops::auth::{Credential, GetServerInfo, ServerInfo, WhoAmI, Whoami};
use crate::store::realm::Realm;

#[tonic::async_trait]
impl pb::auth_service_server::AuthService for Api {
    async fn who_am_i(
        &self,
        request: Request<pb::WhoAmIRequest>,
    ) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let (caller, _) = split(request)?;
        let permit = self.catalog.permit(&caller, WhoAmI).await?;
        let Whoami {
            user,
            certificate_expire_time,
            roles,
        } = self.catalog.whoami(permit).await?;
        Ok(Response::new(pb::WhoAmIResponse {
            user: user.name.to_string(),
            uid: user.meta.uid.to_string(),
            display_name: user.meta.texts.display_name,
            certificate_expire_time: Some(timestamp(certificate_expire_time)),
            roles,
        }))
    }

    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::ServerInfo>, Status> {
        let (caller, _) = split(request)?;
        let permit = self.catalog.permit(&caller, GetServerInfo).await?;
        let ServerInfo {
            realm: Realm { uid, epoch, revision },
            trust_domain,
            server_time,
        } = self.catalog.server_info(permit).await?;
        Ok(Response::new(pb::ServerInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            realm_uid: uid.to_string(),
            trust_domain,
            revision,
            epoch,
            server_time: Some(timestamp(server_time)),
        }))
    }

    async fn login(&self, request: Request<pb::LoginRequest>) -> Result<Response<pb::LoginResponse>, Status> {
        let (_, body) = split(request)?;
        let token = zeroize::Zeroizing::new(body.token);
        Ok(Response::new(
            self.catalog.login(&token, &body.csr_pem).await?.into(),
        ))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::LoginResponse>, Status> {
        let (caller, body) = split(request)?;
        Ok(Response::new(
            self.catalog
                .renew_certificate(&caller, &body.csr_pem)
                .await?
                .into(),
        ))
    }
}

impl From<Credential> for pb::LoginResponse {
    fn from(credential: Credential) -> Self {
        let Credential { user, issued, ca_pem } = credential;
        Self {
            user: user.name.to_string(),
            certificate_pem: issued.certificate_pem,
            ca_pem,
            expire_time: Some(timestamp(issued.not_after)),
        }
    }
}
