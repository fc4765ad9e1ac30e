//! How hosts stop to serve, for a while or for good: cordon, drain, ban, deletion; and how one with an ended certificate
//! comes back.

use std::time::Duration;

use agent_pb::enrollment_service_server::EnrollmentService as _;
use mooring_identity::{StatementKind, statement};
use mooring_proto::agent::v1 as agent_pb;
use mooring_proto::v1 as pb;
use pb::HostState;
use pb::host_service_server::HostService as _;
use prost::Message;
use tonic::{Code, Status};

use crate::domain::activation::MountState;
use crate::domain::host::HostFacts;
use crate::domain::mount::{ObservedMount, ReportedAt};
use crate::policy::Caller;
use crate::testing::fleet::{Keys, TestHost, mount};
use crate::testing::{World, request, wrong_fields};

const REPORTS: &str = "projects/ml/connectors/reports";
const LOGS: &str = "projects/ml/connectors/logs";

/// Two connectors, active on a pool of two hosts.
async fn world() -> (World, TestHost, TestHost) {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.connector("reports", "ml", &world.operator).await;
    world.connector("logs", "ml", &world.operator).await;
    world.pool("gpu").await;
    let one = world.host("gpu-1", "gpu").await;
    let two = world.host("gpu-2", "gpu").await;
    world.activate(&world.operator, REPORTS, "gpu").await.unwrap();
    (world, one, two)
}

impl World {
    async fn shown(&self, host: &TestHost) -> pb::Host {
        let body = pb::GetHostRequest {
            name: host.name.clone(),
        };
        let shown = self.api.get_host(request(&self.operator, body)).await;
        shown.unwrap().into_inner()
    }

    async fn cordon(&self, host: &TestHost) -> pb::Host {
        let body = pb::CordonHostRequest {
            name: host.name.clone(),
        };
        let host = self.api.cordon_host(request(&self.operator, body)).await;
        host.unwrap().into_inner()
    }

    async fn uncordon(&self, host: &TestHost) -> Result<pb::Host, Status> {
        let body = pb::UncordonHostRequest {
            name: host.name.clone(),
        };
        let host = self.api.uncordon_host(request(&self.operator, body)).await;
        host.map(tonic::Response::into_inner)
    }

    async fn drain(&self, host: &TestHost) -> pb::Host {
        self.drain_within(host, None).await
    }

    async fn drain_within(&self, host: &TestHost, grace: Option<Duration>) -> pb::Host {
        let body = pb::DrainHostRequest {
            name: host.name.clone(),
            grace: grace.map(|grace| grace.try_into().unwrap()),
        };
        let host = self.api.drain_host(request(&self.operator, body)).await;
        host.unwrap().into_inner()
    }

    async fn ban(&self, host: &TestHost) -> pb::Host {
        let body = pb::BanHostRequest {
            name: host.name.clone(),
            reason: "stolen".into(),
        };
        let host = self.api.ban_host(request(&self.operator, body)).await;
        host.unwrap().into_inner()
    }

    async fn delete(&self, host: &TestHost, force: bool) -> Result<(), Status> {
        let body = pb::DeleteHostRequest {
            name: host.name.clone(),
            etag: String::new(),
            force,
        };
        let deleted = self.api.delete_host(request(&self.operator, body)).await;
        deleted.map(drop)
    }

    async fn nonce(&self, host_uid: String) -> Vec<u8> {
        let begun = self
            .api
            .begin_recovery(request(
                &Caller::Anybody,
                agent_pb::BeginRecoveryRequest { host_uid },
            ))
            .await;
        begun.unwrap().into_inner().nonce
    }

    async fn recover(&self, host: &TestHost, keys: &Keys) -> Result<agent_pb::RecoverResponse, Status> {
        let nonce = self.nonce(host.uid.to_string()).await;
        self.recover_with(host, keys, nonce).await
    }

    async fn recover_with(
        &self,
        host: &TestHost,
        keys: &Keys,
        nonce: Vec<u8>,
    ) -> Result<agent_pb::RecoverResponse, Status> {
        let said = [host.uid.as_bytes().as_slice(), &nonce].concat();
        let body = agent_pb::RecoverRequest {
            host_uid: host.uid.to_string(),
            signature: keys
                .key
                .sign(&StatementKind::Recovery.signed_bytes(&said))
                .unwrap(),
            nonce,
            csr_pem: keys.csr_pem.clone(),
        };
        let answer = self.api.recover(request(&Caller::Anybody, body)).await;
        answer.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn a_cordoned_host_keeps_what_it_has_and_gets_the_rest_when_it_takes_mounts_again() {
    let (world, one, two) = world().await;
    let cordoned = world.cordon(&one).await;
    assert!(cordoned.unschedulable);
    assert!(
        cordoned.message.contains("hosts uncordon gpu-1"),
        "{}",
        cordoned.message
    );
    let activated = world.activate(&world.operator, LOGS, "gpu").await.unwrap();
    assert!(
        activated
            .message
            .ends_with("1 host of the pool takes no new mounts and is left out: hosts/gpu-1"),
        "{}",
        activated.message
    );
    assert_eq!(one.orders_since(&world, 0).await.assignments.len(), 1);
    assert_eq!(two.orders_since(&world, 0).await.assignments.len(), 2);
    assert!(one.orders_since(&world, 0).await.removals.is_empty());
    assert_eq!(world.shown(&one).await.state(), HostState::Ready);
    let back = world.uncordon(&one).await.unwrap();
    assert!(!back.unschedulable && back.message.is_empty());
    let activated = world.activation(&world.operator, &activated.name).await;
    assert!(!activated.message.contains("left out"), "{}", activated.message);
    assert_eq!(one.orders_since(&world, 0).await.assignments.len(), 2);
}

#[tokio::test]
async fn a_drained_host_tells_how_far_it_is_and_its_activations_go_on_without_it() {
    let (world, one, two) = world().await;
    let activation = world.activate(&world.operator, LOGS, "gpu").await.unwrap().name;
    for host in [&one, &two] {
        let orders = host.orders_since(&world, 0).await;
        let mounts = orders.assignments.iter();
        let mounts: Vec<_> = mounts
            .map(|sealed| mount(&sealed.assignment, MountState::Mounted))
            .collect();
        host.report(&world, &mounts).await;
    }
    let draining = world.drain(&one).await;
    assert_eq!((draining.state(), draining.mount_count), (HostState::Draining, 2));
    assert!(
        draining.message.contains("waits for projects/ml/activations/"),
        "{}",
        draining.message
    );
    let orders = one.orders_since(&world, 0).await;
    assert_eq!((orders.assignments.len(), orders.removals.len()), (0, 2));
    let order = orders.removals[0].removal.clone().unwrap();
    assert_eq!(
        (order.reason, order.grace),
        ("HostDrained", Duration::from_secs(24 * 3600))
    );
    let seen = world.activation(&world.operator, &activation).await;
    assert_eq!(
        (seen.state(), seen.desired_hosts),
        (pb::ActivationState::Active, 1)
    );

    let left = mount(&orders.removals[1], MountState::Unmounting);
    one.report(&world, std::slice::from_ref(&left)).await;
    let draining = world.shown(&one).await;
    assert_eq!((draining.state(), draining.mount_count), (HostState::Draining, 1));
    one.report(&world, &[]).await;
    let drained = world.shown(&one).await;
    assert_eq!((drained.state(), drained.mount_count), (HostState::Drained, 0));
    assert!(drained.drain_time.is_some() && drained.message.is_empty());
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(
        world.shown(&one).await.state(),
        HostState::Drained,
        "it may be off"
    );

    let back = world.uncordon(&one).await.unwrap();
    assert!(back.drain_time.is_none());
    assert_eq!(one.orders_since(&world, 0).await.assignments.len(), 2);
}

#[tokio::test]
async fn a_drain_that_is_called_off_half_way_leaves_nothing_out() {
    let (world, one, _) = world().await;
    world.activate(&world.operator, LOGS, "gpu").await.unwrap();
    let before = one.orders_since(&world, 0).await;
    let mounts: Vec<_> = before
        .assignments
        .iter()
        .map(|sealed| mount(&sealed.assignment, MountState::Mounted))
        .collect();
    one.report(&world, &mounts).await;
    world.drain(&one).await;
    one.report(&world, &mounts[..1]).await;
    assert_eq!(one.orders_since(&world, 0).await.removals.len(), 1);

    let told = world.revision().await;
    world.uncordon(&one).await.unwrap();
    let news = one.orders_since(&world, told).await;
    assert_eq!((news.assignments.len(), news.removals.len()), (2, 0));
    let uids: Vec<_> = news
        .assignments
        .iter()
        .map(|sealed| sealed.assignment.uid)
        .collect();
    assert!(
        uids.contains(&mounts[0].assignment_uid),
        "what it still had, it keeps"
    );
    assert!(!uids.contains(&mounts[1].assignment_uid), "an order of its own");

    // It had unmounted that one, too, before it heard of the change: it shall have it all the same.
    one.report(&world, &[]).await;
    let orders = one.orders_since(&world, 0).await;
    assert_eq!((orders.assignments.len(), orders.removals.len()), (2, 0));
}

#[tokio::test]
async fn an_activation_that_ended_during_a_drain_is_unmounted_also_when_the_drain_is_called_off() {
    let (world, one, _) = world().await;
    let assignment = one.assignment(&world).await.assignment;
    one.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    world.drain(&one).await;
    world
        .deactivate(&world.operator, "projects/ml/activations/reports-gpu")
        .await;
    world.uncordon(&one).await.unwrap();
    let orders = one.orders_since(&world, 0).await;
    assert_eq!((orders.assignments.len(), orders.removals.len()), (0, 1));
}

#[tokio::test]
async fn a_host_with_mounts_is_deleted_only_by_force() {
    let (world, one, _) = world().await;
    let assignment = one.assignment(&world).await.assignment;
    one.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    let refused = world.delete(&one, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("hosts drain gpu-1"),
        "{}",
        refused.message()
    );
    world.delete(&one, true).await.unwrap();
}

#[tokio::test]
async fn a_host_that_was_ordered_to_mount_is_not_deleted_before_it_has_told_that_it_is_rid_of_that() {
    let (world, one, two) = world().await;
    // It has said nothing yet, and would mount after its deletion.
    let refused = world.delete(&one, false).await.unwrap_err();
    assert!(
        refused.message().contains("hosts drain gpu-1"),
        "{}",
        refused.message()
    );
    world.drain(&one).await;
    world.delete(&one, false).await.unwrap_err();
    one.report(&world, &[]).await;
    world.delete(&one, false).await.unwrap();

    // One that is lost may be only cut off.
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(world.shown(&two).await.state(), HostState::Lost);
    let refused = world.delete(&two, false).await.unwrap_err();
    assert!(refused.message().contains("is lost"), "{}", refused.message());
    assert!(
        refused.message().contains("hosts delete gpu-2 --force"),
        "{}",
        refused.message()
    );
    world.delete(&two, true).await.unwrap();
}

#[tokio::test]
async fn an_unmount_that_waits_is_given_the_shorter_grace_of_a_later_order_and_never_a_longer_one() {
    let (world, one, _) = world().await;
    let grace = async || {
        let orders = one.orders_since(&world, 0).await;
        orders.removals[0].removal.as_ref().unwrap().grace
    };
    world.drain(&one).await;
    assert_eq!(grace().await, Duration::from_secs(24 * 3600));
    world.drain_within(&one, Some(Duration::from_secs(60))).await;
    assert_eq!(grace().await, Duration::from_secs(60));
    world.drain(&one).await;
    assert_eq!(grace().await, Duration::from_secs(60));
}

#[tokio::test]
async fn a_banned_host_is_told_so_by_the_ca_and_gets_nothing_any_more() {
    let (world, one, two) = world().await;
    let banned = world.ban(&one).await;
    assert_eq!(
        (banned.state(), banned.message.as_str()),
        (
            HostState::Banned,
            "banned: stolen; it has not reported yet that it carried the ban out: perhaps it has not heard of it"
        )
    );
    let orders = one.orders_since(&world, 0).await;
    assert!(orders.assignments.is_empty() && orders.removals.is_empty());
    let says_so = |signed: &agent_pb::SignedBan| {
        let ca = world.catalog.authority.ca_pem();
        statement::verify_by_ca(ca, StatementKind::Ban, &signed.statement, &signed.signature).unwrap();
        let ban = agent_pb::Ban::decode(signed.statement.as_slice()).unwrap();
        assert_eq!(
            (ban.host_uid, ban.reason.as_str()),
            (one.uid.to_string(), "stolen")
        );
    };
    says_so(&orders.ban.unwrap());
    let renewal = agent_pb::RenewCertificateRequest {
        csr_pem: one.keys.csr_pem.clone(),
    };
    let renewed = world.api.renew_certificate_of_host(&one, renewal).await.unwrap();
    assert_eq!(renewed.certificate_pem, "");
    says_so(&renewed.ban.unwrap());
    let recovered = world.recover(&one, &one.keys).await.unwrap();
    assert_eq!(recovered.certificate_pem, "");
    says_so(&recovered.ban.unwrap());

    assert!(two.orders_since(&world, 0).await.ban.is_none());
    let activation = world
        .activation(&world.operator, "projects/ml/activations/reports-gpu")
        .await;
    assert_eq!(activation.desired_hosts, 1);
    assert_eq!(
        world.uncordon(&one).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(world.ban(&one).await.state(), HostState::Banned, "twice is once");
    let ended = world
        .deactivate(&world.operator, "projects/ml/activations/reports-gpu")
        .await;
    assert!(!ended.message.contains("gpu-1"), "{}", ended.message);
    let refused = world.delete(&one, false).await.unwrap_err();
    assert!(refused.message().contains("never hear"), "{}", refused.message());
    world.delete(&one, true).await.unwrap();
}

/// As [`TestHost::report`], with no mounts left, from a host that says that it has carried its ban out.
async fn report_the_ban_carried_out(world: &World, host: &TestHost) {
    let at = ReportedAt {
        ledger_revision: 0,
        settled_revision: 0,
        holds_still: true,
        ban_carried_out: true,
    };
    // The first report of a stream is looked at first.
    let taken = world.catalog.observe_if_news(&host.identity, vec![], at).await;
    taken.unwrap();
}

#[tokio::test]
async fn a_banned_host_is_deleted_when_it_has_said_that_it_carried_the_ban_out_and_not_before() {
    let (world, one, two) = world().await;
    // It holds something of an earlier name, which no order speaks of, and is drained.
    let assignment = one.assignment(&world).await.assignment;
    let orphan = ObservedMount {
        assignment_uid: uuid::Uuid::from_u128(99),
        ..mount(&assignment, MountState::Orphaned)
    };
    world.drain(&one).await;
    one.report(&world, std::slice::from_ref(&orphan)).await;
    assert_eq!(world.shown(&one).await.state(), HostState::Drained);
    for host in [&one, &two] {
        let banned = world.ban(host).await;
        assert!(
            banned.message.contains("has not reported yet"),
            "{}",
            banned.message
        );
        let refused = world.delete(host, false).await.unwrap_err();
        assert!(refused.message().contains("never hear"), "{}", refused.message());
    }
    // A report that does not say so is not enough, whatever it holds.
    one.report(&world, &[]).await;
    assert!(world.delete(&one, false).await.is_err());
    report_the_ban_carried_out(&world, &one).await;
    report_the_ban_carried_out(&world, &two).await;
    for host in [&one, &two] {
        let banned = world.shown(host).await;
        assert_eq!(
            (banned.message.as_str(), banned.mount_count),
            ("banned: stolen", 0)
        );
        world.delete(host, false).await.unwrap();
    }
}

#[tokio::test]
async fn the_audit_says_what_was_decided_of_a_host() {
    let (world, one, two) = world().await;
    let said = async |method: &str, key: &str| {
        let details = world.audit_details(method).await;
        details[0].get(key).cloned().unwrap_or_default()
    };
    world.drain_within(&one, Some(Duration::from_secs(90))).await;
    assert_eq!(said("DrainHost", "grace_seconds").await, "90");
    world.uncordon(&one).await.unwrap();
    assert_eq!(said("UncordonHost", "unmounts_called_off").await, "1");
    world.ban(&one).await;
    assert_eq!(said("BanHost", "reason").await, "stolen");
    world.delete(&one, true).await.unwrap();
    assert_eq!(said("DeleteHost", "ban").await, "not carried out");
    assert_eq!(said("DeleteHost", "force").await, "true");
    world.ban(&two).await;
    report_the_ban_carried_out(&world, &two).await;
    world.delete(&two, false).await.unwrap();
    let clean = world.audit_details("DeleteHost").await;
    let clean = clean.iter().filter(|details| details["ban"] == "carried out");
    assert_eq!(
        clean.map(|details| details["force"].as_str()).collect::<Vec<_>>(),
        ["false"]
    );
}

impl crate::api::Api {
    /// People's service has a call of the same name.
    async fn renew_certificate_of_host(
        &self,
        host: &TestHost,
        body: agent_pb::RenewCertificateRequest,
    ) -> Result<agent_pb::RenewCertificateResponse, Status> {
        let caller = Caller::Host(host.identity.clone());
        agent_pb::enrollment_service_server::EnrollmentService::renew_certificate(
            self,
            request(&caller, body),
        )
        .await
        .map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn the_keys_of_a_banned_host_join_no_more_and_use_up_no_token() {
    let (world, one, _) = world().await;
    world.ban(&one).await;
    let token = world.token("gpu", 1).await;
    let refused = world.enroll(&token, &one.keys, "gpu-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("hosts/gpu-1, which is banned"),
        "{}",
        refused.message()
    );
    // Also one of the two keys would open what was sealed for it, or speak for it.
    let banned = one.uid.to_string();
    let half = Keys {
        hpke: one.keys.hpke,
        ..Keys::new()
    };
    let refused = world.enroll(&token, &half, "gpu-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let anew = world.enroll(&token, &Keys::new(), "gpu-1").await.unwrap();
    assert_ne!(anew.host_uid, banned);
}

#[tokio::test]
async fn a_host_with_an_ended_certificate_recovers_with_its_own_key_and_a_fresh_nonce_only() {
    let (mut world, one, two) = world().await;
    world.clock.advance(Duration::from_secs(90 * 24 * 3600));
    if let Caller::User(operator) = &mut world.operator {
        operator.not_after = world.clock.now() + time::Duration::days(1);
    }
    assert!(
        world
            .catalog
            .greet(&one.identity, HostFacts::default(), &[])
            .await
            .is_err()
    );
    let recovered = world.recover(&one, &one.keys).await.unwrap();
    assert_eq!(
        recovered.expire_time.unwrap().seconds,
        world.clock.now().unix_timestamp() + 24 * 3600
    );
    assert!(recovered.certificate_pem.contains("BEGIN CERTIFICATE") && recovered.ban.is_none());
    // A reply that was lost is asked for again.
    world.recover(&one, &one.keys).await.unwrap();

    assert_eq!(world.audited("Recover").await, 2);

    // Who has not its key does not even learn that there is such a host.
    let nobody = TestHost {
        uid: uuid::Uuid::from_u128(7),
        name: "hosts/nobody".into(),
        identity: one.identity.clone(),
        keys: Keys::new(),
    };
    let nobody_is = world.recover(&nobody, &nobody.keys).await.unwrap_err();
    let unknown = nobody_is
        .message()
        .replace(&nobody.uid.to_string(), &one.uid.to_string());
    for keys in [&Keys::new(), &two.keys] {
        let refused = world.recover(&one, keys).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (nobody_is.code(), unknown.as_str())
        );
    }
    let forged = Keys {
        csr_pem: one.keys.csr_pem.clone(),
        ..Keys::new()
    };
    let refused = world.recover(&one, &forged).await.unwrap_err();
    assert_eq!(wrong_fields(&refused)[0].0, "signature");
    let others = world.nonce(two.uid.to_string()).await;
    let refused = world.recover_with(&one, &one.keys, others).await.unwrap_err();
    assert_eq!(wrong_fields(&refused)[0].0, "nonce");
    let late = world.nonce(one.uid.to_string()).await;
    world.clock.advance(Duration::from_secs(120));
    let refused = world.recover_with(&one, &one.keys, late).await.unwrap_err();
    assert_eq!(wrong_fields(&refused)[0].0, "nonce");

    world.delete(&one, true).await.unwrap();
    let deleted = world.recover(&one, &one.keys).await.unwrap_err();
    assert_eq!(deleted.code(), Code::FailedPrecondition);
    assert!(
        deleted.message().contains("mooring-agent enroll"),
        "{}",
        deleted.message()
    );
}
