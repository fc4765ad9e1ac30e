//! The worker's side of a conversation, over a real socket but without a mount.

use std::time::Duration;

use mooring_control::{Credential as KeyPair, EndpointRules, PACKET_BYTES_MAX, Secret};

use super::*;
use crate::succession::Recorder;
use crate::succession::record::{self, Record};

fn config() -> WorkerConfig {
    WorkerConfig {
        assignment_uid: "0197".to_owned(),
        endpoint: "http://127.0.0.1:1".to_owned(),
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
        cache_dir: "/nonexistent".into(),
        succession: None,
        endpoint_rules: EndpointRules::default(),
        credential: KeyPair {
            access_key_id: "AK".to_owned(),
            secret_access_key: Secret::new("planted".to_owned()),
        },
    }
}

fn worker(runtime: &tokio::runtime::Runtime) -> (Arc<Worker>, mpsc::UnboundedReceiver<Event>) {
    let (events, happened) = mpsc::unbounded_channel();
    let worker = Worker {
        runtime: runtime.handle().clone(),
        phase: Mutex::new(Phase::Waiting),
        events,
        conversations: AtomicUsize::new(0),
    };
    (Arc::new(worker), happened)
}

fn start(path: &Path) -> FromWorker {
    let agent = Connection::connect(path, Duration::from_secs(5)).unwrap();
    agent.send(&ToWorker::Start { config: config() }, None).unwrap();
    agent.receive::<FromWorker>().unwrap().0
}

#[test]
fn a_second_start_is_refused_and_does_not_end_the_process_under_the_first() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.sock");
    let listener = Listener::bind(&path).unwrap();
    let (worker, mut happened) = worker(&runtime);
    let accepting = Arc::clone(&worker);
    std::thread::spawn(move || accepting.accept(&listener));

    assert!(worker.begin_start(), "the first Start is on its way");
    assert!(matches!(start(&path), FromWorker::Failed { .. }));
    assert!(happened.try_recv().is_err(), "nothing ends the process");

    *worker.phase.lock() = Phase::Waiting;
    // Without a descriptor it cannot succeed.
    assert!(matches!(start(&path), FromWorker::Failed { .. }));
    let event =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), happened.recv()).await });
    assert!(matches!(event, Ok(Some(Event::StartFailed))));
}

#[test]
fn what_others_have_written_is_cut_so_that_a_message_fits_into_a_packet() {
    assert_eq!(cut("short", 5), "short");
    assert_eq!(cut("aäb", 2), "a…", "not inside a character");
    let status = WorkerStatus {
        hidden_keys: HiddenKeys {
            count: 10,
            examples: vec![cut(&"\u{1}".repeat(1024), EXAMPLE_BYTES_MAX); 10],
        },
        store_error: Some(cut(&"\u{1}".repeat(1 << 20), TEXT_BYTES_MAX)),
        ..WorkerStatus::default()
    };
    let text = serde_json::to_vec(&FromWorker::Status(status)).unwrap();
    assert!(text.len() < PACKET_BYTES_MAX, "{} bytes", text.len());
}

#[test]
fn who_is_asked_to_prepare_reads_the_table_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let prepare_here = || {
        prepare(WorkerConfig {
            succession: Some(folder.path().to_owned()),
            ..config()
        })
    };
    assert!(prepare(config()).is_err(), "there is no place for a table");
    assert!(prepare_here().is_err(), "there is no table");
    let recorder = Recorder::begin(folder.path()).unwrap();
    assert!(prepare_here().is_err(), "nothing was agreed with the kernel");
    recorder.note(&Record::Connection(record::Connection {
        minor: 45,
        readahead_bytes_max: 131_072,
        capabilities: 0,
    }));
    recorder.write_down();
    let table = folder.path().join("table");
    let before = std::fs::read(&table).unwrap();
    prepare_here().unwrap();
    assert_eq!(std::fs::read(&table).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    std::fs::write(&table, b"of another version").unwrap();
    assert!(prepare_here().is_err());
}
