//! Whether a report says anything that is not known. After a restart of the catalog each host tells what is known, and
//! so it does once more after each order; a look decides, without the writers' queue.

use uuid::Uuid;

use super::desk::Question;
use super::known::{Given, Hosts, Mounts};
use super::queue::Want;
use crate::domain::Error;
use crate::domain::mount::{ObservedMount, ReportedAt};
use crate::policy::Identity;
use crate::store::Snapshot;

/// A report.
pub(crate) struct Reported {
    pub(super) identity: Identity,
    pub(super) mounts: Vec<ObservedMount>,
    pub(super) at: ReportedAt,
}

/// What it comes to.
pub(crate) struct Judged {
    /// There is something to write.
    pub(super) is_news: bool,
    /// The host lacks something that its pool was given.
    pub(super) is_owed: bool,
}

impl Want for Reported {
    fn host_uid(&self) -> Uuid {
        self.identity.uid
    }

    fn rows(&self) -> usize {
        self.mounts.len()
    }
}

impl Question for Reported {
    type Answer = Judged;

    async fn answer_all(
        snapshot: &Snapshot,
        questions: &[&Self],
    ) -> Result<Vec<Result<Judged, Error>>, Error> {
        let hosts = Hosts::of(snapshot, questions.iter().map(|asked| &asked.identity)).await?;
        let uids: Vec<Uuid> = questions.iter().map(|asked| asked.identity.uid).collect();
        let mounts = Mounts::of(snapshot, &uids).await?;
        let given = questions
            .iter()
            .filter_map(|asked| hosts.behind(&asked.identity, snapshot).ok());
        let given = Given::to_pools_of(snapshot, given).await?;
        let judge = |asked: &&Self| {
            let Self {
                identity,
                mounts: reported,
                at,
            } = *asked;
            let host = hosts.behind(identity, snapshot)?;
            let is_ban_done = at.ban_carried_out && host.has_a_ban_to_carry_out();
            Ok(Judged {
                is_news: is_ban_done || !mounts.news(identity.uid, reported.clone(), *at).is_empty(),
                is_owed: given.is_lacked_by(host, mounts.ordered(identity.uid)),
            })
        };
        Ok(questions.iter().map(judge).collect())
    }
}
