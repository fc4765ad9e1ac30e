//! `mooring`: the command line, generated at run time from the descriptors of the protos. This file starts the
//! program, finds the command that was typed, and turns failures into exit codes.
//!
//! Invariants: no rpc is mapped by hand (`commands::OWN_RPCS` is the list of exceptions) · a secret is never a flag's
//! value and never shown · every remote call has a deadline · only answers go to standard output.

mod arguments;
mod codec;
mod commands;
mod descriptors;
mod errors;
mod invoke;
mod login;
mod names;
mod output;
mod profile;
mod request;
mod secrets;
mod values;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use clap::error::ErrorKind;
use mooring_identity::Clock;

use crate::commands::Command;
use crate::descriptors::Descriptors;
use crate::errors::Failure;
use crate::invoke::Context;
use crate::output::{Format, note, print};
use crate::profile::{Profile, Profiles};

/// Exit code of a wrong command line, as in sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing else has installed a provider");
    let descriptors = Descriptors::load();
    let line: Vec<OsString> = std::env::args_os().collect();
    let commands = commands::commands_for(&descriptors, &line);
    let mut tree = commands::tree(&descriptors, &commands);
    let matches = match tree.try_get_matches_from_mut(&line) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            if error.kind() == ErrorKind::InvalidSubcommand {
                note(&commands::known_words(&tree, &line));
            }
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let (noun, verb, inner) = commands::typed(&matches);
    let command = commands::find(&commands, &noun, &verb);
    let done = match (noun.as_str(), command) {
        ("completion", _) => complete(&inner, &mut tree),
        (_, command) => run(&descriptors, command, &noun, &verb, &inner),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let arguments = command
                .map(|command| command.arguments.as_slice())
                .unwrap_or_default();
            note(failure.report(arguments).trim_end());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(
    descriptors: &Descriptors,
    command: Option<&Command>,
    noun: &str,
    verb: &str,
    matches: &ArgMatches,
) -> Result<(), Failure> {
    let profiles = Profiles::open(matches.get_one::<String>("profile").cloned())?;
    let format = Format::parse(
        matches
            .get_one::<String>("output")
            .map(String::as_str)
            .unwrap_or_default(),
    );
    let timeout = matches.get_one::<Duration>("timeout").copied();
    if noun == "profiles" {
        return profiles_command(&profiles, verb, matches, format);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Local(format!("cannot start: {error}")))?;
    let clock = Clock::system();
    runtime.block_on(async {
        match command {
            Some(command) => {
                let context = Context {
                    descriptors,
                    profiles: &profiles,
                    clock: &clock,
                    format,
                    timeout,
                };
                invoke::run(&context, command, matches).await
            }
            None => {
                login::login(
                    matches,
                    &profiles,
                    format,
                    timeout.unwrap_or(Duration::from_secs(30)),
                )
                .await
            }
        }
    })
}

fn complete(matches: &ArgMatches, tree: &mut clap::Command) -> Result<(), Failure> {
    let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") else {
        return Ok(());
    };
    let mut text = Vec::new();
    clap_complete::generate(*shell, tree, "mooring", &mut text);
    print(&String::from_utf8_lossy(&text))
}

fn profiles_command(
    profiles: &Profiles,
    verb: &str,
    matches: &ArgMatches,
    format: Format,
) -> Result<(), Failure> {
    let named = || {
        profiles.named(
            matches
                .get_one::<String>("name")
                .map(String::as_str)
                .unwrap_or_default(),
        )
    };
    match verb {
        "use" => {
            let profile = named()?;
            if profile.settings()?.is_none() {
                return Err(profile::absent(&profile));
            }
            profiles.make_current(&profile)
        }
        "remove" => profiles.remove(&named()?),
        "show" => {
            let profile = profiles.in_use()?;
            if profile.settings()?.is_none() {
                return Err(profile::absent(&profile));
            }
            show_profiles(profiles, &[profile], format)
        }
        _ => show_profiles(profiles, &profiles.all()?, format),
    }
}

fn show_profiles(profiles: &Profiles, shown: &[Profile], format: Format) -> Result<(), Failure> {
    let current = profiles.in_use()?.name;
    let mut rows = Vec::new();
    for profile in shown {
        let Some(settings) = profile.settings()? else {
            continue;
        };
        let expire_time = profile.credentials()?.and_then(|credentials| {
            credentials
                .not_after()
                .format(&time::format_description::well_known::Rfc3339)
                .ok()
        });
        rows.push(serde_json::json!({
            "name": profile.name,
            "current": profile.name == current,
            "user": settings.user,
            "endpoint": settings.endpoint,
            "certificateExpireTime": expire_time,
            "directory": profile.directory(),
        }));
    }
    output::show_rows(
        format,
        "profiles",
        &["name", "current", "user", "endpoint", "certificateExpireTime"],
        &rows,
    )
}
