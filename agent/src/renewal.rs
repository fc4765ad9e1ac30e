//! Renews the host's certificate at half-life, moved at random so that hosts which enrolled together do not renew
//! together. The catalog being away changes nothing but when: it is tried until it works, also after the end, when the
//! host's key alone has to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{ClientTls, Clock, CredentialPaths, Credentials};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::ban::BanDesk;
use crate::enroll::causes;
use crate::recovery::{self, Answer, Refusal};

/// With a life of 24 h there are 12 h left at the first attempt; with one of 10 s, as tests have it, 5 s.
const RETRY: Backoff = Backoff {
    min: Duration::from_millis(200),
    max: Duration::from_secs(60),
};

/// A machine that was asleep, or whose clock was set, notices within this time.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Between two renewals that both succeeded. A host whose clock runs hours ahead then costs the catalog one write in
/// five minutes, and keeps its session meanwhile.
const PAUSE_MIN: Duration = Duration::from_secs(300);

/// The loop that renews.
pub struct Renewal {
    /// What is renewed.
    pub credentials: Credentials,
    /// Where it lies.
    pub paths: CredentialPaths,
    /// Whose next connections shall show the new one.
    pub tls: Arc<ClientTls>,
    /// The catalog.
    pub endpoint: String,
    /// Whose certificate it is.
    pub host_uid: Uuid,
    /// Where a ban is told.
    pub bans: BanDesk,
    /// The clock.
    pub clock: Clock,
    /// Told when the certificate in use ends.
    pub expires: watch::Sender<OffsetDateTime>,
}

impl Renewal {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Dropping an attempt half-way is harmless: its reply is lost, and the next attempt gets a certificate of its own.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.renew_for_ever() => {}
        }
    }

    async fn renew_for_ever(&mut self) {
        loop {
            let due = self.credentials.renew_at(self.clock.jitter());
            self.sleep_until(due).await;
            let mut failures = 0;
            while let Err(error) = self.renew().await {
                failures += 1;
                let delay = RETRY.delay(failures, self.clock.jitter());
                let expired = !self.credentials.is_valid_at(self.clock.now());
                if expired {
                    tracing::error!(%error, retry_in = ?delay, "the certificate has expired and is not renewed; mounts stay; \
                        if the catalog refuses for good: mooring-agent enroll, with a new join token");
                } else {
                    tracing::warn!(%error, retry_in = ?delay, "the certificate is not renewed yet");
                }
                tokio::time::sleep(delay).await;
            }
            tracing::info!(expires = %self.credentials.not_after(), "certificate renewed");
            self.expires.send_replace(self.credentials.not_after());
            // By the monotonic clock: one that is far ahead finds each new certificate due at once.
            tokio::time::sleep(self.pause_min()).await;
        }
    }

    /// Never sooner than this after a renewal comes the next one: much less than the 0.4 of a life after which it is
    /// due by a clock that is right.
    fn pause_min(&self) -> Duration {
        let life = self.credentials.not_after() - self.credentials.not_before();
        let part = Duration::try_from(life / 4).unwrap_or_default();
        part.min(PAUSE_MIN)
    }

    async fn sleep_until(&self, due: OffsetDateTime) {
        loop {
            let left = Duration::try_from(due - self.clock.now()).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    async fn renew(&mut self) -> Result<(), String> {
        let answer = match self.credentials.is_valid_at(self.clock.now()) {
            true => match recovery::renew(&self.tls, &self.endpoint, &self.credentials).await {
                // Two clocks disagree: the catalog's decides.
                Err(Refusal::Ended(reason)) => {
                    tracing::info!(reason, "the catalog does not take the certificate any more");
                    self.recover().await
                }
                answer => answer,
            },
            false => self.recover().await,
        };
        let certificate_pem = match answer.map_err(|refusal| refusal.to_string())? {
            Answer::Certificate(certificate_pem) => certificate_pem,
            Answer::Ban(ban) => {
                return match self.bans.hear(ban) {
                    // The agent ends when it has carried it out.
                    true => std::future::pending().await,
                    false => Err("the catalog sends a ban that its CA has not signed".to_owned()),
                };
            }
        };
        let renewed = self
            .credentials
            .renewed(certificate_pem)
            .map_err(|error| causes(&error))?;
        // On disk first: a crash after this line starts with the new one, before it with the old one; both are good.
        let Some(saved) = self.bans.unless_banned(|| renewed.save(&self.paths)) else {
            return std::future::pending().await;
        };
        if let Err(error) = saved {
            let path = PathBuf::from(&self.paths.certificate);
            tracing::error!(path = %path.display(), error = %causes(&error),
                "the new certificate cannot be written and is used from memory only; free some space");
        }
        self.tls.replace(&renewed).map_err(|error| causes(&error))?;
        self.credentials = renewed;
        Ok(())
    }

    async fn recover(&self) -> Result<Answer, Refusal> {
        let answer = recovery::recover(&self.endpoint, &self.credentials, self.host_uid).await?;
        tracing::info!("the host has proved its key, since its certificate had ended");
        Ok(answer)
    }
}
