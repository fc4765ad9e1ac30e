//! The control listener: plain HTTP and JSON, for tests and demos that run the server as a process. No rights are
//! asked: it belongs on the loopback.
//!
//! | request | effect |
//! |---|---|
//! | GET /requests | counters by operation, and the latest requests; `?log=false` for the counters only |
//! | DELETE /requests | forgets them |
//! | GET, DELETE /faults | lists, removes all |
//! | POST /faults | adds one, answers with its id |
//! | DELETE /faults/ID | removes one, answers with what it did |
//! | GET, PUT /settings | latencies, bandwidth, page size |
//! | PUT /keys/ACCESS_KEY | sets `{"secret_key": …, "rights": "read_write" or "read_only"}` |
//! | DELETE /keys/ACCESS_KEY | refuses the key from now on |
//! | POST /fill | `{"bucket", "prefix", "count", "size"}`: that many objects at once |

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::Rights;
use crate::faults::{Fault, FaultId};
use crate::server::Inner;
use crate::shaping::Settings;

/// No request to this listener is longer.
const BODY_BYTES_MAX: usize = 1 << 20;

type Answer = Response<Full<Bytes>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    secret_key: String,
    #[serde(default)]
    rights: Rights,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fill {
    bucket: String,
    #[serde(default)]
    prefix: String,
    count: u64,
    #[serde(default)]
    size: usize,
}

/// Serves until it is stopped.
pub(crate) async fn accept(listener: TcpListener, inner: Arc<Inner>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Cancel-safe: no state.
            () = stop.cancelled() => break,
            // Cancel-safe per tokio's docs.
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let inner = inner.clone();
                    connections.spawn(async move {
                        let service = service_fn(|request| answer(inner.clone(), request));
                        let mut http = http1::Builder::new();
                        http.header_read_timeout(None);
                        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                            tracing::debug!(%error, "a control connection ended early");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot accept a control connection"),
            },
            // Cancel-safe per tokio's docs; takes ended connections off the set.
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(refuse(StatusCode::BAD_REQUEST, &error)),
    };
    let path: Vec<&str> = head
        .uri
        .path()
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let answer = match (&head.method, path.as_slice()) {
        (&Method::GET, ["requests"]) => requests(&inner, head.uri.query() != Some("log=false")),
        (&Method::DELETE, ["requests"]) => {
            inner.requests.reset();
            done()
        }
        (&Method::GET, ["faults"]) => ok(&inner.faults.list()),
        (&Method::DELETE, ["faults"]) => {
            inner.faults.clear();
            done()
        }
        (&Method::POST, ["faults"]) => with(&body, |fault: Fault| {
            ok(&json!({ "id": inner.faults.add(fault) }))
        }),
        (&Method::DELETE, ["faults", id]) => {
            match id.parse().ok().and_then(|id| inner.faults.remove(FaultId(id))) {
                Some(removed) => ok(&removed),
                None => refuse(StatusCode::NOT_FOUND, &format!("there is no fault {id}")),
            }
        }
        (&Method::GET, ["settings"]) => ok(&inner.shape.settings()),
        (&Method::PUT, ["settings"]) => with(&body, |settings: Settings| {
            inner.shape.set(settings);
            done()
        }),
        (&Method::PUT, ["keys", name]) => with(&body, |key: Key| {
            inner.keys.set(name, &key.secret_key, key.rights);
            done()
        }),
        (&Method::DELETE, ["keys", name]) => {
            if inner.keys.remove(name) {
                done()
            } else {
                refuse(StatusCode::NOT_FOUND, &format!("there is no key {name}"))
            }
        }
        (&Method::POST, ["fill"]) => match serde_json::from_slice::<Fill>(&body) {
            Ok(Fill {
                bucket,
                prefix,
                count,
                size,
            }) => match inner.fill(&bucket, &prefix, count, size).await {
                Ok(()) => done(),
                Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
            },
            Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
        },
        (method, _) => refuse(
            StatusCode::NOT_FOUND,
            &format!(
                "{method} {} is not known; there are /requests, /faults, /settings, /keys and /fill",
                head.uri
            ),
        ),
    };
    Ok(answer)
}

fn requests(inner: &Inner, with_log: bool) -> Answer {
    let counts = inner.requests.all_counts();
    if with_log {
        ok(&json!({ "counts": counts, "log": inner.requests.log() }))
    } else {
        ok(&json!({ "counts": counts }))
    }
}

fn with<T: for<'de> Deserialize<'de>>(body: &[u8], act: impl FnOnce(T) -> Answer) -> Answer {
    match serde_json::from_slice(body) {
        Ok(value) => act(value),
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
    }
}

fn ok(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => json_answer(StatusCode::OK, text),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}

fn done() -> Answer {
    json_answer(StatusCode::OK, b"{}".to_vec())
}

fn refuse(status: StatusCode, reason: &impl ToString) -> Answer {
    json_answer(
        status,
        json!({ "error": reason.to_string() }).to_string().into_bytes(),
    )
}

fn json_answer(status: StatusCode, text: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    answer
}
