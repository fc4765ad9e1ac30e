//! The command line of `mooring-fs`, and what its texts mean.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Mounts S3 buckets as folders.
#[derive(Parser, Debug)]
#[command(
    name = "mooring-fs",
    version,
    about = "Mounts an S3 bucket as a folder",
    long_about = "Mounts an S3 bucket as a folder: one object per file, readable by every other S3 tool.\n\n\
        By hand:      mooring-fs mount my-bucket /mnt/data --endpoint https://s3.example.org\n\
        Unmount:      umount /mnt/data        (without root: fusermount3 -u /mnt/data)\n\n\
        Mounts of a fleet are started by mooring-agent, which uses `serve`.\n\n\
        MOORING_LOG sets what is logged: error, warn, info (the default), debug."
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Mount a bucket at a folder.
    #[command(
        long_about = "Mounts BUCKET, or the keys of it below PREFIX, at the folder DIR, and returns when the mount answers.\n\n\
            The key is taken from where AWS tools take it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the \
            shared files (~/.aws/credentials, ~/.aws/config, AWS_PROFILE), a credential process, or the machine's role.\n\n\
            Closing a written file returns when it is in the bucket. Writing needs room in --cache-dir for the files \
            being written. Other programs' changes show after --metadata-ttl at the latest. Owner, group and mode are \
            the mount's; changing them on a file is accepted and has no effect."
    )]
    Mount(MountOptions),
    /// Show how a mount does: what it keeps, what it asks of the store, and how long that takes.
    #[command(
        long_about = "Shows how the mount at the folder DIR does: its open and unsaved files, what it keeps in memory, how many \
            of its reads have waited for the store, and each kind of request to the store with its failures and times, since \
            its process began. Whoever may use the mount may ask.",
        after_help = "Examples:\n  mooring-fs status /mnt/data\n  mooring-fs status /mnt/data --format prometheus"
    )]
    Status(StatusOptions),
    /// Upload what mounts could not upload before they ended.
    #[command(
        long_about = "Uploads what mounts of this machine's agent could not upload before they ended: because the store was \
            away, because the host was banned, or because an unmount was forced. Such files stay in the cache folder of their \
            mount, with a note beside each that says which object it was to become.\n\n\
            FOLDER is that cache folder or any folder above it, such as /var/cache/mooring. The key is taken from where AWS \
            tools take it, as for `mount`. Nothing is overwritten that somebody else has changed meanwhile: then this \
            version is kept beside it. With a store that ignores conditions, what is changed in the very moment of the upload \
            is overwritten. A file goes when the store has its bytes; the others can be tried again. What a mount still \
            uploads by itself is left to it.",
        after_help = "Example:\n  AWS_PROFILE=lake mooring-fs recover /var/cache/mooring --dry-run"
    )]
    Recover(RecoverOptions),
    /// Serve one mount for mooring-agent, which sends the rest over a socket.
    Serve(ServeOptions),
    /// Take away what dead workers have left whom nobody succeeds, for mooring-agent.
    #[command(hide = true)]
    Tidy(TidyOptions),
}

/// Options of `mount`.
#[derive(Args, Debug)]
pub struct MountOptions {
    /// The bucket, and below which keys: my-bucket, or my-bucket:some/folder.
    #[arg(value_name = "BUCKET[:PREFIX]", value_parser = source)]
    pub source: String,
    /// The folder to mount at. It must exist; what it holds is hidden while mounted.
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Base URL of the store, such as https://s3.example.org:9000. Without it, Amazon's for the region.
    #[arg(long, value_name = "URL", value_parser = base_url)]
    pub endpoint: Option<String>,
    /// Region, for the signature. Default: that of the AWS settings, else us-east-1.
    #[arg(long)]
    pub region: Option<String>,
    /// Profile of the shared AWS files to take the key from.
    #[arg(long)]
    pub profile: Option<String>,
    /// Do not sign requests: for public buckets.
    #[arg(long, conflicts_with = "profile")]
    pub anonymous: bool,
    /// Refuse every change.
    #[arg(long)]
    pub read_only: bool,
    /// Where files are staged while they are written. Default: /var/cache/mooring-fs for root, else
    /// ~/.cache/mooring-fs.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Stay in the foreground and log to stderr.
    #[arg(long)]
    pub foreground: bool,
    /// Where to log when in the background. Default: mooring-fs.log in the cache folder.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Owner of everything in the mount. Default: who mounts.
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group of everything in the mount. Default: that of who mounts.
    #[arg(long)]
    pub gid: Option<u32>,
    /// Permission bits of files, octal.
    #[arg(long, value_name = "OCTAL", default_value = "0644", value_parser = permission_bits)]
    pub file_mode: u16,
    /// Permission bits of folders, octal.
    #[arg(long, value_name = "OCTAL", default_value = "0755", value_parser = permission_bits)]
    pub dir_mode: u16,
    /// Let other users in, as owner and modes allow. Without root, /etc/fuse.conf must say user_allow_other.
    #[arg(long)]
    pub allow_other: bool,
    /// How long names, sizes and listings are believed, such as 5s, 500ms or 2m.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub metadata_ttl: Duration,
    /// Memory for what is read, in MiB. Default: a quarter of what this process may use, at most 512.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub cache_size_mib: Option<u32>,
    /// Ask for endpoint/bucket/key instead of bucket.endpoint/key. Default: true with --endpoint.
    #[arg(long, value_name = "BOOL")]
    pub path_style: Option<bool>,
    /// PEM file with certificate authorities to trust besides the machine's own.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// This process is the background part; tell the parent on stdout how it went.
    #[arg(long, hide = true)]
    pub background_part: bool,
}

/// Options of `serve`.
#[derive(Args, Debug)]
pub struct ServeOptions {
    /// Path of the socket to listen on.
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,
}

/// Options of `tidy`.
#[derive(Args, Debug)]
pub struct TidyOptions {
    /// The folder in which the mounts of one cache folder have their staging folders.
    #[arg(value_name = "STAGING")]
    pub staging: PathBuf,
    /// The folder in which mounts have what a successor must know, under the same names.
    #[arg(value_name = "TABLES")]
    pub tables: PathBuf,
    /// The name of one that may be succeeded.
    #[arg(long, value_name = "NAME")]
    pub keep: Vec<std::ffi::OsString>,
    /// The name of one whose worker was killed, and is waited for.
    #[arg(long, value_name = "NAME")]
    pub ended: Vec<std::ffi::OsString>,
}

/// Options of `status`.
#[derive(Args, Debug)]
pub struct StatusOptions {
    /// The folder at which a bucket is mounted.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// How it is shown.
    #[arg(long, value_enum, default_value_t = StatusFormat::Table)]
    pub format: StatusFormat,
}

/// How a status is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum StatusFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For Prometheus: its text format, as node_exporter's textfile collector takes it.
    Prometheus,
}

/// Options of `recover`.
#[derive(Args, Debug)]
pub struct RecoverOptions {
    /// The cache folder of a mount, or any folder above it.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Only say what waits to be uploaded.
    #[arg(long)]
    pub dry_run: bool,
    /// Profile of the shared AWS files to take the key from.
    #[arg(long)]
    pub profile: Option<String>,
    /// PEM file with certificate authorities to trust besides the machine's own.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

impl MountOptions {
    /// Bucket and prefix.
    pub fn bucket_and_prefix(&self) -> (&str, &str) {
        self.source.split_once(':').unwrap_or((&self.source, ""))
    }
}

/// A URL is what other tools take, and the commonest slip here.
fn source(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        let bucket = text.split_once(':').map_or(text, |(bucket, _)| bucket);
        return match bucket.split_once('/') {
            // The store would take the rest for the beginning of each key, and call the signature wrong.
            Some((bucket, rest)) => Err(format!(
                "write {}: a colon ends the bucket's name",
                format!("{bucket}:{rest}").trim_end_matches(['/', ':'])
            )),
            None => Ok(text.to_owned()),
        };
    };
    match (scheme, rest.trim_end_matches('/').split_once('/')) {
        ("s3", Some((bucket, prefix))) => Err(format!("write {bucket}:{prefix}, without s3://")),
        ("s3", None) => Err(format!("write {}, without s3://", rest.trim_end_matches('/'))),
        _ => Err("name a bucket; the store's address goes into --endpoint".to_owned()),
    }
}

fn permission_bits(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text.trim_start_matches("0o"), 8) {
        // No setuid, setgid or sticky bits: nobody could set them on purpose through a bucket.
        Ok(bits) if bits <= 0o777 => Ok(bits),
        Ok(_) | Err(_) => Err("give permission bits in octal, such as 0644".to_owned()),
    }
}

fn base_url(text: &str) -> Result<String, String> {
    let mistake = || Err("give a base URL without a path, such as https://s3.example.org:9000".to_owned());
    let Ok(url) = text.parse::<http::Uri>() else {
        return mistake();
    };
    let known_scheme = matches!(url.scheme_str(), Some("http" | "https"));
    let only_host = matches!(url.path(), "" | "/") && url.query().is_none();
    let plain_host = url.authority().is_some_and(|host| !host.as_str().contains('@'));
    if known_scheme && only_host && plain_host {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        mistake()
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit_millis = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("give a time such as 5s, 500ms or 2m".to_owned()),
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| "give a time such as 5s, 500ms or 2m".to_owned())?;
    count
        .checked_mul(unit_millis)
        .map(Duration::from_millis)
        .ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn times_and_modes_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("5 parsecs").is_err());
        assert_eq!(permission_bits("0640"), Ok(0o640));
        assert!(permission_bits("4755").is_err());
        assert!(permission_bits("rw").is_err());
    }

    #[test]
    fn who_writes_a_url_for_the_bucket_is_told_what_to_write() {
        assert_eq!(source("lake:a/b").unwrap(), "lake:a/b");
        assert_eq!(
            source("s3://lake/a/b/").unwrap_err(),
            "write lake:a/b, without s3://"
        );
        assert_eq!(source("s3://lake").unwrap_err(), "write lake, without s3://");
        assert!(source("https://s3.example.org/lake").is_err());
        assert_eq!(
            source("lake/a/b").unwrap_err(),
            "write lake:a/b: a colon ends the bucket's name"
        );
        assert_eq!(
            source("lake/").unwrap_err(),
            "write lake: a colon ends the bucket's name"
        );
        assert_eq!(source("lake:").unwrap(), "lake:");
    }

    #[test]
    fn an_endpoint_is_a_base_url() {
        assert_eq!(
            base_url("http://127.0.0.1:9000/"),
            Ok("http://127.0.0.1:9000".to_owned())
        );
        for wrong in [
            "127.0.0.1:9000",
            "ftp://host",
            "https://host/path",
            "https://me@host",
            "https://host?x",
        ] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }
}
