//! One stream, from Hello to its end.

use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{ClientTls, Clock};
use mooring_proto::agent::v1 as pb;
use mooring_proto::agent::v1::connect_request::Message as Said;
use mooring_proto::agent::v1::connect_response::Message as Heard;
use mooring_proto::agent::v1::session_service_client::SessionServiceClient;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use super::beginnings::Beginnings;
use super::{Ended, Session};
use crate::backoff;
use crate::blocking::blocking;
use crate::desired::Order;
use crate::ledger::{Held, Standing};
use crate::status::MountStatus;

/// For the stream to open, and for the Welcome. The dialler has its own 5 s within it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// For a message of ours to leave. The queue is full only when the connection is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);

/// Messages of ours on their way: a report and the answers to one delta; more would only be staler reports.
const QUEUE_MESSAGES: usize = 16;

/// The largest snapshot: 10,000 assignments of a KiB and room to spare.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The version of the protocol that this agent speaks.
const PROTOCOL_VERSION: i32 = 1;

/// Reports closer together than this are put into one, so that many mounts that change at once are not many reports.
const REPORT_REST: Duration = Duration::from_millis(20);

/// After a time between these two the session goes on over a new connection, as after a renewal: a fleet that came back
/// within one minute is spread over many, before the catalog ends all these connections an hour later in the same minute.
const LIFE_MIN: Duration = Duration::from_secs(30 * 60);
const LIFE_MAX: Duration = Duration::from_secs(50 * 60);

/// What happens on an open stream.
enum Event {
    Shutdown,
    Renewed,
    Dialled(Channel),
    Changed,
    Heard(Box<Result<Option<pb::ConnectResponse>, tonic::Status>>),
    Report,
}

impl Session {
    /// Opens a stream and serves it to its end. If that is a renewal, `dialled` has a connection for the next one then.
    pub(super) async fn attend(
        &mut self,
        dialled: &mut Option<Channel>,
        shutdown: &CancellationToken,
    ) -> Ended {
        let ready = dialled.take();
        if ready.is_none() {
            self.renewed.mark_unchanged();
        }
        self.facts.mark_unchanged();
        let open = self.open(ready);
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ended::Shutdown, // cancel-safe: no state
            opened = open => opened, // dropped half-way, the catalog sees a stream that has ended
        };
        match opened {
            Ok((queue, inbound, welcome)) => {
                let serve = self.serve(queue, inbound, welcome, dialled, shutdown);
                match serve.await {
                    Ok(never) => match never {},
                    Err(ended) => ended,
                }
            }
            Err(ended) => ended,
        }
    }

    async fn open(
        &self,
        ready: Option<Channel>,
    ) -> Result<
        (
            mpsc::Sender<pb::ConnectRequest>,
            Streaming<pb::ConnectResponse>,
            pb::Welcome,
        ),
        Ended,
    > {
        // A channel of its own: a new connection shows the newest certificate.
        let channel = match ready {
            Some(channel) => channel,
            None => self.tls.channel(&self.host.endpoint)?,
        };
        let mut client = SessionServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, outbound) = mpsc::channel(QUEUE_MESSAGES);
        send(&queue, Said::Hello(self.hello())).await?;
        let inbound = timeout(OPEN_TIMEOUT, client.connect(ReceiverStream::new(outbound)))
            .await
            .map_err(|_| Ended::TimedOut("open the stream"))?;
        let mut inbound = inbound.map_err(status)?.into_inner();
        let first = timeout(OPEN_TIMEOUT, inbound.message())
            .await
            .map_err(|_| Ended::TimedOut("welcome this host"))?;
        match first.map_err(status)?.and_then(|first| first.message) {
            Some(Heard::Welcome(welcome)) => Ok((queue, inbound, welcome)),
            Some(Heard::Snapshot(_) | Heard::Delta(_) | Heard::Ban(_)) => {
                Err(Ended::OutOfTurn("no Welcome first"))
            }
            None => Err(Ended::ByCatalog),
        }
    }

    fn hello(&self) -> pb::Hello {
        let held = self.ledger.held();
        pb::Hello {
            protocol_version: PROTOCOL_VERSION,
            instance: self.instance.clone(),
            boot_id: crate::facts::boot_id(),
            machine_id: crate::facts::machine_id(),
            facts: Some(self.facts.borrow().clone()),
            realm_uid: held.realm_uid.clone(),
            epoch: held.epoch,
            revision: held.revision,
            held: held
                .assignments
                .iter()
                .map(|assignment| pb::HeldAssignment {
                    uid: assignment.uid.clone(),
                    generation: assignment.generation,
                    spec_hash: assignment.spec_hash.clone(),
                })
                .collect(),
        }
    }

    async fn serve(
        &mut self,
        queue: mpsc::Sender<pb::ConnectRequest>,
        mut inbound: Streaming<pb::ConnectResponse>,
        welcome: pb::Welcome,
        dialled: &mut Option<Channel>,
        shutdown: &CancellationToken,
    ) -> Result<std::convert::Infallible, Ended> {
        let holding_still = match self.ledger.held().judge(&self.host.realm_uid, &welcome) {
            Standing::Follow => {
                tracing::info!(
                    endpoint = self.host.endpoint,
                    epoch = welcome.epoch,
                    revision = welcome.revision,
                    "session is open"
                );
                None
            }
            Standing::HoldStill(reason) => {
                tracing::error!(reason, "this host holds still");
                // Also when the catalog has gone on from there, until somebody raises the epoch.
                let met = welcome.clone();
                if self.ledger.held().after_set_back(&met).is_some() {
                    self.commit(move |held| Ok(held.after_set_back(&met).unwrap_or_else(|| held.clone())))
                        .await?;
                }
                Some(reason)
            }
        };
        self.state.send_modify(|state| {
            state.connected = true;
            state.seen = Some(self.clock.now());
            state.holding_still = holding_still.clone();
        });
        let asked = welcome
            .heartbeat_interval
            .and_then(|interval| Duration::try_from(interval).ok());
        let heartbeat = asked
            .filter(|interval| !interval.is_zero())
            .map_or(self.heartbeat_interval, |interval| {
                interval.min(self.heartbeat_interval)
            });
        self.status.mark_changed();
        self.note_heard(holding_still.is_none()).await;
        let mut ban_carried_out = self.bans.carried_out();
        let mut report_due = Instant::now();
        let mut beginnings = Beginnings::default();
        let mut dials = JoinSet::new();
        let mut leaves_at = Instant::now() + life(self.clock.jitter());
        loop {
            let due = (report_due, leaves_at);
            let event = self.next_event(&mut inbound, &mut ban_carried_out, &mut dials, due, shutdown);
            match event.await {
                Event::Shutdown => return Err(Ended::Shutdown),
                Event::Renewed => {
                    // A stream that is good for a while yet is obeyed while the next one's connection is made. A dial for
                    // a certificate that is the last but one is given up.
                    // Dropped, it aborts a dial with the certificate before, and forgets one that has just succeeded.
                    dials = JoinSet::new();
                    leaves_at = Instant::now() + life(self.clock.jitter());
                    let (tls, endpoint) = (Arc::clone(&self.tls), self.host.endpoint.clone());
                    dials.spawn(dial(tls, endpoint, self.clock.clone()));
                }
                Event::Dialled(channel) => {
                    *dialled = Some(channel);
                    return Err(Ended::Renewed);
                }
                Event::Changed => return Err(Ended::Changed),
                Event::Heard(heard) => {
                    let message = heard.map_err(status)?.ok_or(Ended::ByCatalog)?;
                    self.state
                        .send_modify(|state| state.seen = Some(self.clock.now()));
                    // A ban proves itself, also from a catalog that has gone back.
                    if let Some(Heard::Ban(ban)) = message.message {
                        self.bans.hear(ban);
                    } else if holding_still.is_none() {
                        self.obey(&queue, &welcome, message).await?;
                    }
                }
                Event::Report => {
                    // One more moment, so that what changes together is told together.
                    tokio::time::sleep(REPORT_REST).await;
                    let report = self.report(holding_still.as_deref());
                    if let Some(report) = report {
                        if let Some(until) = beginnings.waits_until(&report, Instant::now()) {
                            report_due = until;
                            continue;
                        }
                        beginnings.said(report.clone());
                        send(&queue, Said::Report(report)).await?;
                    }
                    self.note_heard(holding_still.is_none()).await;
                    report_due = Instant::now() + heartbeat;
                }
            }
        }
    }

    /// A catalog that this host does not obey counts as away.
    async fn note_heard(&self, obeys: bool) {
        if obeys {
            let (offline, bound) = (self.offline.clone(), self.ledger.held().offline_bound());
            let now = self.clock.now();
            blocking(move || offline.heard(bound, now)).await;
        }
    }

    async fn next_event(
        &mut self,
        inbound: &mut Streaming<pb::ConnectResponse>,
        ban_carried_out: &mut watch::Receiver<bool>,
        dials: &mut JoinSet<Channel>,
        (report_due, leaves_at): (Instant, Instant),
        shutdown: &CancellationToken,
    ) -> Event {
        tokio::select! {
            () = shutdown.cancelled() => Event::Shutdown, // cancel-safe: no state
            Ok(()) = self.renewed.changed() => Event::Renewed, // cancel-safe per tokio's docs
            Some(Ok(channel)) = dials.join_next() => Event::Dialled(channel), // cancel-safe per tokio's docs
            Ok(()) = self.facts.changed() => Event::Changed, // cancel-safe per tokio's docs
            heard = inbound.message() => Event::Heard(Box::new(heard)), // cancel-safe: a message half read stays in the stream
            _ = self.status.changed() => Event::Report, // cancel-safe per tokio's docs
            Ok(()) = ban_carried_out.changed() => Event::Report, // cancel-safe per tokio's docs
            () = tokio::time::sleep_until(report_due) => Event::Report, // cancel-safe: no state
            () = tokio::time::sleep_until(leaves_at) => Event::Renewed, // cancel-safe: no state
        }
    }

    /// Takes an order: on disk, then acknowledged; whoever watches the ledger acts on it.
    async fn obey(
        &self,
        queue: &mpsc::Sender<pb::ConnectRequest>,
        welcome: &pb::Welcome,
        message: pb::ConnectResponse,
    ) -> Result<(), Ended> {
        let (revision, listed) = match message.message {
            Some(Heard::Snapshot(snapshot)) => {
                let (revision, listed) = (snapshot.revision, snapshot.assignments.clone());
                let welcome = welcome.clone();
                self.commit(move |held| Ok(held.after_snapshot(&welcome, &snapshot)))
                    .await?;
                (revision, listed)
            }
            Some(Heard::Delta(delta)) => {
                let (revision, listed) = (delta.to_revision, delta.upserts.clone());
                self.commit(move |held| Ok(held.after_delta(&delta)?)).await?;
                (revision, listed)
            }
            Some(Heard::Welcome(_)) => return Err(Ended::OutOfTurn("a second Welcome")),
            // Heard by whoever listens; and a message of a newer catalog.
            Some(Heard::Ban(_)) | None => return Ok(()),
        };
        send(queue, Said::Ack(pb::Ack { revision })).await?;
        for assignment in &listed {
            if let Some(message) = refusal(assignment) {
                tracing::warn!(
                    assignment = assignment.uid,
                    message,
                    "an order cannot be carried out"
                );
                let nack = pb::Nack {
                    assignment_uid: assignment.uid.clone(),
                    generation: assignment.generation,
                    message,
                };
                send(queue, Said::Nack(nack)).await?;
            }
        }
        Ok(())
    }

    async fn commit(
        &self,
        change: impl FnOnce(&Held) -> Result<Held, Ended> + Send + 'static,
    ) -> Result<(), Ended> {
        let ledger = Arc::clone(&self.ledger);
        match tokio::task::spawn_blocking(move || ledger.change(change)).await {
            Ok(done) => done,
            Err(_) => Err(Ended::Shutdown),
        }
    }

    /// What is observed; nothing before every mount was looked at once.
    fn report(&mut self, holding_still: Option<&str>) -> Option<pb::Report> {
        let ban_carried_out = *self.bans.carried_out().borrow();
        let status = self.status.borrow_and_update();
        status.ready.then(|| pb::Report {
            revision: status.revision,
            mounts: status.mounts.values().map(MountStatus::to_report).collect(),
            holding_still: holding_still.unwrap_or_default().to_owned(),
            ban_carried_out,
        })
    }
}

/// How long a session stays on one connection.
pub fn life(random: f64) -> Duration {
    LIFE_MIN + (LIFE_MAX - LIFE_MIN).mul_f64(random)
}

/// A connection for the next stream, however long it takes: if the certificate in use ends meanwhile, so does its stream,
/// and this with it.
async fn dial(tls: Arc<ClientTls>, endpoint: String, clock: Clock) -> Channel {
    let mut failures = 0;
    loop {
        match tls.connect(&endpoint).await {
            Ok(channel) => return channel,
            Err(error) => {
                failures += 1;
                let delay = backoff::CATALOG.delay(failures, clock.jitter());
                let error = crate::enroll::causes(&error);
                tracing::info!(error, retry_in = ?delay, "no connection yet for the new certificate; the session goes on");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Why an assignment cannot be taken as it is.
fn refusal(assignment: &pb::Assignment) -> Option<String> {
    match Order::of(assignment) {
        None => Some("its uid is no UUID; are agent and catalog of fitting versions?".to_owned()),
        Some(order) => order.spec.err().map(|unusable| unusable.message),
    }
}

async fn send(queue: &mpsc::Sender<pb::ConnectRequest>, message: Said) -> Result<(), Ended> {
    let request = pb::ConnectRequest {
        message: Some(message),
    };
    match timeout(SEND_TIMEOUT, queue.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::ByCatalog),
        Err(_) => Err(Ended::TimedOut("take a message")),
    }
}

fn status(status: tonic::Status) -> Ended {
    Ended::Status(Box::new(status))
}
