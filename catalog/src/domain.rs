//! The vocabulary of the catalog, its errors and its invariants. No async, no I/O; nothing here derives from the
//! database, serde or protobuf.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

pub mod access;
pub mod activation;
pub mod assignment;
pub mod audit;
pub mod community;
pub mod connector;
pub mod endpoint;
pub mod error;
pub mod host;
pub mod import;
pub mod join_token;
pub mod mount;
pub mod names;
pub mod pool;
pub mod project;
pub mod publication;
pub mod secret;
pub mod texts;
pub mod user;

pub use error::{Denial, Error, Violations};
pub use names::Id;
pub use texts::{Texts, TextsChange};

/// What every resource has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Identifier that is never used again.
    pub uid: Uuid,
    /// Display name, description and labels.
    pub texts: Texts,
    /// Who created it, as `users/{user}`, `hosts/{host}` or `catalog`.
    pub creator: String,
    /// When it was created.
    pub create_time: OffsetDateTime,
    /// When it was last changed.
    pub update_time: OffsetDateTime,
    /// Raised with every change; the etag is made of it.
    pub version: i64,
}

impl Meta {
    /// Of a resource that is being created.
    pub fn new(uid: Uuid, texts: Texts, creator: impl Into<String>, now: OffsetDateTime) -> Self {
        Self {
            uid,
            texts,
            creator: creator.into(),
            create_time: now,
            update_time: now,
            version: 1,
        }
    }

    /// Changes with every change, and differs from that of a deleted resource with the same name.
    pub fn etag(&self) -> String {
        let uid = self.uid.simple().to_string();
        format!("{}-{}", &uid[uid.len() - 12..], self.version)
    }

    /// Refuses a change that was made from an older state. An empty etag asks for no check.
    pub fn check_etag(&self, given: &str, resource: &dyn std::fmt::Display) -> Result<(), Error> {
        if given.is_empty() || given == self.etag() {
            return Ok(());
        }
        Err(Error::Stale {
            resource: resource.to_string(),
        })
    }

    /// Applies new texts and marks the change.
    pub fn change(&mut self, texts: TextsChange, now: OffsetDateTime) {
        self.texts.apply(texts);
        self.touch(now);
    }

    /// Marks a change.
    pub fn touch(&mut self, now: OffsetDateTime) {
        self.update_time = now;
        self.version += 1;
    }
}

/// Keys and values for people's own use.
pub type Labels = BTreeMap<String, String>;

/// Whether a mount can be written to. The lesser is the narrower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Writing fails.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

impl Mode {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "READ_ONLY",
            Self::ReadWrite => "READ_WRITE",
        }
    }

    /// Reads what [`Mode::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::ReadOnly, Self::ReadWrite]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

/// Which program mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backend {
    /// Mooring's own filesystem.
    Default,
    /// GeeseFS.
    Geesefs,
    /// s3fs.
    S3fs,
}

impl Backend {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "DEFAULT",
            Self::Geesefs => "GEESEFS",
            Self::S3fs => "S3FS",
        }
    }

    /// Reads what [`Backend::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Default, Self::Geesefs, Self::S3fs]
            .into_iter()
            .find(|backend| backend.as_str() == text)
    }
}

/// One page of a list: where it begins and how much it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Only what comes after this key.
    pub after: Option<String>,
    /// At most this many.
    pub size: usize,
}

/// What a page holds, and whether more follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paged<T> {
    /// The items.
    pub items: Vec<T>,
    /// The key after which the next page begins; `None` on the last.
    pub next: Option<String>,
}

impl<T> Paged<T> {
    /// Cuts a page out of rows that were asked for with a limit of one more than the page holds.
    pub fn cut(mut items: Vec<T>, page: &Page, key: impl FnOnce(&T) -> String) -> Self {
        let more = items.len() > page.size;
        items.truncate(page.size);
        let next = if more { items.last().map(key) } else { None };
        Self { items, next }
    }

    /// The same page of something else.
    pub fn map<U>(self, each: impl FnMut(T) -> U) -> Paged<U> {
        Paged {
            items: self.items.into_iter().map(each).collect(),
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_changes_with_every_change_and_refuses_older_ones() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut meta = Meta::new(Uuid::from_u128(7), Texts::default(), "users/a", now);
        let first = meta.etag();
        assert!(meta.check_etag(&first, &"x").is_ok());
        meta.touch(now);
        assert!(meta.check_etag("", &"x").is_ok());
        assert!(matches!(meta.check_etag(&first, &"x"), Err(Error::Stale { .. })));
    }

    #[test]
    fn a_page_knows_whether_more_follows() {
        let page = Page { after: None, size: 2 };
        let cut = Paged::cut(vec![1, 2, 3], &page, ToString::to_string);
        assert_eq!((cut.items, cut.next), (vec![1, 2], Some("2".into())));
        assert_eq!(Paged::cut(vec![1, 2], &page, ToString::to_string).next, None);
    }

    #[test]
    fn the_narrower_mode_is_the_lesser() {
        assert_eq!(Mode::ReadOnly.min(Mode::ReadWrite), Mode::ReadOnly);
    }
}
