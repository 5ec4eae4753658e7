//! Verdicts that take effect, verdicts that cannot, and handlers that talk nonsense.

use prost::Message as _;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::SettlementOutcome as Outcome;
use tonic::Code;

use super::WORK;
use crate::support::errors::refused;
use crate::support::handler::Told;
use crate::support::sidecar::Sidecar;
use crate::support::words::{
    ack, body, dead_letter, extend, message, open, open_all, open_window, release, retry, settle,
};

fn told(id: i64, outcome: Outcome) -> Told {
    Told { id, outcome, first: Outcome::Unspecified, description: String::new() }
}

#[tokio::test]
async fn an_acked_message_leaves_the_queue() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1"), message("work.A", "2")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let held = handler.deliveries(2).await;
    handler.say(settle([held[0].id], ack())).await;
    sidecar.holds("work", 0, 1).await;
    handler.say(settle([held[1].id], ack())).await;
    sidecar.holds("work", 0, 0).await;
    assert_eq!((handler.pending().await, handler.other_results()), (Vec::new(), Vec::new()), "success is silent");
}

#[tokio::test]
async fn every_result_is_told_in_mode_all() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish((0..4).map(|number| message("work.A", number.to_string()))).await;
    let mut handler = sidecar.handler(open_all("work")).await;
    let held = handler.deliveries(4).await;
    for (delivery, verdict, outcome) in [
        (&held[0], ack(), Outcome::Acked),
        (&held[1], retry("LATER", None), Outcome::RetryScheduled),
        (&held[2], dead_letter("NEVER"), Outcome::DeadLettered),
        (&held[3], release(), Outcome::Released),
    ] {
        handler.say(settle([delivery.id], verdict)).await;
        assert_eq!(handler.result().await, told(delivery.id, outcome));
    }
    let again = handler.delivery().await;
    handler.say(extend(again.id, 90)).await;
    assert_eq!(handler.result().await, told(again.id, Outcome::Extended));
}

/// failures.md H11.
#[tokio::test]
async fn an_unset_verdict_is_invalid_and_the_lease_stays() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;

    handler.say(settle([delivery.id], None)).await;

    let told = handler.result().await;
    assert_eq!((told.id, told.outcome), (delivery.id, Outcome::Invalid));
    assert!(told.description.contains("verdict"), "{told:?}");
    assert_eq!(sidecar.depth("work").unacked, 1);
    handler.say(settle([delivery.id], ack())).await;
    sidecar.holds("work", 0, 0).await;
}

/// failures.md H11.
#[tokio::test]
async fn a_verdict_of_a_newer_release_is_invalid_and_the_lease_stays() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;

    let mut settlement = v1::Settlement { delivery_ids: vec![delivery.id], verdict: None }.encode_to_vec();
    // Field 30, an empty message: a verdict that this release does not know.
    settlement.extend([0xf2, 0x01, 0x00]);
    let mut frame = vec![0x12, u8::try_from(settlement.len()).unwrap()];
    frame.extend(settlement);
    handler.say_bytes(frame).await;

    assert_eq!(handler.result().await.outcome, Outcome::Invalid);
    handler.say(settle([delivery.id], ack())).await;
    sidecar.holds("work", 0, 0).await;
}

#[tokio::test]
async fn a_bad_field_of_a_verdict_is_invalid_and_the_lease_stays() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    let reply = v1::Ack { reply: Some(Box::default()), ..Default::default() };
    let bad =
        [retry("no code", None), dead_letter("lower"), retry("LATER", Some(-1)), v1::settlement::Verdict::Ack(reply)];
    for verdict in bad {
        handler.say(settle([delivery.id], verdict.clone())).await;
        let told = handler.result().await;
        assert_eq!((told.id, told.outcome), (delivery.id, Outcome::Invalid), "{verdict:?}");
        assert!(!told.description.is_empty(), "{verdict:?}");
    }
    handler.say(extend(delivery.id, 0)).await;
    assert_eq!(handler.result().await.outcome, Outcome::Invalid);
    handler.say(settle([delivery.id], ack())).await;
    sidecar.holds("work", 0, 0).await;
}

#[tokio::test]
async fn one_bad_id_does_not_spoil_the_others() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1"), message("work.A", "2")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let held = handler.deliveries(2).await;
    handler.say(settle([held[0].id, 12, held[1].id], ack())).await;
    assert_eq!(handler.result().await, told(12, Outcome::UnknownDelivery));
    sidecar.holds("work", 0, 0).await;
}

/// failures.md H7.
#[tokio::test]
async fn a_delivery_of_another_stream_is_unknown_and_untouched() {
    let sidecar = Sidecar::start(WORK).await;
    let (mut mine, mut other) = (sidecar.handler(open_window("work", 1)).await, sidecar.handler(open("work")).await);
    sidecar.publish([message("work.A", "1"), message("work.A", "2")]).await;
    let theirs = other.delivery().await;
    mine.delivery().await;

    mine.say(settle([theirs.id], ack())).await;

    assert_eq!(mine.result().await, told(theirs.id, Outcome::UnknownDelivery));
    assert_eq!(sidecar.depth("work").unacked, 2);
    other.say(settle([theirs.id], ack())).await;
    sidecar.holds("work", 0, 1).await;
    assert_eq!((other.pending().await, other.other_results()), (Vec::new(), Vec::new()));
}

/// failures.md H6.
#[tokio::test]
async fn the_same_verdict_again_is_harmless_and_another_one_comes_too_late() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    handler.say(settle([delivery.id], ack())).await;
    sidecar.holds("work", 0, 0).await;

    handler.say(settle([delivery.id], ack())).await;
    assert_eq!((handler.pending().await, handler.other_results()), (Vec::new(), Vec::new()));

    handler.say(settle([delivery.id], dead_letter("NEVER"))).await;
    let told = handler.result().await;
    assert_eq!((told.id, told.outcome, told.first), (delivery.id, Outcome::AlreadySettled, Outcome::Acked));
    sidecar.holds("angzarr.dlq", 0, 0).await;
}

/// failures.md H6.
#[tokio::test]
async fn of_two_verdicts_in_one_frame_the_first_wins() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    let both = [settle([delivery.id], dead_letter("NEVER")), settle([delivery.id], ack())];
    let settlements = both.into_iter().flat_map(|frame| frame.settlements).collect();
    handler.say(v1::SubscribeRequest { settlements, ..Default::default() }).await;
    let told = handler.result().await;
    assert_eq!((told.id, told.outcome), (delivery.id, Outcome::AlreadySettled));
    sidecar.holds("angzarr.dlq", 1, 0).await;
    sidecar.holds("work", 0, 0).await;
}

/// failures.md H7.
#[tokio::test]
async fn a_hundred_unknown_ids_end_the_stream_and_what_it_held_comes_back() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.delivery().await;
    handler.say(settle((1..100).collect::<Vec<_>>(), ack())).await;
    handler.pending().await;
    assert_eq!(handler.other_results().len(), 99, "the stream is still there");

    handler.say(settle([100], ack())).await;

    refused(handler.end().await, Code::InvalidArgument, "PROTOCOL_VIOLATION");
    let again = sidecar.handler(open("work")).await.delivery().await;
    assert_eq!((body(&again).as_str(), again.attempt), ("1", 1));
}

/// failures.md H7.
#[tokio::test]
async fn nonsense_ends_only_its_stream_and_what_it_held_comes_back() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1"), message("work.A", "2")]).await;
    let mut sane = sidecar.handler(open_window("work", 1)).await;
    let held = sane.delivery().await;
    let mut mad = sidecar.handler(open("work")).await;
    let lost = mad.delivery().await;

    mad.say_bytes(vec![0xff; 32]).await;

    refused(mad.end().await, Code::InvalidArgument, "PROTOCOL_VIOLATION");
    sane.say(settle([held.id], ack())).await;
    let again = sane.delivery().await;
    assert_eq!((body(&again), again.attempt, again.redelivered), (body(&lost), 1, true));
}

#[tokio::test]
async fn a_frame_above_the_decoders_limit_ends_only_its_stream() {
    let sidecar = Sidecar::start(&format!("{WORK}[grpc]\nmax_message_bytes = \"1KiB\"\n")).await;
    let mut sane = sidecar.handler(open_window("work", 1)).await;
    let mut mad = sidecar.handler(open("work")).await;
    mad.say_bytes(vec![0; (1 << 20) + 2_000]).await;
    assert!(mad.end().await.is_err());
    sidecar.publish([message("work.A", "1")]).await;
    sane.delivery().await;
}

#[tokio::test]
async fn empty_frames_are_legal() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.say(v1::SubscribeRequest::default()).await;
    sidecar.publish([message("work.A", "1")]).await;
    handler.delivery().await;
}
