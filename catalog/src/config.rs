//! The configuration file: read here and nowhere else, every mistake at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mooring_identity::TrustDomain;

use crate::domain::endpoint::{EndpointRules, Network};

/// Where the configuration is when nobody says.
pub const DEFAULT_PATH: &str = "/etc/mooring/catalog.toml";

/// Shortest life of a certificate: agents renew at half of it, and clocks differ.
const CERTIFICATE_LIFETIME_MIN: Duration = Duration::from_secs(5);
/// Longest: a year. A certificate is what a thief has until it ends.
const CERTIFICATE_LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; port 0 asks the system for one.
    pub listen: SocketAddr,
    /// What join strings carry; `None` for the bound address.
    pub endpoint: Option<String>,
    /// Database, keys and certificates.
    pub state_dir: PathBuf,
    /// The trust domain of all certificates.
    pub trust_domain: TrustDomain,
    /// Names in the server's certificate, beside the endpoint's.
    pub server_names: Vec<String>,
    /// How long certificates of people and hosts live.
    pub certificate_lifetime: Duration,
    /// Which endpoints connectors may name.
    pub endpoint_rules: Arc<EndpointRules>,
    /// When a host that is not heard of counts as lost.
    pub host_lost_after: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Mistakes(vec![format!(
                "{}: {error}; give the right file with --config",
                path.display()
            )])
        })?;
        Self::parse(&text).map_err(|Mistakes(list)| {
            Mistakes(
                list.iter()
                    .map(|one| format!("{}: {one}", path.display()))
                    .collect(),
            )
        })
    }

    /// The same for a file that nobody has named: one that is not there means every default.
    pub fn load_if_any(path: &Path) -> Result<Self, Mistakes> {
        match path.try_exists() {
            Ok(false) => Self::parse(""),
            Ok(true) | Err(_) => Self::load(path),
        }
    }

    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| Mistakes(vec![error.to_string()]))?;
        let mut keys = Keys {
            table: table.into_iter().collect(),
            prefix: "",
            mistakes: Vec::new(),
        };
        let listen = keys.parsed("listen", "an address and port such as 127.0.0.1:7443", |text| {
            text.parse().ok()
        });
        let endpoint = keys.parsed(
            "endpoint",
            "a URL such as https://catalog.example.com:7443",
            checked_endpoint,
        );
        let state_dir = keys.parsed("state_dir", "an absolute path", |text| {
            Some(PathBuf::from(text)).filter(|p| p.is_absolute())
        });
        let trust_domain = keys.parsed(
            "trust_domain",
            "1 to 255 lower case letters, digits, dots, dashes or underscores",
            |text| text.parse().ok(),
        );
        let server_names = keys.list("server_names", "DNS names or IP addresses", |text| {
            (!text.is_empty()).then(|| text.to_owned())
        });
        let certificate_lifetime = keys.parsed(
            "certificate_lifetime",
            "a time from 5s to 366d, such as 24h",
            |text| {
                duration(text)
                    .filter(|life| (CERTIFICATE_LIFETIME_MIN..=CERTIFICATE_LIFETIME_MAX).contains(life))
            },
        );
        let host_lost_after = keys.parsed("host_lost_after", "a time such as 60s", |text| {
            duration(text).filter(|d| !d.is_zero())
        });
        let log_format = keys.parsed("log_format", "`text` or `json`", |text| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        });
        let rules = keys.table("connector_endpoints");
        let mut mistakes = keys.finish();
        if endpoint.is_none() && listen.is_some_and(|listen: SocketAddr| listen.ip().is_unspecified()) {
            mistakes.push("endpoint is missing; when listening on all addresses, write the URL that hosts and people use".into());
        }
        let mut keys = Keys {
            table: rules,
            prefix: "connector_endpoints.",
            mistakes: Vec::new(),
        };
        let allow_http = keys.flag("allow_http");
        let allowed_networks = keys.list("allowed_networks", "networks such as 10.0.0.0/8", |text| {
            text.parse::<Network>().ok()
        });
        mistakes.extend(keys.finish());
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
        Ok(Self {
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7443))),
            endpoint,
            state_dir: state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/mooring-catalog")),
            trust_domain: trust_domain
                .unwrap_or_else(|| "mooring".parse().expect("it is a good trust domain")),
            server_names: server_names.unwrap_or_else(|| vec!["localhost".to_owned()]),
            certificate_lifetime: certificate_lifetime.unwrap_or(Duration::from_secs(24 * 3600)),
            endpoint_rules: Arc::new(EndpointRules {
                allow_http: allow_http.unwrap_or(false),
                allowed_networks: allowed_networks.unwrap_or_default(),
            }),
            host_lost_after: host_lost_after.unwrap_or(Duration::from_secs(60)),
            log_format: log_format.unwrap_or_default(),
        })
    }
}

/// Keys of a table that are taken out one by one; what remains is unknown.
struct Keys {
    table: BTreeMap<String, toml::Value>,
    prefix: &'static str,
    mistakes: Vec<String>,
}

impl Keys {
    fn parsed<T>(&mut self, key: &str, form: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.table.remove(key)?;
        let parsed = value.as_str().and_then(parse);
        if parsed.is_none() {
            self.mistakes.push(format!(
                "{}{key} = {value} is not valid; write {form}",
                self.prefix
            ));
        }
        parsed
    }

    fn list<T>(&mut self, key: &str, form: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let value = self.table.remove(key)?;
        let parsed = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().and_then(&parse)).collect());
        if parsed.is_none() {
            self.mistakes.push(format!(
                "{}{key} = {value} is not valid; write a list of {form}",
                self.prefix
            ));
        }
        parsed
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.table.remove(key)?;
        if value.as_bool().is_none() {
            self.mistakes.push(format!(
                "{}{key} = {value} is not valid; write true or false",
                self.prefix
            ));
        }
        value.as_bool()
    }

    fn table(&mut self, key: &str) -> BTreeMap<String, toml::Value> {
        match self.table.remove(key) {
            None => BTreeMap::new(),
            Some(toml::Value::Table(table)) => table.into_iter().collect(),
            Some(_) => {
                self.mistakes
                    .push(format!("{key} is not valid; write it as a table: [{key}]"));
                BTreeMap::new()
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        for key in self.table.keys() {
            self.mistakes.push(format!(
                "{}{key} is unknown; see `mooring-catalog serve --help`",
                self.prefix
            ));
        }
        self.mistakes
    }
}

fn checked_endpoint(text: &str) -> Option<String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let uri: http::Uri = text.parse().ok()?;
    let plain = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    (plain && uri.host().is_some_and(|host| !host.is_empty()) && !text.contains('@')).then(|| text.to_owned())
}

/// Which log lines are written, from the environment.
pub fn log_filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_env("MOORING_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"))
}

/// `10s`, `5m`, `24h`, `30d`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(seconds)
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that the package installs, as it would be with every line in force that shows a default.
    fn shipped_with_defaults_written_out() -> String {
        let shipped = include_str!("../../deploy/config/catalog.toml");
        let lines = shipped.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_shipped_file_is_valid_and_shows_every_default_as_it_is() {
        let shipped = include_str!("../../deploy/config/catalog.toml");
        assert_eq!(Config::parse(shipped).unwrap(), Config::parse("").unwrap());
        let written_out = Config::parse(&shipped_with_defaults_written_out()).unwrap();
        let defaults = Config {
            endpoint: Some("https://127.0.0.1:7443".to_owned()),
            ..Config::parse("").unwrap()
        };
        assert_eq!(written_out, defaults);
    }

    #[test]
    fn the_shipped_file_shows_every_key() {
        // A new field stops the build here: show its key in deploy/config/catalog.toml, too.
        let Config {
            listen: _,
            endpoint: _,
            state_dir: _,
            trust_domain: _,
            server_names: _,
            certificate_lifetime: _,
            endpoint_rules: _,
            host_lost_after: _,
            log_format: _,
        } = Config::parse("").unwrap();
        let table: toml::Table = shipped_with_defaults_written_out().parse().unwrap();
        assert_eq!(table.len(), 9, "{table}");
        assert_eq!(table["connector_endpoints"].as_table().unwrap().len(), 2);
    }

    #[test]
    fn an_empty_file_is_a_good_configuration() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7443");
        assert_eq!(config.certificate_lifetime, Duration::from_secs(86_400));
        assert!(!config.endpoint_rules.allow_http);
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_the_usual_one_need_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.toml");
        let Mistakes(mistakes) = Config::load(&path).unwrap_err();
        assert!(mistakes[0].contains("--config"), "{mistakes:?}");
        assert_eq!(Config::load_if_any(&path), Config::parse(""));
        std::fs::write(&path, "colour = 1").unwrap();
        assert!(Config::load_if_any(&path).is_err(), "one that is there counts");
    }

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(
            "listen = '0.0.0.0:0'\nendpoint = 'https://c.example:1/'\nstate_dir = '/s'\ntrust_domain = 'x.y'\n\
             server_names = ['a', '10.0.0.1']\ncertificate_lifetime = '10s'\nhost_lost_after = '5m'\nlog_format = 'json'\n\
             [connector_endpoints]\nallow_http = true\nallowed_networks = ['127.0.0.0/8']",
        )
        .unwrap();
        assert_eq!(config.endpoint.as_deref(), Some("https://c.example:1"));
        assert_eq!(config.host_lost_after, Duration::from_secs(300));
        assert_eq!(config.endpoint_rules.allowed_networks.len(), 1);
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let Mistakes(mistakes) = Config::parse(
            "listen = 'here'\nendpoint = 'http://c'\nstate_dir = 'rel'\ncertificate_lifetime = '1s'\ncolour = 1\n\
             [connector_endpoints]\nallow_http = 'yes'\nallowed_networks = ['10.0.0.0']\nx = 1",
        )
        .unwrap_err();
        assert_eq!(mistakes.len(), 8, "{mistakes:?}");
        assert!(mistakes.iter().any(|one| one.starts_with("colour is unknown")));
        assert!(
            mistakes
                .iter()
                .any(|one| one.starts_with("connector_endpoints.x is unknown"))
        );
    }
}
