//! Text from the command line becomes values of fields: numbers, enums, times, durations, and small messages typed
//! in one word. Which field takes which text is decided in `arguments`.

use std::time::Duration;

use base64::Engine as _;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    Value,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One value of the kind of `field`. The error says what is expected, not which flag it was.
pub(crate) fn parse(kind: &Kind, text: &str) -> Result<Value, String> {
    Ok(match kind {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(text.parse().map_err(|_| "write true or false".to_owned())?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number(text)?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number(text)?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number(text)?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number(text)?),
        Kind::Float => Value::F32(number(text)?),
        Kind::Double => Value::F64(number(text)?),
        Kind::Bytes => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            Value::Bytes(bytes.map_err(|_| "write it in base64".to_owned())?.into())
        }
        Kind::Enum(descriptor) => Value::EnumNumber(enum_value(descriptor, text)?.number()),
        Kind::Message(descriptor) => Value::Message(message(descriptor, text)?),
    })
}

/// One entry of a map, typed as `key=value`.
pub(crate) fn parse_entry(field: &FieldDescriptor, text: &str) -> Result<(MapKey, Value), String> {
    let Kind::Message(entry) = field.kind() else {
        return Err("it is not a map".to_owned());
    };
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "write it as key=value".to_owned())?;
    let key = parse(&entry.map_entry_key_field().kind(), key)?;
    let key = key
        .into_map_key()
        .ok_or_else(|| "write it as key=value".to_owned())?;
    Ok((key, parse(&entry.map_entry_value_field().kind(), value)?))
}

/// The short form of an enum's value: `read-only` for `MODE_READ_ONLY`.
pub(crate) fn short_name(value: &EnumValueDescriptor) -> String {
    without_prefix(value).to_lowercase().replace('_', "-")
}

/// An enum's value without the enum's own name: `READ_ONLY` for `MODE_READ_ONLY`.
pub(crate) fn without_prefix(value: &EnumValueDescriptor) -> &str {
    let zero = value.parent_enum().default_value();
    let prefix = zero.name().strip_suffix("UNSPECIFIED").unwrap_or_default();
    value.name().strip_prefix(prefix).unwrap_or(value.name())
}

/// The values of an enum that can be typed: all but the unspecified one.
pub(crate) fn typed_values(descriptor: &EnumDescriptor) -> impl Iterator<Item = EnumValueDescriptor> + '_ {
    descriptor
        .values()
        .filter(|value| !value.name().ends_with("_UNSPECIFIED"))
}

/// How a small message is typed in one word, for help texts.
pub(crate) fn message_form(descriptor: &MessageDescriptor) -> String {
    match (descriptor.full_name(), binding_fields(descriptor)) {
        ("google.protobuf.Timestamp", _) => "TIME".to_owned(),
        ("google.protobuf.Duration", _) => "DURATION".to_owned(),
        (_, Some((name, value))) => format!("{}={}", name.name(), value.name()).to_uppercase(),
        _ => descriptor
            .fields()
            .map(|field| format!("{}=…", field.name()))
            .collect::<Vec<_>>()
            .join(","),
    }
}

/// A span of time as people write it: `90s`, `10m`, `1h30m`, `7d`, `250ms`, or plain seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration such as 30s, 10m, 1h30m or 7d".to_owned();
    if let Ok(seconds) = text.strip_suffix('s').unwrap_or(text).parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let count: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |end| digits + end);
        let unit_millis: u64 = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = count.checked_mul(unit_millis).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "write a number that fits".to_owned())
}

fn enum_value(descriptor: &EnumDescriptor, text: &str) -> Result<EnumValueDescriptor, String> {
    let typed = text.to_uppercase().replace('-', "_");
    typed_values(descriptor)
        .find(|value| value.name() == typed || without_prefix(value) == typed)
        .ok_or_else(|| {
            let known: Vec<String> = typed_values(descriptor).map(|value| short_name(&value)).collect();
            format!("write one of {}", known.join(", "))
        })
}

fn message(descriptor: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => timestamp(descriptor, text),
        "google.protobuf.Duration" => {
            let span = duration(text)?;
            let seconds = i64::try_from(span.as_secs()).map_err(|_| "it is too long".to_owned())?;
            Ok(seconds_and_nanos(descriptor, seconds, span.subsec_nanos() as i32))
        }
        _ => match binding_fields(descriptor) {
            Some((name, value)) => binding(descriptor, &name, &value, text),
            None => record(descriptor, text),
        },
    }
}

fn timestamp(descriptor: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "write a time such as 2030-01-31T12:00:00Z".to_owned())?;
    Ok(seconds_and_nanos(
        descriptor,
        time.unix_timestamp(),
        time.nanosecond() as i32,
    ))
}

fn seconds_and_nanos(descriptor: &MessageDescriptor, seconds: i64, nanos: i32) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field_by_name("seconds", Value::I64(seconds));
    message.set_field_by_name("nanos", Value::I32(nanos));
    message
}

/// A message of exactly one text and one enum is typed as `text=enum`: `user:anna=developer`.
fn binding_fields(descriptor: &MessageDescriptor) -> Option<(FieldDescriptor, FieldDescriptor)> {
    let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
    let [first, second] = fields.as_slice() else {
        return None;
    };
    match (first.kind(), second.kind()) {
        (Kind::String, Kind::Enum(_)) => Some((first.clone(), second.clone())),
        (Kind::Enum(_), Kind::String) => Some((second.clone(), first.clone())),
        _ => None,
    }
}

fn binding(
    descriptor: &MessageDescriptor,
    name: &FieldDescriptor,
    value: &FieldDescriptor,
    text: &str,
) -> Result<DynamicMessage, String> {
    let (left, right) = text
        .rsplit_once('=')
        .filter(|(left, right)| !left.is_empty() && !right.is_empty())
        .ok_or_else(|| format!("write it as {}", message_form(descriptor)))?;
    let mut message = DynamicMessage::new(descriptor.clone());
    for (field, text) in [(name, left), (value, right)] {
        let value = parse(&field.kind(), text).map_err(|reason| {
            let form = message_form(descriptor);
            format!("write it as {form}; `{text}` is no {}: {reason}", field.name())
        })?;
        message.set_field(field, value);
    }
    Ok(message)
}

/// Any other message is typed as `field=value,field=value`.
fn record(descriptor: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    let wrong = || format!("write it as {}", message_form(descriptor));
    let mut message = DynamicMessage::new(descriptor.clone());
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let field = descriptor
            .get_field_by_name(&name.replace('-', "_"))
            .ok_or_else(wrong)?;
        if field.is_list() || field.is_map() {
            return Err(wrong());
        }
        message.set_field(
            &field,
            parse(&field.kind(), value).map_err(|reason| format!("{name}: {reason}"))?,
        );
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("90", 90_000),
            ("1.5s", 1500),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("250ms", 250),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "soon", "10x", "m", "-5s", "1h30", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
