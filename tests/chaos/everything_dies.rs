//! One run with every accident: handlers, the sidecar and the broker are killed and restarted while 100,000 messages pass.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::relentless::{self, AHEAD, Answer, Copy, Progress, Relentless, Tally};
use crate::support::examples::{handled, python, rust_handler};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::BrokerHandle;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until_within;

const MESSAGES: usize = 100_000;
/// Of each handler: the default.
const WINDOW: usize = 100;
const HANDLERS: usize = 3;
/// From one accident to the next; most of it is work that must be done anyway.
const LONG: Duration = Duration::from_mins(4);

/// What runs now, and the handlers that have been.
struct Cast {
    scene: Scene,
    tables: String,
    node: BrokerHandle,
    sidecar: Sidecar,
    proxy: Proxy,
    in_python: Process,
    in_rust: [Process; 2],
    dead: Vec<Process>,
    begun: Instant,
    /// What the publisher goes by, and tells.
    progress: Rc<Progress>,
}

fn port(sidecar: &Sidecar) -> u16 {
    sidecar.grpc.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

impl Cast {
    async fn on(queue_type: &str) -> Self {
        let node = BrokerHandle::start().await;
        let scene = Scene::on(node.url(("guest", "guest"), "/"));
        let tables = scene.work(&format!("queue_type = \"{queue_type}\""));
        let sidecar = scene.sidecar(&tables).await;
        node.note_queues().await;
        let proxy = Proxy::to("127.0.0.1", port(&sidecar)).await;
        let endpoint = format!("127.0.0.1:{}", proxy.port);
        let in_python = python("handler.py", &["work"], &endpoint);
        let in_rust = [rust_handler(&["work"], &endpoint).await, rust_handler(&["work"], &endpoint).await];
        Self {
            scene,
            tables,
            node,
            sidecar,
            proxy,
            in_python,
            in_rust,
            dead: Vec::new(),
            begun: Instant::now(),
            progress: Rc::default(),
        }
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port)
    }

    /// All that handle or have handled.
    fn handlers(&self) -> impl Iterator<Item = &Process> {
        self.dead.iter().chain(&self.in_rust).chain([&self.in_python])
    }

    fn handled_count(&self) -> usize {
        self.handlers().map(Process::output_count).sum()
    }

    async fn reach(&self, count: usize, then: &str) {
        let enough = async || {
            let handled = self.handled_count();
            self.progress.handled.set(handled);
            (handled >= count).then_some(())
        };
        until_within(LONG, &format!("{count} are handled, before {then}"), enough).await;
        println!("{:6.1} s, {:6} handled: {then}", self.begun.elapsed().as_secs_f64(), self.handled_count());
    }

    /// Lets the publisher run ahead, and waits until much of what it has sent is without an answer: it may just have stood still, and
    /// then nothing would be cut off in the middle.
    async fn be_publishing(&self) {
        let is_publishing = async || {
            // Each time: it may have been done with the last allowance between two looks.
            self.progress.handled.set(self.handled_count() + AHEAD);
            (self.progress.unanswered.get() > relentless::WINDOW / 2).then_some(())
        };
        until_within(LONG, "much is published and unanswered", is_publishing).await;
    }

    async fn sidecar_again(&mut self) {
        self.sidecar = self.scene.sidecar_not_ready(&self.tables).await;
        self.proxy.lead_to(port(&self.sidecar));
    }

    /// One accident after the other; answers how many deliveries can have been handled and not acked because of them.
    async fn accidents(&mut self) -> usize {
        let all = HANDLERS * WINDOW;
        self.reach(MESSAGES / 10, "a handler in Rust is killed").await;
        self.in_rust[0].kill().await;
        let another = rust_handler(&["work"], &self.endpoint()).await;
        self.dead.push(std::mem::replace(&mut self.in_rust[0], another));

        self.reach(MESSAGES / 4, "the sidecar is killed").await;
        self.be_publishing().await;
        self.sidecar.process.kill().await;
        self.sidecar_again().await;

        self.reach(MESSAGES * 2 / 5, "the broker is killed").await;
        self.be_publishing().await;
        self.node.kill();
        self.node.restart().await;

        self.reach(MESSAGES * 11 / 20, "the handler in Python is killed").await;
        self.in_python.kill().await;
        let another = python("handler.py", &["work"], &self.endpoint());
        self.dead.push(std::mem::replace(&mut self.in_python, another));

        self.reach(MESSAGES * 7 / 10, "the sidecar is asked to stop and started again").await;
        assert_eq!(self.sidecar.process.stop().await, Some(0));
        self.sidecar_again().await;

        self.reach(MESSAGES * 17 / 20, "the broker stops and starts").await;
        self.node.ctl(&["stop_app"]).await;
        self.node.ctl(&["start_app"]).await;

        self.progress.handled.set(usize::MAX);
        // One handler; the sidecar; the broker; one handler; nobody; the broker.
        WINDOW + all + all + WINDOW + all
    }

    /// Waits until each copy that is confirmed was handled, then ends everything well. Answers how often each was handled.
    async fn end(mut self, copies: &[Copy]) -> Vec<usize> {
        let begun = Instant::now();
        let mut is_told = false;
        let all = async || {
            let is_late = begun.elapsed() > LONG / 4;
            if self.handled_count() < MESSAGES && !is_late {
                return None;
            }
            let times = self.times(copies);
            let is_missing = |copy: &usize| copies[*copy].answer == Answer::Confirmed && times[*copy] == 0;
            let missing: Vec<usize> = (0..copies.len()).filter(is_missing).collect();
            if is_late && !is_told {
                println!("{} are not handled yet, among them {:?}", missing.len(), &missing[..missing.len().min(50)]);
                is_told = true;
            }
            missing.is_empty().then_some(())
        };
        until_within(LONG, "every confirmed copy is handled", all).await;
        assert_eq!(self.in_python.stop().await, Some(0));
        for handler in &mut self.in_rust {
            assert_eq!(handler.stop().await, Some(0));
        }
        // What was unacked would be ready again once the sidecar is gone.
        assert_eq!(self.sidecar.process.stop().await, Some(0));
        let none_left = async || {
            let queues = self.node.ctl(&["list_queues", "name", "messages"]).await;
            let is_empty = |line: &str| line.split_whitespace().last() == Some("0");
            let named: Vec<&str> = queues.lines().filter(|line| line.contains(&self.scene.prefix)).collect();
            (!named.is_empty() && named.iter().all(|line| is_empty(line))).then_some(())
        };
        until_within(LONG, "no queue holds anything", none_left).await;
        self.times(copies)
    }

    fn times(&self, copies: &[Copy]) -> Vec<usize> {
        let mut times = vec![0; copies.len()];
        for copy in self.handlers().flat_map(handled) {
            times[copy] += 1;
        }
        times
    }
}

/// failures.md H2, S1, S2, L1: and nothing confirmed is lost, whatever the order.
#[tokio::test]
async fn of_100_000_messages_in_a_quorum_queue_each_confirmed_one_is_handled_while_everything_dies() {
    everything_dies("quorum").await;
}

/// The same.
#[tokio::test]
async fn of_100_000_messages_in_a_classic_queue_each_confirmed_one_is_handled_while_everything_dies() {
    everything_dies("classic").await;
}

async fn everything_dies(queue_type: &str) {
    let mut cast = Cast::on(queue_type).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cast.endpoint())).expect("an address");
    let publisher = Relentless::new(endpoint.connect_lazy(), MESSAGES, Rc::clone(&cast.progress));
    let (tally, within) = tokio::join!(publisher.publish_all(), cast.accidents());
    let begun = cast.begun;
    let times = cast.end(&tally.copies).await;
    report(&tally, &times, (within, begun.elapsed()));
}

fn report(tally: &Tally, times: &[usize], (within, elapsed): (usize, Duration)) {
    let Tally { confirmed, copies, failures, broken } = tally;
    let handled: usize = times.iter().sum();
    // What was sent twice may well be handled twice: only what comes twice from the same copy is doubled.
    let doubled: usize = times.iter().map(|times| times.saturating_sub(1)).sum();
    let of = |answer| copies.iter().zip(times).filter(move |(copy, _)| copy.answer == answer);
    let (unknown, not_stored) = (of(Answer::Unknown).count(), of(Answer::NotStored).count());
    let stored_unknown = of(Answer::Unknown).filter(|(_, times)| **times > 0).count();
    println!(
        "{confirmed} confirmed; of {unknown} copies without a clear answer {stored_unknown} were stored, {not_stored} were told \
         not to be (answers: {failures:?}; {} streams broke with {} unanswered); {handled} handled in {:.1} s, {doubled} delivered again after they were handled, at most {within} were in flight",
        broken.0,
        broken.1,
        elapsed.as_secs_f64()
    );
    assert_eq!(*confirmed, MESSAGES);
    assert!(broken.0 > 0 && broken.1 > 0, "the killed sidecar had publishes without an answer");
    assert!(failures.values().sum::<usize>() > 0, "the broker went while something was published");
    let is_confirmed: BTreeSet<usize> = of(Answer::Confirmed).map(|(copy, _)| copy.number).collect();
    assert_eq!(is_confirmed.len(), MESSAGES, "each message, once");
    assert!(of(Answer::Confirmed).all(|(_, times)| *times > 0), "each was handled");
    assert!(of(Answer::NotStored).all(|(_, times)| *times == 0), "what is told not to be stored is not");
    assert!(doubled <= within, "{doubled} doubled");
}
