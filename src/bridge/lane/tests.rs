//! A lane on a session of which the test plays the broker: what goes out when, and what callers hear.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::Semaphore;

use super::super::link::{LinkTell, Owned, link};
use super::*;
use crate::broker::{Capabilities, ConsumeOptions, Consumer, Findings, Lane, Routing, Session, SessionEvent};
use crate::domain::difference::Examined;
use crate::domain::message::{Message, Properties};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::topology::Plan;
use crate::runtime::Phases;

/// What the lanes of a session have written, and how many batches are answered.
#[derive(Debug)]
struct Played {
    /// Messages of each batch, in the order of all lanes.
    written: Mutex<Vec<usize>>,
    answers: Semaphore,
    outcome: Mutex<Confirm>,
    /// What lanes say instead, once each.
    script: Mutex<VecDeque<Answers>>,
    /// Channels are opened for ever.
    is_stuck: AtomicBool,
}

#[derive(Debug, Clone)]
struct PlayedSession(Arc<Played>);

#[derive(Debug)]
struct PlayedLane {
    played: Arc<Played>,
    out: VecDeque<usize>,
    is_sound: bool,
}

fn not_here<T>() -> Result<T, BrokerError> {
    Err(BrokerError::SessionLost { reason: "this session has lanes only".to_owned() })
}

impl Session for PlayedSession {
    fn capabilities(&self) -> &Capabilities {
        unreachable!("a lane asks nobody what the broker is")
    }

    fn events(&self) -> BoxStream<'static, SessionEvent> {
        Box::pin(futures_util::stream::pending())
    }

    fn apply(&self, _plan: Arc<Plan>) -> BoxFuture<'_, Result<Findings, BrokerError>> {
        Box::pin(async { not_here() })
    }

    fn examine(&self, _plan: Arc<Plan>) -> BoxFuture<'_, Result<Vec<Examined>, BrokerError>> {
        Box::pin(async { not_here() })
    }

    fn consume(&self, _queue: QueueName, _options: ConsumeOptions) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        Box::pin(async { not_here() })
    }

    fn lane(&self, _role: LaneRole) -> BoxFuture<'_, Result<Box<dyn Lane>, BrokerError>> {
        let lane = PlayedLane { played: Arc::clone(&self.0), out: VecDeque::new(), is_sound: true };
        Box::pin(async move {
            if self.0.is_stuck.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(Box::new(lane) as Box<dyn Lane>)
        })
    }

    fn close(&self, _within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Lane for PlayedLane {
    fn has_room(&self) -> bool {
        self.out.len() < 2
    }

    fn write(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, ()> {
        self.played.written.lock().unwrap().push(batch.len());
        self.out.push_back(batch.len());
        Box::pin(std::future::ready(()))
    }

    fn answers(&mut self) -> BoxFuture<'_, Answers> {
        Box::pin(async move {
            self.played.answers.acquire().await.unwrap().forget();
            if let Some(answers) = self.played.script.lock().unwrap().pop_front() {
                let over = answers.left.iter().any(|(_, confirm)| *confirm == Confirm::TimedOut);
                self.is_sound &= !over;
                self.out.drain(..answers.batches.len());
                return answers;
            }
            let outcome = self.played.outcome.lock().unwrap().clone();
            self.is_sound &= outcome != Confirm::Lost;
            Answers::of(vec![outcome; self.out.pop_front().unwrap()])
        })
    }

    fn is_open(&self) -> bool {
        self.is_sound
    }
}

/// One lane, and the broker's part in the hands of the test.
struct Play {
    lanes: Vec<LaneHandle>,
    tell: LinkTell,
    played: Arc<Played>,
    asked: usize,
    _kept: (Tasks, Phases),
}

impl Play {
    fn begin(gate: Option<Gate>, lanes: usize) -> Self {
        Self::listening(gate, lanes, None)
    }

    fn listening(gate: Option<Gate>, lanes: usize, silences: Option<Arc<Silences>>) -> Self {
        let (tell, watch) = link();
        let (tasks, phases) = (Tasks::default(), Phases::default());
        let terms = LaneTerms { role: LaneRole::Publish, batch_max: 256, gate, silences };
        let lane = |_| start(&tasks, watch.clone(), phases.watch(), terms.clone());
        let lanes = (0..lanes).map(lane).collect();
        let played = Played {
            written: Mutex::default(),
            answers: Semaphore::new(0),
            outcome: Mutex::new(Confirm::Stored),
            script: Mutex::default(),
            is_stuck: AtomicBool::new(false),
        };
        Self { lanes, tell, played: Arc::new(played), asked: 0, _kept: (tasks, phases) }
    }

    fn up(&self, id: u64) {
        let session = Owned::new(SessionId(id), Arc::new(PlayedSession(Arc::clone(&self.played))));
        self.tell.change(|link| {
            link.live = Some(session.live());
            link.sessions += 1;
        });
    }

    fn down(&self) {
        let gone = BrokerError::SessionLost { reason: "gone".to_owned() };
        self.tell.change(|link| (link.live, link.error) = (None, Some(gone)));
    }

    async fn ask(&mut self, lane: usize, messages: usize) -> Vec<oneshot::Receiver<Confirm>> {
        let ids = (self.asked..self.asked + messages).map(|id| id.to_string());
        self.asked += messages;
        self.ask_with(lane, ids).await
    }

    async fn ask_with(&self, lane: usize, ids: impl IntoIterator<Item = String>) -> Vec<oneshot::Receiver<Confirm>> {
        let mut answers = Vec::new();
        for id in ids {
            let destination = Destination::of("events", "");
            answers.push(self.lanes[lane].submit(publication(id), None, Some(destination)).await);
        }
        settled().await;
        answers
    }

    /// The broker says this.
    async fn say(&self, answers: Answers) {
        self.played.script.lock().unwrap().push_back(answers);
        self.played.answers.add_permits(1);
        settled().await;
    }

    /// The broker answers so many batches.
    async fn answer(&self, batches: usize, outcome: Confirm) {
        *self.played.outcome.lock().unwrap() = outcome;
        self.played.answers.add_permits(batches);
        settled().await;
    }

    /// What has gone out since the last look.
    fn written(&self) -> Vec<usize> {
        std::mem::take(&mut self.played.written.lock().unwrap())
    }
}

fn publication(id: impl Into<String>) -> Publication {
    let properties = Properties { message_id: Some(id.into()), ..Properties::default() };
    let exchange = ExchangeName::from_broker("events");
    let message = Message { exchange, routing_key: String::new(), properties, body: bytes::Bytes::new() };
    Publication { message, routing: Routing::Required }
}

/// Lets every task come to rest; the clock is paused.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn known(answers: &mut [oneshot::Receiver<Confirm>]) -> Vec<Confirm> {
    answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_overlaps_another_when_few_are_out_or_many_wait() {
    let mut play = Play::begin(None, 1);
    play.up(1);
    let mut answers = play.ask(0, 1).await;
    assert_eq!(play.written(), [1]);
    answers.extend(play.ask(0, 20).await);
    assert_eq!(play.written(), [20], "one is out, which holds nobody up");
    play.answer(1, Confirm::Stored).await;
    answers.extend(play.ask(0, 127).await);
    assert_eq!(play.written(), [0; 0], "twenty are out, and too few wait to overlap them");
    play.answer(1, Confirm::Stored).await;
    assert_eq!(play.written(), [127]);
    answers.extend(play.ask(0, 127).await);
    assert_eq!(play.written(), [0; 0]);
    answers.extend(play.ask(0, 1).await);
    assert_eq!(play.written(), [128], "enough of them do not wait any longer, in how many calls they ever came");
    play.answer(2, Confirm::Stored).await;
    assert_eq!(known(&mut answers), vec![Confirm::Stored; 276]);
}

/// The broker names a returned message by its id alone.
#[tokio::test(start_paused = true)]
async fn a_message_waits_while_another_of_its_id_is_out_and_what_is_behind_it_keeps_its_place() {
    let play = Play::begin(None, 1);
    play.up(1);
    let mut answers = play.ask_with(0, ["a", "b", "a", "c", "c"].map(str::to_owned)).await;
    assert_eq!(play.written(), [2]);
    answers.extend(play.ask_with(0, ["d".to_owned()]).await);
    assert_eq!(play.written(), [0; 0], "a new id, and yet not before those that came before it");
    play.answer(1, Confirm::Unroutable).await;
    assert_eq!(known(&mut answers), [Confirm::Unroutable, Confirm::Unroutable]);
    assert_eq!(play.written(), [2]);
    play.answer(1, Confirm::Lost).await;
    assert_eq!(known(&mut answers), [Confirm::Lost, Confirm::Lost]);
    assert_eq!(play.written(), [2], "an id is free again whatever became of its message");
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut answers), [Confirm::Stored, Confirm::Stored]);
}

/// failures.md L3.
#[tokio::test(start_paused = true)]
async fn a_lane_that_waits_for_a_stuck_queue_is_left_to_those_who_are_in_it() {
    let mut play = Play::begin(None, 2);
    play.up(1);
    let lanes = Lanes::new(play.lanes.clone(), 256);
    let mut stuck = play.ask(0, 1).await;
    let takes_first = |lane: &LaneHandle| lane.load() > 0;
    assert!(takes_first(lanes.idlest()), "nobody knows yet");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!takes_first(lanes.idlest()));
    for _ in 0..3 {
        assert!(!takes_first(lanes.next()), "nor does a stream begin there");
    }
    let mut more = play.ask(1, 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lanes.idlest().load(), 1, "all are stuck: the one with the least it is");
    play.answer(2, Confirm::Stored).await;
    assert_eq!([known(&mut stuck), known(&mut more)].concat(), vec![Confirm::Stored; 3]);
    let _again = play.ask(0, 1).await;
    assert!(takes_first(lanes.idlest()), "what was answered is over");
}

/// failures.md P9.
#[tokio::test(start_paused = true)]
async fn after_an_outage_all_lanes_together_send_one_message_at_a_time_until_three_were_answered() {
    let mut play = Play::begin(Some(Gate::default()), 2);
    play.up(1);
    play.down();
    play.up(2);
    let mut answers = play.ask(0, 10).await;
    answers.extend(play.ask(1, 10).await);
    assert_eq!(play.written(), [1], "the others wait for it");
    play.answer(1, Confirm::Stored).await;
    assert_eq!(play.written(), [1]);
    play.answer(1, Confirm::Lost).await;
    assert_eq!(play.written(), [1], "a failure begins anew");
    for outcome in [Confirm::Stored, Confirm::Unroutable] {
        play.answer(1, outcome).await;
        assert_eq!(play.written(), [1]);
    }
    play.answer(1, Confirm::Refused).await;
    let rest = play.written();
    assert_eq!((rest.len(), rest.iter().sum::<usize>()), (2, 15), "each lane sends all that it has: {rest:?}");
    play.answer(2, Confirm::Stored).await;
    assert_eq!(known(&mut answers).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_first_session_is_no_end_of_an_outage_unless_a_connect_has_failed_before() {
    for (has_failed, then) in [(false, 10), (true, 1)] {
        let mut play = Play::begin(Some(Gate::default()), 1);
        if has_failed {
            play.down();
        }
        // The first of them goes alone, being the first.
        play.up(1);
        let _answers = play.ask(0, 1).await;
        play.answer(1, Confirm::Stored).await;
        assert_eq!(play.written(), [1]);
        let _answers = play.ask(0, 10).await;
        assert_eq!(play.written(), [then]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_a_stuck_queue_keeps_holds_the_others_up_for_a_second() {
    let mut play = Play::begin(Some(Gate::default()), 2);
    play.up(1);
    play.down();
    play.up(2);
    let _stuck = play.ask(0, 1).await;
    let _behind = play.ask(1, 1).await;
    assert_eq!(play.written(), [1]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(play.written(), [1]);
}

/// failures.md L7 and L1: nobody in line waits for the confirms of what went out before.
#[tokio::test(start_paused = true)]
async fn what_waits_in_line_is_refused_at_once_when_an_alarm_comes_or_the_session_goes() {
    let mut play = Play::begin(None, 1);
    play.up(1);
    let mut out = play.ask(0, 1).await;
    out.extend(play.ask(0, 1).await);
    let mut line = play.ask(0, 5).await;
    assert_eq!(known(&mut line), []);
    play.tell.change(|link| link.blocked = Some("low on memory".to_owned()));
    settled().await;
    let blocked = BrokerError::Blocked { reason: "low on memory".to_owned() };
    assert_eq!(known(&mut line), vec![Confirm::NotSent(blocked); 5]);
    assert_eq!(known(&mut out), [], "what is out has still its chance");

    play.tell.change(|link| link.blocked = None);
    let mut line = play.ask(0, 5).await;
    play.down();
    settled().await;
    assert!(known(&mut line).iter().all(|confirm| matches!(confirm, Confirm::NotSent(_))));
    play.answer(2, Confirm::Lost).await;
    assert_eq!(known(&mut out), [Confirm::Lost, Confirm::Lost]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_opens_a_channel_of_a_lost_session_lets_go_of_it() {
    let mut play = Play::begin(None, 1);
    play.played.is_stuck.store(true, Ordering::Relaxed);
    play.up(1);
    let mut first = play.ask(0, 1).await;
    assert_eq!(known(&mut first), []);
    play.down();
    settled().await;
    assert!(matches!(known(&mut first)[..], [Confirm::NotSent(_)]));
    play.played.is_stuck.store(false, Ordering::Relaxed);
    play.up(2);
    let mut second = play.ask(0, 1).await;
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut second), [Confirm::Stored]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_keeps_nothing_of_a_session_that_is_over() {
    let mut play = Play::begin(None, 1);
    play.up(1);
    let before = Arc::strong_count(&play.played);
    let mut answers = play.ask(0, 1).await;
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut answers), [Confirm::Stored]);
    assert!(Arc::strong_count(&play.played) > before, "its channel stays for the next one");
    play.down();
    settled().await;
    assert!(Arc::strong_count(&play.played) < before, "and goes with its session");
    play.up(2);
    let mut answers = play.ask(0, 1).await;
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut answers), [Confirm::Stored]);
}

mod callers;
mod left;
mod streams;
