//! A subscription that is paused, on real queues: by its kill switch while a downstream is away, and by letters that cannot
//! be stored.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;
use tokio::time::{Instant, timeout, timeout_at};

use crate::support::handler::{Handler, number};
use crate::support::scene::{Scene, Sidecar};

const PAUSED: v1::SubscriptionState = v1::SubscriptionState::Paused;
const ACTIVE: v1::SubscriptionState = v1::SubscriptionState::Active;

async fn fill(sidecar: &Sidecar, backlog: usize) {
    let messages = (0..backlog).map(crate::support::publisher::numbered);
    let (confirmed, failures) = sidecar.publisher().await.stream(messages, 500).await;
    assert_eq!((confirmed.len(), failures.len()), (backlog, 0));
}

/// Fails everything until then; answers how many deliveries came.
async fn fail_all(handler: &mut Handler, until: Instant) -> usize {
    let mut came = 0;
    loop {
        let got = handler.take_deliveries();
        if !got.is_empty() {
            came += got.len();
            let retry = v1::Retry { delay: None, reason: "AWAY".to_owned(), description: String::new() };
            handler.settle(&got, Verdict::Retry(retry)).await;
        }
        if timeout_at(until, handler.take_frame()).await.is_err() {
            return came;
        }
    }
}

/// failures.md M4.
#[tokio::test]
async fn of_a_backlog_of_100_000_a_downstream_that_is_away_sees_a_few_and_all_once_it_is_back() {
    for (queue_type, backlog) in [("quorum", 100_000_u32), ("classic", 10_000)] {
        let scene = Scene::new().await;
        let other = format!("[queues.other]\nqueue = \"{}\"\nbindings = [\"#\"]\n", scene.name("other"));
        let switch = "[retry]\nmax_attempts = 1000\nmin_backoff = \"100ms\"\n[retry.kill_switch]\nmin_pause = \"2s\"\n\
                      max_pause = \"4s\"\n";
        let work = scene.work(&format!("queue_type = \"{queue_type}\""));
        let mut sidecar = scene.sidecar(&[&work, &other, switch].concat()).await;
        let numbers = 0..usize::try_from(backlog).expect("small");
        fill(&sidecar, numbers.end).await;
        let mut handler = sidecar.handler().await;
        let begun = Instant::now();
        let mut others = Handler::open(sidecar.channel().await, Handler::of("other")).await;
        let away = begun + Duration::from_secs(12);
        let all_of_other = async {
            others.handle_all(numbers.clone().collect()).await;
            Instant::now()
        };
        let (came, other_done) = tokio::join!(fail_all(&mut handler, away), all_of_other);
        // The window that was out when it opened, and a probe every few seconds.
        assert!((101..=310).contains(&came), "{queue_type}: {came} in 12 s");
        assert_eq!(handler.statuses.last().map(|status| status.state), Some(PAUSED.into()));
        let told = &handler.statuses.last().expect("it was told").description;
        assert!(told.contains("kill switch") && told.contains("50 % of the last 200"), "{told}");
        let sample = "sidebus_subscription_paused{subscription=\"work\",reason=\"kill_switch\"}";
        sidecar.metric_becomes(sample, 1.0).await;
        let (status, verbose) = sidecar.probe("/readyz?verbose").await;
        assert!(status == 200 && verbose.contains("subscription work: paused: the kill switch is open"), "{verbose}");
        let rate = f64::from(backlog) / (other_done - begun).as_secs_f64();
        println!("{queue_type}: {came} deliveries in 12 s; the other subscription had {rate:.0} a second");

        let begun = Instant::now();
        let seen = handler.statuses.len();
        let mut missing: BTreeSet<usize> = numbers.collect();
        let mut recovered = None;
        let draining = async {
            while !missing.is_empty() {
                handler.take_frame().await;
                let got = handler.take_deliveries();
                if got.is_empty() {
                    continue;
                }
                recovered.get_or_insert_with(|| begun.elapsed());
                got.iter().map(number).for_each(|number| _ = missing.remove(&number));
                handler.ack(&got).await;
            }
        };
        timeout(Duration::from_mins(3), draining).await.expect("all is handled in time");
        let recovered = recovered.expect("something came");
        assert!(recovered <= Duration::from_secs(5), "{queue_type}: at most one pause and not {recovered:?}");
        handler.state(ACTIVE, seen).await;
        sidecar.metric_becomes(sample, 0.0).await;
        println!("{queue_type}: back after {recovered:?}, all handled after {:?}", begun.elapsed());
        handler.leave().await;
        others.leave().await;
        assert_eq!(sidecar.process.stop().await, Some(0));
        let amqp = scene.amqp().await;
        for (name, left) in [("work", 0), ("dlq", 0)] {
            amqp.wait_for_depth(&scene.name(name), left).await;
        }
    }
}

/// failures.md T5.
#[tokio::test]
async fn full_dead_letters_pause_their_subscription_and_room_for_one_ends_it() {
    for queue_type in ["quorum", "classic"] {
        let scene = Scene::new().await;
        let amqp = scene.amqp().await;
        let mut full = FieldTable::default();
        full.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.into()));
        full.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
        full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        amqp.declare(&scene.name("dlq"), full).await;
        let mut sidecar = scene.sidecar(&scene.work("prefetch_count = 5")).await;
        sidecar.publisher().await.publish_numbers(0..30).await;
        let mut handler = sidecar.handler().await;
        let sample = "sidebus_subscription_paused{subscription=\"work\",reason=\"dead_letters\"}";
        let mut given_up = 0;
        let is_told = |status: &v1::SubscriptionStatus| status.description.contains("dead letters are not stored");
        while !handler.statuses.last().is_some_and(is_told) {
            timeout(Duration::from_secs(40), handler.take_frame()).await.expect("it pauses in time");
            for delivery in handler.take_deliveries() {
                handler.dead_letter(&delivery).await;
                given_up += 1;
            }
        }
        let status = handler.statuses.last().expect("it was told");
        assert_eq!(status.state, i32::from(PAUSED));
        let told = status.description.clone();
        assert!(told.contains(&scene.name("dlq")) && told.contains("full"), "{told}");
        sidecar.metric_becomes(sample, 1.0).await;
        assert!(given_up < 20, "{queue_type}: {given_up} given up before the pause");
        println!("{queue_type}: paused after {given_up}");

        // Room: the letters that wait go on being tried. Whoever reads them away ends every pause that follows.
        let mut letters = BTreeSet::new();
        let mut done = BTreeSet::new();
        let begun = Instant::now();
        while letters.len() + done.len() < 30 {
            assert!(begun.elapsed() < Duration::from_mins(2), "{} letters, {} done", letters.len(), done.len());
            letters.extend(amqp.numbers(&scene.name("dlq")).await);
            // Ignored when it is over: nothing of the stream is lost.
            let _ = timeout(Duration::from_millis(50), handler.take_frame()).await;
            let got = handler.take_deliveries();
            done.extend(got.iter().map(number));
            handler.ack(&got).await;
        }
        let numbers: BTreeSet<usize> = letters.union(&done).copied().collect();
        assert_eq!(numbers, (0..30).collect(), "{queue_type}: none is lost");
        sidecar.metric_becomes(sample, 0.0).await;
        handler.leave().await;
        assert_eq!(sidecar.process.stop().await, Some(0));
        amqp.wait_for_depth(&scene.name("work"), 0).await;
    }
}
