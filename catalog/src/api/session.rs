//! The hosts' stream: Hello, Welcome, a Snapshot, then Deltas as things change; reports and acknowledgements the other
//! way. One task for each stream, owned by the catalog's [`Streams`]; it ends with the host's certificate, with a newer
//! stream of the same host, with the host, or with the server.
//!
//! Invariants: each message leads from the revision of the one before it, so nothing is lost between them; wake-ups are
//! counted from before the first look, and what no wake-up comes for, the sweep of `ops/session/sweep.rs` finds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use mooring_proto::agent::v1 as pb;
use mooring_proto::agent::v1::connect_request::Message as Said;
use mooring_proto::agent::v1::connect_response::Message as Told;

use super::Api;
use super::decode::split;
use super::enrollment::facts;
use super::words::kept;
use crate::domain::Error;
use crate::ops::Catalog;
use crate::ops::session::Orders;
use crate::ops::session::streams::OpenStream;
use crate::policy::Identity;

mod encode;
mod pace;
mod reports;

use pace::Pace;
use reports::{Due, Reports};

/// For the Hello to arrive after the stream was opened.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// For a message to leave: the queue is full only when the host reads nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages on their way to a host: it acknowledges each, and what changes meanwhile goes into the next.
const QUEUE_MESSAGES: usize = 4;
/// When a look that failed is made again, and at random up to as much later: the wake-up that it was for does not come
/// twice, and ten thousand streams have failed at once.
const LOOK_RETRY: Duration = Duration::from_secs(1);
/// Why a host holds still or refuses something: a sentence or two. Each is shown, and may be a line of the log.
const REASON_CHARS_MAX: usize = 1000;
/// How often the last words of a host that has carried out its ban are tried to be written.
const LAST_WORDS_ATTEMPTS: usize = 10;
/// The same when the server stops, for which it has 20 s in all.
const LAST_WORDS_ATTEMPTS_AT_STOP: usize = 3;
/// The version of the protocol that is spoken here.
const PROTOCOL_VERSION: i32 = 1;

#[tonic::async_trait]
impl pb::session_service_server::SessionService for Api {
    type ConnectStream = ReceiverStream<Result<pb::ConnectResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (caller, mut incoming) = split(request)?;
        let identity = caller.host(self.catalog.clock.now())?.clone();
        let hello = first(&mut incoming).await?;
        let seat = encode::seat(&hello);
        let now = self.catalog.clock.now();
        if let Err(refusal) = self.catalog.streams.check(identity.uid, &seat, now) {
            return Err(self.catalog.refuse_copy(&identity, refusal).await.into());
        }
        if !self.catalog.streams.may_be_greeted(identity.uid, now) {
            return Err(Error::Exhausted {
                reason: "this host comes back too often; wait a few seconds",
            }
            .into());
        }
        // The seat comes before the greeting: what a copy says of the host is not noted.
        let instance = seat.instance.clone();
        let open = match self.catalog.streams.open(identity.uid, seat, now) {
            Ok(open) => open,
            Err(refusal) => return Err(self.catalog.refuse_copy(&identity, refusal).await.into()),
        };
        let mut woken = self.catalog.store.orders_of(identity.uid);
        woken.mark_unchanged();
        let held = encode::held(&hello);
        let facts = facts(hello.facts.unwrap_or_default());
        let (greeting, orders) = self.catalog.greet(&identity, facts, &held).await?;
        if hello.realm_uid == greeting.realm.uid.to_string()
            && hello.epoch == greeting.realm.epoch
            && hello.revision > greeting.realm.revision
        {
            tracing::error!(
                host_uid = %identity.uid,
                host_revision = hello.revision,
                own_revision = greeting.realm.revision,
                "a host has seen a later state than this database has: it was restored from a backup; hosts hold still, \
                 also when the newer database is back, until `mooring-catalog raise-epoch` says that the one that is there counts"
            );
        }
        tracing::info!(
            host_uid = %identity.uid,
            instance,
            epoch = hello.epoch,
            revision = hello.revision,
            held = hello.held.len(),
            "a host has connected"
        );
        let (queue, outgoing) = mpsc::channel(QUEUE_MESSAGES);
        let stream = Stream::new(self.catalog.clone(), identity, open, woken, queue);
        let welcome = encode::welcome(greeting);
        self.catalog
            .streams
            .tasks
            .spawn(stream.serve(welcome, orders, incoming));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// One open stream.
struct Stream {
    catalog: Arc<Catalog>,
    identity: Identity,
    open: OpenStream,
    woken: watch::Receiver<i64>,
    queue: mpsc::Sender<Result<pb::ConnectResponse, Status>>,
    reports: Reports,
    pace: Pace,
    /// Messages of ours, and orders in them, that the host has not answered: an answer is asked for, and costs no pace.
    answers_left: usize,
    /// The revision that the host was last told of; 0 before the snapshot.
    told: i64,
    /// The revision of the last look: up to it the host knows everything, whether there was something to tell or not.
    looked: i64,
    /// How long it was told that it may start mounts without the catalog.
    offline_max: Option<Duration>,
    /// The host was told that it is banned, and is told nothing more.
    banned: bool,
    /// When a look that failed is made again.
    look_again: Option<Instant>,
}

/// What happens on a stream.
enum Event {
    Said(Box<Result<Option<pb::ConnectRequest>, Status>>),
    Rested,
    Look,
    ReportDue,
    Superseded,
    Closing,
}

/// How a stream ends.
enum Ended {
    /// The host is told why.
    Because(Error),
    /// There is nobody to tell, or nothing to tell.
    Quietly(&'static str),
}

impl Stream {
    /// One on which nothing was said yet.
    fn new(
        catalog: Arc<Catalog>,
        identity: Identity,
        open: OpenStream,
        woken: watch::Receiver<i64>,
        queue: mpsc::Sender<Result<pb::ConnectResponse, Status>>,
    ) -> Self {
        Self {
            catalog,
            identity,
            open,
            woken,
            queue,
            reports: Reports::default(),
            pace: Pace::new(Instant::now()),
            answers_left: 0,
            told: 0,
            looked: 0,
            offline_max: None,
            banned: false,
            look_again: None,
        }
    }

    async fn serve(
        mut self,
        welcome: pb::Welcome,
        orders: Orders,
        mut incoming: Streaming<pb::ConnectRequest>,
    ) {
        let host_uid = self.identity.uid;
        match self.run(welcome, orders, &mut incoming).await {
            Ended::Quietly(reason) => tracing::info!(%host_uid, reason, "a host's stream has ended"),
            Ended::Because(error) => {
                tracing::info!(%host_uid, reason = %error, "a host's stream is ended");
                // If the queue is full, the host sees the end without its reason.
                let _ = self.queue.try_send(Err(error.into()));
            }
        }
    }

    async fn run(
        &mut self,
        welcome: pb::Welcome,
        orders: Orders,
        incoming: &mut Streaming<pb::ConnectRequest>,
    ) -> Ended {
        if let Err(ended) = self.begin(welcome, orders).await {
            return ended;
        }
        loop {
            let done = match self.next_event(incoming).await {
                Event::Said(said) => self.hear(*said),
                Event::Rested => Ok(()),
                Event::Look => self.tell().await,
                Event::ReportDue => self.take_report().await,
                Event::Superseded => return Ended::Because(superseded()),
                Event::Closing => {
                    self.take_last_words(LAST_WORDS_ATTEMPTS_AT_STOP).await;
                    return Ended::Quietly("the server stops");
                }
            };
            if let Err(ended) = done {
                if let Ended::Quietly(_) = ended {
                    self.take_last_words(LAST_WORDS_ATTEMPTS).await;
                }
                return ended;
            }
        }
    }

    /// What a host said last counts: one that has carried out its ban says so, and is never heard again. Unless a newer
    /// stream of it knows better.
    async fn take_last_words(&mut self, attempts: usize) {
        let Some(Due { mounts, at, .. }) = self.reports.next(Instant::now()) else {
            return;
        };
        for _ in 0..attempts {
            if self.open.superseded.is_cancelled() {
                return;
            }
            match self
                .catalog
                .observe_if_news(&self.identity, mounts.clone(), at)
                .await
            {
                // It is not said again.
                Err(Error::Store(_)) if at.ban_carried_out => tokio::time::sleep(LOOK_RETRY).await,
                Ok(()) | Err(_) => return,
            }
        }
    }

    async fn begin(&mut self, welcome: pb::Welcome, orders: Orders) -> Result<(), Ended> {
        self.send(Told::Welcome(welcome)).await?;
        self.told = orders.revision;
        self.looked = orders.revision;
        self.offline_max = orders.offline_max;
        if let Some(ban) = orders.ban {
            return self.ban(ban).await;
        }
        self.reports.sent(&orders);
        self.answers_left += 1 + orders.assignments.len();
        self.send(Told::Snapshot(encode::snapshot(orders))).await
    }

    async fn next_event(&mut self, incoming: &mut Streaming<pb::ConnectRequest>) -> Event {
        let now = self.catalog.clock.now();
        // The look after the certificate's end finds that it has ended.
        let left =
            Duration::try_from(self.identity.not_after - now).unwrap_or_default() + Duration::from_millis(1);
        let end = Instant::now() + left;
        let look = self.look_again.map_or(end, |look| look.min(end));
        let talks_too_much = self.pace.rests_until(Instant::now());
        let report_due = self.reports.due();
        tokio::select! {
            // A stream that a newer one has followed writes nothing any more, whatever else has come.
            biased;
            () = self.open.superseded.cancelled() => Event::Superseded, // cancel-safe: no state
            () = self.catalog.streams.closing.cancelled() => Event::Closing, // cancel-safe: no state
            _ = self.woken.changed() => Event::Look, // cancel-safe per tokio's docs; its sender lives as long as the store
            () = tokio::time::sleep_until(look) => Event::Look, // cancel-safe: no state
            () = sleep_until(report_due) => Event::ReportDue, // cancel-safe: no state
            said = incoming.message(), if talks_too_much.is_none() => Event::Said(Box::new(said)), // cancel-safe: a message half read stays in the stream
            () = sleep_until(talks_too_much) => Event::Rested, // cancel-safe: no state
        }
    }

    fn hear(&mut self, said: Result<Option<pb::ConnectRequest>, Status>) -> Result<(), Ended> {
        let message = said.map_err(|_| Ended::Quietly("the connection is gone"))?;
        let message = message.ok_or(Ended::Quietly("the host has ended it"))?.message;
        if matches!(message, Some(Said::Ack(_) | Said::Nack(_))) && self.answers_left > 0 {
            self.answers_left -= 1;
        } else {
            self.pace.heard(Instant::now());
        }
        match message {
            Some(Said::Report(mut report)) => {
                report.holding_still = kept(report.holding_still, REASON_CHARS_MAX);
                if self.open.holds_still(&report.holding_still) && !report.holding_still.is_empty() {
                    tracing::warn!(host_uid = %self.identity.uid, reason = report.holding_still, "this host holds still, it says");
                }
                self.reports.take(report, self.catalog.clock.now());
            }
            Some(Said::Nack(pb::Nack {
                assignment_uid,
                generation,
                message,
            })) => {
                // What is no uid is no assignment of ours.
                if let Ok(uid) = Uuid::try_parse(&assignment_uid) {
                    let message = kept(message, REASON_CHARS_MAX);
                    tracing::warn!(
                        host_uid = %self.identity.uid,
                        assignment = %uid,
                        message,
                        "a host cannot take an assignment"
                    );
                    self.reports.refused(uid, generation, message);
                }
            }
            Some(Said::Ack(ack)) => {
                tracing::debug!(host_uid = %self.identity.uid, revision = ack.revision, "a host has stored its orders");
            }
            Some(Said::Hello(_)) => {
                return Err(Ended::Because(Error::invalid(
                    "hello",
                    "it is said once, at the beginning of a stream",
                )));
            }
            // A message of a newer agent.
            None => {}
        }
        self.open.heard(self.catalog.clock.now());
        Ok(())
    }

    /// Tells the host what has changed since it was last told, if anything has.
    async fn tell(&mut self) -> Result<(), Ended> {
        self.woken.mark_unchanged();
        // Its end needs no database, and is not put off by one that does not answer.
        self.identity
            .valid_host(self.catalog.clock.now())
            .map_err(Ended::Because)?;
        let orders = match self.catalog.orders_since(&self.identity, self.looked).await {
            Ok(orders) => orders,
            Err(error) => {
                self.look_again =
                    Some(Instant::now() + LOOK_RETRY.mul_f64(1.0 + self.catalog.clock.jitter()));
                return self.bear(error);
            }
        };
        self.look_again = None;
        if let Some(ban) = orders.ban {
            return self.ban(ban).await;
        }
        self.looked = orders.revision;
        let is_bound_news =
            std::mem::replace(&mut self.offline_max, orders.offline_max) != orders.offline_max;
        if orders.assignments.is_empty() && orders.removals.is_empty() && !is_bound_news {
            return Ok(());
        }
        self.reports.sent(&orders);
        self.answers_left += 1 + orders.assignments.len();
        let (from, to) = (self.told, orders.revision);
        self.told = to;
        tracing::debug!(host_uid = %self.identity.uid, from, to, "a host is told what has changed");
        self.send(Told::Delta(encode::delta(from, orders))).await
    }

    /// Tells the host once that it is banned. Its stream goes on, so that it can tell what it has unmounted.
    async fn ban(&mut self, ban: pb::SignedBan) -> Result<(), Ended> {
        if std::mem::replace(&mut self.banned, true) {
            return Ok(());
        }
        tracing::warn!(host_uid = %self.identity.uid, "a host is told that it is banned");
        self.send(Told::Ban(ban)).await
    }

    async fn take_report(&mut self) -> Result<(), Ended> {
        let Some(Due { mounts, at, is_news }) = self.reports.next(Instant::now()) else {
            return Ok(());
        };
        // Who has carried out its ban ends soon, and says nothing any more.
        let last = at.ban_carried_out.then(|| (mounts.clone(), at));
        let taken = if is_news {
            self.catalog.observe(&self.identity, mounts, at).await
        } else {
            self.catalog.observe_if_news(&self.identity, mounts, at).await
        };
        match taken {
            Ok(()) => Ok(()),
            Err(error) => {
                self.reports.failed(last);
                self.bear(error)
            }
        }
    }

    /// A database that is away for a moment ends no stream: the next look or report finds what was missed.
    fn bear(&self, error: Error) -> Result<(), Ended> {
        match error {
            Error::Store(cause) => {
                // Told of once for all that have asked together.
                tracing::debug!(host_uid = %self.identity.uid, %cause, "the database does not answer; trying again");
                Ok(())
            }
            error => Err(Ended::Because(error)),
        }
    }

    async fn send(&self, message: Told) -> Result<(), Ended> {
        let response = pb::ConnectResponse {
            message: Some(message),
        };
        // Whoever waits for the end of this stream waits for no host that reads nothing.
        tokio::select! {
            biased;
            sent = timeout(SEND_TIMEOUT, self.queue.send(Ok(response))) => match sent { // dropped, it has sent nothing
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Ended::Quietly("the connection is gone")),
                Err(_) => Err(Ended::Quietly("the host reads nothing")),
            },
            () = self.open.superseded.cancelled() => Err(Ended::Because(superseded())), // cancel-safe: no state
            () = self.catalog.streams.closing.cancelled() => Err(Ended::Quietly("the server stops")), // cancel-safe: no state
        }
    }
}

/// The Hello that every stream begins with.
async fn first(incoming: &mut Streaming<pb::ConnectRequest>) -> Result<pb::Hello, Status> {
    let said = timeout(HELLO_TIMEOUT, incoming.message())
        .await
        .map_err(|_| Error::invalid("hello", "it did not come; say it first on every stream"))?;
    match said?.and_then(|said| said.message) {
        Some(Said::Hello(hello)) if hello.protocol_version == PROTOCOL_VERSION => Ok(hello),
        Some(Said::Hello(hello)) => {
            let problem = format!(
                "version {} is not spoken here; this catalog speaks {PROTOCOL_VERSION}: upgrade the older of the two",
                hello.protocol_version
            );
            Err(Error::invalid("hello.protocol_version", problem).into())
        }
        Some(Said::Report(_) | Said::Ack(_) | Said::Nack(_)) | None => {
            Err(Error::invalid("hello", "it is missing; say it first on every stream").into())
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn superseded() -> Error {
    Error::Precondition {
        reason: "Superseded",
        subject: "stream".into(),
        problem: "a newer stream of this host has begun, or the host was deleted".into(),
    }
}

#[cfg(test)]
mod tests;
