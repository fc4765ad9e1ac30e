//! Between columns and the domain's types. A column that cannot be read is damage, not a caller's mistake.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use sea_orm::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::Error;

/// Times are stored in microseconds; what is answered at creation must equal what is read later.
pub(super) fn to_stored_precision(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(time.microsecond() * 1000)
        .expect("a time's microseconds are within a second")
}

/// A list of uids for `IN`, filled up with its last one to one of few lengths: a connection keeps the plans of a hundred
/// statements, and a list of another length is another statement.
pub(super) fn padded(uids: &[Uuid]) -> impl Iterator<Item = Uuid> {
    let fill = uids.len().next_power_of_two() - uids.len();
    let last = uids.last().copied().into_iter();
    let fill = last.flat_map(move |last| std::iter::repeat_n(last, fill));
    uids.iter().copied().chain(fill)
}

/// A list `(VALUES …)` of rows that begin with a uid, and its values; filled up, for the same reason, with rows of nobody's
/// uid, which match nothing. Both databases call its columns `column1` and so on.
pub(super) fn values_of<const COLUMNS: usize>(rows: Vec<[Value; COLUMNS]>) -> (String, Vec<Value>) {
    let count = rows.len().next_power_of_two();
    let nobody: [Value; COLUMNS] = std::array::from_fn(|column| match (column, rows.first()) {
        (0, _) | (_, None) => Value::from(Uuid::nil()),
        (column, Some(row)) => row[column].clone(),
    });
    let fill = std::iter::repeat_n(nobody, count - rows.len());
    let places: Vec<String> = (0..count)
        .map(|row| {
            let columns: Vec<String> = (1..=COLUMNS)
                .map(|column| format!("${}", row * COLUMNS + column))
                .collect();
            format!("({})", columns.join(", "))
        })
        .collect();
    let values = rows.into_iter().chain(fill).flatten().collect();
    (format!("(VALUES {})", places.join(", ")), values)
}

pub(super) fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).expect("microseconds since 1970 fit for 292,000 years")
}

pub(super) fn time(micros: i64) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(Error::internal)
}

pub(super) fn parsed<T>(text: &str) -> Result<T, Error>
where
    T: FromStr<Err = String>,
{
    text.parse()
        .map_err(|problem: String| Error::internal(format!("the database holds {text:?}: {problem}")))
}

pub(super) fn named<T>(text: &str, from_name: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
    from_name(text).ok_or_else(|| Error::internal(format!("the database holds the unknown value {text:?}")))
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists and maps of text are always JSON")
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(Error::internal)
}

pub(super) fn text_map<K: Display + Ord>(map: &BTreeMap<K, String>) -> String {
    json(
        &map.iter()
            .map(|(key, value)| (key.to_string(), value))
            .collect::<BTreeMap<_, _>>(),
    )
}

/// What every resource's row has, as the domain's [`crate::domain::Meta`].
macro_rules! meta_of {
    ($row:expr) => {
        crate::domain::Meta {
            uid: $row.uid,
            texts: crate::domain::Texts {
                display_name: $row.display_name,
                description: $row.description,
                labels: crate::store::columns::from_json(&$row.labels)?,
            },
            creator: $row.creator,
            create_time: crate::store::columns::time($row.create_time)?,
            update_time: crate::store::columns::time($row.update_time)?,
            version: $row.version,
        }
    };
}

/// The row of a resource: the common columns from its meta, the others as given.
macro_rules! row_of {
    ($entity:ident, $id:expr, $meta:expr $(, $field:ident: $value:expr)* $(,)?) => {{
        let crate::domain::Meta { uid, texts, creator, create_time, update_time, version } = $meta;
        let crate::domain::Texts { display_name, description, labels } = texts;
        crate::store::entity::$entity::Model {
            uid: *uid,
            id: $id.to_string(),
            display_name: display_name.clone(),
            description: description.clone(),
            labels: crate::store::columns::json(labels),
            creator: creator.clone(),
            create_time: crate::store::columns::micros(*create_time),
            update_time: crate::store::columns::micros(*update_time),
            version: *version,
            $($field: $value,)*
        }
    }};
}

pub(super) use {meta_of, row_of};
