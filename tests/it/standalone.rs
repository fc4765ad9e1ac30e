//! `mooring-fs` in the hands of a person: how it starts, what it says when it cannot, and how it ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use mooring_tests::folder::{mooring_fs, names, path_text, run, scratch};
use mooring_tests::process::Process;
use mooring_tests::programs::program;
use mooring_tests::store::{ACCESS_KEY_ID, free_port, planted_secret};
use mooring_tests::{Folder, Store, eventually, mounts};
use rustix::process::Signal;

/// Within this a mount that cannot be says so; a dead endpoint is asked for about three seconds.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn help_teaches_and_the_version_is_told() {
    let help = |arguments: &[&str]| run(path_text(&program("mooring-fs")), arguments);
    let all = help(&["--help"]);
    for word in ["mount", "serve", "--endpoint", "umount", "MOORING_LOG"] {
        assert!(all.contains(word), "{word} is missing in:\n{all}");
    }
    let mount = help(&["mount", "--help"]);
    for word in [
        "BUCKET[:PREFIX]",
        "AWS_ACCESS_KEY_ID",
        "--read-only",
        "--cache-dir",
        "--foreground",
        "--metadata-ttl",
        "[default: 5s]",
        "--allow-other",
    ] {
        assert!(mount.contains(word), "{word} is missing in:\n{mount}");
    }
    assert!(help(&["--version"]).starts_with("mooring-fs "));
}

#[test]
fn a_wrong_command_line_ends_with_64_in_every_program() {
    for name in [
        "mooring-fs",
        "mooring-agent",
        "mooring-catalog",
        "mooring",
        "mooring-test-s3",
    ] {
        for (arguments, code) in [(["--no-such-flag"], 64), (["--help"], 0), (["--version"], 0)] {
            let output = Command::new(program(name)).args(arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{name} {arguments:?}");
        }
    }
}

#[test]
fn a_second_mount_on_a_folder_is_refused_with_the_command_that_takes_the_first_away() {
    let folder = Folder::start();
    let output = in_background(&folder.store, folder.scratch(), folder.path());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{told}");
    assert!(!output.status.success());
    let command = format!("unmount it first: umount {}", path_text(folder.path()));
    assert!(
        told.contains("is a mount of lake already") && told.contains(&command),
        "{told}"
    );
    assert_eq!(mounts::mounts_below(folder.path()).len(), 1);
    // A folder inside a mount is one like any other.
    fs::create_dir(folder.at("inside")).unwrap();
    folder.store.put("inside.txt", "inside");
    let inside = folder.mount_again("mount/inside", &[]);
    assert_eq!(fs::read(inside.at("inside.txt")).unwrap(), b"inside");
    inside.unmount();
}

#[test]
fn http_and_tls_that_meet_each_other_say_so() {
    let folder = scratch();
    let (certificate, key) = certificate(folder.path());
    let with_tls = with_tls(folder.path(), &certificate, &key);
    let plain = Store::start(folder.path(), Ipv4Addr::LOCALHOST, "lake");
    let target = folder.path().join("mount");
    fs::create_dir(&target).unwrap();
    for (store, wrong, right) in [
        (&with_tls, "http://", "https://"),
        (&plain, "https://", "http://"),
    ] {
        let address = store.endpoint.split("://").nth(1).unwrap();
        let output = mooring_fs(store)
            .args([
                "mount",
                "lake",
                path_text(&target),
                "--endpoint",
                &format!("{wrong}{address}"),
            ])
            .arg("--cache-dir")
            .arg(folder.path().join("cache"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{told}");
        assert!(!output.status.success());
        assert!(told.contains(&format!("{address} speaks ")), "{told}");
        assert!(told.contains(&format!("give the endpoint as {right}")), "{told}");
    }
}

#[test]
fn a_mount_that_cannot_be_says_why_and_what_to_do() {
    let folder = scratch();
    let store = Store::start(folder.path(), Ipv4Addr::LOCALHOST, "lake");
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let refused = |change: &dyn Fn(&mut Command), bucket: &str, target: &Path, endpoint: &str| {
        let mut said = Vec::new();
        // In the foreground and in the background a person is told the same.
        for foreground in [true, false] {
            let mut command = mooring_fs(&store);
            command.args(["mount", bucket, path_text(target), "--endpoint", endpoint]);
            if foreground {
                command.arg("--foreground");
            }
            change(&mut command);
            if !command.get_args().any(|argument| argument == "--cache-dir") {
                command.arg("--cache-dir").arg(folder.path().join("cache"));
            }
            let start = Instant::now();
            let output = command.output().unwrap();
            let took = start.elapsed();
            assert!(!output.status.success(), "{bucket} at {endpoint} is mounted");
            assert!(took < REFUSAL_DEADLINE, "it takes {took:?} to say so");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!text.contains(&store.secret), "the secret is told: {text}");
            said.push(text);
        }
        println!("{}", said[1]);
        said
    };
    let nothing = |_: &mut Command| {};
    let dead = format!("http://127.0.0.1:{}", free_port());
    let cases: [(Vec<String>, &[&str]); 8] = [
        (
            refused(
                &|command| {
                    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
                },
                "lake",
                &target,
                &store.endpoint,
            ),
            &["SignatureDoesNotMatch", "the secret key is wrong"],
        ),
        (
            refused(
                &|command| {
                    command.env("AWS_ACCESS_KEY_ID", "AKIDNOBODY");
                },
                "lake",
                &target,
                &store.endpoint,
            ),
            &["InvalidAccessKeyId", "access key id"],
        ),
        (
            refused(
                &|command| {
                    command
                        .env_remove("AWS_ACCESS_KEY_ID")
                        .env("AWS_EC2_METADATA_DISABLED", "true");
                },
                "lake",
                &target,
                &store.endpoint,
            ),
            &["no credentials", "AWS_ACCESS_KEY_ID"],
        ),
        (
            refused(&nothing, "reef", &target, &store.endpoint),
            &["reef", "no such bucket", "check the bucket's name"],
        ),
        (
            refused(&nothing, "lake", &target, &dead),
            &["cannot connect", &dead["http://".len()..], "check the endpoint"],
        ),
        (
            refused(&nothing, "lake", &folder.path().join("absent"), &store.endpoint),
            &["absent", "mkdir -p"],
        ),
        (
            refused(&nothing, "lake", &file, &store.endpoint),
            &["is no folder"],
        ),
        (
            refused(
                &|command| {
                    command.args(["--cache-dir", "/proc/nowhere"]);
                },
                "lake",
                &target,
                &store.endpoint,
            ),
            &["/proc/nowhere", "--cache-dir"],
        ),
    ];
    for (said, words) in cases {
        for text in said {
            for word in words {
                assert!(text.contains(word), "«{word}» is missing in:\n{text}");
            }
        }
    }
    assert!(!mounts::is_mounted(&target));
}

#[test]
fn what_a_folder_holds_is_hidden_while_mounted_and_back_afterwards() {
    let folder = Folder::start();
    let target = folder.scratch().join("full");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("local.txt"), "local").unwrap();
    let mount = folder.mount_again("full", &[]);
    assert_eq!(names(&target), Vec::<String>::new());
    fs::write(target.join("stored.txt"), "stored").unwrap();
    mount.unmount();
    assert_eq!(names(&target), ["local.txt"]);
    assert_eq!(folder.store.list(""), ["stored.txt"]);
}

#[test]
fn a_mount_in_the_background_answers_when_the_command_returns_and_ends_when_unmounted() {
    let folder = scratch();
    let store = Store::start(folder.path(), Ipv4Addr::LOCALHOST, "lake");
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    let output = in_background(&store, folder.path(), &target);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(mounts::is_mounted(&target));
    fs::write(target.join("a.txt"), "a").unwrap();
    assert_eq!(store.get("a.txt").unwrap(), b"a");
    let pid = server_of(&target);
    // Others can read how a program was started.
    for place in ["cmdline", "stat"] {
        let text = fs::read(format!("/proc/{pid}/{place}")).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(&store.secret));
    }
    run("fusermount3", &["-u", path_text(&target)]);
    ended(pid);
    let log = fs::read_to_string(folder.path().join("cache/mooring-fs.log")).unwrap();
    assert!(log.contains("the bucket is unmounted"), "{log}");
    assert!(!log.contains("ERROR") && !log.contains(&store.secret), "{log}");
}

#[test]
fn a_busy_mount_is_unmounted_when_its_files_are_closed() {
    let mut folder = Folder::start();
    folder.store.put("open.txt", "still open");
    let mut open = File::open(folder.at("open.txt")).unwrap();
    let busy = Command::new("fusermount3")
        .args(["-u", path_text(folder.path())])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(!busy.status.success() && told.contains("busy"), "{told}");
    run("fusermount3", &["-u", "-z", path_text(folder.path())]);
    assert!(!mounts::is_mounted(folder.path()));
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still open");
    assert!(
        folder.mount.process().is_running(),
        "it serves who has a file open"
    );
    drop(open);
    let Folder { mount, .. } = folder;
    mount.ends();
}

#[test]
fn sigterm_uploads_what_is_open_unmounts_and_ends_well() {
    let folder = Folder::start();
    let mut open = File::create(folder.at("open.txt")).unwrap();
    open.write_all(b"written, not closed").unwrap();
    folder.mount.signal(Signal::TERM);
    eventually("the folder is no mount any more", Duration::from_secs(30), || {
        if mounts::is_mounted(folder.path()) {
            Err("it is mounted".to_owned())
        } else {
            Ok(())
        }
    });
    assert_eq!(folder.store.get("open.txt").unwrap(), b"written, not closed");
    // The file can be used to its end.
    open.write_all(b", and more").unwrap();
    drop(open);
    let Folder { mount, store, .. } = folder;
    mount.ends();
    assert_eq!(store.get("open.txt").unwrap(), b"written, not closed, and more");
}

#[test]
fn after_kill_9_the_folder_says_so_and_can_be_mounted_again() {
    let folder = Folder::start();
    let second = folder.mount_again("second", &[]);
    fs::write(second.at("closed.txt"), "closed").unwrap();
    let mut synced = File::create(second.at("synced.txt")).unwrap();
    synced.write_all(b"synced").unwrap();
    synced.sync_all().unwrap();
    let path = second.kill();
    let dead = fs::read_dir(&path).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(107), "ENOTCONN, not {dead}");
    drop(synced);

    // Over a dead mount nothing is mounted: it would only be hidden.
    let output = in_background(&folder.store, folder.scratch(), &path);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("process has died"),
        "{told}"
    );
    // What it says is what helps.
    let command = told.split("unmount it first: ").nth(1).unwrap().trim().to_owned();
    assert_eq!(command, format!("umount {}", path_text(&path)));
    run("sh", &["-c", &command]);

    let again = folder.mount_again("second", &[]);
    assert_eq!(names(again.path()), ["closed.txt", "synced.txt"]);
    assert_eq!(fs::read(again.at("synced.txt")).unwrap(), b"synced");
    assert_eq!(folder.store.list(""), ["closed.txt", "synced.txt"]);
    again.unmount();
    // Staged files have no names, so the one that was killed has left none.
    let staging = folder.scratch().join("second-cache/staging");
    assert_eq!(names(&staging), Vec::<String>::new());
}

#[test]
fn a_mount_tells_how_it_does_and_what_is_none_is_told_so() {
    let folder = Folder::start();
    folder.store.put("large", vec![7_u8; 3 << 20]);
    assert_eq!(fs::read(folder.at("large")).unwrap().len(), 3 << 20);
    fs::write(folder.at("new.txt"), "typed here").unwrap();
    names(folder.path());
    let asked = |path: &Path, format: &str| {
        mooring_fs(&folder.store)
            .args(["status", path_text(path), "--format", format])
            .output()
            .unwrap()
    };
    let told = |format: &str| String::from_utf8(asked(folder.path(), format).stdout).unwrap();
    let table = told("table");
    for part in [
        "0 open, 0 not in the store yet",
        "3.0 MiB received, 10 bytes sent",
        "listings   1 by the store",
        "REQUEST",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&told("json")).unwrap();
    assert_eq!(json["received_bytes"], 3 << 20, "{json}");
    assert_eq!(json["requests"]["put"]["count"], 1, "{json}");
    assert!(json["requests"]["get"]["count"].as_u64() >= Some(1), "{json}");
    assert!(json["reads_waited"].as_u64() >= Some(1), "{json}");
    let prometheus = told("prometheus");
    assert!(prometheus.contains(",kind=\"put\"} 1\n"), "{prometheus}");
    // Only the mount itself says so, and copying its folder carries nothing along.
    for (path, remedy) in [
        (folder.at("new.txt"), "findmnt"),
        (folder.scratch().to_owned(), "findmnt"),
        (folder.at("absent"), "No such file"),
    ] {
        let refused = asked(&path, "table");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(remedy), "{said}");
    }
    let listed = run(
        "getfattr",
        &["--absolute-names", "-d", "-m", "-", path_text(folder.path())],
    );
    assert!(!listed.contains("mooring.status"), "{listed}");
}

#[test]
fn a_store_with_a_certificate_of_its_own_is_trusted_when_told_and_only_then() {
    let folder = scratch();
    let (certificate, key) = certificate(folder.path());
    let store = with_tls(folder.path(), &certificate, &key);
    assert!(store.endpoint.starts_with("https://"), "{}", store.endpoint);
    let target = folder.path().join("mount");
    fs::create_dir(&target).unwrap();
    let output = in_background(&store, folder.path(), &target);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{told}");
    assert!(!output.status.success() && told.contains("--ca-file"), "{told}");

    let trusting = Folder::over(|_| store, &["--ca-file", &certificate]);
    let source = trusting.scratch().join("source");
    crate::survival::random_file(&source, 20 << 20);
    run("cp", &[path_text(&source), path_text(&trusting.at("copied"))]);
    // Nothing of the first mount's memory helps the second.
    let other = trusting.mount_again("other", &["--ca-file", &certificate]);
    run("cmp", &[path_text(&source), path_text(&other.at("copied"))]);
}

#[test]
fn who_is_not_root_mounts_with_fusermount3() {
    // The device is often for root only where nobody but root mounts, so the user gets one of his own, in a mount
    // namespace that ends with the script. Nothing else of the machine is changed.
    let folder = scratch();
    let store = Store::start(folder.path(), Ipv4Addr::LOCALHOST, "lake");
    store.put("before.txt", "before");
    let script = r#"
        set -eu
        mount -t tmpfs tmpfs /mnt
        mkdir /mnt/target /mnt/cache
        mknod /mnt/fuse c 10 229 && chmod 666 /mnt/fuse
        mount --bind /mnt/fuse /dev/fuse
        touch /mnt/mooring-fs && mount --bind "$PROGRAM" /mnt/mooring-fs
        grep -q '^mooring-anna:' /etc/passwd || {
            { cat /etc/passwd; echo mooring-anna:x:61001:61001::/nonexistent:/bin/sh; } >/mnt/passwd
            mount --bind /mnt/passwd /etc/passwd
        }
        chown 61001:61001 /mnt/target /mnt/cache
        exec setpriv --reuid 61001 --regid 61001 --clear-groups --inh-caps=-all sh -euc '
            /mnt/mooring-fs mount lake /mnt/target --endpoint "$ENDPOINT" --cache-dir /mnt/cache
            grep " /mnt/target fuse" /proc/self/mounts
            cat /mnt/target/before.txt
            stat -c " owned by %u:%g" /mnt/target/before.txt
            echo after >/mnt/target/after.txt
            fusermount3 -u /mnt/target
            until grep "the bucket is unmounted" /mnt/cache/mooring-fs.log; do sleep 0.05; done
            if /mnt/mooring-fs mount lake /mnt/target --endpoint "$ENDPOINT" --cache-dir /mnt/cache --allow-other; then
                fusermount3 -u /mnt/target
                echo "--allow-other is allowed"
            fi 2>&1
            /mnt/mooring-fs mount lake /mnt/target --endpoint "$ENDPOINT" --cache-dir /mnt/cache
            if /mnt/mooring-fs mount lake /mnt/target --endpoint "$ENDPOINT" --cache-dir /mnt/cache; then exit 1; fi 2>&1
            server=$(pgrep -U 61001 -f "mount lake /mnt/target .*--background[-]part")
            kill -KILL $server
            while ls /mnt/target >/dev/null 2>&1; do sleep 0.05; done
            if /mnt/mooring-fs mount lake /mnt/target --endpoint "$ENDPOINT" --cache-dir /mnt/cache; then exit 1; fi 2>&1
            fusermount3 -u /mnt/target
            if /mnt/mooring-fs mount lake /usr --endpoint "$ENDPOINT" --cache-dir /mnt/cache; then exit 1; fi 2>&1
        '
    "#;
    let output = Command::new("timeout")
        .args([
            "120",
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
        ])
        .env("PROGRAM", program("mooring-fs"))
        .env("ENDPOINT", &store.endpoint)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", &store.secret)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for word in [
        "before owned by 61001:61001",
        "user_allow_other",
        "the folder must be yours",
        "/mnt/target is a mount of lake already",
        "whose process has died\n  unmount it first: fusermount3 -u /mnt/target\n",
    ] {
        assert!(said.contains(word), "«{word}» is missing in:\n{said}");
    }
    assert_eq!(store.get("after.txt").unwrap(), b"after\n");
}

/// Mounts as people do most: without `--foreground`.
fn in_background(store: &Store, folder: &Path, target: &Path) -> Output {
    mooring_fs(store)
        .args([
            "mount",
            &store.bucket,
            path_text(target),
            "--endpoint",
            &store.endpoint,
        ])
        .arg("--cache-dir")
        .arg(folder.join("cache"))
        .output()
        .unwrap()
}

/// The process that serves a mount in the background.
fn server_of(target: &Path) -> u32 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let found: Vec<u32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("mooring-fs") && line.contains(path_text(target))
        })
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

/// Waits until a process that is nobody's child here is gone.
fn ended(pid: u32) {
    eventually(
        "the program ends when it is unmounted",
        Duration::from_secs(30),
        || {
            // A zombie has ended, too: whoever adopted it in a container may not ask.
            match fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => Err(stat),
                Ok(_) | Err(_) => Ok(()),
            }
        },
    );
}

/// A certificate that nobody knows, and its key.
fn certificate(folder: &Path) -> (String, String) {
    let at = |name: &str| path_text(&folder.join(name)).to_owned();
    let (certificate, key) = (at("store.crt"), at("store.pem"));
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=store \
        -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let mut arguments: Vec<&str> = request.split_whitespace().collect();
    arguments.extend(["-keyout", &key, "-out", &certificate]);
    run("openssl", &arguments);
    (certificate, key)
}

/// Our own server over TLS.
fn with_tls(folder: &Path, certificate: &str, key: &str) -> Store {
    let secret = planted_secret();
    let secret_file = folder.join("store.key");
    fs::write(&secret_file, &secret).unwrap();
    let mut command = Command::new(program("mooring-test-s3"));
    command
        .args(["--listen", "127.0.0.1:0", "--memory", "--bucket", "lake"])
        .args([
            "--tls-cert",
            certificate,
            "--tls-key",
            key,
            "--access-key",
            ACCESS_KEY_ID,
        ])
        .arg("--secret-key-file")
        .arg(&secret_file);
    let mut process = Process::start("store", folder, command);
    let endpoint = process.says("listens on ");
    fs::remove_file(secret_file).unwrap();
    Store::new(process, None, endpoint, "lake", secret)
}
