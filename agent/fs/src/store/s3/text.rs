//! Keys as text on the wire: URL encoding both ways. Pure.

use std::fmt::Write;

/// Encodes a key for `x-amz-copy-source`: all but unreserved characters and slashes.
pub(super) fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            // Writing into a String cannot fail.
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Decodes what `encoding-type=url` encoded: `%XX`, and `+` for a space, as S3 and all clients have it.
/// Answers none if the result is no UTF-8. A `%` without two digits stands for itself.
pub(super) fn url_decoded(text: &str) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = match byte {
            b'%' => bytes.get(at + 1..at + 3).and_then(hex_byte),
            b'+' => {
                decoded.push(b' ');
                at += 1;
                continue;
            }
            _ => None,
        };
        decoded.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok()
}

/// Can XML 1.0 carry this key? DeleteObjects names keys in XML, which has no way to write most control
/// characters, not even escaped.
pub(super) fn fits_xml(key: &str) -> bool {
    key.chars().all(|c| match c {
        '\u{fffe}' | '\u{ffff}' => false,
        // Parsers fold line ends, and not every SDK escapes them.
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => false,
        _ => true,
    })
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    match digits {
        [high, low] => u8::try_from(value(*high)? * 16 + value(*low)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_and_decoding_are_inverse_for_every_key() {
        for key in [
            "a/b c+d%20&e",
            "é/日本/😀",
            "\u{1}\t\n\u{7f}",
            "100%",
            "",
            "//",
            "~-_.",
        ] {
            assert_eq!(url_decoded(&url_encoded(key)).as_deref(), Some(key));
        }
    }

    #[test]
    fn decoding_knows_the_dialects_of_servers() {
        assert_eq!(url_decoded("a+b%2Bc").as_deref(), Some("a b+c"));
        assert_eq!(url_decoded("100%").as_deref(), Some("100%"));
        assert_eq!(url_decoded("%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(url_decoded("%c3%A9").as_deref(), Some("é"));
        assert_eq!(url_decoded("%ff"), None);
    }

    #[test]
    fn control_characters_do_not_fit_xml() {
        assert!(fits_xml("plain & <tagged> \"é\""));
        assert!(!fits_xml("a\u{1}b"));
        assert!(!fits_xml("a\nb"));
        assert!(!fits_xml("a\u{ffff}b"));
    }
}
