//! Logging in, and staying logged in: the key is made here and never leaves, the catalog is known by the pin in the
//! join string, and the certificate is renewed before it ends.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use clap::{Arg, ArgMatches};
use mooring_identity::{ClientTls, Clock, Credentials, JoinString, PrivateKey, client};
use mooring_proto::v1::auth_service_client::AuthServiceClient;
use mooring_proto::v1::{LoginRequest, LoginResponse, RenewCertificateRequest};
use tonic::{Code, Status};

use crate::errors::{self, Failure};
use crate::output::{Format, note, print};
use crate::profile::{Profile, Profiles, Settings};
use crate::secrets;

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts to log in: the same token with the same key is the same login, so a lost reply may be asked for again.
const ATTEMPTS: u32 = 3;

/// The command's arguments.
pub(crate) fn command() -> clap::Command {
    clap::Command::new("login")
        .about("Logs in with a join file and keeps the certificate in a profile")
        .long_about(
            "Logs in with a join file and keeps the certificate in a profile.\n\n\
             The join string names the catalog, the pin of its CA and a token that works once. Your private key is made \
             here and never leaves this machine. The certificate renews itself while you work, and for 30 days after \
             its end.",
        )
        .arg(Arg::new("join-file").long("join-file").value_name("FILE").help(
            "The file with the join string, or - for standard input. Without it, a terminal is asked, unseen",
        ))
        .arg(
            Arg::new("endpoint")
                .long("endpoint")
                .value_name("URL")
                .help("Where the catalog is, if not where the join string says"),
        )
        .after_help(
            "Examples:\n  mooring login --join-file operator.join\n  mooring login --profile lab < anna.join --join-file -",
        )
}

/// Logs in.
pub(crate) async fn login(
    matches: &ArgMatches,
    profiles: &Profiles,
    format: Format,
    timeout: Duration,
) -> Result<(), Failure> {
    let profile = profiles.in_use()?;
    let join = join_string(matches.get_one::<String>("join-file").map(String::as_str))?;
    let endpoint = matches
        .get_one::<String>("endpoint")
        .cloned()
        .unwrap_or_else(|| join.endpoint.clone());
    let pending = profile.pending_key()?;
    let key = PrivateKey::load_or_create(&pending)?;

    let enrolled = tokio::time::timeout(timeout, enrol(&endpoint, &join, &key))
        .await
        .unwrap_or_else(|_| {
            Err(Failure::Call {
                status: Box::new(Status::deadline_exceeded("")),
                endpoint: endpoint.clone(),
            })
        });
    if let Err(Failure::Call { status, .. }) = &enrolled
        && errors::code(status) == Code::Unauthenticated
    {
        // No certificate will ever come for it. After any other failure the same key is tried again, since the token may
        // be used up for it already.
        let _ = std::fs::remove_file(&pending);
    }
    let (answer, ca_pem) = enrolled?;
    let credentials = Credentials::new(key, answer.certificate_pem, ca_pem)?;
    let settings = Settings {
        endpoint,
        user: answer.user,
    };
    profile.save(&settings, &credentials)?;
    if let Err(error) = std::fs::remove_file(&pending) {
        return Err(Failure::Local(format!(
            "cannot remove {}: {error}",
            pending.display()
        )));
    }
    if profiles.current()?.is_none() {
        profiles.make_current(&profile)?;
    }
    tell(&profile, &settings, &credentials, format)
}

/// The profile's credentials, renewed when half of their life is over. A renewal that fails while the certificate is
/// still good is only remarked on: the next call tries again.
pub(crate) async fn fresh_credentials(
    profile: &Profile,
    settings: &Settings,
    clock: &Clock,
) -> Result<Credentials, Failure> {
    let credentials = profile
        .credentials()?
        .ok_or_else(|| crate::profile::absent(profile))?;
    // No jitter: people do not call at the same moment, and a profile is used by one of them.
    if clock.now() < credentials.renew_at(0.5) {
        return Ok(credentials);
    }
    match renew(settings, &credentials).await {
        Ok(renewed) => {
            profile.save(settings, &renewed)?;
            Ok(renewed)
        }
        Err(_) if credentials.is_valid_at(clock.now()) => Ok(credentials),
        Err(Failure::Call { status, .. }) if errors::code(&status) == Code::Unauthenticated => {
            Err(Failure::LoggedOut(format!(
                "your certificate ended on {} and is not renewed any more; ask an operator for a join file, then \
                 `mooring login --join-file FILE`",
                credentials.not_after().date()
            )))
        }
        Err(failure) => Err(failure),
    }
}

async fn renew(settings: &Settings, credentials: &Credentials) -> Result<Credentials, Failure> {
    let call = |status| Failure::Call {
        status: Box::new(status),
        endpoint: settings.endpoint.clone(),
    };
    let channel = ClientTls::new(credentials)?
        .channel(&settings.endpoint)
        .map_err(|error| call(Status::from_error(Box::new(error))))?;
    let mut request = tonic::Request::new(RenewCertificateRequest {
        csr_pem: credentials.key().certificate_request()?,
    });
    request.set_timeout(ATTEMPT_TIMEOUT);
    let answer = AuthServiceClient::new(channel)
        .renew_certificate(request)
        .await
        .map_err(call)?;
    Ok(credentials.renewed(answer.into_inner().certificate_pem)?)
}

/// Sends the token, the same key each time. Answers with the CA that the pin has proved, not with one that was sent.
async fn enrol(
    endpoint: &str,
    join: &JoinString,
    key: &PrivateKey,
) -> Result<(LoginResponse, String), Failure> {
    let call = |status: Status| Failure::Call {
        status: Box::new(status),
        endpoint: endpoint.to_owned(),
    };
    let csr_pem = key.certificate_request()?;
    let mut attempt = 1;
    loop {
        let pinned = client::connect_pinned(endpoint, join.pin)
            .await
            .map_err(|error| call(Status::from_error(Box::new(error))))?;
        let mut request = tonic::Request::new(LoginRequest {
            token: join.token().to_owned(),
            csr_pem: csr_pem.clone(),
        });
        request.set_timeout(ATTEMPT_TIMEOUT);
        match AuthServiceClient::new(pinned.channel).login(request).await {
            Ok(answer) => return Ok((answer.into_inner(), pinned.ca_pem)),
            Err(status) if attempt < ATTEMPTS && errors::code(&status) == Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                attempt += 1;
            }
            Err(status) => return Err(call(status)),
        }
    }
}

fn join_string(source: Option<&str>) -> Result<JoinString, Failure> {
    let terminal = std::io::stdin().is_terminal();
    let text = match source {
        Some("-") if !terminal => secrets::standard_input("--join-file")?,
        Some("-") => secrets::prompt("Join string")?,
        Some(path) => secrets::file(Path::new(path), "--join-file")?,
        None if terminal => secrets::prompt("Join string")?,
        None => {
            return Err(Failure::Usage(
                "--join-file is needed: a file, or - for standard input".to_owned(),
            ));
        }
    };
    text.parse()
        .map_err(|error: mooring_identity::Error| Failure::Usage(error.to_string()))
}

fn tell(
    profile: &Profile,
    settings: &Settings,
    credentials: &Credentials,
    format: Format,
) -> Result<(), Failure> {
    let until = credentials.not_after();
    let expire_time = until
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default();
    let Settings { endpoint, user } = settings;
    let fields = serde_json::json!({
        "user": user, "endpoint": endpoint, "profile": profile.name, "expireTime": expire_time,
    });
    match format {
        Format::Table => {
            note(&format!(
                "logged in at {endpoint} as {user} with profile `{}`; the certificate renews itself",
                profile.name
            ));
            Ok(())
        }
        Format::Json => print(&format!("{fields:#}\n")),
        Format::Yaml => print(&serde_norway::to_string(&fields).unwrap_or_default()),
    }
}
