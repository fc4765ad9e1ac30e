//! The table of rules against the protos, and as a matrix that is reviewed as text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use prost_reflect::DescriptorPool;

use super::rules::{Access, NEEDS, Operators, RULES};
use super::{Caller, Identity, least_role, role_holds};
use crate::domain::access::{Role, Standing};
use crate::domain::names::Scope;

fn rpcs() -> BTreeSet<String> {
    let pool = DescriptorPool::decode(mooring_proto::DESCRIPTORS).unwrap();
    pool.services()
        .filter(|service| service.package_name().starts_with("mooring."))
        .filter(|service| service.package_name() != "mooring.local.v1")
        .flat_map(|service| {
            service
                .methods()
                .map(|method| format!("{}/{}", service.full_name(), method.name()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_rpc_has_one_rule_and_every_rule_an_rpc() {
    let rpcs = rpcs();
    assert!(rpcs.len() > 50, "the descriptors hold our services");
    let ruled: BTreeSet<String> = RULES
        .iter()
        .map(|rule| rule.rpc.to_owned())
        .filter(|rpc| rpc.starts_with("mooring."))
        .collect();
    assert_eq!(
        rpcs.difference(&ruled).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "rpcs without a rule"
    );
    assert_eq!(
        ruled.difference(&rpcs).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "rules without an rpc"
    );
    assert_eq!(
        RULES.len(),
        RULES.iter().map(|rule| rule.rpc).collect::<BTreeSet<_>>().len(),
        "two rules for an rpc"
    );
}

#[test]
fn every_permission_that_a_rule_asks_for_has_its_row_and_its_own_name() {
    for rule in RULES {
        let permissions = match rule.access {
            Access::With(permission) => vec![permission],
            Access::WithAll(permissions) | Access::WithAny(permissions) => permissions.to_vec(),
            Access::Anybody | Access::ExpiredUser | Access::User | Access::Host => Vec::new(),
        };
        for permission in permissions {
            assert!(
                NEEDS.iter().any(|need| need.permission == permission),
                "{permission:?} of {}",
                rule.rpc
            );
        }
    }
    assert_eq!(
        NEEDS.len(),
        NEEDS.iter().map(|need| need.name).collect::<BTreeSet<_>>().len()
    );
    for need in NEEDS {
        assert_eq!(
            need.permission.need().name,
            need.name,
            "one row for each permission"
        );
        let anywhere =
            need.project.is_some() || need.community.is_some() || need.operators != Operators::Never;
        assert!(anywhere, "{} can be had by nobody", need.name);
    }
}

#[test]
fn no_rpc_reads_a_secret_value() {
    let pool = DescriptorPool::decode(mooring_proto::DESCRIPTORS).unwrap();
    for service in pool
        .services()
        .filter(|service| service.package_name() == "mooring.v1")
    {
        for method in service.methods() {
            let mut seen = BTreeSet::new();
            let mut open = vec![method.output()];
            while let Some(message) = open.pop() {
                if !seen.insert(message.full_name().to_owned()) {
                    continue;
                }
                for field in message.fields() {
                    assert_ne!(field.name(), "secret_access_key", "{}", method.full_name());
                    open.extend(field.kind().as_message().cloned());
                }
            }
        }
    }
}

/// Role × permission, as `matrix.txt` has it. Run with `MOORING_BLESS=1` to write a new one, and review it.
#[test]
fn the_matrix_of_roles_and_permissions_is_the_reviewed_one() {
    let project = Scope::Project("projects/p".parse().unwrap());
    let community = Scope::Community("communities/c".parse().unwrap());
    let mut text = String::from(
        "Which permission each role gives: on the project (P) or community (C) that it is given on, and through the\n\
         community on its projects (C→P). Last, where Operator gives it: on the realm only, or everywhere.\n\n",
    );
    let roles = [Role::Viewer, Role::Developer, Role::Editor, Role::Admin];
    let mut header = format!("{:<30}", "permission");
    for kind in ["P", "C", "C→P"] {
        for role in roles {
            write!(header, " {:>6}", format!("{kind}:{}", &role.as_str()[..2])).unwrap();
        }
    }
    writeln!(text, "{header} operator").unwrap();
    for need in NEEDS {
        write!(text, "{:<30}", need.name).unwrap();
        let mut cell = |held: bool| write!(text, " {:>6}", if held { "yes" } else { "-" }).unwrap();
        for role in roles {
            cell(role_holds(
                need,
                &project,
                Standing {
                    direct: Some(role),
                    community: None,
                },
            ));
        }
        for role in roles {
            cell(role_holds(
                need,
                &community,
                Standing {
                    direct: Some(role),
                    community: None,
                },
            ));
        }
        for role in roles {
            cell(role_holds(
                need,
                &project,
                Standing {
                    direct: None,
                    community: Some(role),
                },
            ));
        }
        let operators = match need.operators {
            Operators::Never => "-",
            Operators::OnRealm => "realm",
            Operators::OnRealmAndOrphans => "realm, communities without an enabled admin",
            Operators::Anywhere => "everywhere",
        };
        writeln!(text, " {operators}").unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/matrix.txt");
    if std::env::var_os("MOORING_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).unwrap(),
        "review the change and run with MOORING_BLESS=1"
    );
}

#[test]
fn nobody_without_a_role_has_any_permission() {
    for need in NEEDS {
        for scope in ["projects/p", "communities/c", "realm"] {
            let scope: Scope = scope.parse().unwrap();
            assert!(
                !role_holds(need, &scope, Standing::default()),
                "{} on {scope}",
                need.name
            );
        }
    }
}

#[test]
fn the_least_role_of_a_scope_is_what_a_denial_names() {
    let publish = super::rules::Permission::ConnectorsPublish.need();
    assert_eq!(
        least_role(publish, &"projects/p".parse().unwrap()),
        Some(Role::Editor)
    );
    assert_eq!(least_role(publish, &"communities/c".parse().unwrap()), None);
}

#[test]
fn a_certificate_that_has_ended_is_nobody_s() {
    let end = time::OffsetDateTime::UNIX_EPOCH;
    let identity = Identity {
        uid: uuid::Uuid::from_u128(1),
        serial: "1".into(),
        not_after: end,
        key: mooring_identity::KeyPin::of_public_key(b""),
    };
    let user = Caller::User(identity.clone());
    assert!(user.user(end).is_ok());
    assert!(user.user(end + time::Duration::seconds(1)).is_err());
    assert!(user.host(end).is_err());
    assert!(
        Caller::Host(identity)
            .host(end + time::Duration::seconds(1))
            .is_err()
    );
    assert!(Caller::Anybody.user(end).is_err());
}
