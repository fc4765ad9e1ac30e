//! Whether a report says anything that is not known. After a restart of the catalog each host tells what is known, and
//! so it does once more after each order; a look decides, without the writers' queue.

use uuid::Uuid;

use super::desk::Question;
use super::known::{Hosts, Mounts};
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

impl Want for Reported {
    fn host_uid(&self) -> Uuid {
        self.identity.uid
    }

    fn rows(&self) -> usize {
        self.mounts.len()
    }
}

impl Question for Reported {
    /// Whether there is something to write.
    type Answer = bool;

    async fn answer_all(snapshot: &Snapshot, questions: &[&Self]) -> Result<Vec<Result<bool, Error>>, Error> {
        let hosts = Hosts::of(snapshot, questions.iter().map(|asked| &asked.identity)).await?;
        let uids: Vec<Uuid> = questions.iter().map(|asked| asked.identity.uid).collect();
        let mounts = Mounts::of(snapshot, &uids).await?;
        let judge = |asked: &&Self| {
            let Self {
                identity,
                mounts: reported,
                at,
            } = *asked;
            let host = hosts.behind(identity, snapshot)?;
            let is_ban_done = at.ban_carried_out && host.has_a_ban_to_carry_out();
            Ok(is_ban_done || !mounts.news(identity.uid, reported.clone(), *at).is_empty())
        };
        Ok(questions.iter().map(judge).collect())
    }
}
