//! The join string: one line that tells a newcomer where the catalog is, by which key to know it, and the one-time
//! token that lets it in. It is a secret: it goes through files and prompts, never through argv or a log.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Error, KeyPin, files};

const HEAD: &str = "mooring-join:v1:";

/// Longest accepted text: an endpoint of 2048 bytes, a token of 512, and base64 with room to spare.
const TEXT_BYTES_MAX: usize = 8192;

/// Endpoint, pin and one-time token.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct JoinString {
    /// Where the catalog is: `https://host:port`.
    #[zeroize(skip)]
    pub endpoint: String,
    /// The CA's key.
    #[zeroize(skip)]
    pub pin: KeyPin,
    token: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    endpoint: String,
    token: String,
    pin: String,
}

impl JoinString {
    /// Puts a join string together.
    pub fn new(endpoint: impl Into<String>, token: impl Into<String>, pin: KeyPin) -> Self {
        Self {
            endpoint: endpoint.into(),
            token: token.into(),
            pin,
        }
    }

    /// The one-time token; hand it to the enrolment request and to nothing else.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The line of text, without a line feed. Write it to a 0600 file only.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut body = Body {
            endpoint: self.endpoint.clone(),
            token: self.token.clone(),
            pin: self.pin.to_string(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&body).expect("three strings are always JSON"));
        body.token.zeroize();
        Zeroizing::new(format!("{HEAD}{}", URL_SAFE_NO_PAD.encode(json.as_slice())))
    }

    /// Reads a join file; white space around the line does not matter.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| Error::File {
                action: "read the join file",
                path: path.to_owned(),
                source,
            })?;
        text.parse()
    }

    /// Writes a join file: 0600, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut line = self.to_text();
        line.push('\n');
        files::write_atomic(path, line.as_bytes(), files::PRIVATE)
    }
}

impl FromStr for JoinString {
    type Err = Error;

    /// Errors never repeat the text: it may be a good token with one character too many.
    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = |reason: &str| Error::malformed("the join string", reason);
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(malformed("it is too long"));
        }
        let encoded = text
            .strip_prefix(HEAD)
            .ok_or_else(|| malformed("it must begin with mooring-join:v1:"))?;
        let json = URL_SAFE_NO_PAD
            .decode(encoded)
            .map(Zeroizing::new)
            .map_err(|_| malformed("it is cut off or was changed on its way; copy it again, whole"))?;
        let body: Body = serde_json::from_slice(&json)
            .map_err(|_| malformed("it is cut off or was changed on its way; copy it again, whole"))?;
        if body.token.is_empty() {
            return Err(malformed("it carries no token"));
        }
        if !body.endpoint.starts_with("https://") {
            return Err(malformed("its endpoint must begin with https://"));
        }
        Ok(Self {
            pin: body.pin.parse()?,
            endpoint: body.endpoint,
            token: body.token,
        })
    }
}

impl fmt::Debug for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinString")
            .field("endpoint", &self.endpoint)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> JoinString {
        JoinString::new(
            "https://catalog.example:7443",
            "planted-token",
            KeyPin::of_public_key(b"ca"),
        )
    }

    #[test]
    fn a_join_string_reads_back_what_it_writes() {
        let text = sample().to_text();
        assert_eq!(format!("  {}\n", *text).parse::<JoinString>().unwrap(), sample());
    }

    #[test]
    fn debug_output_does_not_show_the_token() {
        assert!(!format!("{:?}", sample()).contains("planted"));
    }

    #[test]
    fn errors_say_what_is_wrong_and_do_not_repeat_the_text() {
        let text = sample().to_text();
        let cut = &text[..text.len() - 7];
        for (input, expected) in [
            ("hello", "must begin with"),
            (cut, "cut off"),
            ("mooring-join:v1:e30", "cut off"),
        ] {
            let error = input.parse::<JoinString>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hello") && !error.contains("e30"));
        }
    }

    #[test]
    fn a_join_file_is_private() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.join");
        sample().write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(JoinString::read(&path).unwrap(), sample());
    }
}
