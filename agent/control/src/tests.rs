//! Both ends of the socket in one process.

use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;

fn config() -> WorkerConfig {
    WorkerConfig {
        assignment_uid: "0197".to_owned(),
        endpoint: "https://s3.example.org".to_owned(),
        region: "us-east-1".to_owned(),
        bucket: "data".to_owned(),
        prefix: String::new(),
        path_style: true,
        cache_size_mib: 0,
        read_only: false,
        uid: 0,
        gid: 0,
        file_mode: 0o640,
        dir_mode: 0o750,
        metadata_ttl: Duration::from_secs(5),
        cache_dir: "/var/cache/mooring/0197".into(),
        succession: Some("/run/mooring/0197/succession".into()),
        endpoint_rules: EndpointRules::default(),
        credential: Credential {
            access_key_id: "AK".to_owned(),
            secret_access_key: Secret::new("planted-secret".to_owned()),
        },
    }
}

#[test]
fn a_start_message_brings_the_configuration_and_the_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.sock");
    let listener = Listener::bind(&path).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"the real device").unwrap();

    let agent = Connection::connect(&path, Duration::from_secs(5)).unwrap();
    let worker = listener.accept().unwrap();
    agent
        .send(&ToWorker::Start { config: config() }, Some(file.as_fd()))
        .unwrap();

    let (message, descriptor) = worker.receive::<ToWorker>().unwrap();
    let ToWorker::Start { config } = message else {
        panic!("another message came: {message:?}")
    };
    assert_eq!(config.credential.secret_access_key.expose(), "planted-secret");
    let mut passed = std::fs::File::from(descriptor.unwrap());
    passed.rewind().unwrap();
    let mut text = String::new();
    passed.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the real device");
}

#[test]
fn a_secret_never_shows_in_debug_output() {
    assert!(!format!("{:?}", config()).contains("planted-secret"));
}

#[test]
fn a_closed_connection_and_a_silent_one_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.sock");
    let listener = Listener::bind(&path).unwrap();
    let agent = Connection::connect(&path, Duration::from_millis(20)).unwrap();
    let worker = listener.accept().unwrap();
    assert!(matches!(
        agent.receive::<FromWorker>(),
        Err(TransportError::TimedOut)
    ));
    drop(worker);
    assert!(matches!(
        agent.receive::<FromWorker>(),
        Err(TransportError::Closed)
    ));
}

#[test]
fn a_worker_takes_over_the_socket_that_a_dead_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.sock");
    std::mem::forget(Listener::bind(&path).unwrap());
    let listener = Listener::bind(&path).unwrap();
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_worker_that_ends_late_leaves_the_socket_of_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.sock");
    let old = Listener::bind(&path).unwrap();
    let _new = Listener::bind(&path).unwrap();
    drop(old);
    assert!(path.exists());
}

#[test]
fn fields_that_a_newer_side_adds_are_ignored() {
    let text = r#"{"type":"status","started":true,"invented_later":1}"#;
    let FromWorker::Status(status) = serde_json::from_str(text).unwrap() else {
        panic!("no status")
    };
    assert!(status.started);
}

#[test]
fn a_succession_brings_the_folder_of_the_table_and_the_live_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.sock");
    let listener = Listener::bind(&path).unwrap();
    let file = tempfile::tempfile().unwrap();

    let agent = Connection::connect(&path, Duration::from_secs(5)).unwrap();
    let worker = listener.accept().unwrap();
    agent
        .send(&ToWorker::Succeed { config: config() }, Some(file.as_fd()))
        .unwrap();
    let (ToWorker::Succeed { config }, Some(_)) = worker.receive::<ToWorker>().unwrap() else {
        panic!("another message came, or no descriptor")
    };
    assert_eq!(
        config.succession.as_deref(),
        Some(std::path::Path::new("/run/mooring/0197/succession"))
    );

    let started = FromWorker::Started {
        resend: true,
        fuse_descriptor: Some(7),
    };
    worker.send(&started, None).unwrap();
    assert!(matches!(
        agent.receive::<FromWorker>().unwrap().0,
        FromWorker::Started {
            resend: true,
            fuse_descriptor: Some(7)
        }
    ));
}

#[test]
fn a_worker_or_agent_that_knows_no_succession_is_understood_and_has_none() {
    let started = serde_json::from_str(r#"{"type":"started"}"#).unwrap();
    assert!(matches!(
        started,
        FromWorker::Started {
            resend: false,
            fuse_descriptor: None
        }
    ));
    let hello = r#"{"type":"hello","version":1,"pid":5,"started":true,"assignment_uid":"0197"}"#;
    let FromWorker::Hello {
        fuse_descriptor: None,
        resend: false,
        program_version,
        ..
    } = serde_json::from_str(hello).unwrap()
    else {
        panic!("no hello, or one that promises a succession")
    };
    assert!(program_version.is_empty());
    let mut text = serde_json::to_value(config()).unwrap();
    text.as_object_mut().unwrap().remove("succession");
    let old: WorkerConfig = serde_json::from_value(text).unwrap();
    assert!(old.succession.is_none());
}

#[test]
fn a_worker_is_asked_whether_it_could_go_on_without_being_given_the_mount() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.sock");
    let listener = Listener::bind(&path).unwrap();
    let agent = Connection::connect(&path, Duration::from_secs(5)).unwrap();
    let worker = listener.accept().unwrap();
    agent.send(&ToWorker::Prepare { config: config() }, None).unwrap();
    let (ToWorker::Prepare { config }, None) = worker.receive::<ToWorker>().unwrap() else {
        panic!("another message came, or a descriptor")
    };
    assert_eq!(config.assignment_uid, "0197");
    worker.send(&FromWorker::Prepared, None).unwrap();
    assert!(matches!(
        agent.receive::<FromWorker>().unwrap().0,
        FromWorker::Prepared
    ));
}
