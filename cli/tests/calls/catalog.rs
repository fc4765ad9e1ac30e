//! A catalog that answers from memory, in this process, and a person with the real program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mooring_identity::testing::TestAuthority;
use mooring_identity::{
    Authority, Clock, Incoming, JoinString, Limits, Peer, PeerLayer, Principal, ServerTls,
};
use mooring_proto::v1::activation_service_server::{ActivationService, ActivationServiceServer};
use mooring_proto::v1::auth_service_server::{AuthService, AuthServiceServer};
use mooring_proto::v1::user_service_server::{UserService, UserServiceServer};
use mooring_proto::v1::*;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

pub const TOKEN: &str = "planted-token";
pub const USERS: usize = 2500;

/// How the fake behaves, and what it has seen.
pub struct Fake {
    pub ca: TestAuthority,
    pub clock: Clock,
    pub life: Mutex<Duration>,
    pub renewals: AtomicU32,
    pub logins: AtomicU32,
    /// Calls of GetUser to refuse before one is answered.
    pub busy: AtomicU32,
    /// Calls of Login whose answers are lost.
    pub lose: AtomicU32,
    pub keys: Mutex<Vec<String>>,
    pub polls: AtomicU32,
}

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
struct Service(Arc<Fake>);

impl Service {
    fn issue(&self, csr: &str) -> LoginResponse {
        let fake = &self.0;
        let authority: &Authority = fake.ca.authority();
        let user = Principal::User(Uuid::from_u128(1));
        let issued = authority
            .issue(csr, user, *fake.life.lock().unwrap(), fake.clock.now())
            .unwrap();
        fake.keys.lock().unwrap().push(issued.key_sha256.to_string());
        LoginResponse {
            user: "users/anna".into(),
            certificate_pem: issued.certificate_pem,
            ca_pem: "not to be believed".into(),
            expire_time: None,
        }
    }
}

#[tonic::async_trait]
impl AuthService for Service {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Answer<WhoAmIResponse> {
        let peer = Peer::of(request.extensions());
        let identity = peer
            .identity()
            .filter(|identity| identity.is_valid_at(self.0.clock.now()));
        identity.ok_or_else(|| Status::unauthenticated("no valid certificate"))?;
        Ok(Response::new(WhoAmIResponse {
            user: "users/anna".into(),
            ..Default::default()
        }))
    }

    async fn get_server_info(&self, _: Request<GetServerInfoRequest>) -> Answer<ServerInfo> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(Response::new(ServerInfo::default()))
    }

    async fn login(&self, request: Request<LoginRequest>) -> Answer<LoginResponse> {
        let request = request.into_inner();
        if request.token != TOKEN {
            return Err(Status::unauthenticated("this token is not known"));
        }
        self.0.logins.fetch_add(1, Ordering::Relaxed);
        let answer = self.issue(&request.csr_pem);
        if self
            .0
            .lose
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(answer))
    }

    async fn renew_certificate(&self, request: Request<RenewCertificateRequest>) -> Answer<LoginResponse> {
        let peer = Peer::of(request.extensions());
        let identity = peer
            .identity()
            .ok_or_else(|| Status::unauthenticated("no certificate"))?;
        if identity.not_after < self.0.clock.now() - time::Duration::days(30) {
            return Err(Status::unauthenticated("it ended too long ago"));
        }
        self.0.renewals.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(self.issue(&request.into_inner().csr_pem)))
    }
}

#[tonic::async_trait]
impl UserService for Service {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Answer<User> {
        let id = request.into_inner().user_id;
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("user_id", "it must be lower case");
        Err(Status::with_error_details(
            Code::InvalidArgument,
            format!("user_id {id} is wrong"),
            details,
        ))
    }

    async fn get_user(&self, _: Request<GetUserRequest>) -> Answer<User> {
        let busy = self
            .0
            .busy
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if busy.is_ok() {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(10)));
            return Err(Status::with_error_details(Code::Unavailable, "busy", details));
        }
        Ok(Response::new(User {
            name: "users/anna".into(),
            ..Default::default()
        }))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Answer<ListUsersResponse> {
        let ListUsersRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let start: usize = page_token.parse().unwrap_or(0);
        let end = (start + usize::try_from(page_size).unwrap().clamp(1, 1000)).min(USERS);
        let users = (start..end)
            .map(|n| User {
                name: format!("users/u{n}"),
                ..Default::default()
            })
            .collect();
        let next_page_token = if end < USERS {
            end.to_string()
        } else {
            String::new()
        };
        Ok(Response::new(ListUsersResponse {
            users,
            next_page_token,
        }))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Answer<User> {
        let request = request.into_inner();
        assert_eq!(request.update_mask.unwrap().paths, ["display_name"]);
        Ok(Response::new(request.user.unwrap()))
    }

    async fn delete_user(&self, _: Request<DeleteUserRequest>) -> Answer<()> {
        Ok(Response::new(()))
    }

    async fn disable_user(&self, _: Request<DisableUserRequest>) -> Answer<User> {
        Err(Status::not_found("users/nobody does not exist"))
    }

    async fn enable_user(&self, _: Request<EnableUserRequest>) -> Answer<User> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl ActivationService for Service {
    async fn activate(&self, request: Request<ActivateRequest>) -> Answer<Activation> {
        self.0.polls.store(0, Ordering::Relaxed);
        let pool = request.into_inner().pool;
        Ok(Response::new(Activation {
            name: format!("projects/ml/activations/{}", pool.trim_start_matches("pools/")),
            state: ActivationState::Pending.into(),
            desired_hosts: 2,
            ..Default::default()
        }))
    }

    async fn deactivate(&self, _: Request<DeactivateRequest>) -> Answer<Activation> {
        Err(Status::failed_precondition("not now"))
    }

    /// Active at the third look; pool `broken` fails, pool `slow` never ends.
    async fn get_activation(&self, request: Request<GetActivationRequest>) -> Answer<Activation> {
        let name = request.into_inner().name;
        let polls = self.0.polls.fetch_add(1, Ordering::Relaxed) + 1;
        let state = match name.rsplit('/').next() {
            Some("broken") => ActivationState::Failed,
            Some("slow") => ActivationState::Pending,
            _ if polls < 3 => ActivationState::Degraded,
            _ => ActivationState::Active,
        };
        let message = if state == ActivationState::Failed {
            "the bucket does not exist"
        } else {
            ""
        }
        .to_owned();
        Ok(Response::new(Activation {
            name,
            state: state.into(),
            desired_hosts: 2,
            mounted_hosts: i32::try_from(polls.min(2)).unwrap(),
            message,
            mount_path: "ml/lake".into(),
            ..Default::default()
        }))
    }

    async fn list_activations(&self, _: Request<ListActivationsRequest>) -> Answer<ListActivationsResponse> {
        Ok(Response::new(ListActivationsResponse::default()))
    }

    async fn list_mounts(&self, _: Request<ListMountsRequest>) -> Answer<ListMountsResponse> {
        Err(Status::unimplemented(""))
    }
}

/// A catalog in this process, a person with the real program.
pub struct World {
    pub fake: Arc<Fake>,
    pub endpoint: String,
    pub folder: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
}

impl World {
    pub fn start() -> Self {
        let clock = Clock::system();
        let fake = Arc::new(Fake {
            ca: TestAuthority::new(clock.now()),
            life: Mutex::new(Duration::from_secs(86_400)),
            renewals: AtomicU32::new(0),
            logins: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            lose: AtomicU32::new(0),
            keys: Mutex::default(),
            polls: AtomicU32::new(0),
            clock,
        });
        let tls = ServerTls::new(&fake.ca.server(Duration::from_secs(3600), fake.clock.now())).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let incoming = runtime
            .block_on(Incoming::bind(
                ([127, 0, 0, 1], 0).into(),
                tls,
                Limits::of_open_files(1024),
            ))
            .unwrap();
        let endpoint = format!("https://localhost:{}", incoming.local_address().unwrap().port());
        let service = Service(Arc::clone(&fake));
        runtime.spawn(
            tonic::transport::Server::builder()
                .layer(PeerLayer::new(TestAuthority::trust_domain()))
                .add_service(AuthServiceServer::new(service.clone()))
                .add_service(UserServiceServer::new(service.clone()))
                .add_service(ActivationServiceServer::new(service))
                .serve_with_incoming(incoming),
        );
        Self {
            fake,
            endpoint,
            folder: tempfile::tempdir().unwrap(),
            runtime,
        }
    }

    pub fn logged_in() -> Self {
        let world = Self::start();
        world.log_in();
        world
    }

    pub fn log_in(&self) -> String {
        let join = self.join_file(TOKEN);
        self.succeeds(&["login", "--join-file", join.to_str().unwrap()]).1
    }

    pub fn join_file(&self, token: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{token}.join"));
        JoinString::new(&self.endpoint, token, self.fake.ca.pin())
            .write(&path)
            .unwrap();
        path
    }

    pub fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mooring"))
            .env("MOORING_CONFIG_DIR", self.config())
            .env_remove("MOORING_PROFILE")
            .stdin(Stdio::null())
            .args(words)
            .output()
            .unwrap()
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    pub fn succeeds(&self, words: &[&str]) -> (String, String) {
        let (code, out, err) = self.told(words);
        assert_eq!(code, 0, "{words:?}: {out}{err}");
        (out, err)
    }

    pub fn told(&self, words: &[&str]) -> (i32, String, String) {
        let output = self.run(words);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

pub fn no_file_holds(folder: &Path, needle: &str) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().all(|entry| {
        let path = entry.path();
        if path.is_dir() {
            no_file_holds(&path, needle)
        } else {
            !std::fs::read_to_string(path).unwrap().contains(needle)
        }
    })
}
