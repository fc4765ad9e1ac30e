//! From a request's fields to arguments: which there are, what they are called, how they are typed. What was typed
//! becomes a message in `request`.

use clap::builder::{PossibleValue, PossibleValuesParser};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::descriptors::{Descriptors, FieldArgument};
use crate::names::Pattern;
use crate::values;

/// An argument of a command: one field of its request, at whatever depth.
#[derive(Debug)]
pub(crate) struct Argument {
    /// The fields that lead to it, from the request down.
    pub(crate) path: Vec<FieldDescriptor>,
    /// The flag's name, also of a positional argument.
    pub(crate) flag: String,
    pub(crate) help: String,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    /// Its place among the positional arguments.
    pub(crate) position: Option<usize>,
    pub(crate) pattern: Option<Pattern>,
    /// What can be typed, if that is a choice.
    pub(crate) choices: Vec<Choice>,
    /// The group of arguments of which only one may be given.
    pub(crate) one_of: Option<String>,
    /// The other arguments of that group, as they are shown.
    alternatives: Vec<String>,
    /// Its path in the update mask, in commands that have one.
    pub(crate) mask_path: Option<String>,
}

/// A value of an enum.
#[derive(Debug)]
pub(crate) struct Choice {
    /// As it is typed: `read-only`.
    name: String,
    /// Other spellings: `READ_ONLY`, `MODE_READ_ONLY`.
    aliases: [String; 2],
    help: String,
}

/// How an argument is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `--flag`, or `--flag=false`.
    Switch,
    /// One value.
    One,
    /// Repeated or separated by commas.
    Many,
    /// Repeated small messages; their text may hold commas.
    Messages,
    /// Repeated `key=value`.
    Pairs,
    /// `--flag-file FILE`: never a value.
    Secret,
}

/// What is the same for all fields of one command.
struct Walk<'a> {
    descriptors: &'a Descriptors,
    positional: &'a [String],
    /// An update changes what exists: nothing of it is required, and what is immutable is no argument.
    updates: bool,
    found: Vec<Argument>,
}

/// Where the walk is.
#[derive(Clone, Default)]
struct Place {
    path: Vec<FieldDescriptor>,
    prefix: String,
    /// Inside the resource that is created or updated.
    in_resource: bool,
}

/// All arguments of a request.
pub(crate) fn of_request(
    descriptors: &Descriptors,
    request: &MessageDescriptor,
    positional: &[String],
) -> Vec<Argument> {
    let updates = request.get_field_by_name("update_mask").is_some();
    let mut walk = Walk {
        descriptors,
        positional,
        updates,
        found: Vec::new(),
    };
    walk.message(request, &Place::default());
    let groups: Vec<(Option<String>, String)> = walk
        .found
        .iter()
        .map(|argument| (argument.one_of.clone(), argument.shown()))
        .collect();
    for argument in walk.found.iter_mut().filter(|argument| argument.one_of.is_some()) {
        let own = argument.shown();
        let others = groups
            .iter()
            .filter(|(group, shown)| *group == argument.one_of && *shown != own);
        argument.alternatives = others.map(|(_, shown)| shown.clone()).collect();
    }
    walk.found
}

impl Walk<'_> {
    fn message(&mut self, message: &MessageDescriptor, place: &Place) {
        for field in message.fields() {
            let option = self.descriptors.argument_of(&field);
            if !option.automatic && !option.output_only {
                self.field(&field, &option, place);
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, option: &FieldArgument, place: &Place) {
        let position = self.positional.iter().position(|name| name == field.name());
        if place.in_resource && position.is_none() && self.is_fixed(field, option) {
            return;
        }
        let mut path = place.path.clone();
        path.push(field.clone());
        if option.flatten
            && let Kind::Message(message) = field.kind()
        {
            return self.message(
                &message,
                &Place {
                    path,
                    prefix: place.prefix.clone(),
                    in_resource: true,
                },
            );
        }
        let name = if option.flag.is_empty() {
            field.name().replace('_', "-")
        } else {
            option.flag.clone()
        };
        let flag = format!("{}{name}", place.prefix);
        match field.kind() {
            Kind::Message(message) if !field.is_map() && !field.is_list() && !is_scalar_like(&message) => {
                let inner = Place {
                    path,
                    prefix: format!("{flag}-"),
                    in_resource: place.in_resource,
                };
                self.message(&message, &inner);
            }
            kind => {
                let shape = shape(field, &kind, option);
                let flag = if shape == Shape::Secret {
                    format!("{flag}-file")
                } else {
                    flag
                };
                self.found.push(Argument {
                    mask_path: self.mask_path(&path, place, option),
                    help: self.descriptors.field_comment(field).to_owned(),
                    required: (option.required
                        && place.prefix.is_empty()
                        && !(place.in_resource && self.updates))
                        || (position.is_some() && option.pattern.len() > 1),
                    pattern: Pattern::parse(&option.pattern),
                    choices: self.choices(&kind),
                    one_of: field
                        .containing_oneof()
                        .filter(|group| !group.is_synthetic())
                        .map(|group| group.name().to_owned()),
                    alternatives: Vec::new(),
                    path,
                    flag,
                    shape,
                    position,
                });
            }
        }
    }

    fn choices(&self, kind: &Kind) -> Vec<Choice> {
        let Kind::Enum(descriptor) = kind else {
            return Vec::new();
        };
        let choice = |value| Choice {
            name: values::short_name(&value),
            aliases: [values::without_prefix(&value).to_owned(), value.name().to_owned()],
            help: self.descriptors.value_comment(&value).to_owned(),
        };
        values::typed_values(descriptor).map(choice).collect()
    }

    /// Whether a field of the resource cannot be given: its name follows from parent and id, an etag is for changes
    /// only, and what is immutable cannot be changed.
    fn is_fixed(&self, field: &FieldDescriptor, option: &FieldArgument) -> bool {
        match field.name() {
            "name" => true,
            "etag" => !self.updates,
            _ => option.immutable && self.updates,
        }
    }

    /// Masks name fields of the resource, not of the request; its name and etag are never in them.
    fn mask_path(&self, path: &[FieldDescriptor], place: &Place, option: &FieldArgument) -> Option<String> {
        let in_mask = self.updates && place.in_resource && !option.immutable;
        let names: Vec<&str> = path.iter().skip(1).map(FieldDescriptor::name).collect();
        let path = names.join(".");
        (in_mask && path != "name" && path != "etag").then_some(path)
    }
}

impl Argument {
    /// The field itself.
    pub(crate) fn field(&self) -> &FieldDescriptor {
        self.path.last().expect("a path has at least the field")
    }

    /// Whether it is a list beside the resource of an update: entries to add to a field of it, or to remove.
    pub(crate) fn adjusts_list(&self) -> bool {
        self.path.len() == 1 && (self.field().is_list() || self.field().is_map())
    }

    /// How errors of the server name it: `connector.bucket`.
    pub(crate) fn field_path(&self) -> String {
        self.path
            .iter()
            .map(FieldDescriptor::name)
            .collect::<Vec<_>>()
            .join(".")
    }

    /// How a person names it: `--bucket`, or `<NAME>`.
    pub(crate) fn shown(&self) -> String {
        match self.position {
            Some(_) => format!("<{}>", self.value_name()),
            None => format!("--{}", self.flag),
        }
    }

    /// Whether it is required in the tree of commands: a secret is not, as a prompt may ask for it.
    pub(crate) fn to_clap(&self) -> clap::Arg {
        let mut arg = clap::Arg::new(self.flag.clone())
            .value_name(self.value_name())
            .required(self.required && self.shape != Shape::Secret)
            .help(crate::descriptors::first_sentence(&self.help).to_owned());
        let long = self.long_help();
        if long != self.help || crate::descriptors::first_sentence(&self.help) != self.help {
            arg = arg.long_help(long);
        }
        match self.position {
            Some(position) => arg = arg.index(position + 1),
            None => arg = arg.long(self.flag.clone()),
        }
        if !self.choices.is_empty() {
            let values = self.choices.iter().map(|choice| {
                PossibleValue::new(choice.name.clone())
                    .aliases(choice.aliases.clone())
                    .help(choice.help.clone())
            });
            arg = arg
                .value_parser(PossibleValuesParser::new(values))
                .ignore_case(true);
        }
        match self.shape {
            Shape::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(["true", "false"]),
            Shape::One | Shape::Secret => arg.num_args(1),
            Shape::Many => arg
                .num_args(1)
                .action(clap::ArgAction::Append)
                .value_delimiter(','),
            Shape::Messages | Shape::Pairs => arg.num_args(1).action(clap::ArgAction::Append),
        }
    }

    fn long_help(&self) -> String {
        let mut help = self.help.clone();
        let how = match self.shape {
            Shape::Switch | Shape::One => "",
            Shape::Many => "Repeat the flag or separate values with commas.",
            Shape::Messages | Shape::Pairs => "Repeat the flag for more.",
            Shape::Secret if self.required => {
                "The file that holds it, or - for standard input. Without this flag, a terminal is asked, unseen."
            }
            Shape::Secret => "The file that holds it, or - for standard input (a terminal is asked, unseen).",
        };
        if !self.alternatives.is_empty() {
            help.push_str(&format!("\n\nInstead of {}.", self.alternatives.join(" and ")));
        }
        if !how.is_empty() {
            help.push_str("\n\n");
            help.push_str(how);
        }
        if self.mask_path.is_some() && matches!(self.shape, Shape::Many | Shape::Messages | Shape::Pairs) {
            help.push_str(" Replaces all that there were.");
        }
        help
    }

    fn value_name(&self) -> String {
        if let Some(pattern) = &self.pattern {
            let name = pattern.value_name();
            return match self.shape {
                Shape::Pairs => format!("{name}=VALUE"),
                _ => name,
            };
        }
        match (self.shape, self.field().kind()) {
            (Shape::Secret, _) => "FILE".to_owned(),
            (Shape::Pairs, _) => "KEY=VALUE".to_owned(),
            (Shape::Switch, _) => "BOOL".to_owned(),
            (_, Kind::Message(message)) => values::message_form(&message),
            _ if self.position.is_some() => self.flag.replace('-', "_").to_uppercase(),
            (_, Kind::String) => "TEXT".to_owned(),
            (_, Kind::Enum(_)) => "VALUE".to_owned(),
            _ => "NUMBER".to_owned(),
        }
    }
}

fn shape(field: &FieldDescriptor, kind: &Kind, option: &FieldArgument) -> Shape {
    if option.secret {
        Shape::Secret
    } else if field.is_map() {
        Shape::Pairs
    } else if field.is_list() {
        if matches!(kind, Kind::Message(_)) {
            Shape::Messages
        } else {
            Shape::Many
        }
    } else if *kind == Kind::Bool {
        Shape::Switch
    } else {
        Shape::One
    }
}

/// Well-known messages that are typed as one word.
fn is_scalar_like(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Timestamp" | "google.protobuf.Duration"
    )
}
