//! The last words of a program that serves a mount, for people who read a condition instead of a log. Programs of
//! others are among them, so whatever looks like a key or a signature is struck out: a condition travels to the catalog
//! and is shown to more people than may read the log.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// As much as fits into a condition that people still read.
const SHOWN_CHARS_MAX: usize = 300;
const LINES_MAX: usize = 3;

/// The end of a log that can hold the last lines; a line may be long.
const READ_BYTES_MAX: u64 = 16 * 1024;

/// What is shown in the place of a secret.
const STRUCK: &str = "[struck out]";

/// What stands before a secret, in lower case. The text up to the next space, quote or separator is struck out.
const MARKS: [&str; 9] = [
    "signature=",
    "credential=",
    "x-amz-security-token=",
    "security-token:",
    "authorization:",
    "secret_access_key",
    "secretaccesskey",
    "secretkey",
    "password",
];

/// An S3 secret key has 40 characters of base64; longer runs are tokens. Words and uids are shorter.
const KEY_CHARS_MIN: usize = 40;

/// The last lines of a log, struck out and cut.
pub(super) fn last(log: &Path) -> String {
    let text = tail(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text
        .lines()
        .rev()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(LINES_MAX)
        .collect();
    if lines.is_empty() {
        return "it has logged nothing".to_owned();
    }
    lines.reverse();
    let shown = strike_out(&lines.join(" | "));
    let chars = shown.chars().count();
    // The end of what it said tells more than the beginning.
    shown
        .chars()
        .skip(chars.saturating_sub(SHOWN_CHARS_MAX))
        .collect()
}

fn tail(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text without what looks like a secret.
fn strike_out(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            shown.push(' ');
        }
        shown.push_str(&strike_word(word, index > 0 && ends_with_mark(&shown)));
    }
    shown
}

/// Whether a secret may follow behind a space: `Authorization: …`, `secret_access_key = …`.
fn ends_with_mark(before: &str) -> bool {
    let before = before.trim_end_matches([' ', '=', ':', '"', '\'']).to_lowercase();
    MARKS
        .iter()
        .any(|mark| before.ends_with(mark.trim_end_matches([':', '='])))
}

fn strike_word(word: &str, marked: bool) -> String {
    if marked && word.chars().any(char::is_alphanumeric) {
        return STRUCK.to_owned();
    }
    // Lower case of ASCII alone: the positions must stay those of the word.
    let lower = word.to_ascii_lowercase();
    let mark = MARKS
        .iter()
        .filter_map(|mark| Some(lower.find(mark)? + mark.len()))
        .min();
    if let Some(end) = mark {
        let rest = word[end..].trim_start_matches(['=', ':', '"', '\'']);
        let kept = &word[..word.len() - rest.len()];
        let after = rest.find(['&', ',', ';', '"', '\'']).map_or("", |at| &rest[at..]);
        return match rest.is_empty() {
            true => word.to_owned(),
            false => format!("{kept}{STRUCK}{}", strike_word(after, false)),
        };
    }
    let mut shown = String::new();
    let mut run = String::new();
    for char in word.chars() {
        if char.is_ascii_alphanumeric() || matches!(char, '+' | '/' | '=') {
            run.push(char);
        } else {
            shown.push_str(&judged(&run));
            run.clear();
            shown.push(char);
        }
    }
    shown.push_str(&judged(&run));
    shown
}

/// A run of base64, unless it can only be a path, a number or a word.
fn judged(run: &str) -> String {
    let has = |what: fn(&char) -> bool| run.chars().any(|char| what(&char));
    let mixed = has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase) && has(char::is_ascii_digit);
    if run.len() >= KEY_CHARS_MIN && mixed {
        STRUCK.to_owned()
    } else {
        run.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    #[test]
    fn what_looks_like_a_secret_is_struck_out() {
        for text in [
            format!("key {KEY} refused"),
            format!("secret_access_key = {KEY}"),
            "secretkey=short rest".to_owned(),
            "Authorization: AWS4-HMAC-SHA256 Credential=AK/x, Signature=0123abcd".to_owned(),
            "GET /a?X-Amz-Signature=deadbeef&x=1".to_owned(),
            "password: hunter2".to_owned(),
        ] {
            let shown = strike_out(&text);
            assert!(shown.contains(STRUCK), "{shown}");
            for secret in [KEY, "short", "0123abcd", "deadbeef", "hunter2"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }

    #[test]
    fn what_people_need_stays() {
        let text = "cannot connect to https://s3.example.org/bucket: No such file /var/cache/mooring/01890a5d-ac96-774b-bcce-b302099a8057/staging";
        assert_eq!(strike_out(text), text);
    }

    #[test]
    fn the_last_lines_are_shown_and_an_empty_log_is_named_so() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last(&log), "it has logged nothing");
        std::fs::write(&log, format!("one\ntwo\n\nthree\n{}\n", "four".repeat(100))).unwrap();
        let shown = last(&log);
        assert_eq!(shown.chars().count(), SHOWN_CHARS_MAX);
        std::fs::write(&log, "one\ntwo\n\nthree\nfour\n").unwrap();
        assert_eq!(last(&log), "two | three | four");
    }
}
