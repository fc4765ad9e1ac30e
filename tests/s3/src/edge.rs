//! Between the network and s3s: counts, slows down and breaks requests. It never interprets more of a request than
//! [`Target`] says.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use s3s::service::S3Service;
use s3s::{Body, HttpError, S3Error, S3ErrorCode, StdError};

use crate::faults::body::{Trouble, TroubledBody};
use crate::faults::{Action, Effects, Faults, When};
use crate::operation::Target;
use crate::requests::Requests;
use crate::shaping::{Connection, Shape};

/// What every connection shares.
pub(crate) struct Edge {
    pub(crate) service: S3Service,
    pub(crate) faults: Arc<Faults>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) shape: Arc<Shape>,
}

impl Edge {
    /// Answers one request. An error ends the connection without an answer.
    pub(crate) async fn call(
        &self,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, HttpError> {
        let target = Target::of(request.method(), request.uri(), request.headers());
        let headers = request.headers();
        let received = number(headers, "x-amz-decoded-content-length").or(number(headers, "content-length"));
        let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        let query = request.uri().query().unwrap_or_default();
        let signed = (range, signed_by(headers));
        let entry = self.requests.begin(&target, query, signed, received.unwrap_or(0));
        let answer = self.answer(&target, connection, request).await;
        let (status, sent) = match &answer {
            Ok(response) => {
                let sent =
                    number(response.headers(), "content-length").or(response.body().size_hint().exact());
                (Some(response.status().as_u16()), sent.unwrap_or(0))
            }
            Err(_) => (None, 0),
        };
        self.requests.end(entry, target.operation, status, sent);
        answer
    }

    async fn answer(
        &self,
        target: &Target,
        connection: Arc<Connection>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, HttpError> {
        let Effects { dialect, actions } = self.faults.strike(target);
        let latency = self.shape.latency(target.operation.class());
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        request.extensions_mut().insert(dialect);
        let (head, body) = request.into_parts();
        let body = SharedBody(Arc::new(Mutex::new(body)));
        let mut passed_on = Body::http_body(body.clone());
        for action in &actions {
            match action {
                Action::Stall {
                    millis,
                    at_byte: None,
                } => {
                    tokio::time::sleep(Duration::from_millis(*millis)).await;
                }
                Action::Error {
                    status,
                    code,
                    when: When::Before,
                } => {
                    body.drain().await;
                    return error_answer(*status, code);
                }
                Action::ErrorInBody {
                    code,
                    when: When::Before,
                } => {
                    body.drain().await;
                    return error_answer(200, code);
                }
                Action::NoReply { when: When::Before } => return Err(reset(&connection)),
                Action::ResetRequest { at_byte } => {
                    let troubled = TroubledBody::new(passed_on, connection.clone(), Trouble::Reset, *at_byte);
                    passed_on = Body::http_body(troubled);
                }
                _ => {}
            }
        }
        let breaks_request = actions
            .iter()
            .any(|action| matches!(action, Action::ResetRequest { .. }));
        let mut response = self.service.call(Request::from_parts(head, passed_on)).await?;
        if breaks_request {
            return Err(reset(&connection));
        }
        // A refusal that left the body unread would make hyper close the connection under a client that still
        // sends, which then sees a reset instead of the answer.
        body.drain().await;
        for action in actions {
            let (trouble, at_byte) = match action {
                Action::Error {
                    status,
                    code,
                    when: When::After,
                } => return error_answer(status, &code),
                Action::ErrorInBody {
                    code,
                    when: When::After,
                } => return error_answer(200, &code),
                Action::NoReply { when: When::After } => return Err(reset(&connection)),
                Action::Reset { at_byte } => (Trouble::Reset, at_byte),
                Action::Truncate { at_byte } => (Trouble::Truncate, at_byte),
                Action::Corrupt { at_byte } => (Trouble::Corrupt, at_byte),
                Action::Stall {
                    millis,
                    at_byte: Some(at),
                } => (Trouble::Stall(Duration::from_millis(millis)), at),
                _ => continue,
            };
            let connection = connection.clone();
            response =
                response.map(|body| Body::http_body(TroubledBody::new(body, connection, trouble, at_byte)));
        }
        Ok(response)
    }
}

/// `AWS4-HMAC-SHA256 Credential=AKID/20260101/…`: the key's id, as the client claims it.
fn signed_by(headers: &http::HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (_, credential) = text.split_once("Credential=")?;
    credential.split('/').next()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn reset(connection: &Connection) -> HttpError {
    connection.reset_on_close();
    HttpError::new("scripted fault: no reply".into())
}

fn error_answer(status: u16, code: &str) -> Result<Response<Body>, HttpError> {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, "scripted fault");
    error.set_status_code(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    let mut response = error
        .to_http_response()
        .map_err(|error| HttpError::new(Box::new(error)))?;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(response)
}

/// The request's body, of which s3s reads what it wants and this file the rest.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Incoming>>);

impl SharedBody {
    /// Reads to the end and throws away; stops at an error, since the connection is then gone.
    async fn drain(&self) {
        if self.0.lock().is_end_stream() {
            return;
        }
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut *self.0.lock()).poll_frame(cx)).await {}
    }
}

impl http_body::Body for SharedBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        Pin::new(&mut *self.0.lock())
            .poll_frame(cx)
            .map_err(StdError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}
