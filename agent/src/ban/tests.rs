//! Who is believed, and what is left of the keys, wherever the power fails.

use mooring_identity::credentials::new_key_and_csr;
use mooring_identity::{Authority, Clock, Credentials, HpkeKeyPair, Principal};
use time::OffsetDateTime;

use super::*;
use crate::enroll::HPKE_KEY;

const HOST: Uuid = Uuid::from_u128(7);

fn authority(dir: &Path) -> Authority {
    Authority::load_or_create(dir, &"test".parse().unwrap(), OffsetDateTime::UNIX_EPOCH).unwrap()
}

fn ban(authority: &Authority, host: Uuid) -> pb::SignedBan {
    let statement = pb::Ban {
        host_uid: host.to_string(),
        ban_time: None,
        reason: "stolen".into(),
    }
    .encode_to_vec();
    let signature = authority.sign_statement(StatementKind::Ban, &statement).unwrap();
    pb::SignedBan { statement, signature }
}

#[test]
fn only_the_cas_own_word_about_this_host_bans_it() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, other) = (authority(own.path()), authority(other.path()));
    let desk = BanDesk::new(own.ca_pem(), HOST);
    let told = desk.subscribe();
    assert!(!desk.hear(ban(&other, HOST)), "another CA's");
    assert!(!desk.hear(ban(&own, Uuid::from_u128(8))), "another host's");
    assert!(!desk.hear(pb::SignedBan::default()), "nobody's");
    let mut changed = ban(&own, HOST);
    changed.statement.push(0);
    assert!(!desk.hear(changed));
    assert!(told.borrow().is_none());
    assert!(desk.hear(ban(&own, HOST)));
    assert!(told.borrow().is_some());
}

#[test]
fn all_keys_are_wiped_and_the_ban_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let names = ["host.key", "host.crt", HPKE_KEY, "ledger", ".ledger.00ff.tmp"];
    for name in names {
        files::write_atomic(&at(name), b"secret", files::PRIVATE).unwrap();
    }
    let signed = ban(&authority(&at("ca")), HOST);
    files::write_atomic(&at(FILE), &signed.encode_to_vec(), files::PRIVATE).unwrap();
    files::write_atomic(&at("host.toml"), b"name", files::PUBLIC).unwrap();
    wipe(dir.path());
    for name in names {
        assert!(!at(name).exists(), "{name}");
    }
    assert!(at("host.toml").exists());
    assert_eq!(Ban::load(dir.path()).unwrap().unwrap().reason, "stolen");
    Ban::forget(dir.path());
    assert_eq!(Ban::load(dir.path()).unwrap(), None);
}

/// The state folder of a host whose membership a CA has certified, with that CA.
fn enrolled() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let ca_dir = tempfile::tempdir().unwrap();
    let now = Clock::system().now();
    let authority = Authority::load_or_create(ca_dir.path(), &"test".parse().unwrap(), now).unwrap();
    let (key, csr) = new_key_and_csr().unwrap();
    let life = Duration::from_secs(3600);
    let issued = authority.issue(&csr, Principal::Host(HOST), life, now).unwrap();
    let credentials = Credentials::new(key, issued.certificate_pem, authority.ca_pem().to_owned()).unwrap();
    credentials.save(&credential_paths(dir.path())).unwrap();
    HpkeKeyPair::load_or_create(&dir.path().join(HPKE_KEY)).unwrap();
    let host = Host {
        name: "hosts/gpu-7".into(),
        uid: HOST,
        realm_uid: "realm".into(),
        endpoint: "https://catalog.example:7443".into(),
    };
    host.save(dir.path()).unwrap();
    (dir, authority)
}

#[test]
fn a_wipe_that_was_cut_off_anywhere_is_finished_by_the_next_start() {
    for (cut_off, remove) in [
        (HPKE_KEY, true),
        (HPKE_KEY, false),
        ("host.key", false),
        ("host.crt", true),
    ] {
        let (dir, authority) = enrolled();
        let at = |name: &str| dir.path().join(name);
        write_down(dir.path(), &ban(&authority, HOST)).unwrap();
        assert!(!go_on_wiping(dir.path()).unwrap(), "it has not begun");
        assert!(at("host.key").exists() && at(HPKE_KEY).exists());
        if remove {
            std::fs::remove_file(at(cut_off)).unwrap();
        } else {
            let length = std::fs::metadata(at(cut_off)).unwrap().len();
            std::fs::write(at(cut_off), vec![0; usize::try_from(length).unwrap()]).unwrap();
        }
        assert!(go_on_wiping(dir.path()).unwrap(), "{cut_off}");
        for name in ["host.key", "host.crt", HPKE_KEY] {
            assert!(!at(name).exists(), "{name} after {cut_off}");
        }
        assert_eq!(Ban::load(dir.path()).unwrap().unwrap().reason, "stolen");
    }
}

#[test]
fn keys_are_wiped_for_a_proved_ban_of_this_very_host_only() {
    let (dir, authority) = enrolled();
    let (_, other) = enrolled();
    std::fs::remove_file(dir.path().join(HPKE_KEY)).unwrap();
    for none in [ban(&other, HOST), ban(&authority, Uuid::from_u128(8))] {
        write_down(dir.path(), &none).unwrap();
        assert!(!go_on_wiping(dir.path()).unwrap());
        assert_eq!(
            Ban::load(dir.path()).unwrap(),
            None,
            "of another host, or of nobody"
        );
    }
    assert!(dir.path().join("host.key").exists());
}

#[test]
fn an_answer_that_comes_after_the_ban_brings_no_key_back() {
    let (dir, authority) = enrolled();
    let paths = credential_paths(dir.path());
    let late = Credentials::load(&paths).unwrap().unwrap();
    let desk = BanDesk::new(authority.ca_pem(), HOST);
    assert!(desk.unless_banned(|| late.save(&paths)).unwrap().is_ok());
    assert!(desk.hear(ban(&authority, HOST)));
    desk.wipe(dir.path());
    assert!(desk.unless_banned(|| late.save(&paths)).is_none());
    assert!(!paths.key.exists() && !paths.certificate.exists());
}

#[tokio::test]
async fn a_ban_that_finds_no_room_on_the_disk_is_written_down_once_there_is_some() {
    let (dir, authority) = enrolled();
    let signed = ban(&authority, HOST);
    // A folder in its place stands for a full disk.
    let in_the_way = dir.path().join(FILE).join("full");
    std::fs::create_dir_all(&in_the_way).unwrap();
    assert!(write_down(dir.path(), &signed).is_err());
    let shutdown = CancellationToken::new();
    let written = write_down_at_last(dir.path(), &signed, &shutdown);
    let room = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::fs::remove_dir(&in_the_way).unwrap();
        std::fs::remove_dir(dir.path().join(FILE)).unwrap();
    };
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(written, room) })
        .await
        .expect("it is tried again");
    assert_eq!(Ban::load(dir.path()).unwrap().unwrap().reason, "stolen");
}
