//! The program: flags to [`Options`], sample data, and a life until SIGTERM.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Parser};
use mooring_test_s3::{Etags, Latency, Options, Server, Settings, StorageOptions, TlsOptions};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit code of a wrong command line, as in sysexits.h and in the other programs.
const EXIT_USAGE: u8 = 64;

/// An S3 server for demos, tests and benches: in memory or in files, as slow and as wrong as you ask.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, group = ArgGroup::new("storage").args(["memory", "dir"]))]
struct Flags {
    /// Where to speak S3; port 0 takes a free one. The real address is printed.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Where to change faults and settings over HTTP (GET /requests, POST /faults, PUT /settings, …).
    #[arg(long, value_name = "ADDRESS:PORT")]
    control: Option<SocketAddr>,
    /// Keep objects in memory: fastest, gone at the end. This is the default.
    #[arg(long)]
    memory: bool,
    /// Keep objects in files below this directory: they survive a restart.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The access key that clients sign with.
    #[arg(long)]
    access_key: String,
    /// A file that holds the secret key and nothing else.
    #[arg(long, value_name = "FILE")]
    secret_key_file: PathBuf,
    /// A bucket to create when it does not exist; may be repeated.
    #[arg(long = "bucket", value_name = "NAME")]
    buckets: Vec<String>,
    /// Copy this directory's files into the first bucket, when that is empty.
    #[arg(long, value_name = "DIR", requires = "buckets")]
    seed_dir: Option<PathBuf>,
    /// The region to claim.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Time to first byte of GetObject, such as 25ms.
    #[arg(long, value_parser = duration, default_value = "0ms", value_name = "TIME")]
    get_latency: Duration,
    /// … of PutObject, parts, copies and completed uploads.
    #[arg(long, value_parser = duration, default_value = "0ms", value_name = "TIME")]
    put_latency: Duration,
    /// … of listings.
    #[arg(long, value_parser = duration, default_value = "0ms", value_name = "TIME")]
    list_latency: Duration,
    /// … of deletions.
    #[arg(long, value_parser = duration, default_value = "0ms", value_name = "TIME")]
    delete_latency: Duration,
    /// … of HeadObject and HeadBucket.
    #[arg(long, value_parser = duration, default_value = "0ms", value_name = "TIME")]
    head_latency: Duration,
    /// Bandwidth of each connection per second, such as 90MB.
    #[arg(long, value_parser = size, value_name = "SIZE")]
    connection_rate: Option<u64>,
    /// Entries on a page of a listing, at most 1000.
    #[arg(long, value_name = "ENTRIES")]
    page_max: Option<usize>,
    /// Smallest part of an upload but the last.
    #[arg(long, value_parser = size, default_value = "5MiB", value_name = "SIZE")]
    part_min: u64,
    /// Give ETags that are no MD5, as S3 does with KMS encryption: saves 1.5 CPU seconds per GB written.
    #[arg(long)]
    opaque_etags: bool,
    /// Speak HTTPS with this certificate chain (PEM).
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Seed of the faults' probabilities.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mooring-test-s3: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(flags: Flags) -> anyhow::Result<()> {
    // s3s reports every refused request as an error; a test server's refusals are its purpose.
    let filter = EnvFilter::try_from_env("MOORING_LOG").unwrap_or_else(|_| EnvFilter::new("info,s3s=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    if flags.tls_cert.is_some() {
        // An error means that a provider is installed already.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    }
    let mut terminated = signal(SignalKind::terminate())?;
    let seed_dir = flags.seed_dir.clone();
    let bucket = flags.buckets.first().cloned();
    let server = Server::start(options(flags)?).await?;
    if let (Some(dir), Some(bucket)) = (seed_dir, bucket)
        && server.object_count(&bucket) == 0
    {
        seed(&server, &bucket, &dir).await?;
    }
    // A reader that closed its end early takes no lines, and that is its choice.
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "listens on {}", server.endpoint());
    if let Some(control) = server.control_endpoint() {
        let _ = writeln!(stdout, "control on {control}");
    }
    let _ = stdout.flush();
    drop(stdout);
    tokio::select! {
        // Both are cancel-safe: nothing is lost that matters after the first.
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    server.stop().await;
    Ok(())
}

fn options(flags: Flags) -> anyhow::Result<Options> {
    let path = &flags.secret_key_file;
    let secret = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read --secret-key-file {}", path.display()))?;
    let secret = secret.trim();
    if secret.is_empty() {
        bail!(
            "--secret-key-file {} is empty: write the secret key into it",
            path.display()
        );
    }
    Ok(Options {
        listen: flags.listen,
        control: flags.control,
        storage: flags.dir.map_or(StorageOptions::Memory, StorageOptions::Files),
        access_key: flags.access_key,
        secret_key: secret.to_owned(),
        buckets: flags.buckets,
        region: flags.region,
        settings: Settings {
            latency: Latency {
                get: flags.get_latency,
                put: flags.put_latency,
                list: flags.list_latency,
                delete: flags.delete_latency,
                head: flags.head_latency,
            },
            connection_bytes_per_second: flags.connection_rate,
            page_entries_max: flags.page_max,
        },
        part_bytes_min: flags.part_min,
        etags: if flags.opaque_etags {
            Etags::Opaque
        } else {
            Etags::Md5
        },
        tls: flags
            .tls_cert
            .zip(flags.tls_key)
            .map(|(certificate, key)| TlsOptions { certificate, key }),
        seed: flags.seed,
    })
}

/// Every regular file below `dir`, under its path from there.
async fn seed(server: &Server, bucket: &str, dir: &Path) -> anyhow::Result<()> {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder);
        for entry in
            entries.with_context(|| format!("cannot read the sample data in {}", folder.display()))?
        {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let key = path.strip_prefix(dir)?.to_str();
                let key = key.with_context(|| format!("{} is not UTF-8, as keys are", path.display()))?;
                server.put(bucket, key, std::fs::read(&path)?).await?;
            }
        }
    }
    Ok(())
}

/// `25ms`, `1.5s`, or plain milliseconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "" | "ms" => 0.001,
        "s" => 1.0,
        _ => return Err(format!("{unit:?} is no unit of time: use ms or s")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no time such as 25ms"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// `90MB`, `8MiB`, or plain bytes.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let bytes = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            return Err(format!(
                "{unit:?} is no unit of size: use B, kB, MB, GB, KiB, MiB or GiB"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no size such as 90MB"))?;
    number
        .checked_mul(bytes)
        .ok_or_else(|| format!("{text} is more than there is"))
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len()),
    )
}
