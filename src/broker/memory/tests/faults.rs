//! The fault switches, and the bound on bytes.

use futures_util::{FutureExt as _, StreamExt as _};

use super::*;
use crate::broker::SessionEvent;

#[tokio::test(start_paused = true)]
async fn broken_sessions_give_everything_back_in_order() {
    let broker = broker();
    let first = session(&broker).await;
    let second = session(&broker).await;
    let work = declare(&first, "work", &[]).await;
    fill(&first, &work, &["0", "1", "2", "3", "4", "5"]).await;
    let mut taps = [consume(&first, &work, 2).await, consume(&second, &work, 2).await];
    for tap in &mut taps {
        tap.take(1).await;
    }
    assert_depth(&broker, &work, 2, 4);

    broker.faults().break_sessions("power cut");
    assert_depth(&broker, &work, 6, 0);
    let lost = BrokerError::SessionLost { reason: "power cut".to_owned() };
    assert_eq!(first.events().next().await, Some(SessionEvent::Closed(lost.clone())));
    assert_eq!(taps[0].arrivals.next_batch(1).await.unwrap_err(), lost);
    let third = session(&broker).await;
    let again = consume(&third, &work, 10).await.take(6).await;
    assert_eq!(bodies(&again), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(again.iter().map(|d| d.redelivered).collect::<Vec<_>>(), [true, true, true, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn refused_connects_say_why_until_accepted() {
    let broker = broker();
    let error = BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "switched off".to_owned() };
    broker.faults().refuse_connects(error.clone());
    assert_eq!(broker.connect(SessionId(1)).await.map(|_| ()), Err(error));
    broker.faults().accept_connects();
    assert!(broker.connect(SessionId(2)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_blocked_broker_delays_publishes_and_still_settles() {
    let broker = broker();
    let first = session(&broker).await;
    let work = declare(&first, "work", &[]).await;
    fill(&first, &work, &["before"]).await;
    let mut tap = consume(&first, &work, 10).await;
    let taken = tap.take(1).await;
    let mut events = first.events();
    broker.faults().block("memory alarm");
    assert_eq!(events.next().await, Some(SessionEvent::Blocked("memory alarm".to_owned())));

    let second = session(&broker).await;
    assert_eq!(second.events().next().await, Some(SessionEvent::Blocked("memory alarm".to_owned())));
    let mut lane = second.lane(LaneRole::Publish).await.unwrap();
    let mut waiting = lane.publish(vec![to(&work, "during")]);
    assert_eq!((&mut waiting).now_or_never(), None);
    assert_eq!(tap.settle(taken, Settlement::Ack).await, [Settled::Applied]);
    assert_depth(&broker, &work, 0, 0);

    broker.faults().unblock();
    assert_eq!(events.next().await, Some(SessionEvent::Unblocked));
    assert_eq!(waiting.await, [Confirm::Stored]);
    assert_eq!(bodies(&tap.take(1).await), ["during"]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_waits_out_an_alarm_hears_of_the_end() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    broker.faults().block("disk alarm");
    let mut lane = session.lane(LaneRole::Settle).await.unwrap();
    let mut waiting = lane.publish(vec![to(&work, "never")]);
    assert_eq!((&mut waiting).now_or_never(), None);
    broker.faults().break_sessions("gone");
    assert_eq!(waiting.await, [Confirm::Lost]);
    assert!(!lane.is_open());
    assert_depth(&broker, &work, 0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_stores_the_message_and_closes_the_lane() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    broker.faults().lose_confirms(2);
    let mut lane = session.lane(LaneRole::Settle).await.unwrap();
    let confirms = lane.publish(["a", "b", "c"].map(|body| to(&work, body)).into()).await;
    assert_eq!(confirms, [Confirm::Lost, Confirm::Lost, Confirm::Stored]);
    assert!(!lane.is_open());
    assert_depth(&broker, &work, 3, 0);

    assert_eq!(lane.publish(vec![to(&work, "d")]).await, [Confirm::Lost]);
    assert_depth(&broker, &work, 3, 0); // a closed lane sends nothing
    assert_eq!(publish(&session, vec![to(&work, "e")]).await, [Confirm::Stored]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_queue_cancels_its_consumers_and_frees_its_bytes() {
    let broker = MemoryBroker::new(MemoryOptions { bytes_max: 4 });
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    fill(&session, &work, &["ab", "cd"]).await;
    let mut tap = consume(&session, &work, 1).await;
    let taken = tap.take(1).await;
    assert!(broker.faults().delete_queue(&work));
    assert!(!broker.faults().delete_queue(&work));
    assert_eq!(broker.faults().depth(&work), None);
    let cancelled = BrokerError::ConsumerCancelled { queue: "work".to_owned() };
    assert_eq!(tap.arrivals.next_batch(1).await.unwrap_err(), cancelled);

    // What was taken from the old queue does not get into the new one of that name.
    declare(&session, "work", &[]).await;
    assert_eq!(tap.settle(taken, Settlement::GiveBack).await, [Settled::Applied]);
    assert_depth(&broker, &work, 0, 0);
    fill(&session, &work, &["abcd"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_byte_bound_refuses_and_recovers() {
    let broker = MemoryBroker::new(MemoryOptions { bytes_max: 5 });
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    fill(&session, &work, &["abc"]).await;
    assert_eq!(publish(&session, vec![to(&work, "def")]).await, [Confirm::Refused]);
    fill(&session, &work, &["de"]).await;

    let mut tap = consume(&session, &work, 1).await;
    let first = tap.take(1).await;
    assert_eq!(publish(&session, vec![to(&work, "f")]).await, [Confirm::Refused], "the unsettled counts");
    tap.settle(first, Settlement::Ack).await;
    fill(&session, &work, &["fgh"]).await;
}
