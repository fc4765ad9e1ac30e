//! What systemd is to a service, as far as sd_notify(3) and sd_listen_fds(3) go: hears it, keeps descriptors for it, and
//! passes them on at the next start. The real one is met by the stories on machines.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mooring_tests::process::Process;
use mooring_tests::programs::program;
use mooring_tests::{Host, eventually};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Becomes the agent, whose pid the descriptor is meant for, with what came as standard input as descriptor 3.
const PASS_ON: &str = r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ exec "$@""#;

/// A service manager with one service.
pub(super) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    /// All that was said, packet by packet.
    pub(super) heard: Vec<String>,
    /// What is kept, by name.
    pub(super) store: BTreeMap<String, OwnedFd>,
}

impl Manager {
    /// A manager that listens in `folder`.
    pub(super) fn new(folder: &Path) -> Manager {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager {
            socket,
            path,
            heard: Vec::new(),
            store: BTreeMap::new(),
        }
    }

    /// Starts the agent of `host` as its service, with the one descriptor that is kept, if there is one.
    pub(super) fn start(&mut self, host: &Host) -> Process {
        self.listen();
        let agent = program("mooring-agent");
        let config = host.folder().join("agent.toml");
        let mut command = match self.store.len() {
            0 => Command::new(&agent),
            1 => {
                let mut command = Command::new("bash");
                command.args(["-c", PASS_ON, "bash"]).arg(&agent);
                command.env("LISTEN_FDS", "1");
                command
            }
            more => panic!("{more} descriptors are kept, and this manager can pass one"),
        };
        command.arg("run").arg("--config").arg(config);
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", "30000000");
        let stdin = match self.store.iter().next() {
            None => Stdio::null(),
            Some((name, descriptor)) => {
                command.env("LISTEN_FDNAMES", name);
                descriptor.try_clone().unwrap().into()
            }
        };
        let mut process = Process::start_with("agent", host.folder(), command, stdin);
        process.says("mooring-agent runs as hosts/");
        process
    }

    /// Waits until a packet with this text has come.
    pub(super) fn hears(&mut self, text: &str) {
        eventually(
            &format!("the service says {text}"),
            Duration::from_secs(20),
            || {
                self.listen();
                match self.heard.iter().any(|packet| packet.contains(text)) {
                    true => Ok(()),
                    false => Err(format!("so far: {:?}", self.heard)),
                }
            },
        );
    }

    /// Takes in what has come.
    pub(super) fn listen(&mut self) {
        while let Some((text, descriptor)) = self.packet() {
            let field = |name: &str| {
                let mut lines = text.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            };
            let name = field("FDNAME").unwrap_or("stored").to_owned();
            if field("FDSTORE") == Some("1") {
                self.store
                    .insert(name, descriptor.expect("a descriptor comes along"));
            } else if field("FDSTOREREMOVE") == Some("1") {
                self.store.remove(&name);
            }
            self.heard.push(text);
        }
    }

    fn packet(&self) -> Option<(String, Option<OwnedFd>)> {
        let mut text = vec![0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            self.socket.as_fd(),
            &mut [IoSliceMut::new(&mut text)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .ok()?;
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        text.truncate(received.bytes);
        Some((String::from_utf8(text).unwrap(), descriptor))
    }
}
