//! The commands against a sidecar of paper: what they print, what they tell it and how they end.

use std::collections::BTreeMap;
use std::future::{Future, pending, ready};
use std::io::{Error as IoError, ErrorKind, Write};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use tokio::io::AsyncWriteExt as _;

use super::console::Console;
use super::exit::ExitStatus;
use super::fake::{Fake, Script};
use super::publish::{self, PublishArgs};
use super::subscribe::{self, SubscribeArgs};
use crate::grpc::problem::Problem;
use crate::grpc::proto::sidebus::v1;
use crate::grpc::proto::sidebus::v1::settlement::Verdict;

#[derive(Debug, Parser)]
enum Command {
    Pub(PublishArgs),
    Sub(SubscribeArgs),
}

/// Longer than any command here takes: a hang is a failure, not a wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// Exit status, data, words.
type Told = (ExitStatus, String, String);

async fn run_with(
    args: &[&str],
    endpoint: &str,
    input: &str,
    output: &mut (dyn Write + Send),
    stop: impl Future<Output = ()>,
) -> (ExitStatus, String) {
    let line = [&["sidebus"], args, &["--endpoint", endpoint]].concat();
    let mut words = Vec::new();
    let mut input = input.as_bytes();
    let mut console = Console { input: &mut input, output, words: &mut words };
    let ended = async {
        match Command::try_parse_from(line).expect("a command line") {
            Command::Pub(args) => publish::run(args, &mut console, stop).await,
            Command::Sub(args) => subscribe::run(args, &mut console, stop).await,
        }
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.expect("a command must end");
    (status, String::from_utf8(words).expect("words"))
}

async fn run(args: &[&str], fake: &Fake, input: &str) -> Told {
    let mut output = Vec::new();
    let (status, words) = run_with(args, &fake.endpoint, input, &mut output, pending()).await;
    (status, String::from_utf8(output).expect("text"), words)
}

fn waiting(bodies: &[&'static str]) -> Script {
    let message = |body: &&'static str| v1::Message {
        body: Bytes::from_static(body.as_bytes()),
        routing_key: "player.X".to_owned(),
        ..Default::default()
    };
    Script { waiting: bodies.iter().map(message).collect(), ..Script::default() }
}

/// Ids by verdict.
fn verdicts(script: &Script) -> (Vec<i64>, Vec<i64>) {
    let of = |wanted: fn(&Verdict) -> bool| {
        let fitting = script.settled.iter().filter(|settlement| settlement.verdict.as_ref().is_some_and(wanted));
        fitting.flat_map(|settlement| settlement.delivery_ids.clone()).collect()
    };
    (of(|verdict| matches!(verdict, Verdict::Ack(_))), of(|verdict| matches!(verdict, Verdict::Release(_))))
}

/// Stands for a pipe whose reader has gone, after a few writes.
struct Pipe(usize);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, IoError> {
        let Some(left) = self.0.checked_sub(1) else { return Err(ErrorKind::BrokenPipe.into()) };
        self.0 = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), IoError> {
        Ok(())
    }
}

#[tokio::test]
async fn pub_sends_a_body_with_its_headers_and_prints_the_id() {
    let fake = Fake::start(Script::default()).await;
    let args = ["pub", "player.X", "hello", "-H", "tenant=a=b", "--exchange", "orders", "--content-type", "text/plain"];
    let (status, output, words) = run(&args, &fake, "").await;

    assert_eq!(
        (status, output.as_str(), words.as_str()),
        (ExitStatus::Ok, "id-0-0\n", "sidebus: published 1 message\n")
    );
    let message = fake.script().published[0][0].clone();
    assert_eq!((message.routing_key.as_str(), &message.body[..]), ("player.X", &b"hello"[..]));
    assert_eq!((message.exchange.as_str(), message.content_type.as_str()), ("orders", "text/plain"));
    let header = v1::HeaderValue { kind: Some(v1::header_value::Kind::Text("a=b".to_owned())) };
    assert_eq!(message.headers, BTreeMap::from([("tenant".to_owned(), header)]));
}

#[tokio::test]
async fn pub_reads_the_body_from_its_input() {
    for args in [&["pub", "k"][..], &["pub", "k", "-"][..]] {
        let fake = Fake::start(Script::default()).await;
        let (status, ..) = run(args, &fake, "two\nlines").await;
        assert_eq!(status, ExitStatus::Ok);
        assert_eq!(&fake.script().published[0][0].body[..], b"two\nlines");
    }
}

#[tokio::test]
async fn pub_repeats_a_message_in_batches_of_500() {
    let fake = Fake::start(Script::default()).await;
    let (status, output, _) = run(&["pub", "k", "x", "-n", "1201"], &fake, "").await;
    let sizes: Vec<_> = fake.script().published.iter().map(Vec::len).collect();
    assert_eq!((status, output.lines().count(), sizes), (ExitStatus::Ok, 1201, vec![500, 500, 201]));
}

#[tokio::test]
async fn pub_sends_the_lines_before_a_bad_one_and_says_which_it_is() {
    let fake = Fake::start(Script::default()).await;
    let input = "{\"routing_key\":\"a\"}\n\n{\"body\":\"x\"}\nnonsense\n{}\n";
    let (status, output, words) = run(&["pub", "default", "--jsonl"], &fake, input).await;

    assert_eq!((status, output.lines().count()), (ExitStatus::Partial, 2));
    assert!(words.contains("line 4:") && words.contains("nor those behind it were sent"), "{words}");
    let keys: Vec<_> = fake.script().published.concat().into_iter().map(|message| message.routing_key).collect();
    assert_eq!(keys, ["a", "default"]);
}

#[tokio::test]
async fn pub_refuses_a_line_with_a_field_that_it_does_not_know() {
    let fake = Fake::start(Script::default()).await;
    let input = "{\"body\":\"a\"}\n{\"foo\":2}\n{\"body\":\"b\"}\n";
    let (status, _, words) = run(&["pub", "k", "--jsonl"], &fake, input).await;
    assert_eq!((status, fake.script().published.concat().len()), (ExitStatus::Partial, 1));
    assert!(words.contains("line 2:") && words.contains("`foo`"), "{words}");
}

#[tokio::test]
async fn pub_tells_some_done_from_none_done() {
    let unroutable = Problem::Unroutable { exchange: "e".to_owned(), routing_key: "k".to_owned() };
    for (batches, problem, expected) in [
        (1, unroutable.clone(), ExitStatus::Partial),
        (0, unroutable, ExitStatus::Failed),
        (0, Problem::BrokerUnavailable("down".to_owned()), ExitStatus::Unreachable),
        (0, Problem::ExchangeNotFound("e".to_owned()), ExitStatus::NotFound),
        (0, Problem::ConfirmTimeout, ExitStatus::Timeout),
    ] {
        let reason = crate::grpc::status::row(&problem).reason;
        let fake = Fake::start(Script { refuse_after: Some((batches, problem)), ..Script::default() }).await;
        let (status, _, words) = run(&["pub", "k", "x", "-n", "501"], &fake, "").await;
        assert_eq!(status, expected, "{reason}");
        assert!(words.contains(&format!("{reason}: ")) && words.contains("; try: "), "{words}");
    }
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_unreachable_and_says_how_to_start_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = listener.local_addr().expect("an address").to_string();
    drop(listener);
    for args in [&["pub", "k", "x"][..], &["sub", "#"][..]] {
        let (status, words) = run_with(args, &endpoint, "", &mut Vec::new(), pending()).await;
        assert_eq!(status, ExitStatus::Unreachable);
        assert!(words.contains("NO_SIDECAR") && words.contains("sidebus run"), "{words}");
    }
    let (status, _) = run_with(&["pub", "k", "x"], "https://x:1", "", &mut Vec::new(), pending()).await;
    assert_eq!(status, ExitStatus::Usage);
}

/// Serves strangers: each connection gets these bytes, and is closed.
async fn answer_all(listener: &tokio::net::TcpListener, bytes: &[u8]) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        // What the stranger wants is of no interest; one that has gone need not be answered.
        stream.write_all(bytes).await.ok();
    }
}

#[tokio::test]
async fn who_answers_and_is_no_sidecar_is_named_with_its_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = listener.local_addr().expect("an address").to_string();
    for bytes in [&b""[..], b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"] {
        for args in [&["pub", "k", "x"][..], &["sub", "#"][..]] {
            let mut output = Vec::new();
            let (status, words) = tokio::select! {
                told = run_with(args, &endpoint, "", &mut output, pending()) => told,
                () = answer_all(&listener, bytes) => continue,
            };
            assert_eq!(status, ExitStatus::Unreachable, "{words}");
            assert!(words.contains(&format!("NO_SIDECAR: no sidecar answers at {endpoint} (")), "{words}");
            assert!(words.contains("--endpoint or client.endpoint"), "{words}");
        }
    }
}

#[tokio::test]
async fn sub_prints_acks_and_ends_after_the_count() {
    let fake = Fake::start(waiting(&["a", "b", "c", "d"])).await;
    let (status, output, words) = run(&["sub", "player.#", "-n", "3"], &fake, "").await;

    assert_eq!((status, output.as_str(), words.as_str()), (ExitStatus::Ok, "a\nb\nc\n", ""));
    let script = fake.script();
    assert_eq!(verdicts(&script), (vec![1, 2, 3], vec![]));
    assert_eq!((script.left, script.waiting.len()), (true, 1), "no more is taken than was asked for");
    let open = &script.opened[0];
    let declare = open.declare.as_ref().expect("a queue of our own");
    assert!(declare.exclusive && declare.auto_delete && open.subscription.starts_with("sub-"), "{open:?}");
    assert_eq!(declare.bindings[0].routing_key, "player.#");
    assert_eq!(open.flow.expect("a window").max_in_flight_messages, Some(3));
}

#[tokio::test]
async fn sub_joins_a_group_when_it_is_named() {
    let fake = Fake::start(waiting(&["a"])).await;
    let (status, ..) = run(&["sub", "--subscription", "players", "-n", "1"], &fake, "").await;
    let open = fake.script().opened.remove(0);
    assert_eq!((status, open.subscription.as_str(), open.declare), (ExitStatus::Ok, "players", None));
}

#[tokio::test]
async fn what_sub_prints_as_json_pub_takes_back() {
    let source = Fake::start(waiting(&["text"])).await;
    source.script().waiting.push_back(v1::Message { body: Bytes::from_static(b"\xff"), ..Default::default() });
    let (_, printed, _) = run(&["sub", "#", "-n", "2", "-o", "json"], &source, "").await;

    let target = Fake::start(Script::default()).await;
    let (status, ..) = run(&["pub", "--jsonl"], &target, &printed).await;
    let bodies: Vec<_> = target.script().published.concat().into_iter().map(|message| message.body).collect();
    assert_eq!(status, ExitStatus::Ok);
    assert_eq!(bodies, [&b"text"[..], &b"\xff"[..]]);
}

#[tokio::test]
async fn sub_ends_when_nothing_more_comes() {
    let fake = Fake::start(waiting(&["a"])).await;
    let (status, output, _) = run(&["sub", "#", "--exit-on-empty=50ms"], &fake, "").await;
    assert_eq!((status, output.as_str()), (ExitStatus::Ok, "a\n"));
    assert!(fake.script().left);
}

#[tokio::test]
async fn sub_gives_back_what_its_reader_no_longer_wants() {
    let fake = Fake::start(waiting(&["a", "b", "c"])).await;
    let (status, words) = run_with(&["sub", "#"], &fake.endpoint, "", &mut Pipe(2), pending()).await;
    assert_eq!((status, words.as_str()), (ExitStatus::Ok, ""), "a closed pipe is quiet");
    assert_eq!(verdicts(&fake.script()), (vec![1, 2], vec![3]));
}

#[tokio::test]
async fn sub_leaves_politely_when_it_is_stopped() {
    for (args, expected) in
        [(&["sub", "#"][..], ExitStatus::Ok), (&["sub", "#", "-n", "5"][..], ExitStatus::Interrupted)]
    {
        let fake = Fake::start(waiting(&["a"])).await;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let mut output = Signal { stop: Some(stop) };
        let stopped = async { stopped.await.expect("sent") };
        let (status, _) = run_with(args, &fake.endpoint, "", &mut output, stopped).await;
        assert_eq!(status, expected);
        assert!(fake.script().left, "the sidecar must hear of it");
    }
}

/// Sends the stop once something was printed.
struct Signal {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Write for Signal {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, IoError> {
        self.stop.take().map(|stop| stop.send(()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), IoError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_command_gives_up_in_time() {
    let fake = Fake::start(Script::default()).await;
    let (status, _, words) = run(&["sub", "#", "--timeout", "50ms"], &fake, "").await;
    assert_eq!(status, ExitStatus::Timeout);
    assert!(words.contains("TIMEOUT"), "{words}");
    let (status, _) = run_with(&["pub", "k", "x"], &fake.endpoint, "", &mut Vec::new(), ready(())).await;
    assert_eq!(status, ExitStatus::Interrupted);
}

#[tokio::test]
async fn sub_says_why_it_was_refused_or_ended() {
    for (problem, expected) in [
        (Problem::SubscriptionNotFound("x".to_owned()), ExitStatus::NotFound),
        (
            Problem::TopologyMismatch {
                object: "queue x".to_owned(),
                reason: "queue x differs".to_owned(),
                hint: "mend it",
                difference: None,
            },
            ExitStatus::Mismatch,
        ),
        (Problem::NotAllowed { what: "declaring".to_owned(), hint: "ask".to_owned() }, ExitStatus::Refused),
        (Problem::Draining, ExitStatus::Unreachable),
    ] {
        let reason = crate::grpc::status::row(&problem).reason;
        let fake = Fake::start(Script { refuse_subscribe: Some(problem), ..Script::default() }).await;
        let (status, _, words) = run(&["sub", "#"], &fake, "").await;
        assert_eq!(status, expected, "{reason}");
        assert!(words.contains(reason), "{words}");
    }
    let fake = Fake::start(Script { drain: true, ..waiting(&["a"]) }).await;
    let (status, output, words) = run(&["sub", "#"], &fake, "").await;
    assert_eq!((status, output.as_str()), (ExitStatus::Failed, "a\n"));
    assert!(words.contains("SIDECAR_DRAINING"), "{words}");
}

#[test]
fn a_wrong_command_line_is_refused() {
    for line in [
        "pub",
        "pub k -n 0",
        "pub k -H x",
        "pub --jsonl k body",
        "sub",
        "sub a --subscription b",
        "sub a -n 0",
        "sub a -o xml",
        "sub a --timeout 5",
    ] {
        let words = std::iter::once("sidebus").chain(line.split(' '));
        assert!(Command::try_parse_from(words).is_err(), "{line}");
    }
}
