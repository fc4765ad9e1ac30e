//! File names and keys: what is a valid name, and which key belongs to a path.
//!
//! A [`FileName`] is the proof that a text is one valid path component; holding one means that nobody
//! downstream needs to check for `..`, slashes, NUL or length again.

use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;

use crate::error::FsError;

/// The kernel's limit for one component (NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;

/// S3's limit for a key.
pub const KEY_BYTES_MAX: usize = 1024;

/// One valid path component: 1 to 255 bytes of UTF-8, no slash, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Arc<str>);

/// Below which keys the mount shows: empty, or ending in a slash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix(String);

impl FileName {
    /// A name as it comes from the kernel.
    pub fn parse(name: &OsStr) -> Result<FileName, FsError> {
        let text = name.to_str().ok_or(FsError::NameNotUtf8)?;
        if text.len() > NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        FileName::of_component(text).ok_or(FsError::Invalid)
    }

    /// A component of a key, if it can be a file name.
    pub fn of_component(text: &str) -> Option<FileName> {
        let valid = !text.is_empty()
            && text.len() <= NAME_BYTES_MAX
            && text != "."
            && text != ".."
            && !text.contains(['/', '\0']);
        valid.then(|| FileName(Arc::from(text)))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::borrow::Borrow<str> for FileName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Prefix {
    /// `data/x`, `data/x/` and `/data/x` all mean the keys below `data/x/`.
    pub fn new(text: &str) -> Prefix {
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            Prefix(String::new())
        } else {
            Prefix(format!("{trimmed}/"))
        }
    }

    /// The prefix's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of a file (or, with a slash added, of a folder's marker), refused when S3 could not hold it.
pub fn checked_key(key: String) -> Result<String, FsError> {
    if key.len() > KEY_BYTES_MAX {
        Err(FsError::NameTooLong)
    } else {
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_components_are_names() {
        for good in ["a", "a b", "ä", ".hidden", "...", &"x".repeat(255)] {
            assert!(FileName::of_component(good).is_some(), "{good:?} is a name");
        }
        for bad in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(FileName::of_component(bad).is_none(), "{bad:?} is no name");
        }
    }

    #[test]
    fn a_prefix_is_empty_or_ends_in_a_slash() {
        for (input, expected) in [("", ""), ("/", ""), ("a", "a/"), ("/a/b/", "a/b/")] {
            assert_eq!(Prefix::new(input).as_str(), expected);
        }
    }
}
