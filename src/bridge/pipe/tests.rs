//! In which order answers come out.

use futures_util::FutureExt as _;

use super::*;

fn pending(tag: u8) -> (Entry<u8>, oneshot::Sender<Confirm>) {
    let (reply, confirm) = oneshot::channel();
    (Entry { tag, exchange: ExchangeName::from_broker("events"), answer: Pending::Lane(confirm) }, reply)
}

fn taken(answers: Option<Vec<Answer<u8>>>) -> Vec<(u8, Outcome)> {
    answers.unwrap_or_default().into_iter().map(|answer| (answer.tag, answer.outcome)).collect()
}

#[tokio::test]
async fn an_entry_that_is_not_answered_yet_waits_for_its_turn_and_is_never_lost() {
    let ((to, entries), (refuse, refused)) = (mpsc::channel(8), mpsc::channel(1));
    let mut answers = Answers { head: None, entries, refused };
    let [(one, say_one), (two, say_two), (three, say_three), (four, say_four)] = [1, 2, 3, 4].map(pending);
    for entry in [one, two, three, four] {
        to.send(entry).await.unwrap();
    }
    assert!(answers.next().now_or_never().is_none(), "a cancelled call takes nothing along");
    say_two.send(Confirm::Refused).unwrap();
    say_one.send(Confirm::Stored).unwrap();
    let first = taken(answers.next().await);
    assert_eq!(first, [(1, Outcome::Confirm(Confirm::Stored)), (2, Outcome::Confirm(Confirm::Refused))]);
    assert!(answers.next().now_or_never().is_none());

    say_three.send(Confirm::Unroutable).unwrap();
    drop((say_four, to, refuse));
    let rest = taken(answers.next().await);
    assert_eq!(rest, [(3, Outcome::Confirm(Confirm::Unroutable)), (4, Outcome::Confirm(Confirm::Lost))]);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn what_was_not_sent_is_told_before_what_still_waits_for_its_confirm() {
    let ((to, entries), (refuse, refused)) = (mpsc::channel(8), mpsc::channel(1));
    let mut answers = Answers { head: None, entries, refused };
    let (one, say_one) = pending(1);
    to.send(one).await.unwrap();
    assert!(answers.next().now_or_never().is_none());
    let blocked = Outcome::Refused(Refusal::Blocked("memory".to_owned()));
    let two = Answer { tag: 2, exchange: ExchangeName::from_broker("events"), outcome: blocked.clone() };
    refuse.send(vec![two]).await.unwrap();
    assert_eq!(taken(answers.next().now_or_never().unwrap()), [(2, blocked.clone())]);
    say_one.send(Confirm::Stored).unwrap();
    assert_eq!(taken(answers.next().await), [(1, Outcome::Confirm(Confirm::Stored))]);

    drop(to);
    let three = Answer { tag: 3, exchange: ExchangeName::from_broker("events"), outcome: blocked.clone() };
    refuse.send(vec![three]).await.unwrap();
    drop(refuse);
    assert_eq!(taken(answers.next().await), [(3, blocked)]);
    assert!(answers.next().await.is_none());
}
