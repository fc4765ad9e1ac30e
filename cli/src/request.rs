//! What was typed becomes the request: values at their fields, short names completed, the update mask computed, and
//! what the program fills in by itself. Reads secrets, makes no call.

use clap::ArgMatches;
use mooring_identity::Clock;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

use crate::arguments::{Argument, Shape};
use crate::commands::Command;
use crate::errors::Failure;
use crate::names::Ids;
use crate::secrets;
use crate::values;

/// Builds the request of `command`.
pub(crate) fn build(
    command: &Command,
    matches: &ArgMatches,
    clock: &Clock,
) -> Result<DynamicMessage, Failure> {
    let mut request = DynamicMessage::new(command.method.input());
    let known = known_ids(command, matches);
    let mut mask = Vec::new();
    for argument in &command.arguments {
        if set(&mut request, argument, matches, &known)? {
            mask.extend(argument.mask_path.clone());
        }
    }
    if command.updates() {
        mask.extend(cleared(command, matches)?);
        if !(mask.is_empty() && adjusts_lists(command, matches)) {
            set_mask(&mut request, command, mask)?;
        }
    }
    if request.descriptor().get_field_by_name("request_id").is_some() {
        request.set_field_by_name("request_id", Value::String(clock.new_uid().to_string()));
    }
    Ok(request)
}

/// The ids that full names on this command line spell out, for those that are typed shorter.
fn known_ids(command: &Command, matches: &ArgMatches) -> Ids {
    let mut known = Ids::new();
    for argument in &command.arguments {
        let Some(pattern) = &argument.pattern else {
            continue;
        };
        // Entries of lists and maps are many: none of them is what the others belong to.
        if argument.shape != Shape::One {
            continue;
        }
        for ids in texts(argument, matches)
            .iter()
            .filter_map(|text| pattern.ids(text))
        {
            for (name, id) in ids {
                known.entry(name).or_insert(id);
            }
        }
    }
    known
}

/// Sets the field of one argument; answers whether the argument was given.
fn set(
    request: &mut DynamicMessage,
    argument: &Argument,
    matches: &ArgMatches,
    known: &Ids,
) -> Result<bool, Failure> {
    let wrong = |reason: String| Failure::Usage(format!("{}: {reason}", argument.shown()));
    let field = argument.field();
    let texts = texts(argument, matches);
    if argument.shape == Shape::Secret {
        let value = secrets::read(texts.first().map(String::as_str), argument)?;
        let given = value.is_some();
        if let Some(value) = value {
            place(request, argument).set_field(field, Value::String(value.to_string()));
        }
        return Ok(given);
    }
    if texts.is_empty() {
        return Ok(false);
    }
    let parse = |text: &String| -> Result<Value, Failure> {
        match &argument.pattern {
            // An empty name clears the field in an update, and is what the server judges elsewhere; `*` means all where
            // that can be meant, and is never an id.
            Some(pattern) if !text.is_empty() && text != "*" => {
                pattern.complete(text, known).map(Value::String).map_err(wrong)
            }
            _ => values::parse(&field.kind(), text).map_err(wrong),
        }
    };
    let value = match argument.shape {
        Shape::Switch | Shape::One | Shape::Secret => parse(&texts[0])?,
        Shape::Many | Shape::Messages => Value::List(texts.iter().map(parse).collect::<Result<_, _>>()?),
        Shape::Pairs => {
            let entries = texts.iter().map(|text| {
                let text = with_full_key(text, argument, known).map_err(wrong)?;
                values::parse_entry(field, &text).map_err(wrong)
            });
            Value::Map(entries.collect::<Result<_, _>>()?)
        }
    };
    place(request, argument).set_field(field, value);
    Ok(true)
}

/// The pattern of a map is that of its keys.
fn with_full_key(text: &str, argument: &Argument, known: &Ids) -> Result<String, String> {
    match (&argument.pattern, text.split_once('=')) {
        (Some(pattern), Some((key, value))) => Ok(format!("{}={value}", pattern.complete(key, known)?)),
        (Some(_), None) | (None, _) => Ok(text.to_owned()),
    }
}

fn texts(argument: &Argument, matches: &ArgMatches) -> Vec<String> {
    matches
        .get_many::<String>(&argument.flag)
        .map(|values| values.cloned().collect())
        .unwrap_or_default()
}

/// The message that holds the argument's field; made where it is not there yet.
fn place<'a>(request: &'a mut DynamicMessage, argument: &Argument) -> &'a mut DynamicMessage {
    let (_, parents) = argument.path.split_last().expect("a path has at least the field");
    parents.iter().fold(request, |message, field: &FieldDescriptor| {
        message
            .get_field_mut(field)
            .as_message_mut()
            .expect("only messages have fields")
    })
}

fn cleared(command: &Command, matches: &ArgMatches) -> Result<Vec<String>, Failure> {
    let flags: Vec<&String> = matches
        .get_many("clear")
        .map(Iterator::collect)
        .unwrap_or_default();
    let mut paths = Vec::new();
    for argument in command
        .arguments
        .iter()
        .filter(|argument| flags.contains(&&argument.flag))
    {
        if matches.contains_id(&argument.flag) {
            return Err(Failure::Usage(format!(
                "{} is both given and cleared; choose one",
                argument.shown()
            )));
        }
        paths.extend(argument.mask_path.clone());
    }
    Ok(paths)
}

/// Whether something is added to a list or removed from it, beside the resource that the mask speaks of.
fn adjusts_lists(command: &Command, matches: &ArgMatches) -> bool {
    command
        .arguments
        .iter()
        .any(|argument| argument.adjusts_list() && matches.contains_id(&argument.flag))
}

fn set_mask(request: &mut DynamicMessage, command: &Command, paths: Vec<String>) -> Result<(), Failure> {
    if paths.is_empty() {
        let flags: Vec<String> = command
            .arguments
            .iter()
            .filter(|argument| argument.mask_path.is_some() || argument.adjusts_list())
            .map(Argument::shown)
            .collect();
        return Err(Failure::Usage(format!(
            "there is nothing to change; give at least one of {}",
            flags.join(", ")
        )));
    }
    let field = command
        .method
        .input()
        .get_field_by_name("update_mask")
        .expect("updates() has found it");
    if let Kind::Message(descriptor) = field.kind() {
        let mut mask = DynamicMessage::new(descriptor);
        mask.set_field_by_name(
            "paths",
            Value::List(paths.into_iter().map(Value::String).collect()),
        );
        request.set_field(&field, Value::Message(mask));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
