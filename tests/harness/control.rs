//! What a story does to our own S3 server beside speaking S3: scripted faults, slowness, and how often it was asked.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::Store;

/// A fault that is set. Dropping it removes it.
pub struct Fault<'a> {
    store: &'a Store,
    id: u64,
}

impl Store {
    /// Sets a fault, such as `{"operations": ["GetObject"], "key_prefix": "a/", "skip": 1, "times": 2, "action":
    /// {"error": {"status": 503, "code": "SlowDown"}}}`; `tests/s3/src/faults.rs` names all actions.
    pub fn fault(&self, fault: &Value) -> Fault<'_> {
        let added = self.control("POST /faults", fault);
        let id = added["id"].as_u64().expect("a fault has a number");
        Fault { store: self, id }
    }

    /// How many requests of an operation, such as `HeadObject`, have arrived since the start or since
    /// [`Store::forget_requests`].
    pub fn requests(&self, operation: &str) -> u64 {
        let answer = self.control("GET /requests?log=false", &Value::Null);
        answer["counts"][operation]["requests"].as_u64().unwrap_or(0)
    }

    /// How many bytes of objects it has sent for an operation since then.
    pub fn bytes_sent(&self, operation: &str) -> u64 {
        let answer = self.control("GET /requests?log=false", &Value::Null);
        answer["counts"][operation]["bytes_sent"].as_u64().unwrap_or(0)
    }

    /// The latest requests, oldest first: `{operation, bucket, key, query, range, status}`.
    pub fn request_log(&self) -> Vec<Value> {
        let answer = self.control("GET /requests", &Value::Null);
        answer["log"].as_array().cloned().unwrap_or_default()
    }

    /// Counts from zero again.
    pub fn forget_requests(&self) {
        self.control("DELETE /requests", &Value::Null);
    }

    /// Makes it as slow as `{"latency": {"get_millis": 25, …}, "connection_bytes_per_second": 90000000,
    /// "page_entries_max": 1000}` says; what is not named is as fast as can be.
    pub fn shape(&self, settings: &Value) {
        self.control("PUT /settings", settings);
    }

    /// Makes `count` objects of `size` bytes named `<prefix>0000000` and following, at once.
    pub fn fill(&self, prefix: &str, count: u64, size: u64) {
        let fill = json!({"bucket": self.bucket, "prefix": prefix, "count": count, "size": size});
        self.control("POST /fill", &fill);
    }

    /// From now on the server refuses this key.
    pub fn revoke_key(&self, access_key_id: &str) {
        self.control(&format!("DELETE /keys/{access_key_id}"), &Value::Null);
    }

    /// From now on the server accepts this key, for reading only if so.
    pub fn accept_key(&self, access_key_id: &str, secret: &str, read_only: bool) {
        let rights = if read_only { "read_only" } else { "read_write" };
        let key = json!({"secret_key": secret, "rights": rights});
        self.control(&format!("PUT /keys/{access_key_id}"), &key);
    }

    /// One request to the control listener.
    fn control(&self, request: &str, body: &Value) -> Value {
        let control = self
            .control
            .as_deref()
            .expect("this is our own server, which has a control listener");
        let address = control.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).expect("the control listener answers");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let head = format!(
            "{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .expect("the control listener reads");
        stream
            .write_all(body.as_bytes())
            .expect("the control listener reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("the control listener answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("it answers in HTTP");
        assert!(head.starts_with("HTTP/1.1 200 "), "{request}: {head}\n{body}");
        serde_json::from_str(body).expect("it answers in JSON")
    }
}

impl Fault<'_> {
    /// How many requests it has hit.
    pub fn hits(&self) -> u64 {
        let faults = self.store.control("GET /faults", &Value::Null);
        let own = faults
            .as_array()
            .into_iter()
            .flatten()
            .find(|fault| fault["id"] == self.id);
        own.and_then(|fault| fault["hit"].as_u64()).unwrap_or(0)
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        // A story that is failing may have lost the server.
        if !std::thread::panicking() {
            self.store
                .control(&format!("DELETE /faults/{}", self.id), &Value::Null);
        }
    }
}
