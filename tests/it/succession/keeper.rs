//! What an agent is to a mount, in small: it mounts, keeps the descriptor, and gives it to one worker after the other.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mooring_control::{
    Connection, Credential, EndpointRules, FromWorker, PROTOCOL_VERSION, Secret, ToWorker, WorkerConfig,
};
use mooring_tests::eventually;
use mooring_tests::mounts;
use mooring_tests::process::Process;
use mooring_tests::programs::program;
use mooring_tests::store::{ACCESS_KEY_ID, Store};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

/// A mount and its worker, with another one ready.
pub(super) struct Keeper {
    path: PathBuf,
    folder: PathBuf,
    secret: String,
    endpoint: String,
    bucket: String,
    metadata_ttl: Duration,
    device: Option<OwnedFd>,
    workers: u32,
    worker: Option<Worker>,
    next: Option<Worker>,
}

struct Worker {
    process: Process,
    connection: Connection,
}

impl Keeper {
    /// Mounts the store's bucket at `<scratch>/mount`, as an agent does.
    pub(super) fn mount(scratch: &Path, store: &Store) -> Keeper {
        Keeper::mount_believing(scratch, store, Duration::from_secs(1))
    }

    /// The same, where what the store has said may be believed for so long.
    pub(super) fn mount_believing(scratch: &Path, store: &Store, metadata_ttl: Duration) -> Keeper {
        let path = scratch.join("mount");
        std::fs::create_dir(&path).unwrap();
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700).recursive(true);
        private.create(scratch.join("cache")).unwrap();
        // On the tmpfs where stories have their scratch folders; what matters is that it outlives the worker.
        private.create(scratch.join("succession")).unwrap();
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=1048576",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        rustix::mount::mount("mooring", &path, "fuse.mooring", flags, options.as_c_str()).unwrap();
        let mut keeper = Keeper {
            path,
            folder: scratch.to_owned(),
            secret: store.secret.clone(),
            endpoint: store.endpoint.clone(),
            bucket: store.bucket.clone(),
            metadata_ttl,
            device: Some(device),
            workers: 0,
            worker: None,
            next: None,
        };
        let worker = keeper.new_worker();
        worker.hand_over(
            &ToWorker::Start {
                config: keeper.config(),
            },
            keeper.device(),
        );
        keeper.worker = Some(worker);
        keeper.next = Some(keeper.new_worker());
        keeper
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Kills the worker; the next one goes on. Returns when it does.
    pub(super) fn succeed(&mut self) {
        self.succeed_after(|process| process.kill());
    }

    /// The same for a worker that is asked to end, as when a machine goes down.
    pub(super) fn succeed_after_signal(&mut self) {
        self.succeed_after(|process| {
            process.signal(Signal::TERM);
            process.ends(Duration::from_secs(30));
        });
    }

    /// Asks the next worker whether it could go on, as an agent does before an upgrade, while the old one serves; else
    /// what it says.
    pub(super) fn prepare(&self) -> Result<(), String> {
        let config = self.config();
        match self.next.as_ref().unwrap().ask(&ToWorker::Prepare { config }) {
            FromWorker::Prepared => Ok(()),
            other => Err(format!("the next worker answers {other:?}")),
        }
    }

    fn succeed_after(&mut self, end: impl FnOnce(&mut Process)) {
        self.prepare().unwrap();
        let mut dead = self.worker.take().unwrap();
        let next = self.next.take().unwrap();
        end(&mut dead.process);
        next.hand_over(
            &ToWorker::Succeed {
                config: self.config(),
            },
            self.device(),
        );
        self.worker = Some(next);
        self.next = Some(self.new_worker());
    }

    /// Unmounts; the last worker must end well and leave nothing behind.
    pub(super) fn unmount(mut self) {
        let path = self.path.clone();
        eventually("the mount is not busy", Duration::from_secs(10), || {
            rustix::mount::unmount(&path, UnmountFlags::empty()).map_err(|error| error.to_string())
        });
        self.device = None;
        let mut worker = self.worker.take().unwrap();
        let status = worker.process.ends(Duration::from_secs(30));
        let log = worker.process.output();
        assert!(status.success(), "the worker ends with {status}:\n{log}");
        for folder in ["succession", "cache/staging"] {
            let left: Vec<_> = std::fs::read_dir(self.folder.join(folder)).unwrap().collect();
            assert!(left.is_empty(), "{folder} holds {left:?}");
        }
        for number in 1..self.workers {
            let log = std::fs::read_to_string(self.folder.join(format!("worker-{number}.log"))).unwrap();
            let errors: Vec<&str> = log
                .lines()
                .filter(|line| line.contains("ERROR") || line.contains("panicked at"))
                .collect();
            assert!(errors.is_empty(), "worker {number} says {errors:#?}");
        }
    }

    fn device(&self) -> &OwnedFd {
        self.device.as_ref().unwrap()
    }

    /// A worker that waits to be told what to do.
    fn new_worker(&mut self) -> Worker {
        self.workers += 1;
        let name = format!("worker-{}", self.workers);
        let socket = self.folder.join(format!("{name}.sock"));
        let mut command = Command::new(program("mooring-fs"));
        command.arg("serve").arg("--control").arg(&socket);
        let process = Process::start(&name, &self.folder, command);
        let (_, connection) = eventually("the worker listens", Duration::from_secs(20), || {
            Connection::connect(&socket, Duration::from_secs(20)).map_err(|error| error.to_string())
        });
        let worker = Worker { process, connection };
        worker.ask(&ToWorker::Hello {
            version: PROTOCOL_VERSION,
        });
        worker
    }

    fn config(&self) -> WorkerConfig {
        WorkerConfig {
            assignment_uid: "succession".to_owned(),
            endpoint: self.endpoint.clone(),
            region: "us-east-1".to_owned(),
            bucket: self.bucket.clone(),
            prefix: String::new(),
            path_style: true,
            cache_size_mib: 0,
            read_only: false,
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
            metadata_ttl: self.metadata_ttl,
            cache_dir: self.folder.join("cache"),
            succession: Some(self.folder.join("succession")),
            endpoint_rules: EndpointRules {
                allow_http: true,
                allowed_networks: vec!["127.0.0.0/8".to_owned()],
            },
            credential: Credential {
                access_key_id: ACCESS_KEY_ID.to_owned(),
                secret_access_key: Secret::new(self.secret.clone()),
            },
        }
    }
}

impl Worker {
    /// Gives it the mount, and waits until it serves.
    fn hand_over(&self, message: &ToWorker, device: &OwnedFd) {
        self.connection.send(message, Some(device.as_fd())).unwrap();
        match self.connection.receive::<FromWorker>().unwrap().0 {
            FromWorker::Started { resend: true, .. } => {}
            other => panic!("the worker answers {other:?}:\n{}", self.process.output()),
        }
    }

    fn ask(&self, message: &ToWorker) -> FromWorker {
        self.connection.send(message, None).unwrap();
        self.connection.receive::<FromWorker>().unwrap().0
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // First the workers and the descriptor: then whoever still waits for the mount is told that it is gone.
        self.worker = None;
        self.next = None;
        self.device = None;
        mounts::detach_below(&self.path);
    }
}
