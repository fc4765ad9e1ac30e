//! From messages to the domain: what all nouns share. Fields are judged only after the permit.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::domain::{Error, Id, Labels, Page, Paged, Texts, TextsChange, Violations};
use crate::keyring::Keyring;
use crate::ops::{Answer, Once};
use crate::policy::Caller;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1000;

/// Who calls, and with what.
pub fn split<T>(request: Request<T>) -> Result<(Caller, T), Error> {
    let (_, extensions, body) = request.into_parts();
    let caller = extensions
        .get::<Arc<Caller>>()
        .ok_or_else(|| Error::internal("a call came without passing the gate that names its caller"))?;
    Ok((caller.as_ref().clone(), body))
}

/// A resource name in a field of the request, before the permit: only its form is judged.
pub fn name<T: std::str::FromStr<Err = String>>(field: &str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|problem: String| Error::invalid(field, problem))
}

/// The message in a field that must be there, such as the resource to create.
pub fn body<T: Default>(message: Option<T>) -> T {
    // An absent message and an empty one mean the same; the fields that are missing in it are named one by one.
    message.unwrap_or_default()
}

/// An id that may be left to the server.
pub fn optional_id(field: &str, text: &str, violations: &mut Violations) -> Option<Id> {
    if text.is_empty() {
        return None;
    }
    violations.take(field, text.parse())
}

/// Display name, description and labels of a resource to create.
pub fn texts(
    prefix: &str,
    display_name: String,
    description: String,
    given: Labels,
    violations: &mut Violations,
) -> Texts {
    Texts {
        display_name,
        description,
        labels: given,
    }
    .check(prefix, violations)
}

/// Which fields an update changes.
#[derive(Debug)]
pub struct Mask {
    paths: Option<Vec<String>>,
}

impl Mask {
    /// Reads a mask. `mutable` are the fields that can change; `fixed` those that are known and cannot (they are refused
    /// with that reason); fields that the server sets are ignored, as AIP-203 has it.
    pub fn read(
        mask: Option<prost_types::FieldMask>,
        mutable: &[&str],
        fixed: &[&str],
        violations: &mut Violations,
    ) -> Self {
        const SERVER_SET: [&str; 23] = [
            "mount_count",
            "message",
            "drain_time",
            "ban_time",
            "clone_time",
            "name",
            "uid",
            "creator",
            "create_time",
            "update_time",
            "etag",
            "state",
            "mounts",
            "mounted_hosts",
            "published",
            "host_count",
            "seen_time",
            "agent_version",
            "kernel_version",
            "backends",
            "certificate_expire_time",
            "connector",
            "effective_mode",
        ];
        let Some(prost_types::FieldMask { paths }) = mask.filter(|mask| !mask.paths.is_empty()) else {
            return Self { paths: None };
        };
        if paths.iter().any(|path| path == "*") {
            return Self {
                paths: Some(mutable.iter().map(|path| (*path).to_owned()).collect()),
            };
        }
        for path in &paths {
            // `labels.team` and `options.virtual_host_style` change the whole field: their root is what counts.
            let root = path.split('.').next().unwrap_or(path);
            if fixed.contains(&root) {
                violations.add(
                    "update_mask",
                    format!("`{path}` is given at creation and never changes; leave it out"),
                );
            } else if !mutable.contains(&path.as_str()) && !SERVER_SET.contains(&root) {
                violations.add(
                    "update_mask",
                    format!(
                        "`{path}` is no field that can change; use some of {}",
                        mutable.join(", ")
                    ),
                );
            }
        }
        Self { paths: Some(paths) }
    }

    /// The new value of a field, if the mask names it; without a mask, if it is set.
    pub fn pick<T: Default + PartialEq>(&self, path: &str, value: T) -> Option<T> {
        let picked = match &self.paths {
            Some(paths) => paths.iter().any(|named| named == path),
            None => value != T::default(),
        };
        picked.then_some(value)
    }

    /// The new texts.
    pub fn texts(
        &self,
        prefix: &str,
        display_name: String,
        description: String,
        given: Labels,
        violations: &mut Violations,
    ) -> TextsChange {
        TextsChange {
            display_name: self.pick("display_name", display_name),
            description: self.pick("description", description),
            labels: self.pick("labels", given),
        }
        .check(prefix, violations)
    }
}

/// The fields that every resource lets people change.
pub const TEXT_FIELDS: [&str; 3] = ["display_name", "description", "labels"];

/// A call for one page of a list.
#[derive(Debug)]
pub struct List {
    name: String,
    page: Page,
}

impl List {
    /// Reads where the page begins. `name` is the list's, with its parent and whatever else decides what is in it: a
    /// token of another list is refused.
    pub fn read(name: impl Into<String>, size: i32, token: &str) -> Result<Self, Error> {
        let name = name.into();
        let page = page(&name, size, token)?;
        Ok(Self { name, page })
    }

    /// Which part is asked for.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// The items as messages, and the token of the page that follows.
    pub fn answer<T, M: From<T>>(self, page: Paged<T>) -> (Vec<M>, String) {
        let items = page.items.into_iter().map(Into::into).collect();
        (items, page_token(&self.name, page.next))
    }
}

/// Where a page begins. `list` names the list and its parent: a token of another list is refused.
fn page(list: &str, page_size: i32, page_token: &str) -> Result<Page, Error> {
    let mut violations = Violations::default();
    let size = match usize::try_from(page_size) {
        Ok(0) => PAGE_SIZE_DEFAULT,
        Ok(size) => size.min(PAGE_SIZE_MAX),
        Err(_) => {
            violations.add("page_size", "it is negative; use 1 to 1000, or 0 for 100");
            PAGE_SIZE_DEFAULT
        }
    };
    let after = if page_token.is_empty() {
        None
    } else {
        token_key(list, page_token)
    };
    if !page_token.is_empty() && after.is_none() {
        violations.add(
            "page_token",
            "it was not given out for this list; begin again without one",
        );
    }
    violations.finish()?;
    Ok(Page { after, size })
}

/// The token of the page that begins after `key`; empty for none.
fn page_token(list: &str, key: Option<String>) -> String {
    key.map(|key| URL_SAFE_NO_PAD.encode(format!("{list}\0{key}")))
        .unwrap_or_default()
}

fn token_key(list: &str, token: &str) -> Option<String> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (of, key) = text.split_once('\0')?;
    (of == list).then(|| key.to_owned())
}

/// Makes a call with a request id happen once. `request` is the whole message; its keyed hash recognises a repetition.
pub fn once<M: Message, T>(
    keyring: &Keyring,
    method: &'static str,
    request_id: &str,
    request: &M,
    encode: fn(&T) -> Vec<u8>,
    violations: &mut Violations,
) -> Once<T> {
    if request_id.is_empty() {
        return Once::without_id();
    }
    let parsed =
        Uuid::try_parse(request_id).map_err(|_| "it is no UUID; use a new random UUID for each call".into());
    match violations.take("request_id", parsed) {
        Some(id) => {
            let bytes = zeroize::Zeroizing::new(request.encode_to_vec());
            Once::new(id, method, keyring.fingerprint(&bytes), encode)
        }
        None => Once::without_id(),
    }
}

/// The answer of now, or the stored one.
pub fn answer<T, M>(answer: Answer<T>) -> Result<Response<M>, Status>
where
    M: Message + Default + From<T>,
{
    match answer {
        Answer::New(value) => Ok(Response::new(value.into())),
        Answer::Stored(bytes) => Ok(Response::new(
            M::decode(bytes.as_slice()).map_err(Error::internal)?,
        )),
    }
}

/// A time as protobuf has it.
pub fn timestamp(time: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).expect("nanoseconds of a second fit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_belongs_to_one_list() {
        let token = page_token("projects", Some("ml".into()));
        assert_eq!(
            page("projects", 0, &token).unwrap(),
            Page {
                after: Some("ml".into()),
                size: 100
            }
        );
        assert!(page("communities", 0, &token).is_err());
        assert!(page("projects", 0, "x!").is_err());
        assert!(page("projects", -1, "").is_err());
        assert_eq!(page("projects", 5000, "").unwrap().size, 1000);
        assert_eq!(page_token("projects", None), "");
    }

    fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
        Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        })
    }

    #[test]
    fn a_mask_picks_its_fields_and_without_one_what_is_set_is_picked() {
        let mut violations = Violations::default();
        let picked = Mask::read(mask(&["display_name"]), &TEXT_FIELDS, &[], &mut violations);
        assert_eq!(picked.pick("display_name", String::new()), Some(String::new()));
        assert_eq!(picked.pick("description", "x".to_owned()), None);
        let all = Mask::read(mask(&["*"]), &TEXT_FIELDS, &[], &mut violations);
        assert_eq!(all.pick("description", String::new()), Some(String::new()));
        let none = Mask::read(None, &TEXT_FIELDS, &[], &mut violations);
        assert_eq!(none.pick("description", String::new()), None);
        assert_eq!(none.pick("description", "x".to_owned()), Some("x".to_owned()));
        assert!(violations.is_empty());
    }

    #[test]
    fn a_mask_with_fixed_or_unknown_fields_is_refused_and_server_set_ones_are_ignored() {
        let mut violations = Violations::default();
        Mask::read(
            mask(&["community", "colour", "create_time"]),
            &TEXT_FIELDS,
            &["community"],
            &mut violations,
        );
        let problems: Vec<_> = violations
            .iter()
            .map(|violation| violation.problem.as_str())
            .collect();
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("never changes") && problems[1].contains("display_name"));
    }
}
