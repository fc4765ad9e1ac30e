//! `mooring-fs`: mounts a bucket by hand, or serves a mount for the agent.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command as Process, ExitCode, Stdio};

use anyhow::Context;
use clap::Parser;
use mooring_fs::fuse::LOG_FILTER;
use mooring_fs::mount::{MountError, default_cache_dir, prepare_staging, run_standalone};
use mooring_fs::options::{Command, CommandLine, MountOptions, StatusFormat, StatusOptions};
use mooring_fs::recover::recover;
use mooring_fs::tidy::tidy;
use mooring_fs::{control, descriptors, options, status, sys};
use tracing_subscriber::EnvFilter;

/// Exit code of a wrong command line, as in sysexits.h and in the other programs.
const EXIT_USAGE: u8 = 64;

/// What the background part says on its stdout when the mount answers; anything else is an error's text.
const READY: &str = "ready\n";

fn main() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    // Only fails when a provider is installed already, which is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    descriptors::raise_limit();
    let result = match &command {
        Command::Mount(options) if options.background_part => return background_part(options),
        Command::Mount(options) if options.foreground => {
            log_to_stderr();
            run_standalone(options, || {}).map_err(anyhow::Error::from)
        }
        Command::Mount(options) => start_in_background(options),
        Command::Status(options) => show_status(options),
        Command::Recover(options) => {
            log_to_stderr();
            recover(options, &mut std::io::stdout()).map_err(anyhow::Error::from)
        }
        Command::Tidy(options) => {
            sys::close_inherited();
            log_to_stderr();
            tidy(options, &mut std::io::stdout()).map_err(anyhow::Error::from)
        }
        Command::Serve(options::ServeOptions { control }) => {
            sys::close_inherited();
            log_to_stderr();
            control::serve(control).map_err(anyhow::Error::from)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mooring-fs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show_status(options: &StatusOptions) -> anyhow::Result<()> {
    let status = status::of_mount(&options.folder)?;
    let text = match options.format {
        StatusFormat::Table => status.table(),
        StatusFormat::Json => serde_json::to_string_pretty(&status)? + "\n",
        StatusFormat::Prometheus => status.prometheus(&options.folder),
    };
    // Who reads no further has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Starts this program once more as the background part, and waits until it has mounted or failed. A new
/// process instead of a fork: a fork of a process with threads may do next to nothing.
fn start_in_background(options: &MountOptions) -> anyhow::Result<()> {
    let cache_dir = options.cache_dir.clone().unwrap_or_else(default_cache_dir);
    prepare_staging(&cache_dir)?;
    let log_path = options
        .log_file
        .clone()
        .unwrap_or_else(|| cache_dir.join("mooring-fs.log"));
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("the log {} cannot be opened", log_path.display()))?;
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut child = Process::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--background-part")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("the background part cannot be started")?;
    let mut said = String::new();
    child
        .stdout
        .take()
        .context("the background part has no output")?
        .read_to_string(&mut said)
        .context("the background part cannot be read")?;
    if said == READY {
        return Ok(());
    }
    let status = child.wait().context("the background part is lost")?;
    if said.is_empty() {
        anyhow::bail!("the background part ended ({status}); see {}", log_path.display());
    }
    anyhow::bail!("{}", said.trim_end())
}

/// The background part: in a session of its own, its stdout a message to the parent and closed after it.
fn background_part(options: &MountOptions) -> ExitCode {
    log_to_stderr();
    // Fails only for a process that leads a group already, and then there is nothing to leave.
    let _ = rustix::process::setsid();
    let mut told = false;
    let result = run_standalone(options, || {
        told = true;
        tell_parent(READY);
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if told {
                tracing::error!(
                    reason = error.reason,
                    remedy = error.remedy,
                    "the mount ends with an error"
                );
            } else {
                let MountError {
                    reason,
                    remedy,
                    key_refused: _,
                } = &error;
                tell_parent(&format!("{reason}\n  {remedy}\n"));
            }
            ExitCode::FAILURE
        }
    }
}

/// Says something to the parent, and that it is all.
fn tell_parent(text: &str) {
    let mut stdout = std::io::stdout();
    // A parent that has gone away does not want to know.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Ok(nothing) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(nothing);
    }
}

fn log_to_stderr() {
    // Why there is no key is in the error that we tell; the SDK says it at length, once for each request.
    let filter = EnvFilter::try_from_env("MOORING_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("info,{LOG_FILTER},aws_config=error")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // What it would say of a write that fails goes to the same place, and panics there: a full disk shall end nobody.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
