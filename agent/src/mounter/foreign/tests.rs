//! What the programs are told, and what they are never told.

use mooring_control::{EndpointRules, Secret};

use super::order::plain;
use super::*;

fn serving(change: impl FnOnce(&mut Serving)) -> Serving {
    let mut serving = Serving {
        endpoint: "https://s3.example".to_owned(),
        region: "eu-central-1".to_owned(),
        bucket: "data".to_owned(),
        prefix: "team/a/".to_owned(),
        path_style: true,
        cache_size_mib: 0,
        read_only: false,
        endpoint_rules: EndpointRules::default(),
        foreign: Some(Foreign::S3fs),
    };
    change(&mut serving);
    serving
}

fn about(group: Option<&str>) -> About {
    About {
        uid: Uuid::from_u128(1),
        generation: 1,
        spec_hash: String::new(),
        activation: String::new(),
        connector: String::new(),
        mode: mooring_proto::v1::Mode::ReadWrite,
        backend: mooring_proto::v1::Backend::S3fs,
        unix_group: group.map(str::to_owned),
    }
}

fn told(program: Foreign, serving: &Serving) -> Result<String, MountError> {
    let keys = Keys::below(Path::new("/run/mooring"));
    let about = about(Some("ml"));
    let order = Order::of(
        serving,
        &about,
        7,
        Path::new("/mnt/mooring/ml/data"),
        Path::new("/var/cache/mooring/1"),
        Uuid::from_u128(1),
    )?;
    let arguments = match program {
        Foreign::Geesefs => geesefs::arguments(&order, &keys),
        Foreign::S3fs => s3fs::arguments(&order, &keys),
    }?;
    let texts: Vec<_> = arguments.iter().map(|one| one.to_string_lossy()).collect();
    Ok(texts.join(" "))
}

const KEYS: &str = "/run/mooring/keys/00000000-0000-0000-0000-000000000001";

#[test]
fn geesefs_is_told_a_fixed_list() {
    assert_eq!(
        told(Foreign::Geesefs, &serving(|_| {})).unwrap(),
        format!(
            "-f --endpoint https://s3.example --region eu-central-1 --shared-config {KEYS}/aws.conf --uid 0 --gid 7 \
             --setuid 0 --setgid 0 --file-mode 0660 --dir-mode 0770 --stat-cache-ttl 60s --memory-limit 512 \
             --read-retry-attempts 4 --print-stats 0 \
             -o fsname=mooring,allow_other,default_permissions,nosuid,nodev,noatime,rw \
             --fsync-on-close --no-detect --no-expire-multipart -- data:team/a /mnt/mooring/ml/data"
        )
    );
}

#[test]
fn s3fs_is_told_a_fixed_list() {
    assert_eq!(
        told(Foreign::S3fs, &serving(|_| {})).unwrap(),
        format!(
            "-f -o url=https://s3.example,endpoint=eu-central-1,passwd_file={KEYS}/passwd,tmpdir=/var/cache/mooring/1,\
             uid=0,gid=7,umask=0007,mp_umask=0007,stat_cache_expire=60,connect_timeout=10,readwrite_timeout=60,retries=3,\
             sigv4,complement_stat,dbglevel=err,fsname=mooring,subtype=s3fs,allow_other,default_permissions,nosuid,nodev,\
             noatime,rw,use_path_request_style -- data:/team/a /mnt/mooring/ml/data"
        )
    );
}

#[test]
fn what_is_ordered_changes_only_what_it_is_about() {
    for program in [Foreign::Geesefs, Foreign::S3fs] {
        let read_only = told(program, &serving(|serving| serving.read_only = true)).unwrap();
        assert!(
            read_only.contains(",ro") && !read_only.contains(",rw"),
            "{read_only}"
        );
        let whole = told(program, &serving(|serving| serving.prefix = String::new())).unwrap();
        assert!(whole.ends_with("-- data /mnt/mooring/ml/data"), "{whole}");
        let regionless = told(program, &serving(|serving| serving.region = String::new())).unwrap();
        assert!(regionless.contains("us-east-1"), "{regionless}");
    }
    let sized = serving(|serving| serving.cache_size_mib = 64);
    let with_size = told(Foreign::Geesefs, &sized).unwrap();
    assert!(with_size.contains(" --memory-limit 64 "), "{with_size}");
    let by_host = serving(|serving| serving.path_style = false);
    assert!(
        told(Foreign::Geesefs, &by_host)
            .unwrap()
            .contains(" --subdomain --")
    );
    assert!(
        !told(Foreign::S3fs, &by_host)
            .unwrap()
            .contains("use_path_request_style")
    );
}

#[test]
fn nothing_that_a_user_writes_becomes_an_option() {
    let bad: [fn(&mut Serving); 10] = [
        |serving| serving.bucket = "-oallow_root".to_owned(),
        |serving| serving.bucket = "a,allow_root".to_owned(),
        |serving| serving.bucket = "a:b".to_owned(),
        |serving| serving.bucket = String::new(),
        |serving| serving.region = "eu,allow_root".to_owned(),
        |serving| serving.region = "-o".to_owned(),
        |serving| serving.prefix = "a\nallow_root/".to_owned(),
        |serving| serving.prefix = "../b/".to_owned(),
        |serving| serving.prefix = "/".to_owned(),
        |serving| serving.prefix = "a//b/".to_owned(),
    ];
    for program in [Foreign::Geesefs, Foreign::S3fs] {
        for change in bad {
            let refused = told(program, &serving(change)).unwrap_err();
            assert_eq!(refused.reason(), "InvalidOrder", "{refused}");
        }
        // Behind the two dashes, and within one argument, it is only a name.
        let odd = told(
            program,
            &serving(|serving| serving.prefix = "-o x,y\\z:q/".to_owned()),
        )
        .unwrap();
        let (_, names) = odd.split_once(" -- ").unwrap();
        assert!(names.contains("-o x,y\\z:q"), "{odd}");
    }
    let split = serving(|serving| serving.endpoint = "https://a,allow_root".to_owned());
    assert_eq!(told(Foreign::S3fs, &split).unwrap_err().reason(), "InvalidOrder");
}

#[test]
fn folders_with_characters_that_mean_something_are_refused() {
    for bad in ["/run/a b", "/run/a,b", "/run/'a'", "/run/$a", "/run/ü"] {
        assert_eq!(plain(Path::new(bad)).unwrap_err().reason(), "FolderUnusable");
    }
    assert_eq!(
        plain(Path::new("/run/mooring-1/a_b.c")).unwrap(),
        "/run/mooring-1/a_b.c"
    );
}

#[test]
fn a_key_that_s3fs_would_misread_is_refused() {
    for (id, secret) in [
        ("AK", "a:b"),
        ("A:K", "s"),
        ("AK", "a b"),
        ("AK", "a\nB:c"),
        ("AK", ""),
    ] {
        let credential = Credential {
            access_key_id: id.to_owned(),
            secret_access_key: Secret::new(secret.to_owned()),
        };
        let refused = s3fs::key_files(&credential).unwrap_err();
        assert_eq!(refused.reason(), "KeyUnusable");
    }
}

#[test]
fn what_s3fs_says_of_the_store_is_understood() {
    let line = |what: &str| {
        format!(
            "[INF] s3fs.cpp:s3fs_init(3382): init\n[CRT] s3fs.cpp:s3fs_check_service(3593): {what}(host=https://x) - result of checking service.\n"
        )
    };
    let failed = |what: &str| s3fs::failure(&line(what));
    assert!(matches!(failed("invalid credentials"), Some(Failed::KeyRefused)));
    assert!(matches!(
        failed("bucket or key not found"),
        Some(Failed::BucketMissing)
    ));
    assert!(matches!(failed("unable to connect"), Some(Failed::StoreAway)));
    assert!(s3fs::failure("[INF] s3fs.cpp:s3fs_init(3382): init\n").is_none());
}

#[test]
fn keys_that_no_record_names_go_when_no_program_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("keys");
    let [named, read, left] = [1, 2, 3].map(Uuid::from_u128);
    for mount in [named, read, left] {
        std::fs::create_dir_all(folder.join(mount.to_string())).unwrap();
        std::fs::write(folder.join(mount.to_string()).join("passwd"), "AK:S").unwrap();
    }
    let keys = Keys::below(dir.path());
    let mut program = std::process::Command::new("sh")
        .args(["-c", "sleep 60; true"])
        .arg(format!("passwd_file={}/{read}/passwd", folder.display()))
        .spawn()
        .unwrap();
    let any = |_: &std::path::Path| true;
    while Process::naming(&folder.join(read.to_string()), any).is_empty() {
        std::thread::yield_now();
    }
    let there = || {
        let mounts = [named, read, left];
        mounts.map(|mount| folder.join(mount.to_string()).exists())
    };
    let sweep = || keys.sweep(&keys.mounts().collect(), &[named].into(), any);
    sweep();
    assert_eq!(there(), [true, true, false]);
    assert!(keys.end_readers(read, any));
    program.wait().ok();
    sweep();
    assert_eq!(there(), [true, false, false]);
    // Of one that has come meanwhile nothing is known.
    keys.sweep(&[read].into(), &[].into(), any);
    assert_eq!(there(), [true, false, false]);
}
