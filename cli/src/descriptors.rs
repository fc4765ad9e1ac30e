//! What the protos say: the descriptor pool, the comments beside every element, and the options of
//! `mooring.cli.v1`. Reads only; the meaning for the command line is made of it in `commands` and `arguments`.

use std::cell::OnceCell;
use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumValueDescriptor, ExtensionDescriptor, FieldDescriptor,
    FileDescriptor, MessageDescriptor, MethodDescriptor, ServiceDescriptor, Value,
};

/// The package whose every rpc is a command.
const PACKAGE: &str = "mooring.v1";

/// All descriptors with their comments and options.
pub(crate) struct Descriptors {
    pool: DescriptorPool,
    /// By file, each read when the first of its comments is asked for: a call needs those of few files.
    comments: HashMap<String, OnceCell<HashMap<Vec<i32>, String>>>,
    command: ExtensionDescriptor,
    argument: ExtensionDescriptor,
    table: ExtensionDescriptor,
}

/// `mooring.cli.v1.MethodCommand`.
#[derive(Debug, Default)]
pub(crate) struct MethodCommand {
    pub(crate) words: String,
    pub(crate) positional: Vec<String>,
    pub(crate) wait: Option<WaitOptions>,
    pub(crate) examples: Vec<String>,
    pub(crate) bespoke: bool,
}

/// `mooring.cli.v1.Wait`.
#[derive(Debug, Default)]
pub(crate) struct WaitOptions {
    pub(crate) method: String,
    pub(crate) field: String,
    pub(crate) done: Vec<String>,
    pub(crate) failed: Vec<String>,
    pub(crate) sentence: String,
    pub(crate) result: String,
}

/// `mooring.cli.v1.FieldArgument`.
#[derive(Debug, Default)]
pub(crate) struct FieldArgument {
    pub(crate) flag: String,
    pub(crate) flatten: bool,
    pub(crate) secret: bool,
    pub(crate) pattern: String,
    pub(crate) output_only: bool,
    pub(crate) required: bool,
    pub(crate) immutable: bool,
    pub(crate) automatic: bool,
}

impl Descriptors {
    /// Reads what the build of `mooring-proto` has written.
    pub(crate) fn load() -> Self {
        let pool =
            DescriptorPool::decode(mooring_proto::DESCRIPTORS).expect("the build compiled these descriptors");
        let extension = |name: &str| {
            pool.get_extension_by_name(name)
                .expect("options.proto declares it")
        };
        let comments = pool
            .files()
            .filter(|file| file.package_name().starts_with("mooring."))
            .map(|file| (file.name().to_owned(), OnceCell::new()))
            .collect();
        Self {
            command: extension("mooring.cli.v1.command"),
            argument: extension("mooring.cli.v1.argument"),
            table: extension("mooring.cli.v1.table"),
            comments,
            pool,
        }
    }

    /// The services whose rpcs are commands.
    pub(crate) fn services(&self) -> impl Iterator<Item = ServiceDescriptor> + '_ {
        self.pool
            .services()
            .filter(|service| service.package_name() == PACKAGE)
    }

    /// Finds an rpc by its full name, such as `mooring.v1.HostService.GetHost`.
    pub(crate) fn method(&self, full_name: &str) -> Option<MethodDescriptor> {
        let (service, _) = full_name.rsplit_once('.')?;
        self.pool
            .get_service_by_name(service)?
            .methods()
            .find(|method| method.full_name() == full_name)
    }

    /// How an rpc is typed; `None` when the proto does not say.
    pub(crate) fn command_of(&self, method: &MethodDescriptor) -> Option<MethodCommand> {
        let options = method.options();
        if !options.has_extension(&self.command) {
            return None;
        }
        let value = options.get_extension(&self.command);
        let option = value.as_message()?;
        Some(MethodCommand {
            words: text(option, "words"),
            positional: texts(option, "positional"),
            wait: message(option, "wait").map(|wait| WaitOptions {
                method: text(&wait, "method"),
                field: text(&wait, "field"),
                done: texts(&wait, "done"),
                failed: texts(&wait, "failed"),
                sentence: text(&wait, "sentence"),
                result: text(&wait, "result"),
            }),
            examples: texts(option, "examples"),
            bespoke: flag(option, "bespoke"),
        })
    }

    /// How a field is typed.
    pub(crate) fn argument_of(&self, field: &FieldDescriptor) -> FieldArgument {
        let options = field.options();
        if !options.has_extension(&self.argument) {
            return FieldArgument::default();
        }
        let value = options.get_extension(&self.argument);
        let Some(option) = value.as_message() else {
            return FieldArgument::default();
        };
        FieldArgument {
            flag: text(option, "flag"),
            flatten: flag(option, "flatten"),
            secret: flag(option, "secret"),
            pattern: text(option, "pattern"),
            output_only: flag(option, "output_only"),
            required: flag(option, "required"),
            immutable: flag(option, "immutable"),
            automatic: flag(option, "automatic"),
        }
    }

    /// The columns of a message's table; empty when it has none.
    pub(crate) fn columns_of(&self, message: &MessageDescriptor) -> Vec<String> {
        let options = message.options();
        let value = options.get_extension(&self.table);
        value
            .as_message()
            .map(|option| texts(option, "columns"))
            .unwrap_or_default()
    }

    /// The comment of an rpc.
    pub(crate) fn method_comment(&self, method: &MethodDescriptor) -> &str {
        self.comment(&method.parent_file(), method.path())
    }

    /// The comment of a service.
    pub(crate) fn service_comment(&self, service: &ServiceDescriptor) -> &str {
        self.comment(&service.parent_file(), service.path())
    }

    /// The comment of a message.
    pub(crate) fn message_comment(&self, message: &MessageDescriptor) -> &str {
        self.comment(&message.parent_file(), message.path())
    }

    /// The comment of a field.
    pub(crate) fn field_comment(&self, field: &FieldDescriptor) -> &str {
        self.comment(&field.parent_file(), field.path())
    }

    /// The comment of an enum's value.
    pub(crate) fn value_comment(&self, value: &EnumValueDescriptor) -> &str {
        self.comment(&value.parent_file(), value.path())
    }

    fn comment(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.comments
            .get(file.name())
            .and_then(|read| {
                read.get_or_init(|| comments(file.file_descriptor_proto().source_code_info.as_ref()))
                    .get(path)
            })
            .map_or("", String::as_str)
    }
}

/// The first sentence of a comment, for lists of commands.
pub(crate) fn first_sentence(comment: &str) -> &str {
    let paragraph = comment.split("\n\n").next().unwrap_or_default();
    paragraph.find(". ").map_or(paragraph, |end| &paragraph[..=end])
}

fn comments(info: Option<&prost_types::SourceCodeInfo>) -> HashMap<Vec<i32>, String> {
    let locations = info.map(|info| info.location.as_slice()).unwrap_or_default();
    let commented = locations
        .iter()
        .filter_map(|location| Some((location, location.leading_comments.as_ref()?)));
    commented
        .map(|(location, comment)| (location.path.clone(), unwrapped(comment)))
        .collect()
}

/// Lines become paragraphs: the terminal wraps them anew.
fn unwrapped(comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines().map(str::trim) {
        if line.is_empty() {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push_str("\n\n");
            }
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text.trim_end().to_owned()
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value
        .as_deref()
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn texts(message: &DynamicMessage, field: &str) -> Vec<String> {
    let value = message.get_field_by_name(field);
    let list = value.as_deref().and_then(Value::as_list).unwrap_or_default();
    list.iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn flag(message: &DynamicMessage, field: &str) -> bool {
    message
        .get_field_by_name(field)
        .as_deref()
        .and_then(Value::as_bool)
        .unwrap_or_default()
}

fn message(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    if !message.has_field_by_name(field) {
        return None;
    }
    message.get_field_by_name(field)?.as_message().cloned()
}
