//! The breaker over an endpoint that lives and dies by a switch, with fifty times less patience.

use std::future::pending;

use super::*;

/// So long a question to a dead endpoint takes here.
const PROBE: Duration = Duration::from_millis(100);

const TIMING: Timing = Timing {
    suspicion: Duration::from_millis(100),
    pause_min: Duration::from_millis(5),
    pause_max: Duration::from_millis(100),
    spacing: Duration::from_millis(2),
    grace: Duration::from_millis(10),
};

/// Generous, for a loaded machine: whoever hangs here hangs for ever.
const HANG: Duration = Duration::from_secs(20);

struct Endpoint {
    alive: Arc<AtomicBool>,
    breaker: Breaker,
}

/// A dead endpoint.
fn endpoint() -> Endpoint {
    let alive = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&alive);
    let probe: Probe = Arc::new(move || {
        let switch = Arc::clone(&switch);
        Box::pin(async move {
            let lives = switch.load(Ordering::Relaxed);
            if !lives {
                tokio::time::sleep(PROBE).await;
            }
            lives
        })
    });
    let breaker = Breaker::new(TIMING, Pulse::new(), probe);
    Endpoint { alive, breaker }
}

async fn refused(breaker: &Breaker) -> Result<(), StoreError> {
    let error = StoreError::Unavailable {
        reason: "refused".to_owned(),
    };
    breaker.watch(None, async { Err(error) }).await
}

/// What becomes of an operation that never ends by itself.
async fn hanging(breaker: &Breaker) -> Result<(), StoreError> {
    let ends = breaker.watch(None, pending());
    tokio::time::timeout(HANG, ends).await.expect("it ends")
}

async fn becomes(breaker: &Breaker, open: bool) {
    let mut failures = breaker.shared.failures.subscribe();
    let changed = failures.wait_for(|failures| (*failures > 0) == open);
    tokio::time::timeout(HANG, changed)
        .await
        .expect("it changes")
        .expect("the breaker is here");
}

#[tokio::test]
async fn after_a_failure_without_any_answer_others_fail_at_once_until_somebody_answers() {
    let Endpoint { alive, breaker } = endpoint();
    assert!(refused(&breaker).await.is_err());
    becomes(&breaker, true).await;
    let began = false;
    let next: Result<(), _> = breaker.watch(None, async { unreachable!("{began}") }).await;
    assert!(matches!(next, Err(StoreError::Unavailable { .. })), "{next:?}");

    alive.store(true, Ordering::Relaxed);
    becomes(&breaker, false).await;
    assert!(matches!(breaker.watch(None, async { Ok(7) }).await, Ok(7)));
}

#[tokio::test]
async fn an_operation_finds_an_endpoint_that_is_back_by_asking() {
    let Endpoint { alive, breaker } = endpoint();
    assert!(refused(&breaker).await.is_err());
    becomes(&breaker, true).await;
    alive.store(true, Ordering::Relaxed);
    // One question may be under way whose answer does not come any more.
    let asked = tokio::time::timeout(HANG, async {
        while breaker.watch(None, async { Ok(()) }).await.is_err() {}
    });
    asked.await.expect("it heals while it is asked");
}

#[tokio::test]
async fn whoever_waits_is_ended_when_it_turns_out_that_nobody_answers() {
    let Endpoint { alive: _, breaker } = endpoint();
    let (one, other) = tokio::join!(hanging(&breaker), hanging(&breaker));
    for result in [one, other] {
        assert!(
            matches!(result, Err(StoreError::Unavailable { .. })),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn a_failure_with_an_answer_is_no_reason_to_ask() {
    let Endpoint { alive: _, breaker } = endpoint();
    let pulse = breaker.shared.pulse.clone();
    let answered: Result<(), _> = breaker
        .watch(None, async {
            pulse.heard();
            Err(StoreError::Unavailable {
                reason: "500".to_owned(),
            })
        })
        .await;
    assert!(answered.is_err());
    let denied: Result<(), _> = breaker
        .watch(None, async { Err(StoreError::Denied { code: String::new() }) })
        .await;
    assert!(denied.is_err());
    assert!(!breaker.shared.probing.load(Ordering::Relaxed));
}

#[tokio::test]
async fn an_endpoint_that_answers_the_question_is_not_given_up() {
    let Endpoint { alive, breaker } = endpoint();
    alive.store(true, Ordering::Relaxed);
    assert!(refused(&breaker).await.is_err());
    tokio::time::timeout(HANG, async {
        while breaker.shared.probing.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the question is answered");
    assert_eq!(*breaker.shared.failures.borrow(), 0);
    assert!(matches!(breaker.watch(None, async { Ok(1) }).await, Ok(1)));
}

#[tokio::test]
async fn a_deadline_holds_while_others_are_answered() {
    let Endpoint { alive: _, breaker } = endpoint();
    let pulse = breaker.shared.pulse.clone();
    let chatter = async {
        loop {
            pulse.heard();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waiting = breaker.watch::<()>(Some(TIMING.suspicion * 3), pending());
    let result = tokio::select! {
        result = waiting => result,
        () = chatter => unreachable!("it never ends"),
    };
    assert!(matches!(result, Err(StoreError::DeadlineExceeded)), "{result:?}");
}
