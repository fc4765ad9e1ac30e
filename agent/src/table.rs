//! `mooring-agent status`: asks the running agent over its local socket, and prints what it says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mooring_proto::local::v1 as pb;
use mooring_proto::local::v1::local_service_client::LocalServiceClient;
use mooring_proto::v1::{Condition, ConditionStatus, ConditionType};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

/// The agent answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error("no agent answers at {} ({reason}); is mooring-agent running, and is this its configuration?", path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// The agent refuses or breaks off.
    #[error("the agent does not answer: {0}")]
    NoAnswer(String),
}

/// Asks the agent at `socket`, and answers the text to print.
pub async fn status(socket: &Path) -> Result<String, StatusError> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is a formality: the connector knows where to go.
    let channel = Endpoint::from_static("http://agent.local")
        .timeout(ANSWER_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|source| StatusError::NoAgent {
            path: socket.to_owned(),
            reason: innermost(&source),
        })?;
    let mut client = LocalServiceClient::new(channel);
    let no_answer = |status: tonic::Status| StatusError::NoAnswer(status.message().to_owned());
    let agent = client
        .get_agent(pb::GetAgentRequest {})
        .await
        .map_err(no_answer)?
        .into_inner();
    let mounts = client
        .list_mounts(pb::ListMountsRequest {})
        .await
        .map_err(no_answer)?
        .into_inner()
        .mounts;
    Ok(render(&agent, &mounts))
}

/// The cause at the bottom: what lies above it only repeats it.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn render(agent: &pb::Agent, mounts: &[pb::LocalMount]) -> String {
    let mut text = format!(
        "{}, mooring-agent {}, {}, revision {}, certificate until {}\n",
        agent.host,
        agent.version,
        // An open stream is proved by its pings; the catalog speaks on it only when something is to be done.
        if agent.connected {
            "connected to its catalog".to_owned()
        } else {
            format!(
                "not connected to its catalog (last heard of: {})",
                moment(agent.seen_time.as_ref())
            )
        },
        agent.revision,
        moment(agent.certificate_expire_time.as_ref()),
    );
    if !agent.holding_still.is_empty() {
        text.push_str(&format!("holds still: {}\n", agent.holding_still));
    }
    if mounts.is_empty() {
        text.push_str("no mounts that you may enter\n");
        return text;
    }
    let mut rows = vec![["PATH", "STATE", "MODE", "BACKEND", "SINCE", "MESSAGE"].map(str::to_owned)];
    rows.extend(mounts.iter().map(|mount| {
        [
            mount.path.clone(),
            word(mount.state().as_str_name(), "MOUNT_STATE_"),
            word(mount.mode().as_str_name(), "MODE_"),
            word(mount.backend().as_str_name(), "BACKEND_"),
            moment(mount.mount_time.as_ref()),
            message(&mount.conditions),
        ]
    }));
    let widths: [usize; 6] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    });
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The first trouble, if there is one: a read-only mount's not being writable is none.
fn message(conditions: &[Condition]) -> String {
    conditions
        .iter()
        .find(|condition| {
            condition.status() == ConditionStatus::False
                && !(condition.r#type() == ConditionType::Writable && condition.reason == "ReadOnly")
        })
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}

fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_owned()
}

fn moment(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "never".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_per_mount_and_names_the_first_trouble() {
        let agent = pb::Agent {
            host: "hosts/gpu-7".into(),
            version: "1.0.0".into(),
            connected: true,
            ..Default::default()
        };
        let mount = pb::LocalMount {
            path: "/mnt/mooring/ml/a".into(),
            state: mooring_proto::v1::MountState::Degraded.into(),
            conditions: vec![Condition {
                r#type: ConditionType::EndpointReachable.into(),
                status: ConditionStatus::False.into(),
                message: "the store is away".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = render(&agent, &[mount]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().nth(2).unwrap().contains("DEGRADED"), "{text}");
        assert!(text.ends_with("the store is away\n"), "{text}");
    }
}
