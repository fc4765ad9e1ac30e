//! A world with one host on which the connector `pond` is mounted by one backend, and questions to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mooring_tests::{Host, World, eventually, store};
use serde_json::Value;

/// For what happens behind a mount.
pub(super) const SOON: Duration = Duration::from_secs(15);

/// The group that may use the mount; it is there while stories run.
pub(super) const GROUP: &str = "mooring-a";

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// Ours.
    Default,
    /// GeeseFS.
    Geesefs,
    /// s3fs.
    S3fs,
}

/// What a condition says.
#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    /// One word.
    pub(super) reason: String,
    /// A sentence.
    pub(super) message: String,
}

/// The world, its host and the mount.
pub(super) struct Scene {
    /// Who serves.
    pub(super) backend: Backend,
    /// The host.
    pub(super) host: Host,
    /// Where it is mounted.
    pub(super) path: PathBuf,
    /// The activation's name.
    pub(super) activation: String,
    /// Everything else.
    pub(super) world: World,
}

impl Backend {
    /// As people type it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Backend::Default => "default",
            Backend::Geesefs => "geesefs",
            Backend::S3fs => "s3fs",
        }
    }

    /// As the kernel shows it.
    pub(super) fn file_system(self) -> &'static str {
        match self {
            Backend::Default => "fuse.mooring",
            Backend::Geesefs => "fuse.geesefs",
            Backend::S3fs => "fuse.s3fs",
        }
    }
}

/// What stories of backends need of a world.
pub(super) trait Connectors {
    /// Creates connector `id` with secret `<id>-key`, which is the store's; more arguments may have spaces in them.
    fn connector_with(&self, id: &str, backend: &Backend, mode: &str, more: &[&str]);
}

impl Connectors for World {
    fn connector_with(&self, id: &str, backend: &Backend, mode: &str, more: &[&str]) {
        let key = self.secret_file();
        let secret = format!("{id}-key");
        let key_path = key.display().to_string();
        let mut arguments = vec!["connectors", "create", id, "--project", "ml"];
        arguments.extend(["--endpoint", &self.store.endpoint, "--bucket", &self.store.bucket]);
        arguments.extend(["--access-key-id", store::ACCESS_KEY_ID, "--mode", mode]);
        arguments.extend(["--backend", backend.word(), "--new-secret-id", &secret]);
        arguments.extend(["--new-secret-key-file", &key_path]);
        arguments.extend(more);
        self.operator.run(&arguments);
        fs::remove_file(key).unwrap();
    }
}

impl Scene {
    /// The whole bucket, to be written to. `before` is done before anything is mounted.
    pub(super) fn start(backend: Backend, more: &str, before: impl FnOnce(&World)) -> Scene {
        Scene::build(backend, |world| {
            before(world);
            let more: Vec<&str> = more.split_whitespace().collect();
            world.connector_with("pond", &backend, "read-write", &more);
        })
    }

    /// `connect` makes the connector `pond`.
    pub(super) fn build(backend: Backend, connect: impl FnOnce(&World)) -> Scene {
        let mut scene = Scene::unmounted(backend, connect);
        scene.activation = scene.activate();
        scene.world.mounted_at(&scene.path);
        scene.world.activation_is(&scene.activation, "ACTIVE");
        scene
    }

    /// The same, not activated yet.
    pub(super) fn unmounted(backend: Backend, connect: impl FnOnce(&World)) -> Scene {
        let mut world = World::start();
        world.operator.mooring(&format!(
            "pools update desks --project-groups projects/ml={GROUP}"
        ));
        if backend == Backend::Geesefs {
            // It says so of its own bookkeeping, and of every answer of the store that it does not like.
            world.expect_in_logs("fuse.ERROR");
        }
        connect(&world);
        let host = world.host();
        Scene {
            backend,
            path: host.path("ml", "pond"),
            host,
            activation: String::new(),
            world,
        }
    }

    /// Activates `pond`, without waiting.
    pub(super) fn activate(&self) -> String {
        let answer = self
            .world
            .operator
            .json("activations create --connector ml/pond --pool desks");
        answer["name"].as_str().unwrap().to_owned()
    }

    /// The only program that serves.
    ///
    /// # Panics
    /// When there is none, or another one.
    pub(super) fn program(&self) -> u32 {
        match self.host.workers()[..] {
            [pid] => pid,
            ref other => panic!("{other:?} serve"),
        }
    }

    /// A condition as the catalog shows it; empty if it has none.
    pub(super) fn condition(&self, kind: &str) -> Condition {
        let mounts = self
            .world
            .operator
            .json(&format!("mounts list hosts/{}", self.host.id));
        let conditions = mounts["mounts"]
            .as_array()
            .or_else(|| mounts.as_array())
            .into_iter()
            .flatten()
            .flat_map(|mount| mount["conditions"].as_array().cloned().unwrap_or_default())
            .collect::<Vec<Value>>();
        let text = |condition: &Value, field: &str, prefix: &str| {
            let text = condition[field].as_str().unwrap_or_default();
            text.trim_start_matches(prefix).to_owned()
        };
        conditions
            .iter()
            .find(|condition| text(condition, "type", "CONDITION_TYPE_") == kind)
            .map(|condition| Condition {
                reason: text(condition, "reason", ""),
                message: text(condition, "message", ""),
            })
            .unwrap_or_default()
    }

    /// Waits until a condition has a reason.
    pub(super) fn condition_is(&self, kind: &str, reason: &str) -> Condition {
        let what = format!("{kind} is {reason}");
        let (_, found) = eventually(&what, Duration::from_secs(40), || {
            let found = self.condition(kind);
            match found.reason == reason {
                true => Ok(found),
                false => Err(format!("{found:?}")),
            }
        });
        found
    }

    /// Within which time changes of others are seen, as its program was told.
    pub(super) fn metadata_ttl(&self) -> &'static str {
        let line = fs::read(format!("/proc/{}/cmdline", self.program())).unwrap();
        let line = String::from_utf8_lossy(&line).into_owned();
        match self.backend {
            // It is told over its socket; a story about the filesystem waits for it.
            Backend::Default => "5 s",
            Backend::Geesefs if line.contains("--stat-cache-ttl\u{0}60s") => "60 s",
            Backend::S3fs if line.contains("stat_cache_expire=60,") => "60 s",
            Backend::Geesefs | Backend::S3fs => panic!("{line}"),
        }
    }

    /// File system type of the mount.
    pub(super) fn file_system(&self) -> String {
        self.mountinfo().1
    }

    /// Options of the mount.
    pub(super) fn mount_options(&self) -> Vec<String> {
        self.mountinfo().0
    }

    fn mountinfo(&self) -> (Vec<String>, String) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.path.display().to_string();
        let line = table
            .lines()
            .rev()
            .find(|line| line.split(' ').nth(4) == Some(&path))
            .expect("it is mounted");
        let options = line.split(' ').nth(5).unwrap().split(',');
        let (_, rest) = line.split_once(" - ").unwrap();
        (
            options.map(str::to_owned).collect(),
            rest.split(' ').next().unwrap().to_owned(),
        )
    }
}

/// Kills without a word.
pub(super) fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
}

/// Files below a folder, mounts included.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let found = Command::new("find").arg(folder).args(["-type", "f"]).output();
    String::from_utf8_lossy(&found.unwrap().stdout)
        .lines()
        .map(PathBuf::from)
        .collect()
}
