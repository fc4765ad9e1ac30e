//! An S3 server with one bucket, and boto3 as the client with which stories look at it from the other side.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::process::Process;
use crate::programs::{program, tool};

/// The access key id of every store in stories.
pub const ACCESS_KEY_ID: &str = "AKIDSTORIES";

/// A running S3 server.
pub struct Store {
    /// The server's process.
    pub process: Process,
    /// Where its faults are set and its requests counted; ours only.
    pub control: Option<String>,
    /// URL of the service.
    pub endpoint: String,
    /// The bucket of the story.
    pub bucket: String,
    /// The secret access key, unlike any other text, so that a search for it finds only leaks.
    pub secret: String,
    /// Started when it is first needed: it takes half a second.
    client: Mutex<Option<Client>>,
    /// Where bodies pass to and from the client.
    scratch: tempfile::TempDir,
}

/// The boto3 process.
struct Client {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Store {
    /// Starts our own server in memory, on `address`, with its bucket.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(folder: &Path, address: Ipv4Addr, bucket: &str) -> Store {
        let secret = planted_secret();
        let key = folder.join("store.key");
        std::fs::write(&key, &secret).expect("the folder can be written");
        let mut command = Command::new(program("mooring-test-s3"));
        command
            .args([
                "--listen",
                &format!("{address}:0"),
                "--memory",
                "--control",
                "127.0.0.1:0",
            ])
            .args([
                "--bucket",
                bucket,
                "--access-key",
                ACCESS_KEY_ID,
                "--secret-key-file",
            ])
            .arg(&key);
        let mut process = Process::start("store", folder, command);
        let endpoint = process.says("listens on ");
        let control = process.says("control on ");
        std::fs::remove_file(&key).expect("the key file is ours");
        Store::new(process, Some(control), endpoint, bucket.to_owned(), secret)
    }

    /// A server that runs already.
    pub fn new(
        process: Process,
        control: Option<String>,
        endpoint: String,
        bucket: impl Into<String>,
        secret: String,
    ) -> Store {
        let scratch = tempfile::tempdir().expect("the temporary folder can be written");
        Store {
            process,
            control,
            endpoint,
            bucket: bucket.into(),
            secret,
            client: Mutex::new(None),
            scratch,
        }
    }

    /// Makes the bucket; one that is there already is no error.
    ///
    /// # Errors
    /// What the server says, or that it does not answer.
    pub fn create_bucket(&self) -> Result<(), String> {
        match self.request(json!({"do": "create_bucket"})) {
            Ok(_) => Ok(()),
            Err(code) if code.starts_with("BucketAlready") => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Writes an object.
    pub fn put(&self, key: &str, bytes: impl AsRef<[u8]>) {
        let file = self.scratch.path().join("put");
        std::fs::write(&file, bytes).expect("the scratch folder can be written");
        self.put_file(key, &file);
    }

    /// Writes an object from a file, in parts if it is large.
    pub fn put_file(&self, key: &str, file: &Path) {
        self.request(json!({"do": "put", "key": key, "file": file}))
            .unwrap_or_else(|error| panic!("put {key}: {error}"));
    }

    /// Writes an object with more arguments of boto3's `put_object`, such as `{"ContentType": "text/csv", "Tagging":
    /// "team=ml"}`.
    pub fn put_with(&self, key: &str, bytes: impl AsRef<[u8]>, with: &Value) {
        let file = self.scratch.path().join("put");
        std::fs::write(&file, bytes).expect("the scratch folder can be written");
        self.request(json!({"do": "put_with", "key": key, "file": file, "with": with}))
            .unwrap_or_else(|error| panic!("put {key}: {error}"));
    }

    /// An object's tags, as `{name: value}`.
    pub fn tags(&self, key: &str) -> Value {
        self.request(json!({"do": "tags", "key": key}))
            .unwrap_or_else(|error| panic!("tags of {key}: {error}"))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// The store's error code, such as `404`.
    pub fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        let file = self.scratch.path().join("get");
        self.request(json!({"do": "get", "key": key, "file": file}))?;
        std::fs::read(&file).map_err(|error| error.to_string())
    }

    /// SHA-256 of an object's bytes in hexadecimal, for objects too large to hold.
    ///
    /// # Errors
    /// The store's error code.
    pub fn sha256(&self, key: &str) -> Result<String, String> {
        let answer = self.request(json!({"do": "sha256", "key": key}))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// `{size, metadata, etag}` of an object, and its headers as boto3 names them, such as `ContentType`.
    ///
    /// # Errors
    /// The store's error code, such as `404`.
    pub fn head(&self, key: &str) -> Result<Value, String> {
        self.request(json!({"do": "head", "key": key}))
    }

    /// All keys that begin with `prefix`, in order.
    pub fn list(&self, prefix: &str) -> Vec<String> {
        strings(
            &self
                .request(json!({"do": "list", "prefix": prefix}))
                .expect("the bucket can be listed"),
        )
    }

    /// Keys of multipart uploads that nobody has finished.
    pub fn unfinished_uploads(&self) -> Vec<String> {
        strings(
            &self
                .request(json!({"do": "uploads"}))
                .expect("the uploads can be listed"),
        )
    }

    /// Deletes an object.
    pub fn delete(&self, key: &str) {
        self.request(json!({"do": "delete", "key": key}))
            .unwrap_or_else(|error| panic!("delete {key}: {error}"));
    }

    fn request(&self, mut request: Value) -> Result<Value, String> {
        request["bucket"] = json!(self.bucket);
        self.client
            .lock()
            .expect("no story panics while it asks")
            .get_or_insert_with(|| Client::start(&self.endpoint, &self.secret))
            .ask(&request)
    }
}

impl Client {
    fn start(endpoint: &str, secret: &str) -> Client {
        let mut child = Command::new(tool("python/bin/python"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/harness/boto3_client.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let requests = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut client = Client {
            child,
            requests,
            answers,
        };
        // By standard input, since argv and the environment can be read by others.
        client.send(&json!({
            "endpoint": endpoint, "access_key_id": ACCESS_KEY_ID, "secret_access_key": secret,
        }));
        client
    }

    fn send(&mut self, line: &Value) {
        writeln!(self.requests, "{line}").expect("boto3 listens");
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        self.send(request);
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("boto3 answers");
        let answer: Value = serde_json::from_str(&line).expect("boto3 answers JSON");
        match answer.get("error") {
            Some(error) => Err(error.as_str().unwrap_or_default().to_owned()),
            None => Ok(answer["ok"].clone()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A secret access key that is made anew for each store and stands nowhere else.
pub fn planted_secret() -> String {
    let mut bytes = [0_u8; 24];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .expect("the kernel has randomness");
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("planted{text}")
}

/// A TCP port on the loopback address that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("ports are left");
    listener
        .local_addr()
        .map_or(0, |address: SocketAddr| address.port())
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}
