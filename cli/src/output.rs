//! Answers on standard output: tables whose columns the protos name, or the protobuf JSON mapping as JSON or YAML.
//! Remarks go to standard error. Secret fields are never shown, and nothing a server says can move the cursor.

use std::io::{ErrorKind, Write};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, SerializeOptions, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::descriptors::Descriptors;
use crate::errors::Failure;
use crate::values;

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

impl Format {
    /// Reads the value of `--output`; clap has checked it.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            _ => Self::Table,
        }
    }
}

/// Shows an answer. `words` are those of the command, for remarks.
pub(crate) fn show(
    descriptors: &Descriptors,
    format: Format,
    words: &str,
    mut answer: DynamicMessage,
) -> Result<(), Failure> {
    hide_secrets(descriptors, &mut answer);
    match format {
        Format::Json => print(&(json(&answer)? + "\n")),
        Format::Yaml => print(&yaml(&answer)?),
        Format::Table => {
            if answer.descriptor().fields().len() == 0 {
                note(&format!("{words}: done"));
                return Ok(());
            }
            let text = match rows(&answer) {
                Some((field, rows)) if rows.is_empty() => {
                    note(&format!("no {}", field.name().replace('_', " ")));
                    String::new()
                }
                Some((field, rows)) => {
                    let columns = match field.kind() {
                        Kind::Message(item) => descriptors.columns_of(&item),
                        _ => Vec::new(),
                    };
                    table(&columns, &rows)
                }
                None => {
                    let columns = descriptors.columns_of(&answer.descriptor());
                    if columns.is_empty() {
                        let text = lines(&answer);
                        if text.is_empty() {
                            note(&format!("{words}: none"));
                        }
                        text
                    } else {
                        table(&columns, &[&answer])
                    }
                }
            };
            print(&text)
        }
    }
}

/// Shows rows that come from this machine and not from a server.
pub(crate) fn show_rows(
    format: Format,
    what: &str,
    columns: &[&str],
    rows: &[serde_json::Value],
) -> Result<(), Failure> {
    let plain = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => clean(text),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    match format {
        Format::Json => print(&format!("{:#}\n", serde_json::json!({ what: rows }))),
        Format::Yaml => {
            print(&serde_norway::to_string(&serde_json::json!({ what: rows })).map_err(cannot_show)?)
        }
        Format::Table if rows.is_empty() => {
            note(&format!("no {what}"));
            Ok(())
        }
        Format::Table => {
            let header = columns.iter().map(|column| upper_snake(column)).collect();
            let cells = rows
                .iter()
                .map(|row| columns.iter().map(|column| plain(&row[*column])).collect())
                .collect();
            print(&grid(header, cells))
        }
    }
}

/// Writes to standard output. A reader that has gone away, such as `head`, is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Local(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// A remark on standard error; whether anybody reads it does not matter.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Text of a server without characters that a terminal would obey.
pub(crate) fn clean(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() && c != '\n' && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(plain).collect()
}

/// The one repeated message of an answer that is a list, with its rows.
pub(crate) fn rows(answer: &DynamicMessage) -> Option<(FieldDescriptor, Vec<&DynamicMessage>)> {
    let list_field = list_field(answer)?;
    let rows = match answer.fields().find(|(field, _)| *field == list_field) {
        Some((_, value)) => value
            .as_list()
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_message)
            .collect(),
        None => Vec::new(),
    };
    Some((list_field, rows))
}

/// The field with the items of a list: the only repeated message beside texts such as a page token or an etag.
pub(crate) fn list_field(answer: &DynamicMessage) -> Option<FieldDescriptor> {
    let descriptor = answer.descriptor();
    let is_items = |field: &FieldDescriptor| field.is_list() && matches!(field.kind(), Kind::Message(_));
    let mut items = descriptor.fields().filter(is_items);
    let (first, None) = (items.next()?, items.next()) else {
        return None;
    };
    let beside =
        |field: &FieldDescriptor| *field == first || matches!(field.name(), "next_page_token" | "etag");
    descriptor.fields().all(|field| beside(&field)).then_some(first)
}

fn json(answer: &DynamicMessage) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut bytes);
    answer
        .serialize_with_options(&mut serializer, &options())
        .map_err(cannot_show)?;
    String::from_utf8(bytes).map_err(cannot_show)
}

fn yaml(answer: &DynamicMessage) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    answer
        .serialize_with_options(&mut serde_norway::Serializer::new(&mut bytes), &options())
        .map_err(cannot_show)?;
    String::from_utf8(bytes).map_err(cannot_show)
}

/// Every field is there, also an empty one: scripts need not ask whether it is.
fn options() -> SerializeOptions {
    SerializeOptions::new().skip_default_fields(false)
}

fn cannot_show(error: impl std::fmt::Display) -> Failure {
    Failure::Local(format!(
        "the answer cannot be shown: {error}; try another --output"
    ))
}

fn table(columns: &[String], rows: &[&DynamicMessage]) -> String {
    let header = columns
        .iter()
        .map(|column| column.replace('.', "_").to_uppercase())
        .collect();
    let cells = |row: &&DynamicMessage| columns.iter().map(|column| cell_at(row, column)).collect();
    grid(header, rows.iter().map(cells).collect())
}

/// Columns two spaces apart, nothing else: easy on the eye, and on awk.
fn grid(header: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(
            row.into_iter()
                .map(|cell| cell.replace(['\n', '\t'], " "))
                .collect::<Vec<_>>(),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// `CERTIFICATE_EXPIRE_TIME` for `certificateExpireTime`.
fn upper_snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

/// A message without columns: one line for each field that is set.
fn lines(message: &DynamicMessage) -> String {
    message
        .descriptor()
        .fields()
        .filter(|field| message.has_field(field))
        .map(|field| format!("{}: {}\n", field.name(), cell(&field, &message.get_field(&field))))
        .collect()
}

/// The text in a table for a column such as `state` or `options.virtual_host_style`.
pub(crate) fn cell_at(message: &DynamicMessage, column: &str) -> String {
    let (name, rest) = column
        .split_once('.')
        .map_or((column, None), |(name, rest)| (name, Some(rest)));
    let Some(field) = message.descriptor().get_field_by_name(name) else {
        return String::new();
    };
    let value = message.get_field(&field);
    match (rest, value.as_message()) {
        (Some(rest), Some(inner)) => cell_at(inner, rest),
        (Some(_), None) => String::new(),
        (None, Some(_)) if !message.has_field(&field) => String::new(),
        (None, _) => cell(&field, &value),
    }
}

fn cell(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::List(items) => items
            .iter()
            .map(|item| scalar(&field.kind(), item))
            .collect::<Vec<_>>()
            .join(","),
        Value::Map(entries) => {
            let mut texts: Vec<String> = entries
                .iter()
                .map(|(key, value)| entry(field, key, value))
                .collect();
            texts.sort();
            texts.join(",")
        }
        value => scalar(&field.kind(), value),
    }
}

fn entry(field: &FieldDescriptor, key: &MapKey, value: &Value) -> String {
    let Kind::Message(entry) = field.kind() else {
        return String::new();
    };
    let key = scalar(&entry.map_entry_key_field().kind(), &Value::from(key.clone()));
    format!("{key}={}", scalar(&entry.map_entry_value_field().kind(), value))
}

fn scalar(kind: &Kind, value: &Value) -> String {
    match (kind, value) {
        (_, Value::String(text)) => clean(text),
        (_, Value::Bool(value)) => value.to_string(),
        (_, Value::I32(value)) => value.to_string(),
        (_, Value::I64(value)) => value.to_string(),
        (_, Value::U32(value)) => value.to_string(),
        (_, Value::U64(value)) => value.to_string(),
        (_, Value::F32(value)) => value.to_string(),
        (_, Value::F64(value)) => value.to_string(),
        (Kind::Enum(descriptor), Value::EnumNumber(number)) => match descriptor.get_value(*number) {
            Some(value) if value.number() == 0 => String::new(),
            Some(value) => values::without_prefix(&value).to_owned(),
            None => number.to_string(),
        },
        (_, Value::Message(message)) => well_known(message).unwrap_or_else(|| clean(&one_line(message))),
        (_, other) => format!("{other:?}"),
    }
}

fn well_known(message: &DynamicMessage) -> Option<String> {
    let seconds = || message.get_field_by_name("seconds")?.as_i64();
    match message.descriptor().full_name() {
        // To the second: a table is for people, and the rest is in the JSON.
        "google.protobuf.Timestamp" => OffsetDateTime::from_unix_timestamp(seconds()?)
            .ok()?
            .format(&Rfc3339)
            .ok(),
        "google.protobuf.Duration" => Some(format!("{}s", seconds()?)),
        _ => None,
    }
}

fn one_line(message: &DynamicMessage) -> String {
    let options = SerializeOptions::new();
    let mut bytes = Vec::new();
    let written = message.serialize_with_options(&mut serde_json::Serializer::new(&mut bytes), &options);
    written
        .ok()
        .and_then(|()| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

/// Removes what the protos call secret, at whatever depth, before anything is shown.
fn hide_secrets(descriptors: &Descriptors, message: &mut DynamicMessage) {
    let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    for field in fields {
        if descriptors.argument_of(&field).secret {
            message.clear_field(&field);
        } else if matches!(field.kind(), Kind::Message(_)) && message.has_field(&field) {
            match message.get_field_mut(&field) {
                Value::Message(inner) => hide_secrets(descriptors, inner),
                Value::List(items) => {
                    items
                        .iter_mut()
                        .filter_map(Value::as_message_mut)
                        .for_each(|item| hide_secrets(descriptors, item));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
