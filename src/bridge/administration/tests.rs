//! Plans that an administrator applies while others change what is wanted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;

use super::*;
use crate::bridge::{Bridge, BridgeSettings, PublishLimits};
use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::domain::delivery_id::DeliveryIds;
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::{DeadLetterSettings, DeliverySettings, QueueSettings, RetrySettings};
use crate::domain::topology::{self, Exchange, ExchangeKind};
use crate::runtime::{Phases, Tasks, unix_ms};

fn subscription(dead_letter: &DeadLetterSettings) -> Subscription {
    let exchange = ExchangeName::parse("events").unwrap();
    Subscription {
        name: SubscriptionName::parse("work").unwrap(),
        queue: QueueSettings {
            name: QueueName::parse("work").unwrap(),
            queue_type: None,
            durable: None,
            auto_delete: None,
            exclusive: None,
            arguments: Headers::new(),
        },
        bindings: vec![Binding { exchange: exchange.clone(), routing_key: "#".to_owned(), arguments: Headers::new() }],
        exchange,
        unbind: Vec::new(),
        delivery: DeliverySettings::default(),
        retry: RetrySettings::default(),
        dead_letter: dead_letter.clone(),
    }
}

fn settings() -> BridgeSettings {
    let (dlx, dlq) = (ExchangeName::parse("dlx").unwrap(), QueueName::parse("dlq").unwrap());
    let dead_letter = DeadLetterSettings::shared(dlx, dlq);
    let events = Exchange::durable(ExchangeName::parse("events").unwrap(), ExchangeKind::Topic);
    BridgeSettings {
        ids: Arc::new(Mutex::new(DeliveryIds::begin(unix_ms(), None).unwrap())),
        broker: Arc::new(MemoryBroker::new(MemoryOptions { bytes_max: 1_024 })),
        shared: topology::shared(TopologyMode::Create, events, &[], &dead_letter),
        topology: TopologyMode::Create,
        namespace: "sidebus".to_owned(),
        by: "test 0".to_owned(),
        now_ms: unix_ms,
        subscriptions: vec![subscription(&dead_letter)],
        reconnect: (Duration::from_millis(200), Duration::from_secs(10)),
        close_within: Duration::from_secs(2),
        drain_grace: Duration::from_secs(18),
        publish: PublishLimits { lanes: 1, batch_max: 16, in_flight_max: 100, in_flight_kib_max: 100 },
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_not_applied_while_a_binding_is_being_changed() {
    let (tasks, phases) = (Tasks::default(), Phases::default());
    let mut bridge = Bridge::start(settings(), &tasks, &phases.watch());
    while bridge.link.live().is_none() {
        bridge.link.changed().await;
    }
    let administration = &bridge.administration;
    let known = administration.known(None).unwrap().remove(0);
    let change = known.wish.change().await;
    let mut applying = std::pin::pin!(administration.apply(None, Rehearsal::Real));
    assert!(applying.as_mut().now_or_never().is_none(), "it waits");
    known.wish.forget(&known.subscription.bindings[0]);
    drop(change);

    let done = applying.await.unwrap();
    let is_own = |done: &&StepDone| done.subscription.is_some();
    let bound = done
        .iter()
        .filter(is_own)
        .filter(|done| matches!(done.step, Step::Bind { ref queue, .. } if queue.as_str() == "work"));
    assert_eq!(bound.count(), 0, "what was taken away is not made again: {done:?}");
}
