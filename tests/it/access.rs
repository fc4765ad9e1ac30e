//! Who may do what, and what a refusal says.

use mooring_tests::World;
use mooring_tests::store::ACCESS_KEY_ID;

#[test]
fn without_the_role_a_refusal_names_the_missing_permission() {
    let world = World::start();
    let anna = world.person("anna");
    world
        .operator
        .mooring("access update projects/ml --add user:anna=viewer");
    let key = world.secret_file();
    let refusal = anna.refused(&format!(
        "secrets create more --project ml --secret-access-key-file {}",
        key.display()
    ));
    std::fs::remove_file(key).unwrap();
    assert!(refusal.contains("secrets.create"), "{refusal}");
    let explained = anna.mooring("access explain projects/ml --permission secrets.create");
    assert!(explained.to_lowercase().contains("developer"), "{explained}");
    assert!(anna.mooring("connectors list --project ml").contains("lake"));
}

#[test]
fn a_hidden_and_an_absent_resource_answer_the_same_bytes() {
    let world = World::start();
    let anna = world.person("anna");
    let hidden = anna.refused("connectors get ml/lake");
    let absent = anna.refused("connectors get ml/reef");
    assert_eq!(hidden.replace("lake", "reef"), absent);
    let hidden = anna.refused("projects get ml");
    let absent = anna.refused("projects get mm");
    assert_eq!(hidden.replace("ml", "mm"), absent);
}

#[test]
fn publishing_needs_both_roles() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let operator = &world.operator;
    operator.mooring("communities create ops");
    operator.mooring("communities create arts");
    let anna = world.person("anna");
    let publish = |community: &str| format!("publications publish ml/lake --community {community}");

    world
        .operator
        .mooring("access update projects/ml --add user:anna=editor");
    let refusal = anna.refused(&publish("research"));
    assert!(refusal.contains("communities/research"), "{refusal}");

    world
        .operator
        .mooring("access update projects/ml --remove user:anna=editor --add user:anna=developer");
    world
        .operator
        .mooring("access update communities/research --add user:anna=developer");
    let refusal = anna.refused(&publish("research"));
    assert!(refusal.contains("projects/ml"), "{refusal}");

    // Viewer of the project's own community, Editor of the project: publishes where she is Developer, not at home.
    world.operator.run(&[
        "access",
        "update",
        "communities/research",
        "--remove",
        "user:anna=developer",
        "--add",
        "user:anna=viewer",
    ]);
    world
        .operator
        .mooring("access update projects/ml --add user:anna=editor");
    world
        .operator
        .mooring("access update communities/ops --add user:anna=developer");
    world
        .operator
        .mooring("access update communities/arts --add user:anna=developer");
    anna.mooring(&publish("ops"));
    anna.mooring(&publish("arts"));
    anna.refused(&publish("research"));

    // What is offered in `ops` is used by a project there, and read only if so offered.
    world
        .operator
        .mooring("publications update ops/lake --max-mode read-only");
    world.operator.mooring("projects create web --community ops");
    world
        .operator
        .mooring("imports create pond --project web --publication ops/lake");
    let host = world.host();
    world
        .operator
        .mooring("activations create --import web/pond --pool desks");
    let folder = host.path("web", "pond");
    world.mounted_at(&folder);
    assert_eq!(std::fs::read(folder.join("kept.txt")).unwrap(), b"kept");
    let refusal = std::fs::write(folder.join("no.txt"), "no").unwrap_err();
    assert_eq!(refusal.raw_os_error(), Some(30), "EROFS, not {refusal}");

    // A withdrawal waits for the import, unless it is told not to.
    let refusal = anna.refused("publications withdraw ops/lake");
    assert!(refusal.contains("active"), "{refusal}");
    anna.mooring("publications withdraw ops/lake --withdrawal force");
    mooring_tests::eventually(
        "a forced withdrawal unmounts",
        std::time::Duration::from_secs(20),
        || {
            if mooring_tests::mounts::is_mounted(&folder) {
                Err("still mounted".to_owned())
            } else {
                Ok(())
            }
        },
    );
}

#[test]
fn a_connector_that_cannot_be_is_refused_with_its_fields_and_nothing_is_stored() {
    let world = World::start();
    let create = |id: &str, endpoint: &str, bucket: &str, mount: &str| {
        let key = world.secret_file();
        let refusal = world.operator.refused(&format!(
            "connectors create {id} --project ml --endpoint {endpoint} --bucket={bucket} --mount-name {mount} \
             --access-key-id {ACCESS_KEY_ID} --new-secret-key-file {}",
            key.display(),
        ));
        std::fs::remove_file(key).unwrap();
        refusal
    };
    let good = world.store.endpoint.clone();
    for (endpoint, bucket, mount, field) in [
        (good.as_str(), "dotted.bucket", "fine", "--bucket"),
        (good.as_str(), "--help", "fine", "--bucket"),
        (good.as_str(), "fine", "..", "--mount-name"),
        (good.as_str(), "fine", "../../etc", "--mount-name"),
        ("https://s3.example.com/a/path", "fine", "fine", "--endpoint"),
        ("https://user:word@s3.example.com", "fine", "fine", "--endpoint"),
        ("https://169.254.169.254", "fine", "fine", "--endpoint"),
    ] {
        let refusal = create("bad", endpoint, bucket, mount);
        assert!(refusal.contains(field), "{endpoint} {bucket} {mount}: {refusal}");
    }
    let connectors = world.operator.json("connectors list --project ml");
    let names: Vec<_> = connectors
        .as_array()
        .or(connectors["connectors"].as_array())
        .unwrap()
        .iter()
        .collect();
    assert_eq!(names.len(), 1, "only the world's own is stored: {connectors}");
    let secrets = world.operator.mooring("secrets list --project ml");
    assert!(!secrets.contains("bad"), "{secrets}");

    // A lone trailing slash is a habit, not a mistake.
    let key = world.secret_file();
    world.operator.mooring(&format!(
        "connectors create slash --project ml --endpoint {good}/ --bucket lake --mount-name slash \
         --access-key-id {ACCESS_KEY_ID} --new-secret-key-file {}",
        key.display(),
    ));
    std::fs::remove_file(key).unwrap();
    assert_eq!(
        world.operator.json("connectors get ml/slash")["endpoint"],
        good.as_str()
    );
}

#[test]
fn a_connector_says_all_of_itself_and_where_it_is_mounted() {
    let mut world = World::start();
    let before = world.operator.json("connectors get ml/lake");
    for field in [
        "name",
        "endpoint",
        "bucket",
        "mountName",
        "accessKeyId",
        "mode",
        "backend",
        "creator",
        "createTime",
        "updateTime",
    ] {
        assert!(before.get(field).is_some(), "{field} is missing in {before}");
    }
    assert!(before["createTime"].as_str().unwrap().ends_with('Z'), "{before}");
    let host = world.host();
    let mount = world.activate(&host);
    world.activation_is(&mount.activation, "ACTIVE");
    let after = world.operator.json("connectors get ml/lake");
    assert_eq!(
        after["mounts"][0]["host"],
        format!("hosts/{}", host.id).as_str(),
        "{after}"
    );
    assert_eq!(
        after["mounts"][0]["path"],
        mount.path.to_str().unwrap(),
        "{after}"
    );

    let refusal = world.operator.refused("connectors delete ml/lake");
    assert!(
        refusal.contains("lake-desks"),
        "it names what is active: {refusal}"
    );
}
