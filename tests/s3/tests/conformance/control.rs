//! The program: flags, its two lines, the control listener, sample data, SIGTERM.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use mooring_test_s3::client;
use serde_json::{Value, json};

use crate::world::{ACCESS_KEY, BUCKET, SECRET_KEY, refusal};

struct Program {
    child: Child,
    endpoint: String,
    control: String,
}

impl Program {
    fn start(dir: &std::path::Path, more: &[&str]) -> Self {
        let secret = dir.join("secret");
        std::fs::write(&secret, format!("{SECRET_KEY}\n")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mooring-test-s3"))
            .args([
                "--access-key",
                ACCESS_KEY,
                "--bucket",
                BUCKET,
                "--control",
                "127.0.0.1:0",
            ])
            .arg("--secret-key-file")
            .arg(secret)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = |prefix: &str| {
            let line = lines.next().unwrap().unwrap();
            line.strip_prefix(prefix)
                .unwrap_or_else(|| panic!("{line}"))
                .to_owned()
        };
        Self {
            endpoint: line("listens on "),
            control: line("control on http://"),
            child,
        }
    }

    /// One request to the control listener.
    fn control(&self, request: &str, body: Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.control).unwrap();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_program_serves_is_controlled_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), &["--get-latency", "1ms", "--connection-rate", "90MB"]);
    let client = client::client(&program.endpoint, ACCESS_KEY, SECRET_KEY);

    let (_, settings) = program.control("GET /settings", Value::Null);
    assert_eq!(settings["latency"]["get_millis"], 1);
    assert_eq!(settings["connection_bytes_per_second"], 90_000_000);
    assert_eq!(program.control("PUT /settings", json!({})).0, 200);
    assert_eq!(program.control("PUT /settings", json!({"latence": {}})).0, 400);

    let fill = json!({"bucket": BUCKET, "prefix": "k/", "count": 1500, "size": 10});
    assert_eq!(program.control("POST /fill", fill).0, 200);
    let page = client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!((page.contents().len(), page.is_truncated()), (1000, Some(true)));

    let fault = json!({"operations": ["GetObject"], "times": 1,
        "action": {"error": {"status": 503, "code": "SlowDown"}}});
    let (status, added) = program.control("POST /faults", fault);
    assert_eq!((status, &added["id"]), (200, &json!(1)));
    let get = client.get_object().bucket(BUCKET).key("k/0000001");
    assert_eq!(refusal(&get.clone().send().await.unwrap_err()), (503, "SlowDown"));
    get.range("bytes=2-5").send().await.unwrap();
    let (_, removed) = program.control("DELETE /faults/1", Value::Null);
    assert_eq!((&removed["matched"], &removed["hit"]), (&json!(2), &json!(1)));

    let (_, requests) = program.control("GET /requests", Value::Null);
    assert_eq!(requests["counts"]["GetObject"]["requests"], 2);
    assert_eq!(requests["counts"]["GetObject"]["failures"], 1);
    assert_eq!(requests["counts"]["HeadObject"], Value::Null);
    assert_eq!(requests["log"][2]["range"], "bytes=2-5");
    assert_eq!(requests["log"][2]["status"], 206);
    program.control("DELETE /requests", Value::Null);
    assert_eq!(
        program.control("GET /requests?log=false", Value::Null).1,
        json!({"counts": {}})
    );

    assert_eq!(program.control("DELETE /keys/nobody", Value::Null).0, 404);
    assert_eq!(
        program
            .control(&format!("DELETE /keys/{ACCESS_KEY}"), Value::Null)
            .0,
        200
    );
    let refused = client.list_objects_v2().bucket(BUCKET).send().await.unwrap_err();
    assert_eq!(refusal(&refused), (403, "InvalidAccessKeyId"));
    let key = json!({"secret_key": SECRET_KEY, "rights": "read_only"});
    assert_eq!(program.control(&format!("PUT /keys/{ACCESS_KEY}"), key).0, 200);
    client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(program.control("GET /else", Value::Null).0, 404);
    program.terminate();
}

#[tokio::test]
async fn the_program_keeps_files_and_takes_sample_data_once() {
    let dir = tempfile::tempdir().unwrap();
    let samples = dir.path().join("samples");
    std::fs::create_dir_all(samples.join("sub")).unwrap();
    std::fs::write(samples.join("a.csv"), "1,2").unwrap();
    std::fs::write(samples.join("sub/b.csv"), "3,4").unwrap();
    let data = dir.path().join("data");
    let flags = [
        "--dir",
        data.to_str().unwrap(),
        "--seed-dir",
        samples.to_str().unwrap(),
    ];
    let program = Program::start(dir.path(), &flags);
    let client = client::client(&program.endpoint, ACCESS_KEY, SECRET_KEY);
    let read = client
        .get_object()
        .bucket(BUCKET)
        .key("sub/b.csv")
        .send()
        .await
        .unwrap();
    assert_eq!(read.body.collect().await.unwrap().to_vec(), b"3,4");
    client
        .delete_object()
        .bucket(BUCKET)
        .key("a.csv")
        .send()
        .await
        .unwrap();
    program.terminate();

    let program = Program::start(dir.path(), &flags);
    let client = client::client(&program.endpoint, ACCESS_KEY, SECRET_KEY);
    let page = client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(
        page.contents()
            .iter()
            .filter_map(|it| it.key())
            .collect::<Vec<_>>(),
        ["sub/b.csv"]
    );
    program.terminate();
}

#[test]
fn a_missing_secret_is_explained() {
    let output = Command::new(env!("CARGO_BIN_EXE_mooring-test-s3"))
        .args(["--access-key", "a", "--secret-key-file", "does-not-exist"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--secret-key-file does-not-exist"), "{text}");
}
