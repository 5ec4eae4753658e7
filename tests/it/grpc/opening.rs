//! The first frames of a stream, and who may subscribe to what.

use prost::Message as _;
use sidebus::grpc::proto::sidebus::v1;
use tonic::Code;

use super::WORK;
use crate::support::errors::refused;
use crate::support::eventually;
use crate::support::handler::{Handler, begin};
use crate::support::sidecar::Sidecar;
use crate::support::words::{ack, leave, message, open, open_window, settle};

const TWO: &str = "[queues.work]\nbindings = [\"work.#\"]\n[queues.copy]\nbindings = [\"work.#\"]\n";

#[tokio::test]
async fn the_first_frame_is_opened_with_the_terms_in_force_and_a_status_follows() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open_window("work", 7)).await;

    let opened = handler.opened.clone();
    assert_eq!((opened.subscription.as_str(), opened.stream_id.is_empty()), ("work", false));
    let flow = opened.flow.unwrap();
    assert_eq!((flow.max_in_flight_messages, flow.max_in_flight_bytes), (Some(7), Some(8 << 20)));
    assert_eq!(opened.settle_timeout.unwrap().seconds, 60);
    assert_eq!(opened.max_lease.unwrap().seconds, 25 * 60);
    assert_eq!(opened.server_version, env!("CARGO_PKG_VERSION"));
    handler.state(v1::SubscriptionState::Active).await;
}

#[tokio::test]
async fn a_window_above_prefetch_max_is_cut_to_it() {
    let sidecar = Sidecar::start("[queues.work]\nprefetch_max = 20\nprefetch_count = 5\n").await;
    for (asked, given) in [(None, 5), (Some(50), 20)] {
        let flow = asked.map(crate::support::words::window);
        let handler = sidecar.handler(v1::SubscribeOpen { flow, ..open("work") }).await;
        assert_eq!(handler.opened.flow.unwrap().max_in_flight_messages, Some(given));
    }
}

#[tokio::test]
async fn a_first_frame_without_open_breaks_the_protocol() {
    let sidecar = Sidecar::start(WORK).await;
    let first = settle([1], ack());
    let joined = Handler::join_with(sidecar.port(), first).await;
    refused(joined, Code::InvalidArgument, "PROTOCOL_VIOLATION");
}

#[tokio::test]
async fn a_stream_without_a_first_frame_is_ended_in_time() {
    let sidecar = Sidecar::start(&format!("{WORK}[limits]\nopen_timeout = \"50ms\"\n")).await;
    let begun = begin(sidecar.channel().await, Vec::new()).await;
    let why = refused(begun, Code::InvalidArgument, "PROTOCOL_VIOLATION");
    assert!(why.text.contains("50 ms"), "{why:?}");
}

#[tokio::test]
async fn a_second_open_ends_the_stream() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.say(v1::SubscribeRequest { open: Some(open("work")), ..Default::default() }).await;
    refused(handler.end().await, Code::InvalidArgument, "PROTOCOL_VIOLATION");
}

#[tokio::test]
async fn a_negative_window_ends_the_stream() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.resize(-1).await;
    refused(handler.end().await, Code::InvalidArgument, "PROTOCOL_VIOLATION");
}

#[tokio::test]
async fn an_unknown_subscription_is_not_found_and_named() {
    let sidecar = Sidecar::start(WORK).await;
    let why = refused(sidecar.try_handler(open("wrok")).await, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    assert_eq!(why.value("subscription"), "wrok");
    assert!(why.text.contains("wrok") && why.text.contains("try:"), "{why:?}");
}

#[tokio::test]
async fn the_name_may_be_left_out_only_when_there_is_one() {
    let one = Sidecar::start(WORK).await;
    assert_eq!(one.handler(open("")).await.opened.subscription, "work");
    let two = Sidecar::start(TWO).await;
    refused(two.try_handler(open("")).await, Code::InvalidArgument, "SUBSCRIPTION_REQUIRED");
    let none = Sidecar::start("").await;
    refused(none.try_handler(open("")).await, Code::InvalidArgument, "SUBSCRIPTION_REQUIRED");
}

#[tokio::test]
async fn a_bad_field_of_open_is_named() {
    let sidecar = Sidecar::start(WORK).await;
    let open = v1::SubscribeOpen {
        settle_timeout: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
        result_mode: 99,
        ..open("work")
    };
    let why = refused(sidecar.try_handler(open).await, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(why.fields, ["open.settle_timeout", "open.result_mode"]);
}

#[tokio::test]
async fn handlers_above_max_handlers_are_refused_until_one_leaves() {
    let sidecar = Sidecar::start("[queues.work]\nbindings = [\"work.#\"]\nmax_handlers = 1\n").await;
    let mut first = sidecar.handler(open("work")).await;
    let why = refused(sidecar.try_handler(open("work")).await, Code::ResourceExhausted, "HANDLER_LIMIT");
    assert!(why.retry_after.is_some() && why.value("limit") == "1", "{why:?}");
    first.half_close();
    first.end().await.unwrap();
    sidecar.handler(open("work")).await;
}

fn spec(pattern: &str) -> v1::SubscriptionSpec {
    let binding = v1::Binding { routing_key: pattern.to_owned(), ..Default::default() };
    v1::SubscriptionSpec { bindings: vec![binding], ..Default::default() }
}

fn declare(name: &str, spec: v1::SubscriptionSpec) -> v1::SubscribeOpen {
    v1::SubscribeOpen { declare: Some(spec), ..open(name) }
}

#[tokio::test]
async fn a_handler_brings_its_own_subscription() {
    let sidecar = Sidecar::start("").await;
    let mut first = sidecar.handler(declare("mine", spec("mine.#"))).await;
    first.state(v1::SubscriptionState::Active).await;
    sidecar.publish([message("mine.A", "1")]).await;
    let delivery = first.delivery().await;
    assert_eq!(delivery.queue, "mine");
    // The same once more shares the work; without `declare` it is known by now.
    sidecar.handler(declare("mine", spec("mine.#"))).await;
    sidecar.handler(open("mine")).await;
}

#[tokio::test]
async fn a_declare_that_differs_names_the_key_and_both_values() {
    let sidecar = Sidecar::start(&format!("{WORK}prefetch_count = 10\n")).await;
    let other_window = v1::SubscriptionSpec { prefetch_count: 11, ..spec("work.#") };
    let why = refused(
        sidecar.try_handler(declare("work", other_window)).await,
        Code::FailedPrecondition,
        "TOPOLOGY_MISMATCH",
    );
    let told = (why.value("key"), why.value("configured"), why.value("declared"));
    assert_eq!(told, ("prefetch_count", "10", "11"));
    // What is left unset never differs.
    sidecar.handler(declare("work", v1::SubscriptionSpec::default())).await;
    sidecar.handler(declare("work", v1::SubscriptionSpec { prefetch_count: 10, ..spec("work.#") })).await;
}

#[tokio::test]
async fn the_first_of_two_declarations_wins() {
    let sidecar = Sidecar::start("").await;
    let _first = sidecar.handler(declare("mine", spec("mine.#"))).await;
    let second = sidecar.try_handler(declare("mine", spec("yours.#"))).await;
    let why = refused(second, Code::FailedPrecondition, "TOPOLOGY_MISMATCH");
    assert_eq!(why.value("key"), "bindings");
}

#[tokio::test]
async fn handlers_take_neither_the_queue_nor_the_letters_of_another_subscription() {
    let tables = format!(
        "{WORK}[queues.own]\ndead_letter = {{ scope = \"per_queue\", queue = \"own-letters\" }}\n[queues.tapped]\ndead_letter = {{ exchange = \"its.dlx\" }}\n"
    );
    let sidecar = Sidecar::start(&tables).await;
    let per_queue = v1::DeadLetterScope::PerQueue.into();
    let letters = |queue: &str| {
        let policy = v1::DeadLetterPolicy { queue: queue.to_owned(), scope: per_queue, ..Default::default() };
        v1::SubscriptionSpec { dead_letter: Some(policy), ..Default::default() }
    };
    let tap = v1::Binding { exchange: "its.dlx".to_owned(), ..Default::default() };
    for (spec, other) in [
        (v1::SubscriptionSpec { bindings: vec![tap], ..Default::default() }, "tapped"),
        (v1::SubscriptionSpec { queue: "work".to_owned(), ..Default::default() }, "work"),
        (v1::SubscriptionSpec { queue: "own-letters".to_owned(), ..Default::default() }, "own"),
        (letters("work"), "work"),
        (letters("own-letters"), "own"),
    ] {
        let why = refused(sidecar.try_handler(declare("mine", spec)).await, Code::InvalidArgument, "INVALID_REQUEST");
        assert!(
            why.text.contains(&format!("subscription {other}")) || why.text.contains(&format!("with {other}")),
            "{why:?}"
        );
    }
    sidecar.handler(declare("mine", letters("mine.dlq"))).await;
}

#[tokio::test]
async fn where_handlers_may_not_declare_a_new_subscription_is_refused() {
    let sidecar = Sidecar::start(&format!("{WORK}[grpc]\nhandlers_may_declare = false\n")).await;
    let why =
        refused(sidecar.try_handler(declare("mine", spec("mine.#"))).await, Code::PermissionDenied, "NOT_ALLOWED");
    assert!(why.text.contains("handlers_may_declare"), "{why:?}");
    sidecar.handler(declare("work", spec("work.#"))).await;
}

#[tokio::test]
async fn later_releases_are_refused_by_name() {
    let sidecar = Sidecar::start("").await;
    let strict = v1::SubscriptionSpec { ordering_mode: v1::OrderingMode::Strict.into(), ..spec("mine.#") };
    refused(sidecar.try_handler(declare("mine", strict)).await, Code::Unimplemented, "FEATURE_UNAVAILABLE");
}

#[tokio::test]
async fn nonsense_as_the_first_frame_hurts_nobody_else() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open("work")).await;
    let nonsense = begin(sidecar.channel().await, vec![vec![0xff; 64].into()]).await;
    refused(nonsense, Code::InvalidArgument, "PROTOCOL_VIOLATION");
    let unknown_fields = v1::SubscribeRequest { open: Some(open("work")), ..Default::default() };
    let mut bytes = unknown_fields.encode_to_vec();
    // Field 1000, a varint: a newer client. It must be passed over.
    bytes.extend([0xc0, 0x3e, 0x01]);
    begin(sidecar.channel().await, vec![bytes.into()]).await.unwrap();
    sidecar.publish([message("work.A", "1")]).await;
    handler.delivery().await;
}

#[tokio::test]
async fn a_declaration_is_free_again_after_its_last_handler() {
    let sidecar = Sidecar::start("").await;
    let mut first = sidecar.handler(declare("mine", spec("mine.#"))).await;
    sidecar.publish([message("mine.A", "1")]).await;
    let delivery = first.deliveries(1).await.remove(0);
    first.say(settle([delivery.id], ack())).await;
    first.say(leave()).await;
    first.end().await.unwrap();
    eventually("another declaration", async || {
        sidecar.try_handler(declare("mine", spec("yours.#"))).await.ok().map(drop)
    })
    .await;
}
