//! The only place of this crate that reads the wall clock and draws identifiers.

use time::OffsetDateTime;

/// The time now, cut to whole seconds: S3 shows `Last-Modified` in seconds everywhere, and a listing that
/// disagreed with a HEAD by a fraction would look like a changed object.
#[expect(clippy::disallowed_methods, reason = "this file is the crate's clock")]
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

/// A name that is given once: of an upload or of an object's version. 32 hexadecimal digits, in order of time.
#[expect(
    clippy::disallowed_methods,
    reason = "this file is the crate's source of identifiers"
)]
pub(crate) fn unique() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}
