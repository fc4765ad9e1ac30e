//! The call itself: a connection with the profile's certificate, a deadline, a few retries where repeating is safe,
//! and all pages of a list.

use std::time::Duration;

use clap::ArgMatches;
use http::uri::PathAndQuery;
use mooring_identity::{ClientTls, Clock, DialError};
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::codec::DynamicCodec;
use crate::commands::Command;
use crate::descriptors::Descriptors;
use crate::errors::{self, Failure};
use crate::output::{self, Format, note};
use crate::profile::{Profile, Profiles, Settings};
use crate::secrets::Destination;
use crate::{login, request, wait};

/// A call that takes longer than this is stuck: the catalog answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Hosts mount within seconds, but `--wait` may have to wait for open files.
const WAIT_TIMEOUT: Duration = Duration::from_secs(300);

/// Attempts at a call that may be repeated, when the catalog says that it is busy.
const ATTEMPTS: u32 = 3;
/// The first pause; doubled for each further one, unless the catalog names another.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that the catalog can ask of us within one command.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The most a server puts into one page.
const PAGE_MAX: u32 = 1000;

/// Largest answer: a page of 1000 connectors with full descriptions and labels stays below.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What does not change during one run of the program.
pub(crate) struct Context<'a> {
    pub(crate) descriptors: &'a Descriptors,
    pub(crate) profiles: &'a Profiles,
    pub(crate) clock: &'a Clock,
    pub(crate) format: Format,
    /// `--timeout`, if given.
    pub(crate) timeout: Option<Duration>,
}

/// Runs a command that is an rpc.
pub(crate) async fn run(
    context: &Context<'_>,
    command: &Command,
    matches: &ArgMatches,
) -> Result<(), Failure> {
    // Before anything is read or asked for: nobody types a secret in vain.
    let (profile, settings) = logged_in(context)?;
    let message = request::build(command, matches, context.clock)?;
    let waits = command.wait.as_ref().filter(|_| matches.get_flag("wait"));
    let mut destinations = command
        .answer_secrets
        .iter()
        .filter_map(|secret| Some((secret, matches.get_one::<String>(&secret.flag)?)))
        .map(|(secret, path)| Ok((&secret.field, Destination::prepare(path, &secret.flag)?)))
        .collect::<Result<Vec<_>, Failure>>()?;

    let timeout = context
        .timeout
        .unwrap_or(if waits.is_some() { WAIT_TIMEOUT } else { TIMEOUT });
    let mut caller = Caller::connect(context, &profile, settings, timeout).await?;
    let mut answer = if command.pages {
        let limit = matches
            .get_one::<u32>("limit")
            .copied()
            .filter(|limit| *limit > 0);
        all_pages(&mut caller, command, message, limit).await?
    } else {
        caller
            .call(&command.method, message, command.may_be_repeated())
            .await?
    };

    let mut on_screen = false;
    for (field, destination) in &mut destinations {
        let secret = answer.get_field(field);
        destination.write(secret.as_str().unwrap_or_default())?;
        on_screen |= matches!(destination, Destination::StandardOutput);
    }
    if on_screen {
        return Ok(());
    }
    if let Some(options) = waits {
        let (last, sentence) = wait::until_done(context.descriptors, &mut caller, options, answer).await?;
        if context.format == Format::Table {
            return output::print(&format!("{sentence}\n"));
        }
        answer = last;
    }
    let nothing = output::rows(&answer).is_some_and(|(_, rows)| rows.is_empty());
    output::show(context.descriptors, context.format, &command.words(), answer)?;
    if nothing && context.format == Format::Table {
        hint_at_hidden(command, matches);
    }
    Ok(())
}

/// A list that is empty because of what it leaves out says how to see that.
fn hint_at_hidden(command: &Command, matches: &ArgMatches) {
    let hidden = command
        .arguments
        .iter()
        .find(|argument| argument.flag.starts_with("show-") && !matches.contains_id(&argument.flag));
    if let Some(argument) = hidden {
        note(&format!("{} lists more", argument.shown()));
    }
}

/// The profile in use and what it knows.
fn logged_in(context: &Context<'_>) -> Result<(Profile, Settings), Failure> {
    let profile = context.profiles.in_use()?;
    match profile.settings()? {
        Some(settings) => Ok((profile, settings)),
        None => Err(crate::profile::absent(&profile)),
    }
}

/// A connection with a deadline for all that is done with it.
pub(crate) struct Caller {
    grpc: tonic::client::Grpc<Channel>,
    endpoint: String,
    deadline: Instant,
    clock: Clock,
}

impl Caller {
    /// Renews the profile's certificate where that is due. Connects at the first call.
    async fn connect(
        context: &Context<'_>,
        profile: &Profile,
        settings: Settings,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let deadline = Instant::now() + timeout;
        let failed = |status| Failure::Call {
            status: Box::new(status),
            endpoint: settings.endpoint.clone(),
        };
        let fresh = login::fresh_credentials(profile, &settings, context.clock);
        let credentials = tokio::time::timeout_at(deadline, fresh)
            .await
            .unwrap_or_else(|_| Err(failed(Status::deadline_exceeded(""))))?;
        let channel = ClientTls::new(&credentials)?
            .channel(&settings.endpoint)
            .map_err(|error| failed(Status::from_error(Box::new(error))))?;
        let grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self {
            grpc,
            endpoint: settings.endpoint,
            deadline,
            clock: context.clock.clone(),
        })
    }

    /// When everything must be over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The failure that a status means here.
    pub(crate) fn failure(&self, status: Status) -> Failure {
        Failure::Call {
            status: Box::new(status),
            endpoint: self.endpoint.clone(),
        }
    }

    /// Calls an rpc; again, if that is safe and the catalog is there but busy.
    pub(crate) async fn call(
        &mut self,
        method: &MethodDescriptor,
        message: DynamicMessage,
        may_be_repeated: bool,
    ) -> Result<DynamicMessage, Failure> {
        let mut attempt = 1;
        loop {
            match self.attempt(method, message.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => match self
                    .pause_before_repeating(&status, attempt)
                    .filter(|_| may_be_repeated)
                {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(self.failure(status)),
                },
            }
            attempt += 1;
        }
    }

    async fn attempt(
        &mut self,
        method: &MethodDescriptor,
        message: DynamicMessage,
    ) -> Result<DynamicMessage, Status> {
        let path: PathAndQuery = format!("/{}/{}", method.parent_service().full_name(), method.name())
            .parse()
            .map_err(|_| Status::internal("the method's name is no path"))?;
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        let codec = DynamicCodec {
            answer: method.output(),
        };
        let call = async {
            self.grpc
                .ready()
                .await
                .map_err(|error| Status::from_error(Box::new(error)))?;
            self.grpc.unary(request, path, codec).await
        };
        let answer = tokio::time::timeout_at(self.deadline, call).await;
        Ok(answer.map_err(|_| Status::deadline_exceeded(""))??.into_inner())
    }

    /// How long to rest; `None` when there is nothing to hope for: nobody is there, or the time is up.
    fn pause_before_repeating(&self, status: &Status, attempt: u32) -> Option<Duration> {
        if attempt >= ATTEMPTS
            || errors::code(status) != Code::Unavailable
            || DialError::find(status).is_some()
        {
            return None;
        }
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let pause = asked
            .unwrap_or(PAUSE * 2u32.pow(attempt - 1))
            .min(PAUSE_MAX)
            .mul_f64(0.75 + self.clock.jitter() / 2.0);
        (Instant::now() + pause < self.deadline).then_some(pause)
    }
}

/// Reads pages until there are no more or `limit` rows are there, and puts them into one answer.
async fn all_pages(
    caller: &mut Caller,
    command: &Command,
    mut message: DynamicMessage,
    limit: Option<u32>,
) -> Result<DynamicMessage, Failure> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let missing = limit.map_or(PAGE_MAX, |limit| {
            limit.saturating_sub(all.len() as u32).min(PAGE_MAX)
        });
        message.set_field_by_name("page_size", Value::I32(missing as i32));
        let mut page = caller.call(&command.method, message.clone(), true).await?;
        let Some(field) = output::list_field(&page) else {
            return Ok(page);
        };
        if let Some(Value::List(items)) = page.take_field(&field) {
            all.extend(items);
        }
        let token = page.take_field_by_name("next_page_token");
        let token = token
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let full = limit.is_some_and(|limit| all.len() >= limit as usize);
        if token.is_empty() || full {
            if !token.is_empty() {
                note(&format!(
                    "only the first {} are shown; --limit 0 shows all",
                    all.len()
                ));
            }
            page.set_field(&field, Value::List(all));
            return Ok(page);
        }
        message.set_field_by_name("page_token", Value::String(token));
    }
}
