//! A bucket that is mounted by hand: the real `mooring-fs` on a store of its own, without catalog and agent.

use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::Process;
use crate::programs::program;
use crate::store::{self, Store};
use crate::{eventually, mounts, versitygw};

/// Unmounting uploads what is left and ends what runs; both take moments, also on a loaded machine.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// A mounted bucket with its store. Fields are dropped in their order: the mount first, its folder last.
pub struct Folder {
    /// The mount; more of the same bucket are made with [`Folder::mount_again`].
    pub mount: Mount,
    /// The S3 server.
    pub store: Store,
    scratch: tempfile::TempDir,
}

/// One `mooring-fs` and the folder at which it has mounted. Dropping it unmounts, and checks that the program then
/// ends well by itself and has logged no error.
pub struct Mount {
    name: String,
    path: PathBuf,
    log_folder: PathBuf,
    process: Option<Process>,
    announced: Vec<String>,
}

impl Folder {
    /// Our own server's bucket, mounted.
    pub fn start() -> Folder {
        Folder::with(&[])
    }

    /// Our own server's bucket, mounted with more options.
    pub fn with(options: &[&str]) -> Folder {
        Folder::over(
            |folder| Store::start(folder, Ipv4Addr::LOCALHOST, "lake"),
            options,
        )
    }

    /// A bucket of versitygw, mounted.
    pub fn on_versitygw() -> Folder {
        Folder::over(|folder| versitygw::start(folder, "lake"), &[])
    }

    /// The bucket of any store, mounted.
    pub fn over(store: impl FnOnce(&Path) -> Store, options: &[&str]) -> Folder {
        let scratch = scratch();
        let store = store(scratch.path());
        let mount = Mount::start("mount", scratch.path(), &store, options);
        Folder {
            mount,
            store,
            scratch,
        }
    }

    /// Where the bucket is mounted.
    pub fn path(&self) -> &Path {
        &self.mount.path
    }

    /// A path below the mount.
    pub fn at(&self, name: &str) -> PathBuf {
        self.mount.path.join(name)
    }

    /// A local folder beside the mount, removed at the end.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The same bucket mounted once more, at another folder and by another process.
    pub fn mount_again(&self, name: &str, options: &[&str]) -> Mount {
        Mount::start(name, self.scratch.path(), &self.store, options)
    }

    /// What of the bucket is below `prefix`, at another folder and by another process.
    pub fn mount_prefix(&self, name: &str, prefix: &str) -> Mount {
        let source = format!("{}:{prefix}", self.store.bucket);
        Mount::start_of(&source, name, self.scratch.path(), &self.store, &[])
    }
}

impl Mount {
    /// Mounts a store's bucket at `<scratch>/<name>` and waits until it answers.
    ///
    /// # Panics
    /// When it does not within 30 s.
    pub fn start(name: &str, scratch: &Path, store: &Store, options: &[&str]) -> Mount {
        Mount::start_of(&store.bucket, name, scratch, store, options)
    }

    fn start_of(source: &str, name: &str, scratch: &Path, store: &Store, options: &[&str]) -> Mount {
        let path = scratch.join(name);
        // The folder may be there already, after a mount that was killed.
        let _ = std::fs::create_dir(&path);
        let mut command = mooring_fs(store);
        command
            .arg("mount")
            .args([source, path_text(&path), "--endpoint", &store.endpoint])
            .args(["--foreground", "--cache-dir"])
            .arg(scratch.join(format!("{name}-cache")))
            .args(options);
        // Output is appended to one log for each name; what an earlier mount said is not this one's.
        let log_folder = scratch.join(format!("{name}-log"));
        let _ = std::fs::create_dir(&log_folder);
        let _ = std::fs::remove_file(log_folder.join("mooring-fs.log"));
        let mut mount = Mount {
            name: name.to_owned(),
            path,
            process: Some(Process::start("mooring-fs", &log_folder, command)),
            log_folder,
            announced: Vec::new(),
        };
        mount.process().says("the bucket is mounted");
        mount
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below the mount.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// The program.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it has not been unmounted")
    }

    /// What the program has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_folder.join("mooring-fs.log")).unwrap_or_default()
    }

    /// Announces an error that the story causes: lines of the log with this text in them are no defect.
    pub fn expect_in_log(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Unmounts as a person does; the program must then end by itself, with success.
    pub fn unmount(mut self) {
        self.ask_to_unmount();
        self.end();
    }

    /// Waits for the program to end with success after somebody has unmounted it.
    pub fn ends(mut self) {
        self.end();
    }

    /// Kills the program without a word. The folder stays what the kernel makes of it until [`mounts::detach_below`].
    pub fn kill(mut self) -> PathBuf {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        self.path.clone()
    }

    fn ask_to_unmount(&self) {
        let what = format!("{} can be unmounted", self.name);
        // It may be busy for an instant: programs that other stories start hold this process's open files until they
        // are themselves.
        eventually(&what, Duration::from_secs(10), || {
            let told = Command::new("fusermount3")
                .args(["-u", "--"])
                .arg(&self.path)
                .output();
            let told = told.expect("fusermount3 is installed by tests/run");
            if told.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&told.stderr).into_owned())
            }
        });
    }

    fn end(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let status = process.ends(END_DEADLINE);
        let log = self.log();
        assert!(
            status.success(),
            "{} ends with {status} after it was unmounted:\n{log}",
            self.name
        );
        assert!(!mounts::is_mounted(&self.path), "{} is still mounted", self.name);
        let errors: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("ERROR") || line.contains("panicked at"))
            .filter(|line| !self.announced.iter().any(|text| line.contains(text.as_str())))
            .collect();
        assert!(
            errors.is_empty(),
            "errors in the log that the story did not announce:\n{}",
            errors.join("\n")
        );
    }
}

impl Mount {
    /// Takes it away however it is. First the program: a request that it does not answer would hold up whoever unmounts.
    fn take_down(&mut self) {
        self.process = None;
        mounts::detach_below(&self.path);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.take_down();
            return;
        }
        if self.process.is_none() {
            return;
        }
        let ended = catch_unwind(AssertUnwindSafe(|| {
            self.ask_to_unmount();
            self.end();
        }));
        if let Err(failure) = ended {
            // What is removed next is the folder around it, with all that is in it.
            self.take_down();
            resume_unwind(failure);
        }
    }
}

/// The program with nothing in its environment but the store's key and a way to its helpers.
pub fn mooring_fs(store: &Store) -> Command {
    let mut command = Command::new(program("mooring-fs"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AWS_ACCESS_KEY_ID", store::ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", &store.secret);
    if let Some(filter) = std::env::var_os("MOORING_LOG") {
        command.env("MOORING_LOG", filter);
    }
    command
}

/// A local folder for a story.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("mooring-folder-")
        .tempdir()
        .expect("a folder can be made")
}

/// The names in a folder, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("the folder can be read to its end").file_name();
            name.into_string().expect("names of stories are UTF-8")
        })
        .collect();
    names.sort();
    names
}

/// A path as an argument of a program.
pub fn path_text(path: &Path) -> &str {
    path.to_str().expect("paths of stories are UTF-8")
}

/// Runs a program that must succeed; returns what it says on standard output.
///
/// # Panics
/// When it fails, with all it has said.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}\n{}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
