//! The tree as a whole: every rpc has its command, no two flags meet, and the help reads as it was reviewed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;

use super::*;

fn all() -> (Descriptors, Vec<Command>) {
    let descriptors = Descriptors::load();
    let commands = commands(&descriptors);
    (descriptors, commands)
}

#[test]
fn every_rpc_is_a_command_or_stands_in_the_list_of_exceptions() {
    let (descriptors, commands) = all();
    let generated: HashSet<String> = commands
        .iter()
        .map(|command| command.method.full_name().to_owned())
        .collect();
    let own: HashSet<String> = OWN_RPCS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for service in descriptors.services() {
        for method in service.methods() {
            let name = method.full_name();
            assert!(
                generated.contains(name) != own.contains(name),
                "{name} is a command exactly once"
            );
            assert!(
                !method.is_client_streaming() && !method.is_server_streaming(),
                "{name}: streams are not shown yet"
            );
        }
    }
}

#[test]
fn words_are_a_noun_and_a_verb_and_nobody_elses() {
    let (_, commands) = all();
    let mut seen = HashSet::new();
    for command in &commands {
        assert!(
            !command.verb.contains(' ') && !command.noun.is_empty(),
            "{}",
            command.words()
        );
        assert!(
            seen.insert(command.words()),
            "{} stands for two rpcs",
            command.words()
        );
    }
}

#[test]
fn everything_has_a_help_text() {
    let (_, commands) = all();
    for command in &commands {
        assert!(!command.help.is_empty(), "{}", command.words());
        for argument in &command.arguments {
            assert!(
                !argument.help.is_empty(),
                "{} {}",
                command.words(),
                argument.shown()
            );
        }
    }
}

#[test]
fn what_the_options_name_exists() {
    let (descriptors, commands) = all();
    for command in &commands {
        if let Some(wait) = &command.wait {
            let method = descriptors
                .method(&wait.method)
                .unwrap_or_else(|| panic!("{}: {}", command.words(), wait.method));
            let field = method
                .output()
                .get_field_by_name(&wait.field)
                .expect("the field that is waited for");
            let Kind::Enum(descriptor) = field.kind() else {
                panic!("{}: not an enum", command.words())
            };
            for value in wait.done.iter().chain(&wait.failed) {
                assert!(
                    descriptor.get_value_by_name(value).is_some(),
                    "{}: {value}",
                    command.words()
                );
            }
            let places = wait
                .sentence
                .split('{')
                .skip(1)
                .chain(wait.result.split('{').skip(1));
            for name in places.filter_map(|part| part.split([':', '}']).next()) {
                assert!(
                    method.output().get_field_by_name(name).is_some(),
                    "{}: {name}",
                    command.words()
                );
            }
        }
        let item = item_of(&command.method.output());
        for column in descriptors.columns_of(&item) {
            let first = column.split('.').next().unwrap();
            assert!(
                item.get_field_by_name(first).is_some(),
                "{}: no column {column}",
                item.full_name()
            );
        }
        assert!(
            item.fields().len() == 0 || !command.pages || !descriptors.columns_of(&item).is_empty(),
            "{} has no columns",
            item.full_name()
        );
    }
}

#[test]
fn positional_arguments_exist_and_are_numbered() {
    let (descriptors, commands) = all();
    for command in &commands {
        let option = descriptors.command_of(&command.method).unwrap();
        let mut positions: Vec<usize> = command
            .arguments
            .iter()
            .filter_map(|argument| argument.position)
            .collect();
        positions.sort_unstable();
        assert_eq!(
            positions,
            (0..option.positional.len()).collect::<Vec<_>>(),
            "{}",
            command.words()
        );
    }
}

/// The lines below `Examples:` of a command and all below it; a line that goes on with a backslash is one.
fn examples_of(command: &clap::Command) -> Vec<String> {
    let texts = [command.get_after_help(), command.get_after_long_help()];
    let mut found = Vec::new();
    for text in texts.into_iter().flatten() {
        let text = text.to_string().replace("\\\n", " ");
        let lines = text.lines().skip_while(|line| *line != "Examples:").skip(1);
        found.extend(
            lines
                .take_while(|line| line.starts_with("  "))
                .map(|line| line.trim().to_owned()),
        );
    }
    found.extend(command.get_subcommands().flat_map(examples_of));
    found
}

/// The words of an example as a shell would give them to the program: without quotes, and without what goes to and
/// comes from files.
fn words_of(example: &str) -> Vec<String> {
    let inside = example
        .strip_prefix("source <(")
        .and_then(|rest| rest.strip_suffix(')'));
    let mut words: Vec<String> = Vec::new();
    let mut quoted = false;
    for part in inside
        .unwrap_or(example)
        .split(' ')
        .filter(|part| !part.is_empty())
    {
        let plain = part.replace('\'', "");
        match words.last_mut().filter(|_| quoted) {
            Some(last) => *last = format!("{last} {plain}"),
            None => words.push(plain),
        }
        quoted ^= part.matches('\'').count() % 2 == 1;
    }
    while let Some(at) = words.iter().position(|word| matches!(word.as_str(), "<" | ">")) {
        words.drain(at..at + 2);
    }
    words
}

#[test]
fn every_example_can_be_typed_as_it_stands() {
    let (descriptors, commands) = all();
    let tree = tree(&descriptors, &commands);
    let examples = examples_of(&tree);
    assert!(examples.len() > 25, "{examples:#?}");
    for example in examples {
        tree.clone()
            .try_get_matches_from(words_of(&example))
            .unwrap_or_else(|error| panic!("{example}\n{error}"));
    }
}

#[test]
fn whatever_makes_something_shows_an_example() {
    let (_, commands) = all();
    for command in &commands {
        let makes = ["create", "publish", "add-version"].contains(&command.verb.as_str());
        assert!(!makes || !command.examples.is_empty(), "{}", command.words());
    }
}

#[test]
fn no_flag_takes_a_secret() {
    let (descriptors, commands) = all();
    for command in &commands {
        for argument in &command.arguments {
            let secret = descriptors.argument_of(argument.field()).secret;
            assert_eq!(
                secret,
                argument.flag.ends_with("-file"),
                "{} {}",
                command.words(),
                argument.shown()
            );
        }
    }
}

#[test]
fn a_line_needs_the_commands_of_its_noun_only() {
    let descriptors = Descriptors::load();
    let nouns = |line: &str| {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let commands = commands_for(&descriptors, &words);
        let nouns: std::collections::BTreeSet<String> =
            commands.into_iter().map(|command| command.noun).collect();
        nouns.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(nouns("mooring pools list"), "pools");
    assert_eq!(
        nouns("mooring -o json --timeout=3s --profile x pools --help"),
        "pools"
    );
    assert_eq!(nouns("mooring login --join-file x"), "");
    let all = nouns("mooring");
    assert!(all.starts_with("access activations"), "{all}");
    for line in [
        "mooring --help",
        "mooring --help pools",
        "mooring pool list",
        "mooring completion bash",
        "mooring --unknown pools",
    ] {
        assert_eq!(nouns(line), all, "{line}");
    }
}

#[test]
fn a_part_of_the_tree_understands_what_the_whole_does() {
    let descriptors = Descriptors::load();
    let all = commands(&descriptors);
    for command in &all {
        let words: Vec<OsString> = ["mooring", &command.noun, &command.verb, "--help"]
            .map(OsString::from)
            .to_vec();
        let help = |commands: &[Command]| {
            let asked = tree(&descriptors, commands).try_get_matches_from(&words);
            asked.unwrap_err().to_string()
        };
        assert_eq!(
            help(&commands_for(&descriptors, &words)),
            help(&all),
            "{}",
            command.words()
        );
    }
}

#[test]
fn clap_finds_nothing_wrong_with_the_tree() {
    let (descriptors, commands) = all();
    tree(&descriptors, &commands).debug_assert();
}

/// The help as people see it. After a change of the protos: read the difference, then commit it.
#[test]
fn the_help_reads_as_it_was_reviewed() {
    let (descriptors, commands) = all();
    let mut shown = String::new();
    write_help(&mut tree(&descriptors, &commands), &mut shown);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("help.txt");
    let reviewed = std::fs::read_to_string(&file).unwrap_or_default();
    if shown != reviewed && std::env::var_os("MOORING_REVIEW_HELP").is_some() {
        std::fs::write(&file, &shown).unwrap();
    } else if shown != reviewed {
        let line = shown
            .lines()
            .zip(reviewed.lines())
            .position(|(new, old)| new != old);
        panic!(
            "cli/help.txt is not up to date (line {:?}); run MOORING_REVIEW_HELP=1 cargo test -p mooring-cli, read \
             `git diff cli/help.txt`, then commit it",
            line.map(|line| line + 1)
        );
    }
}

/// The global options are the same everywhere: they are shown once, at the root.
fn without_global_options(help: &str, keep: bool) -> Vec<&str> {
    let mut skipping = false;
    let mut lines = Vec::new();
    for line in help.lines().map(str::trim_end) {
        if !line.starts_with(' ') && !line.is_empty() {
            skipping = line == "Global options:" && !keep;
        }
        if !skipping {
            lines.push(line);
        }
    }
    lines
}

fn write_help(command: &mut clap::Command, text: &mut String) {
    command.build();
    let mut command = command.clone().term_width(120);
    let help = command.render_long_help().to_string();
    let lines = without_global_options(&help, command.get_bin_name() == Some("mooring"));
    writeln!(
        text,
        "=== {} ===\n{}\n",
        command.get_bin_name().unwrap_or("mooring"),
        lines.join("\n").trim_end()
    )
    .unwrap();
    let names: Vec<String> = command
        .get_subcommands()
        .map(|inner| inner.get_name().to_owned())
        .collect();
    for name in names {
        let inner = command.find_subcommand_mut(&name).expect("it was listed");
        write_help(inner, text);
    }
}
