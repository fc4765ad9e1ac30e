//! The tree of commands: one for every rpc of `mooring.v1`, made at run time from the descriptors, and the few that
//! the program has of its own. No rpc is mapped by hand.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use crate::arguments::{self, Argument};
use crate::descriptors::{Descriptors, WaitOptions, first_sentence};

/// The rpcs without a generated command, and why. A test compares the list with the protos.
#[cfg(test)]
pub(crate) const OWN_RPCS: [(&str, &str); 2] = [
    (
        "mooring.v1.AuthService.Login",
        "`mooring login` makes the key and checks the pin",
    ),
    (
        "mooring.v1.AuthService.RenewCertificate",
        "called by itself before the certificate ends",
    ),
];

/// Rows of a list, unless `--limit` says otherwise: more than a screen, less than a memory.
pub(crate) const LIMIT: &str = "1000";

/// The heading above the arguments that every command has.
const GLOBAL: &str = "Global options";

/// An rpc as a command.
pub(crate) struct Command {
    pub(crate) method: MethodDescriptor,
    pub(crate) noun: String,
    pub(crate) verb: String,
    pub(crate) help: String,
    pub(crate) examples: Vec<String>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) wait: Option<WaitOptions>,
    /// Secret fields of the answer: each is written to the file that its flag names.
    pub(crate) answer_secrets: Vec<AnswerSecret>,
    /// The answer comes in pages.
    pub(crate) pages: bool,
}

/// A secret in an answer.
pub(crate) struct AnswerSecret {
    pub(crate) field: FieldDescriptor,
    pub(crate) flag: String,
    help: String,
}

/// All commands that come from rpcs, in the order of their words.
pub(crate) fn commands(descriptors: &Descriptors) -> Vec<Command> {
    commands_where(descriptors, |_| true)
}

/// The commands that a line needs to be understood: those of its noun, if that can be told before the tree is made, else
/// all. Most of the time before a call would go into commands that nobody has typed.
pub(crate) fn commands_for(descriptors: &Descriptors, line: &[OsString]) -> Vec<Command> {
    match typed_noun(line) {
        Some("login" | "profiles") => Vec::new(),
        Some(noun) => {
            let same = commands_where(descriptors, |other| other == noun);
            // What is no noun is told so beside all that are.
            if same.is_empty() {
                commands(descriptors)
            } else {
                same
            }
        }
        None => commands(descriptors),
    }
}

fn commands_where(descriptors: &Descriptors, wanted: impl Fn(&str) -> bool) -> Vec<Command> {
    let methods = descriptors
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut commands: Vec<Command> = methods
        .filter_map(|method| command(descriptors, method, &wanted))
        .collect();
    commands.sort_by(|a, b| (&a.noun, &a.verb).cmp(&(&b.noun, &b.verb)));
    commands
}

/// The first word that is no option. `None` when an option before it is unknown here, or asks for the whole help.
fn typed_noun(line: &[OsString]) -> Option<&str> {
    let mut words = line.iter().skip(1).map(|word| word.to_str());
    loop {
        match words.next()?? {
            "--profile" | "--output" | "-o" | "--timeout" => {
                words.next();
            }
            word if word.starts_with("--") && word.contains('=') => {}
            word if word.starts_with('-') => return None,
            word => return Some(word),
        }
    }
}

fn command(
    descriptors: &Descriptors,
    method: MethodDescriptor,
    wanted: impl Fn(&str) -> bool,
) -> Option<Command> {
    let option = descriptors.command_of(&method).filter(|option| !option.bespoke)?;
    let (noun, verb) = option.words.split_once(' ')?;
    if !wanted(noun) {
        return None;
    }
    let answer = method.output();
    let pages = answer.get_field_by_name("next_page_token").is_some();
    let answer_secrets = answer.fields().filter_map(|field| {
        let argument = descriptors.argument_of(&field);
        argument.secret.then(|| AnswerSecret {
            flag: format!("{}-file", field.name().replace('_', "-")),
            help: descriptors.field_comment(&field).to_owned(),
            field,
        })
    });
    Some(Command {
        noun: noun.to_owned(),
        verb: verb.to_owned(),
        help: descriptors.method_comment(&method).to_owned(),
        arguments: arguments::of_request(descriptors, &method.input(), &option.positional),
        answer_secrets: if pages {
            Vec::new()
        } else {
            answer_secrets.collect()
        },
        wait: option.wait,
        examples: option.examples,
        pages,
        method,
    })
}

/// Finds the command that was typed.
pub(crate) fn find<'a>(commands: &'a [Command], noun: &str, verb: &str) -> Option<&'a Command> {
    commands
        .iter()
        .find(|command| command.noun == noun && command.verb == verb)
}

impl Command {
    /// Whether it changes a resource by an update mask.
    pub(crate) fn updates(&self) -> bool {
        self.method.input().get_field_by_name("update_mask").is_some()
    }

    /// Whether calling it twice does no more than calling it once.
    pub(crate) fn may_be_repeated(&self) -> bool {
        let reads = ["Get", "List", "Test", "Explain", "WhoAmI"]
            .iter()
            .any(|verb| self.method.name().starts_with(verb));
        reads || self.method.input().get_field_by_name("request_id").is_some()
    }

    /// The words, as typed.
    pub(crate) fn words(&self) -> String {
        format!("{} {}", self.noun, self.verb)
    }

    fn to_clap(&self) -> clap::Command {
        let mut tree = clap::Command::new(self.verb.clone())
            .about(first_sentence(&self.help).to_owned())
            .long_about(self.help.clone())
            .args(self.arguments.iter().map(Argument::to_clap))
            .groups(self.groups());
        for secret in &self.answer_secrets {
            tree = tree.arg(
                Arg::new(secret.flag.clone())
                    .long(secret.flag.clone())
                    .value_name("FILE")
                    .required(true)
                    .help("The new file, mode 0600, to which the secret in the answer is written; - for standard output")
                    .long_help(format!(
                        "The new file, mode 0600, to which this is written; - for standard output, instead of the answer.\n\n{}",
                        secret.help
                    )),
            );
        }
        if self.updates() {
            let names = self
                .arguments
                .iter()
                .filter(|argument| argument.mask_path.is_some())
                .map(|argument| argument.flag.clone());
            tree = tree.arg(
                Arg::new("clear")
                    .long("clear")
                    .value_name("FLAG")
                    .action(ArgAction::Append)
                    .value_delimiter(',')
                    .value_parser(clap::builder::PossibleValuesParser::new(names))
                    .help("Empties a field, named by its flag without the dashes"),
            );
        }
        if self.wait.is_some() {
            tree = tree.arg(
                Arg::new("wait")
                    .long("wait")
                    .action(ArgAction::SetTrue)
                    .help("Waits for the end of what this begins, and shows how far it is"),
            );
        }
        if self.pages {
            tree = tree.arg(
                Arg::new("limit")
                    .long("limit")
                    .value_name("NUMBER")
                    .default_value(LIMIT)
                    .value_parser(clap::value_parser!(u32))
                    .help("Shows at most this many; 0 means all"),
            );
        }
        if !self.examples.is_empty() {
            let lines: String = self
                .examples
                .iter()
                .map(|example| format!("\n  {}", typed_lines(example)))
                .collect();
            tree = tree.after_help(format!("Examples:{lines}"));
        }
        tree
    }

    fn groups(&self) -> Vec<ArgGroup> {
        let mut names: Vec<&String> = self
            .arguments
            .iter()
            .filter_map(|argument| argument.one_of.as_ref())
            .collect();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let members = self
                    .arguments
                    .iter()
                    .filter(|argument| argument.one_of.as_ref() == Some(name));
                ArgGroup::new(format!("one-of-{name}")).args(members.map(|argument| argument.flag.clone()))
            })
            .collect()
    }
}

/// The whole tree.
pub(crate) fn tree(descriptors: &Descriptors, commands: &[Command]) -> clap::Command {
    let mut tree = clap::Command::new("mooring")
        .version(env!("CARGO_PKG_VERSION"))
        .max_term_width(120)
        .about("Attaches S3 buckets to a fleet of hosts")
        .long_about(
            "Attaches S3 buckets to a fleet of hosts: connectors say what to mount, activations where.\n\n\
             Names can be typed short: `ml/reports` means projects/ml/connectors/reports where a connector is asked for.",
        )
        .after_help(AFTER_HELP)
        .after_long_help(format!("{AFTER_HELP}\n\n{AFTER_LONG_HELP}\n\n{}", crate::errors::EXIT_CODES))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args(global_arguments())
        .subcommands(own_commands());
    let mut rest = commands;
    while let Some(first) = rest.first() {
        let count = rest
            .iter()
            .take_while(|command| command.noun == first.noun)
            .count();
        let (same, after) = rest.split_at(count);
        tree = tree.subcommand(
            clap::Command::new(first.noun.clone())
                .about(first_sentence(&noun_help(descriptors, same)).to_owned())
                .long_about(noun_help(descriptors, same))
                .subcommand_required(true)
                .arg_required_else_help(true)
                .disable_help_subcommand(true)
                .subcommands(same.iter().map(Command::to_clap)),
        );
        rest = after;
    }
    tree
}

/// A noun is explained by its service, or by its message where a service has several nouns.
fn noun_help(descriptors: &Descriptors, same: &[Command]) -> String {
    let service = same[0].method.parent_service();
    let alone = service
        .methods()
        .filter_map(|method| descriptors.command_of(&method))
        .filter(|option| !option.bespoke)
        .all(|option| option.words.split(' ').next() == Some(&same[0].noun));
    if alone {
        descriptors.service_comment(service).to_owned()
    } else {
        // Some answers say nothing, such as that of a deletion.
        let message = same
            .iter()
            .map(|command| item_of(&command.method.output()))
            .find(|message| message.fields().len() > 0);
        message
            .map(|message| descriptors.message_comment(&message).to_owned())
            .unwrap_or_default()
    }
}

/// What a list is a list of; any other answer is itself.
fn item_of(answer: &MessageDescriptor) -> MessageDescriptor {
    let items = answer.fields().find_map(|field| match field.kind() {
        Kind::Message(message) if field.is_list() => Some(message),
        _ => None,
    });
    items
        .filter(|_| answer.get_field_by_name("next_page_token").is_some())
        .unwrap_or_else(|| answer.clone())
}

fn global_arguments() -> [Arg; 3] {
    [
        Arg::new("profile")
            .long("profile")
            .value_name("NAME")
            .env("MOORING_PROFILE")
            .hide_env_values(true)
            .global(true)
            .help_heading(GLOBAL)
            .help("The profile to use instead of the current one"),
        Arg::new("output")
            .short('o')
            .long("output")
            .value_name("FORMAT")
            .value_parser(["table", "json", "yaml"])
            .default_value("table")
            .global(true)
            .help_heading(GLOBAL)
            .help("How the answer is shown; json and yaml are the protobuf JSON mapping"),
        Arg::new("timeout")
            .long("timeout")
            .value_name("DURATION")
            .value_parser(crate::values::duration)
            .global(true)
            .help_heading(GLOBAL)
            .help("Gives up after this long; 30s if not set, 5m with --wait"),
    ]
}

fn own_commands() -> [clap::Command; 3] {
    let name = || {
        Arg::new("name")
            .value_name("PROFILE")
            .required(true)
            .help("The profile's name")
    };
    let profiles = clap::Command::new("profiles")
        .about("Where you are logged in, and as whom")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(clap::Command::new("list").about("Lists the profiles on this machine"))
        .subcommand(
            clap::Command::new("use")
                .about("Makes a profile the current one")
                .arg(name()),
        )
        .subcommand(clap::Command::new("show").about("Shows the current profile, or the one of --profile"))
        .subcommand(
            clap::Command::new("remove")
                .about("Removes a profile with its key and certificate")
                .arg(name()),
        );
    let completion = clap::Command::new("completion")
        .about("Prints completions for a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(clap::value_parser!(clap_complete::Shell))
                .help("The shell"),
        )
        .after_help("Examples:\n  mooring completion bash > /etc/bash_completion.d/mooring\n  source <(mooring completion bash)");
    [crate::login::command(), profiles, completion]
}

/// The noun and verb that were typed, with the matches of the verb.
pub(crate) fn typed(matches: &ArgMatches) -> (String, String, ArgMatches) {
    let (noun, inner) = matches
        .subcommand()
        .map_or(("", matches), |(noun, inner)| (noun, inner));
    let (verb, inner) = inner
        .subcommand()
        .map_or(("", inner), |(verb, inner)| (verb, inner));
    (noun.to_owned(), verb.to_owned(), inner.clone())
}

/// A long example on several lines, each ended as a shell wants it, so that it can be copied from a terminal.
fn typed_lines(example: &str) -> String {
    /// With the indentation and the backslash, what fits a terminal of 80 columns.
    const COLUMNS: usize = 76;
    if example.len() <= COLUMNS {
        return example.to_owned();
    }
    let mut lines = vec![String::new()];
    for part in example.split(" --") {
        let flag = if lines[0].is_empty() {
            part.to_owned()
        } else {
            format!("--{part}")
        };
        let last = lines.last_mut().expect("there is one from the beginning");
        if last.is_empty() {
            last.push_str(&flag);
        } else if last.len() + 1 + flag.len() <= COLUMNS {
            last.push(' ');
            last.push_str(&flag);
        } else {
            lines.push(flag);
        }
    }
    lines.join(" \\\n      ")
}

/// What could have been typed in the place of a word that is none: the verbs of its noun, or the nouns.
pub(crate) fn known_words(tree: &clap::Command, line: &[OsString]) -> String {
    let noun = typed_noun(line).and_then(|noun| tree.find_subcommand(noun));
    let (what, among) = match noun {
        Some(noun) => (format!("`mooring {}` knows", noun.get_name()), noun),
        None => ("`mooring` knows".to_owned(), tree),
    };
    let words: Vec<&str> = among.get_subcommands().map(clap::Command::get_name).collect();
    format!("{what}: {}", words.join(", "))
}

const AFTER_HELP: &str = "\
Examples:
  mooring login --join-file operator.join
  mooring projects create ml --community research
  mooring secrets create lake --project ml --secret-access-key-file key.txt
  mooring connectors create reports --project ml --secret lake --access-key-id AKID \\
      --endpoint https://s3.example.com --bucket reports --mode read-write
  mooring activations create --connector ml/reports --pool gpu --wait
  mooring mounts list projects/ml";

const AFTER_LONG_HELP: &str = "\
Files:
  MOORING_CONFIG_DIR (default $XDG_CONFIG_HOME/mooring or ~/.config/mooring)
  holds profiles/<name>/ with the endpoint, your key, your certificate and the
  CA. The certificate renews itself at half of its life, and for 30 days after
  its end. `mooring profiles use` and MOORING_PROFILE choose the profile.

Secrets are read from a file, from standard input (-) or from a terminal
without echo. They are never a flag's value.";

#[cfg(test)]
mod tests;
