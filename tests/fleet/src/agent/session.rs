//! One session of a host, from Hello to its end. A host in a bad mood reads nothing, or talks without end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mooring_agent::backoff;
use mooring_agent::ledger::Standing;
use mooring_agent::session::beginnings::Beginnings;
use mooring_agent::session::life;
use mooring_identity::{ClientTls, Clock};
use mooring_proto::agent::v1 as pb;
use mooring_proto::agent::v1::connect_request::Message as Said;
use mooring_proto::agent::v1::connect_response::Message as Heard;
use mooring_proto::agent::v1::session_service_client::SessionServiceClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{Agent, Member};
use crate::board::Mood;
use crate::mounts::Mounts;

/// As the real agent's.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
const QUEUE_MESSAGES: usize = 16;
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
const REPORT_REST: Duration = Duration::from_millis(20);

/// Why a session has ended.
pub(super) enum End {
    /// A new certificate is there: the next one begins at once.
    Renewed,
    Because(String),
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Because(match mooring_identity::DialError::find(&status) {
            Some(error) => mooring_agent::enroll::causes(error),
            None => format!("{:?}: {}", status.code(), status.message()),
        })
    }
}

impl From<&str> for End {
    fn from(reason: &str) -> Self {
        Self::Because(reason.to_owned())
    }
}

/// How a host behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Good,
    /// It reads nothing, and goes on to report.
    Deaf,
    /// It reports something else all the time, as fast as it gets it off.
    Talkative,
}

impl Manners {
    fn of(number: usize, mood: Mood) -> Self {
        if number < mood.deaf {
            Self::Deaf
        } else if number < mood.deaf + mood.talkative {
            Self::Talkative
        } else {
            Self::Good
        }
    }
}

/// What happens on a session.
enum Event {
    Heard(Box<Result<Option<pb::ConnectResponse>, tonic::Status>>),
    Mount,
    Report,
    Mood,
    Renewed,
    Dialled(Channel),
}

impl Agent {
    /// Keeps one session. If it ends by a renewal, `dialled` has a connection for the next one then.
    pub(super) async fn attend(
        &self,
        member: &Member,
        mounts: &mut Mounts,
        dialled: &mut Option<Channel>,
    ) -> End {
        match self.try_to_attend(member, mounts, dialled).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_to_attend(
        &self,
        member: &Member,
        mounts: &mut Mounts,
        dialled: &mut Option<Channel>,
    ) -> Result<std::convert::Infallible, End> {
        let mut renewed = member.renewed.subscribe();
        let channel = match dialled.take() {
            Some(channel) => channel,
            None => member
                .tls
                .channel_from(self.source().into(), &self.join.endpoint)
                .map_err(|error| End::Because(error.to_string()))?,
        };
        let mut client = SessionServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, outbound) = mpsc::channel(QUEUE_MESSAGES);
        say(&queue, Said::Hello(mounts.hello(&member.uid.to_string()))).await?;
        let opening = client.connect(ReceiverStream::new(outbound));
        let inbound = timeout(OPEN_TIMEOUT, opening).await;
        let mut inbound = inbound
            .map_err(|_| "the stream does not open in time")??
            .into_inner();
        let first = timeout(OPEN_TIMEOUT, inbound.message()).await;
        let first = first.map_err(|_| "no Welcome in time")??;
        let Some(Heard::Welcome(welcome)) = first.and_then(|first| first.message) else {
            return Err("no Welcome first".into());
        };
        let _holding_still = match mounts.judge(&member.realm_uid, &welcome) {
            Standing::Follow => None,
            Standing::HoldStill(reason) => {
                self.board.ended(reason);
                Some(self.board.holding_still.hold())
            }
        };
        let heartbeat = welcome
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok())
            .map_or(HEARTBEAT_MAX, |interval| interval.min(HEARTBEAT_MAX));
        let mut mood = self.board.mood();
        let mut manners = Manners::of(self.number, *mood.borrow_and_update());
        let mut open = None;
        let mut report_due = Instant::now();
        let mut beginnings = Beginnings::default();
        let mut dials = JoinSet::new();
        let mut leaves_at = Instant::now() + life(self.clock.jitter());
        loop {
            let mount_due = mounts.due().map(Instant::from_std);
            let deaf = manners == Manners::Deaf;
            let event = tokio::select! {
                heard = inbound.message(), if !deaf => Event::Heard(Box::new(heard)), // cancel-safe: a message half read stays in the stream
                () = sleep_until_some(mount_due) => Event::Mount, // cancel-safe: no state
                () = sleep_until(report_due) => Event::Report, // cancel-safe: no state
                _ = mood.changed() => Event::Mood, // cancel-safe per tokio's docs
                _ = renewed.changed() => Event::Renewed, // cancel-safe per tokio's docs
                () = sleep_until(leaves_at) => Event::Renewed, // cancel-safe: no state
                Some(Ok(channel)) = dials.join_next() => Event::Dialled(channel), // cancel-safe per tokio's docs
            };
            match event {
                Event::Heard(heard) => {
                    let message = (*heard)?.ok_or("the catalog has ended the stream")?;
                    let begun = self.obey(mounts, &welcome, message)?;
                    if begun && open.is_none() {
                        open = Some(self.board.attends(self.number));
                    }
                    say(
                        &queue,
                        Said::Ack(pb::Ack {
                            revision: mounts.revision(),
                        }),
                    )
                    .await?;
                    report_due = report_due.min(Instant::now() + REPORT_REST);
                }
                Event::Mount => {
                    if mounts.turn(self.clock.now(), &self.board) {
                        report_due = report_due.min(Instant::now() + REPORT_REST);
                    }
                }
                Event::Report => {
                    let talkative = manners == Manners::Talkative;
                    if let Some(mut report) = mounts.report() {
                        if talkative {
                            vary(&mut report, self.clock.jitter());
                        } else if let Some(until) = beginnings.waits_until(&report, Instant::now()) {
                            report_due = until;
                            continue;
                        }
                        beginnings.said(report.clone());
                        say(&queue, Said::Report(report)).await?;
                    }
                    report_due = Instant::now() + if talkative { Duration::ZERO } else { heartbeat };
                }
                Event::Mood => {
                    manners = Manners::of(self.number, *mood.borrow_and_update());
                    report_due = Instant::now() + heartbeat.mul_f64(self.clock.jitter());
                }
                Event::Renewed => {
                    dials = JoinSet::new();
                    leaves_at = Instant::now() + life(self.clock.jitter());
                    let (tls, endpoint) = (Arc::clone(&member.tls), self.join.endpoint.clone());
                    dials.spawn(dial(tls, self.source().into(), endpoint, self.clock.clone()));
                }
                Event::Dialled(channel) => {
                    *dialled = Some(channel);
                    return Err(End::Renewed);
                }
            }
        }
    }

    /// Takes what the catalog has said; answers whether this host has now been told all that it shall have.
    fn obey(
        &self,
        mounts: &mut Mounts,
        welcome: &pb::Welcome,
        message: pb::ConnectResponse,
    ) -> Result<bool, End> {
        match message.message {
            Some(Heard::Snapshot(snapshot)) => {
                mounts.take_snapshot(welcome, &snapshot, &self.board);
                Ok(true)
            }
            Some(Heard::Delta(delta)) => {
                let gap = mounts.take_delta(&delta, &self.board);
                gap.map_err(|gap| End::Because(gap.to_string()))?;
                Ok(false)
            }
            Some(Heard::Ban(_)) => Err("this host is banned, and nobody here bans hosts".into()),
            Some(Heard::Welcome(_)) | None => Err("the catalog speaks out of turn".into()),
        }
    }
}

/// As the real agent's.
async fn dial(tls: Arc<ClientTls>, source: IpAddr, endpoint: String, clock: Clock) -> Channel {
    let mut failures = 0;
    loop {
        match tls.connect_from(source, &endpoint).await {
            Ok(channel) => return channel,
            Err(_) => {
                failures += 1;
                sleep(backoff::CATALOG.delay(failures, clock.jitter())).await;
            }
        }
    }
}

/// Makes a report another one than the last.
fn vary(report: &mut pb::Report, random: f64) {
    for condition in report
        .mounts
        .iter_mut()
        .flat_map(|mount| mount.conditions.iter_mut())
    {
        condition.reason = format!("Reason{}", (random * 1e6) as u32);
    }
}

async fn say(queue: &mpsc::Sender<pb::ConnectRequest>, message: Said) -> Result<(), End> {
    let request = pb::ConnectRequest {
        message: Some(message),
    };
    match timeout(SEND_TIMEOUT, queue.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the connection is gone".into()),
        Err(_) => Err("the catalog does not read in time".into()),
    }
}

async fn sleep_until_some(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
