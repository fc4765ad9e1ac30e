//! The play: its acts in their order, and what is measured in each.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mooring_identity::{Clock, JoinString};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::board::{Arrival, Board};
use crate::catalog::{Catalog, own_usage};
use crate::figures::{Figures, Samples};
use crate::operator::{Operator, is_still_unmounting};
use crate::silence;

/// Hosts that have a pool of their own, on which changes for one host are measured.
const SOLO_HOSTS_MAX: usize = 20;
/// Machines that enrol at a time: those that boot in the same second.
const ENROLLING_MAX: usize = 200;
/// Nothing here takes longer, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// The usual life of certificates.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The activation that the whole fleet gets.
const SEA: &str = "projects/ml/activations/sea";

/// What is to be played.
pub(crate) struct Plan {
    pub(crate) hosts: usize,
    pub(crate) catalog: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) idle: Duration,
    pub(crate) changes: usize,
    pub(crate) bad_hosts: usize,
    pub(crate) bad: Duration,
    pub(crate) outage: Duration,
    pub(crate) certificate_life: Duration,
}

/// Plays all of it.
pub(crate) async fn run(plan: Plan) -> anyhow::Result<Figures> {
    let mut catalog = Catalog::new(plan.catalog.clone(), plan.folder.clone())?;
    catalog.start(DAY)?;
    let operator = Operator::log_in(&catalog.operator_join()?).await?;
    operator.furnish().await?;
    let solos = SOLO_HOSTS_MAX.min(plan.hosts / 10).max(1);
    let mut play = Play {
        fleet: plan.hosts.saturating_sub(solos).max(1),
        solos,
        plan,
        catalog,
        operator,
        board: Arc::default(),
        figures: Figures::default(),
        agents: JoinSet::new(),
        shutdown: CancellationToken::new(),
        changes_made: 0,
    };
    play.acts().await?;
    play.shutdown.cancel();
    while play.agents.join_next().await.is_some() {}
    Ok(play.figures)
}

struct Play {
    plan: Plan,
    catalog: Catalog,
    operator: Operator,
    board: Arc<Board>,
    figures: Figures,
    agents: JoinSet<()>,
    shutdown: CancellationToken,
    /// Hosts of the large pool.
    fleet: usize,
    /// Hosts with a pool of their own.
    solos: usize,
    changes_made: usize,
}

impl Play {
    async fn acts(&mut self) -> anyhow::Result<()> {
        self.figures.put("hosts", self.all() as f64, "");
        self.everybody_joins().await?;
        self.everybody_gets_something().await?;
        self.nothing_happens().await?;
        let one = self.one_host_gets_something(self.plan.changes).await?;
        self.figures
            .put("one_change_p50_ms", one.all.percentile(50), "ms");
        self.figures
            .put_for("one_change_p99_ms", one.all.percentile(99), "ms", "< 1000");
        self.some_behave_badly().await?;
        self.the_catalog_dies().await?;
        if !self.plan.certificate_life.is_zero() {
            self.everybody_renews().await?;
        }
        let still = self.board.holding_still.get();
        anyhow::ensure!(
            still == 0,
            "{still} hosts hold still: {:?}",
            self.board.take_ends()
        );
        let errors = self.catalog.errors()?;
        anyhow::ensure!(errors.is_empty(), "the catalog's log: {errors:#?}");
        Ok(())
    }

    fn all(&self) -> usize {
        self.fleet + self.solos
    }

    async fn everybody_joins(&mut self) -> anyhow::Result<()> {
        let mut joins: Vec<Arc<JoinString>> = Vec::with_capacity(self.all());
        for (join, uses) in self.operator.pool("fleet", self.fleet).await? {
            joins.extend(std::iter::repeat_n(join, uses));
        }
        for number in 0..self.solos {
            let tokens = self.operator.pool(&format!("solo-{number}"), 1).await?;
            joins.extend(tokens.into_iter().map(|(join, _)| join));
        }
        let begun = Instant::now();
        let before = self.catalog.usage()?;
        for (number, join) in joins.into_iter().enumerate() {
            let board = Arc::clone(&self.board);
            until("an enrolment is done", || {
                number - board.enrolled.get().min(number) < ENROLLING_MAX
            })
            .await?;
            let agent = Agent {
                number,
                join,
                board,
                clock: Clock::system(),
            };
            self.agents.spawn(agent.run(self.shutdown.clone()));
        }
        let all = self.all();
        let board = Arc::clone(&self.board);
        until("all have enrolled", || board.enrolled.get() == all).await?;
        let enrolled = begun.elapsed();
        until("all are in session", || board.open.get() == all).await?;
        let usage = self.catalog.usage()?;
        let figures = &mut self.figures;
        figures.put("enrol_per_second", all as f64 / enrolled.as_secs_f64(), "1/s");
        figures.put("enrol_retries", board.enrol_retries.get() as f64, "");
        figures.put("enrol_cpu_percent", usage.cpu_percent_since(&before), "%");
        figures.put("all_in_session_seconds", begun.elapsed().as_secs_f64(), "s");
        figures.put("joined_rss_mib", usage.rss_mib, "MiB");
        self.tell_ends("while all joined");
        Ok(())
    }

    /// The change for all, and how long one host waits for its own while all get theirs.
    async fn everybody_gets_something(&mut self) -> anyhow::Result<()> {
        let fleet = self.fleet;
        let mut arrivals = self.board.watch(SEA);
        let operator = self.operator.clone();
        let board = Arc::clone(&self.board);
        let (before, own_before) = (self.catalog.usage()?, own_usage()?);
        let begun = Instant::now();
        let for_all = async {
            operator.activate("sea", "fleet", "sea").await?;
            let answered = begun.elapsed();
            let mut last = begun;
            for _ in 0..fleet {
                last = arrival(&mut arrivals, false).await?;
            }
            until("all have mounted it", || board.mounts.get() >= fleet).await?;
            // What comes now is asking whether all is done, which costs something, too.
            let asking = self.catalog.usage()?;
            let asked = active(&operator, SEA).await?;
            anyhow::Ok((answered, last - begun, begun.elapsed(), asking, asked))
        };
        let for_all = async {
            let done = timeout(PATIENCE, for_all).await;
            done.context("not all have got it")?
        };
        let among = self.plan.changes.div_ceil(5);
        let changes_made = self.changes_made;
        let meanwhile = changes(
            &self.operator,
            &self.board,
            (fleet, self.solos),
            changes_made,
            among,
        );
        let (for_all, meanwhile) = tokio::join!(for_all, meanwhile);
        let (answered, told, active, asking, asked) = for_all?;
        let meanwhile = meanwhile?;
        self.changes_made += among;
        let (after, own_after) = (self.catalog.usage()?, own_usage()?);
        let figures = &mut self.figures;
        figures.put("all_answered_seconds", answered.as_secs_f64(), "s");
        figures.put_for("all_told_seconds", told.as_secs_f64(), "s", "< 5");
        figures.put("all_active_seconds", active.as_secs_f64(), "s");
        figures.put("all_active_cpu_seconds", after.cpu_seconds_since(&before), "s");
        figures.put(
            "all_active_asking_cpu_seconds",
            after.cpu_seconds_since(&asking),
            "s",
        );
        figures.put("all_active_asked_times", asked as f64, "");
        figures.put(
            "all_active_own_cpu_seconds",
            own_after.cpu_seconds_since(&own_before),
            "s",
        );
        figures.put("one_among_all_max_ms", meanwhile.all.percentile(100), "ms");
        self.tell_ends("while all got something");
        Ok(())
    }

    async fn nothing_happens(&mut self) -> anyhow::Result<()> {
        // What the change has set in motion comes to rest: two heartbeats.
        sleep(self.plan.idle.min(Duration::from_secs(20))).await;
        let (before, own_before) = (self.catalog.usage()?, own_usage()?);
        sleep(self.plan.idle).await;
        let (after, own_after) = (self.catalog.usage()?, own_usage()?);
        let figures = &mut self.figures;
        figures.put_for("idle_cpu_percent", after.cpu_percent_since(&before), "%", "< 25");
        figures.put(
            "idle_own_cpu_percent",
            own_after.cpu_percent_since(&own_before),
            "%",
        );
        figures.put_for("idle_rss_mib", after.rss_mib, "MiB", "< 1536");
        self.tell_ends("while nothing happened");
        Ok(())
    }

    async fn one_host_gets_something(&mut self, times: usize) -> anyhow::Result<Changes> {
        let hosts = (self.fleet, self.solos);
        let changes = changes(&self.operator, &self.board, hosts, self.changes_made, times);
        let changes = changes.await?;
        self.changes_made += times;
        Ok(changes)
    }

    async fn some_behave_badly(&mut self) -> anyhow::Result<()> {
        let bad = self.plan.bad_hosts.min(self.fleet);
        let before = self.catalog.usage()?;
        let silent = silence::keep(bad, self.catalog.address()).await?;
        self.board.set_mood(|mood| {
            mood.deaf = bad / 2;
            mood.talkative = bad - bad / 2;
        });
        let begun = Instant::now();
        let mut samples = Samples::default();
        loop {
            let more = self
                .one_host_gets_something(self.plan.changes.div_ceil(5))
                .await?;
            samples.extend(more.all);
            if begun.elapsed() >= self.plan.bad {
                break;
            }
        }
        let after = self.catalog.usage()?;
        self.board.set_mood(|mood| {
            mood.deaf = 0;
            mood.talkative = 0;
        });
        drop(silent);
        let figures = &mut self.figures;
        figures.put_for("bad_hosts_change_p99_ms", samples.percentile(99), "ms", "< 1000");
        figures.put("bad_hosts_cpu_percent", after.cpu_percent_since(&before), "%");
        figures.put("bad_hosts_rss_growth_mib", after.rss_mib - before.rss_mib, "MiB");
        self.tell_ends("while some behaved badly");
        let (board, all) = (Arc::clone(&self.board), self.all());
        until("all are in session again", || board.open.get() == all).await
    }

    async fn the_catalog_dies(&mut self) -> anyhow::Result<()> {
        let mounts = self.board.mounts.get();
        self.catalog.kill();
        let board = Arc::clone(&self.board);
        until("all have noticed", || board.open.get() == 0).await?;
        sleep(self.plan.outage).await;
        let begun = Instant::now();
        let life = self.plan.certificate_life;
        self.catalog.start(if life.is_zero() { DAY } else { life })?;
        let listening = begun.elapsed();
        let (before, own_before) = (self.catalog.usage()?, own_usage()?);
        let all = self.all();
        let (half, most) = (all / 2, all - all / 100);
        until("half are back", || board.open.get() >= half).await?;
        let half = begun.elapsed();
        until("most are back", || board.open.get() >= most).await?;
        let most = begun.elapsed();
        until("all are back", || board.open.get() == all).await?;
        let back = begun.elapsed();
        let (usage, own_usage) = (self.catalog.usage()?, own_usage()?);
        self.operator.reach().await?;
        let kept = self.board.mounts.get();
        anyhow::ensure!(
            kept >= mounts.min(self.fleet),
            "of {mounts} mounts {kept} are left"
        );
        let figures = &mut self.figures;
        figures.put("listening_seconds", listening.as_secs_f64(), "s");
        figures.put("half_back_seconds", half.as_secs_f64(), "s");
        figures.put("99_percent_back_seconds", most.as_secs_f64(), "s");
        figures.put_for("all_back_seconds", back.as_secs_f64(), "s", "< 60");
        figures.put("all_back_cpu_seconds", usage.cpu_seconds_since(&before), "s");
        figures.put(
            "all_back_own_cpu_seconds",
            own_usage.cpu_seconds_since(&own_before),
            "s",
        );
        figures.put("all_back_peak_rss_mib", usage.peak_mib, "MiB");
        self.tell_ends("while the catalog was away and all came back");
        // When hosts were heard of is written down every few seconds only.
        active(&self.operator, SEA).await.map(drop)
    }

    /// Everybody gets a certificate of a short life, at some moment of it, and then lives by it for another.
    async fn everybody_renews(&mut self) -> anyhow::Result<()> {
        let (all, life) = (self.all(), self.plan.certificate_life);
        let board = Arc::clone(&self.board);
        let begun = Instant::now();
        let (before, own_before) = (self.catalog.usage()?, own_usage()?);
        self.board.set_mood(|mood| {
            mood.renew += 1;
            mood.renew_within = life / 2;
        });
        until("all have renewed once", || board.renewed.get() >= all).await?;
        let mut changes = Changes::default();
        while board.renewed.get() < 2 * all {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "not all have renewed twice");
            changes.extend(self.one_host_gets_something(5).await?);
        }
        let (usage, own_usage) = (self.catalog.usage()?, own_usage()?);
        let renewed = board.renewed.get() as f64;
        let figures = &mut self.figures;
        figures.put(
            "renewals_per_second",
            renewed / begun.elapsed().as_secs_f64(),
            "1/s",
        );
        figures.put("renewals_failed", board.renewals_failed.get() as f64, "");
        figures.put("renewals_cpu_percent", usage.cpu_percent_since(&before), "%");
        figures.put(
            "renewals_own_cpu_percent",
            own_usage.cpu_percent_since(&own_before),
            "%",
        );
        figures.put_for(
            "renewals_change_p99_ms",
            changes.all.percentile(99),
            "ms",
            "< 1000",
        );
        // Of hosts that were in session when the change was made: without the wait for their own dials.
        figures.put(
            "renewals_change_in_session_p99_ms",
            changes.in_session.percentile(99),
            "ms",
        );
        figures.put("renewals_changes", changes.all.count() as f64, "");
        figures.put(
            "renewals_changes_in_session",
            changes.in_session.count() as f64,
            "",
        );
        until("all are in session with new certificates", || {
            board.open.get() == all
        })
        .await?;
        self.figures
            .put("peak_rss_mib", self.catalog.usage()?.peak_mib, "MiB");
        self.tell_ends("while all renewed");
        Ok(())
    }

    /// Sessions and attempts that ended, for whoever reads along.
    fn tell_ends(&self, when: &str) {
        for (reason, count) in self.board.take_ends() {
            eprintln!("  {count} × {when}: {reason}");
        }
    }
}

/// How long changes took for their one host.
#[derive(Debug, Default)]
struct Changes {
    all: Samples,
    /// Of hosts that had a session when the change was made.
    in_session: Samples,
}

impl Changes {
    fn push(&mut self, took: Duration, was_in_session: bool) {
        self.all.push(took);
        if was_in_session {
            self.in_session.push(took);
        }
    }

    fn extend(&mut self, other: Self) {
        self.all.extend(other.all);
        self.in_session.extend(other.in_session);
    }
}

/// Gives one host something and takes it away again, `times` times, each time another host of those that come behind the
/// fleet; how long it took from the call until the host knew, both ways.
async fn changes(
    operator: &Operator,
    board: &Board,
    (fleet, solos): (usize, usize),
    made_before: usize,
    times: usize,
) -> anyhow::Result<Changes> {
    let mut changes = Changes::default();
    for number in made_before..made_before + times {
        let pool = format!("solo-{}", number % solos);
        let host = fleet + number % solos;
        let id = format!("lake-{number}");
        let activation = format!("projects/ml/activations/{id}");
        let mut arrivals = board.watch(&activation);
        let deadline = Instant::now() + PATIENCE;
        let (mut begun, mut in_session) = (Instant::now(), board.is_attending(host));
        while let Err(status) = operator.activate("lake", &pool, &id).await {
            anyhow::ensure!(is_still_unmounting(&status) && begun < deadline, status);
            sleep(Duration::from_millis(50)).await;
            (begun, in_session) = (Instant::now(), board.is_attending(host));
        }
        changes.push(arrival(&mut arrivals, false).await? - begun, in_session);
        active(operator, &activation).await?;
        let (begun, in_session) = (Instant::now(), board.is_attending(host));
        operator.deactivate(&activation).await?;
        changes.push(arrival(&mut arrivals, true).await? - begun, in_session);
    }
    Ok(changes)
}

async fn arrival(arrivals: &mut mpsc::UnboundedReceiver<Arrival>, removal: bool) -> anyhow::Result<Instant> {
    loop {
        let arrived = timeout(PATIENCE, arrivals.recv()).await;
        let arrived = arrived.context("nothing arrives")?.context("nobody is left")?;
        // A host that has reconnected is told again.
        if arrived.removal == removal {
            return Ok(arrived.at);
        }
    }
}

/// Waits until an activation is active. Answers how often it asked.
async fn active(operator: &Operator, activation: &str) -> anyhow::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let mut asked = 0;
    loop {
        let (active, message) = operator.is_active(activation).await?;
        asked += 1;
        if active {
            return Ok(asked);
        }
        anyhow::ensure!(Instant::now() < deadline, "{activation} is not active: {message}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        anyhow::ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
