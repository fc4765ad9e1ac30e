//! What shall be mounted, checked: the ledger's messages become values that the rest of the agent can rely on.
//! Names that become paths are proved here, so that no text from the network reaches the file system unchecked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mooring_identity::Binding;
use mooring_proto::agent::v1 as pb;
use mooring_proto::v1::{Backend, Mode};
use uuid::Uuid;

use crate::backends::Foreign;
use crate::ledger::Held;
use crate::observed::record::Serving;

/// What this host shall have, and shall no longer have.
#[derive(Clone, Debug, Default)]
pub struct DesiredSet {
    /// The ledger's revision that it is of.
    pub revision: i64,
    /// By assignment.
    pub orders: BTreeMap<Uuid, Order>,
    /// Assignments that shall be unmounted. Their orders are still among `orders`, if they were ever held.
    pub removals: BTreeMap<Uuid, Removal>,
    /// Assignments that the catalog no longer lists; mounted all the same.
    pub orphans: BTreeSet<Uuid>,
    /// How long mounts are started without the catalog, if that is bounded.
    pub offline_bound: Option<Duration>,
}

/// One assignment.
#[derive(Clone, Debug)]
pub struct Order {
    /// Who it is.
    pub about: About,
    /// What to do, or why this agent cannot.
    pub spec: Result<Spec, Unusable>,
}

/// What is reported of an assignment, whether it can be mounted or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The assignment.
    pub uid: Uuid,
    /// Raised with every change.
    pub generation: i64,
    /// Hash of what was ordered.
    pub spec_hash: String,
    /// The activation's name.
    pub activation: String,
    /// The connector's name.
    pub connector: String,
    /// Whether it can be written to.
    pub mode: Mode,
    /// Which program mounts.
    pub backend: Backend,
    /// The Unix group that may enter; none means root only.
    pub unix_group: Option<String>,
}

/// What to mount.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Where.
    pub place: Place,
    /// URL of the S3 service.
    pub endpoint: String,
    /// Region for the signature.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin with this.
    pub prefix: String,
    /// The bucket stands in the path, not in the host name.
    pub path_style: bool,
    /// Memory for what is read, in MiB; zero leaves it to the program.
    pub cache_size_mib: u32,
    /// Which addresses the worker may connect to.
    pub endpoint_rules: mooring_control::EndpointRules,
    /// Whose program serves it, unless it is our own.
    pub foreign: Option<Foreign>,
    /// The sealed key, if there is one that can be used.
    pub credential: Option<SealedCredential>,
}

/// A folder for a mount: two proved names below the mount root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    project: String,
    name: String,
}

/// A key in its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCredential {
    /// What it was sealed for.
    pub secret_version: String,
    /// Tells the key from others; empty if the catalog does not say it.
    pub fingerprint: Vec<u8>,
    /// Encapsulated key and ciphertext.
    pub envelope: Vec<u8>,
}

/// Why an assignment cannot be mounted by this agent, as it was ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// One CamelCase word.
    pub reason: &'static str,
    /// Cause and remedy.
    pub message: String,
}

/// An order to unmount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Why, in one CamelCase word.
    pub reason: String,
    /// How long to wait for open files and uploads.
    pub grace: Duration,
}

impl DesiredSet {
    /// Checks everything that is held. Assignments without a valid uid cannot even be reported and are left out;
    /// the session has refused them already.
    pub fn of(held: &Held) -> DesiredSet {
        DesiredSet {
            revision: held.revision,
            orders: held
                .assignments
                .iter()
                .filter_map(|assignment| Order::of(assignment).map(|order| (order.about.uid, order)))
                .collect(),
            removals: held
                .removals
                .iter()
                .filter_map(|removal| Some((parse_uid(&removal.assignment_uid)?, Removal::of(removal))))
                .collect(),
            orphans: held.orphans.iter().filter_map(|uid| parse_uid(uid)).collect(),
            offline_bound: held.offline_bound(),
        }
    }
}

impl Order {
    /// Checks one assignment; `None` when its uid is none.
    pub fn of(assignment: &pb::Assignment) -> Option<Order> {
        let uid = parse_uid(&assignment.uid)?;
        let spec = assignment.spec.clone().unwrap_or_default();
        let about = About {
            uid,
            generation: assignment.generation,
            spec_hash: assignment.spec_hash.clone(),
            activation: spec.activation.clone(),
            connector: spec.connector.clone(),
            mode: spec.mode(),
            backend: spec.backend(),
            unix_group: Some(spec.unix_group.clone()).filter(|group| !group.is_empty()),
        };
        let spec = Spec::of(spec, assignment.credential.as_ref());
        Some(Order { about, spec })
    }
}

impl Spec {
    fn of(spec: pb::AssignmentSpec, credential: Option<&pb::SealedCredential>) -> Result<Spec, Unusable> {
        if spec.backend() == Backend::Unspecified {
            return Err(invalid(
                "it names no backend that this agent knows; upgrade the agent",
            ));
        }
        let foreign = Foreign::of(spec.backend());
        if spec.mode() == Mode::Unspecified {
            return Err(invalid(
                "it names no mode that this agent knows; upgrade the agent",
            ));
        }
        for (what, text) in [("endpoint", &spec.endpoint), ("bucket", &spec.bucket)] {
            if text.is_empty() || text.chars().any(char::is_control) {
                return Err(invalid(&format!(
                    "its {what} is empty or has control characters; correct the connector"
                )));
            }
        }
        let pb::AssignmentSpec {
            activation: _,
            connector: _,
            project_id,
            mount_name,
            endpoint,
            region,
            bucket,
            prefix,
            mode: _,
            backend: _,
            virtual_host_style,
            unix_group: _,
            endpoint_rules,
            cache_size_mib,
        } = spec;
        let pb::EndpointRules {
            allow_http,
            allowed_networks,
        } = endpoint_rules.unwrap_or_default();
        Ok(Spec {
            place: Place::new(project_id, mount_name)?,
            endpoint,
            region,
            bucket,
            prefix,
            path_style: !virtual_host_style,
            cache_size_mib: u32::try_from(cache_size_mib).unwrap_or(0),
            endpoint_rules: mooring_control::EndpointRules {
                allow_http,
                allowed_networks,
            },
            foreign,
            credential: credential.map(SealedCredential::of),
        })
    }

    /// What a worker is told to serve by it.
    pub fn serving(&self, mode: Mode) -> Serving {
        Serving {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            path_style: self.path_style,
            cache_size_mib: self.cache_size_mib,
            read_only: mode != Mode::ReadWrite,
            endpoint_rules: self.endpoint_rules.clone(),
            foreign: self.foreign,
        }
    }

    /// What this spec's credential was sealed for.
    pub fn binding(&self, host_uid: Uuid, assignment_uid: Uuid, credential: &SealedCredential) -> Binding {
        Binding {
            host_uid,
            assignment_uid,
            secret_version: credential.secret_version.clone(),
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
        }
    }
}

impl Place {
    fn new(project: String, name: String) -> Result<Place, Unusable> {
        for (what, text) in [("project id", &project), ("mount name", &name)] {
            if !is_folder_name(text) {
                return Err(invalid(&format!(
                    "its {what} is no folder name: 1 to 63 of a-z, 0-9 and -, a letter or digit at both ends"
                )));
            }
        }
        Ok(Place { project, name })
    }

    /// The project's folder.
    pub fn project_folder(&self, mount_root: &Path) -> PathBuf {
        mount_root.join(&self.project)
    }

    /// The mount's folder.
    pub fn path(&self, mount_root: &Path) -> PathBuf {
        mount_root.join(&self.project).join(&self.name)
    }
}

impl SealedCredential {
    fn of(sealed: &pb::SealedCredential) -> SealedCredential {
        SealedCredential {
            secret_version: sealed.secret_version.clone(),
            fingerprint: sealed.key_fingerprint.clone(),
            envelope: [sealed.encapsulated_key.as_slice(), sealed.ciphertext.as_slice()].concat(),
        }
    }
}

impl Removal {
    fn of(removal: &pb::Removal) -> Removal {
        // A negative or missing grace is none: the order says «now».
        let grace = removal
            .grace
            .and_then(|grace| Duration::try_from(grace).ok())
            .unwrap_or_default();
        Removal {
            reason: removal.reason.clone(),
            grace: grace.min(GRACE_MAX),
        }
    }
}

/// Longest wait for open files: a day. Beyond that an order to unmount means nothing.
const GRACE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

fn is_folder_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn parse_uid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok()
}

fn invalid(message: &str) -> Unusable {
    Unusable {
        reason: "InvalidOrder",
        message: format!("the catalog's order cannot be carried out: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(change: impl FnOnce(&mut pb::AssignmentSpec)) -> pb::Assignment {
        let mut spec = pb::AssignmentSpec {
            project_id: "ml".to_owned(),
            mount_name: "reports".to_owned(),
            endpoint: "https://s3.example".to_owned(),
            bucket: "data".to_owned(),
            mode: Mode::ReadWrite.into(),
            backend: Backend::Default.into(),
            ..Default::default()
        };
        change(&mut spec);
        pb::Assignment {
            uid: Uuid::from_u128(1).to_string(),
            generation: 1,
            spec: Some(spec),
            ..Default::default()
        }
    }

    #[test]
    fn a_good_order_has_a_place_below_the_mount_root() {
        let order = Order::of(&assignment(|_| {})).unwrap();
        let path = order.spec.unwrap().place.path(Path::new("/mnt/mooring"));
        assert_eq!(path, Path::new("/mnt/mooring/ml/reports"));
    }

    #[test]
    fn names_that_are_no_plain_folder_names_are_refused() {
        for name in [
            "../../etc",
            "..",
            "",
            "a/b",
            "-a",
            "a-",
            "A",
            "a.b",
            "a\0",
            &"a".repeat(64),
        ] {
            let by_mount = Order::of(&assignment(|spec| spec.mount_name = name.to_owned())).unwrap();
            let by_project = Order::of(&assignment(|spec| spec.project_id = name.to_owned())).unwrap();
            assert_eq!(by_mount.spec.unwrap_err().reason, "InvalidOrder", "{name}");
            assert_eq!(by_project.spec.unwrap_err().reason, "InvalidOrder", "{name}");
        }
    }

    #[test]
    fn another_backend_is_another_mount() {
        let serving = |backend: Backend| {
            let order = Order::of(&assignment(|spec| spec.backend = backend.into())).unwrap();
            order.spec.unwrap().serving(Mode::ReadWrite)
        };
        assert_eq!(serving(Backend::Geesefs).foreign, Some(Foreign::Geesefs));
        assert_eq!(serving(Backend::Default).foreign, None);
        assert_ne!(serving(Backend::Geesefs), serving(Backend::S3fs));
    }

    #[test]
    fn a_mode_or_backend_of_a_newer_catalog_is_not_guessed() {
        assert!(
            Order::of(&assignment(|spec| spec.mode = 77))
                .unwrap()
                .spec
                .is_err()
        );
        assert!(
            Order::of(&assignment(|spec| spec.backend = 77))
                .unwrap()
                .spec
                .is_err()
        );
    }

    #[test]
    fn an_assignment_without_a_uid_is_none() {
        let nameless = pb::Assignment {
            uid: "x".to_owned(),
            ..assignment(|_| {})
        };
        assert!(Order::of(&nameless).is_none());
    }
}
