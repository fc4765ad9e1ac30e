//! The keys of one bucket in S3's order (UTF-8 bytes), and one page of a listing.
//!
//! Invariant: a page costs as many tree descents as it has common prefixes, plus its keys; never the folder's size.
//! A common prefix is passed by a seek behind it, not by walking over what it holds.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::object::Object;

/// An ordered map from key to object.
#[derive(Debug, Default)]
pub(crate) struct Index {
    objects: BTreeMap<Key, Arc<Object>>,
}

/// What one page of a listing is asked for.
#[derive(Debug, Clone)]
pub(crate) struct PageRequest<'a> {
    pub(crate) prefix: &'a str,
    /// Empty: no delimiter.
    pub(crate) delimiter: &'a str,
    pub(crate) from: Position,
    pub(crate) entries_max: usize,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    /// At the first key.
    Start,
    /// Behind this key; and behind its whole common prefix, when this listing rolls it up: that prefix sorts before
    /// the key, and V1 clients page with it as marker. (Ceph and versitygw do the same.)
    After(String),
    /// Behind everything that begins with this common prefix.
    AfterPrefix(String),
}

/// One page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<(String, Arc<Object>)>,
    pub(crate) common_prefixes: Vec<String>,
    /// Where the next page begins; none on the last page.
    pub(crate) next: Option<Position>,
}

impl Index {
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key.as_bytes())
    }

    pub(crate) fn insert(&mut self, key: &str, object: Arc<Object>) -> Option<Arc<Object>> {
        self.objects.insert(Key(key.into()), object)
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Object>> {
        self.objects.remove(key.as_bytes())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Object>)> {
        self.objects.iter().map(|(key, object)| (&*key.0, object))
    }

    /// One page of at most `entries_max` keys and common prefixes together.
    pub(crate) fn page(&self, request: &PageRequest<'_>) -> Page {
        let mut page = Page::default();
        if request.entries_max == 0 {
            return page;
        }
        let Some(mut seek) = first_seek(request) else {
            return page;
        };
        let mut last = Position::Start;
        'seeks: loop {
            for (key, object) in self.objects.range::<[u8], _>((seek.as_bound(), Bound::Unbounded)) {
                if !key.0.starts_with(request.prefix) {
                    return page;
                }
                if page.objects.len() + page.common_prefixes.len() == request.entries_max {
                    page.next = Some(last);
                    return page;
                }
                let Some(common) = common_prefix(&key.0, request) else {
                    page.objects.push((key.0.to_string(), object.clone()));
                    last = Position::After(key.0.to_string());
                    continue;
                };
                page.common_prefixes.push(common.to_owned());
                last = Position::AfterPrefix(common.to_owned());
                match successor(common.as_bytes()) {
                    Some(next) => seek = Seek::From(next),
                    None => return page,
                }
                continue 'seeks;
            }
            return page;
        }
    }
}

/// A key, ordered and sought by its bytes: a seek target need not be valid UTF-8.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Box<str>);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

enum Seek {
    From(Vec<u8>),
    Behind(Vec<u8>),
}

impl Seek {
    fn as_bound(&self) -> Bound<&[u8]> {
        match self {
            Self::From(key) => Bound::Included(key),
            Self::Behind(key) => Bound::Excluded(key),
        }
    }
}

/// Where to look first; none when the position is behind every key with the prefix.
fn first_seek(request: &PageRequest<'_>) -> Option<Seek> {
    let prefix = request.prefix.as_bytes();
    let seek = match &request.from {
        Position::Start => return Some(Seek::From(prefix.to_vec())),
        Position::AfterPrefix(common) => Seek::From(successor(common.as_bytes())?),
        Position::After(key) => match common_prefix(key, request) {
            Some(common) => Seek::From(successor(common.as_bytes())?),
            None => Seek::Behind(key.clone().into_bytes()),
        },
    };
    let (Seek::From(at) | Seek::Behind(at)) = &seek;
    if at.as_slice() < prefix {
        Some(Seek::From(prefix.to_vec()))
    } else {
        Some(seek)
    }
}

/// The part of `key` up to and with the first delimiter behind the listing's prefix.
fn common_prefix<'k>(key: &'k str, request: &PageRequest<'_>) -> Option<&'k str> {
    if request.delimiter.is_empty() {
        return None;
    }
    let rest = key.strip_prefix(request.prefix)?;
    let at = rest.find(request.delimiter)?;
    Some(&key[..request.prefix.len() + at + request.delimiter.len()])
}

/// The smallest byte string above everything that begins with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < u8::MAX {
            next.push(last + 1);
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
