//! What an object carries beside its bytes outlives what is done to it through a mount.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use mooring_tests::Folder;
use mooring_tests::folder::names;
use serde_json::json;

#[test]
fn an_edited_object_keeps_its_headers_and_metadata_on_our_own_store() {
    edited(&Folder::start(), false);
}

#[test]
fn an_edited_object_keeps_its_headers_metadata_and_tags_on_versitygw() {
    edited(&Folder::on_versitygw(), true);
}

fn edited(folder: &Folder, tags: bool) {
    let store = &folder.store;
    let mut with = json!({
        "ContentType": "text/csv; charset=utf-8", "CacheControl": "max-age=60", "ContentDisposition": "inline",
        "ContentLanguage": "en", "Metadata": {"color": "red"},
    });
    if tags {
        with["Tagging"] = json!("team=m%20l&stage=raw%2Fnew");
    }
    let kept = |key: &str, what: &str| {
        let head = store
            .head(key)
            .unwrap_or_else(|error| panic!("{key} {what}: {error}"));
        for name in [
            "ContentType",
            "CacheControl",
            "ContentDisposition",
            "ContentLanguage",
        ] {
            assert_eq!(head[name], with[name], "{name} of {key} {what}");
        }
        assert_eq!(head["metadata"]["color"], "red", "{key} {what}");
        if tags {
            let found = store.tags(key);
            assert_eq!(found, json!({"team": "m l", "stage": "raw/new"}), "{key} {what}");
        }
    };
    let large = vec![b'x'; 20 << 20];
    for (key, bytes) in [("small.csv", &b"a,b\n1,2\n"[..]), ("large.csv", &large)] {
        store.put_with(key, bytes, &with);
        kept(key, "as it was put");
    }
    // Seen in a listing first, which tells nothing of all that.
    assert_eq!(names(folder.path()), ["large.csv", "small.csv"]);
    for key in ["small.csv", "large.csv"] {
        let mut file = File::options().append(true).open(folder.at(key)).unwrap();
        file.write_all(b"3,4\n").unwrap();
        file.sync_all().unwrap();
        drop(file);
        kept(key, "with a line more");

        let file = File::options().write(true).open(folder.at(key)).unwrap();
        file.write_all_at(b"B", 2).unwrap();
        drop(file);
        kept(key, "changed in the middle");

        let file = File::options().write(true).open(folder.at(key)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000))
            .unwrap();
        drop(file);
        kept(key, "with another time");

        fs::rename(folder.at(key), folder.at(&format!("moved-{key}"))).unwrap();
        kept(&format!("moved-{key}"), "moved");
        fs::rename(folder.at(&format!("moved-{key}")), folder.at(key)).unwrap();

        fs::write(folder.at(key), "new").unwrap();
        kept(key, "written anew");
        assert_eq!(store.get(key).unwrap(), b"new");
    }
    // A new object has nothing of the one that was there before.
    fs::remove_file(folder.at("small.csv")).unwrap();
    fs::write(folder.at("small.csv"), "other").unwrap();
    let head = store.head("small.csv").unwrap();
    assert_ne!(head["ContentType"], with["ContentType"]);
    assert_eq!(head["metadata"]["color"], json!(null));
}
