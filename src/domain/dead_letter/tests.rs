//! Scopes, bounds and archives of dead letters, and the steps that make them.

use super::super::queue_keys::Weight;
use super::*;

const DAY: Duration = Duration::from_hours(24);

fn exchange(name: &str) -> ExchangeName {
    ExchangeName::parse(name).unwrap()
}

fn queue(name: &str) -> QueueName {
    QueueName::parse(name).unwrap()
}

fn shared() -> DeadLetterSettings {
    DeadLetterSettings::shared(exchange("dlx"), queue("dlq"))
}

fn all(scope: DeadLetterScope, bounds: Bounds) -> (DeadLetterSettings, Vec<Finding>) {
    common((exchange("dlx"), queue("dlq")), scope, bounds)
}

fn archived() -> DeadLetterSettings {
    let bounds = Bounds { archive_queue: Some(queue("archive")), message_ttl: Some(DAY), max_length: None };
    let (settings, findings) = all(DeadLetterScope::Shared, bounds);
    assert_eq!(findings, []);
    settings
}

fn per_queue() -> DeadLetterKeys {
    DeadLetterKeys { scope: Some(DeadLetterScope::PerQueue), ..DeadLetterKeys::default() }
}

fn resolve(keys: DeadLetterKeys, common: &DeadLetterSettings) -> DeadLetterSettings {
    let (settings, findings) = of_queue(keys, common, &queue("work"));
    assert!(findings.iter().all(|finding| finding.weight == Weight::Warning), "{findings:?}");
    settings
}

fn refused(keys: DeadLetterKeys, common: &DeadLetterSettings) -> Vec<String> {
    let (_, findings) = of_queue(keys, common, &queue("work"));
    let problems = findings.into_iter().filter(|finding| finding.weight == Weight::Problem);
    problems.map(|finding| finding.place.to_string()).collect()
}

/// Names of the declared queues with the arguments beyond those of every dead-letter queue.
fn declared(settings: &DeadLetterSettings) -> Vec<(String, Headers)> {
    let mut found = Vec::new();
    for step in settings.steps() {
        let Step::Queue(mut queue) = step else { continue };
        assert_eq!(queue.arguments.remove("x-queue-type"), Some(Value::text("quorum")));
        assert_eq!(queue.arguments.remove("x-delivery-limit"), Some(Value::Int64(2_000_000_000)));
        assert!(queue.durable && !queue.exclusive && !queue.auto_delete);
        found.push((queue.name.to_string(), queue.arguments));
    }
    found
}

fn bounds_of(ttl: Option<i64>, length: Option<i64>, archive: &str) -> Headers {
    let mut arguments = Headers::from([
        ("x-dead-letter-exchange".to_owned(), Value::text("")),
        ("x-dead-letter-routing-key".to_owned(), Value::text(archive)),
        ("x-dead-letter-strategy".to_owned(), Value::text("at-least-once")),
        ("x-overflow".to_owned(), Value::text("reject-publish")),
    ]);
    arguments.extend(ttl.map(|ttl| ("x-message-ttl".to_owned(), Value::Int64(ttl))));
    arguments.extend(length.map(|length| ("x-max-length".to_owned(), Value::Int64(length))));
    arguments
}

#[test]
fn who_says_nothing_shares_one_queue() {
    let settings = resolve(DeadLetterKeys::default(), &shared());
    assert_eq!(settings, shared());
    assert_eq!(declared(&settings), [("dlq".to_owned(), Headers::new())]);
    assert_eq!(settings.address(&queue("work")), (exchange("dlx"), "work".to_owned()));
    assert_eq!((settings.letters().as_str(), settings.when_full()), ("dlq", None));
}

#[test]
fn in_the_scope_of_one_queue_letters_go_straight_to_it_and_the_shared_one_stays() {
    for settings in [
        resolve(per_queue(), &shared()),
        resolve(DeadLetterKeys::default(), &all(DeadLetterScope::PerQueue, Bounds::default()).0),
    ] {
        assert_eq!(settings.address(&queue("work")), (ExchangeName::nameless(), "work.dlq".to_owned()));
        assert_eq!(settings.letters().as_str(), "work.dlq");
        let names: Vec<String> = declared(&settings).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["dlq", "work.dlq"]);
    }
    let named = resolve(DeadLetterKeys { queue: Some(queue("bad")), ..per_queue() }, &shared());
    assert_eq!((named.letters().as_str(), named.queue.as_str()), ("bad", "dlq"));
    let back = DeadLetterKeys { scope: Some(DeadLetterScope::Shared), ..DeadLetterKeys::default() };
    assert_eq!(
        resolve(back, &all(DeadLetterScope::PerQueue, Bounds::default()).0).address(&queue("work")).0,
        exchange("dlx")
    );
}

#[test]
fn an_exchange_of_its_own_is_bound_to_the_queue_of_that_subscription() {
    let keys = || DeadLetterKeys { exchange: Some(exchange("my.dlx")), ..DeadLetterKeys::default() };
    assert_eq!(resolve(keys(), &shared()).queue.as_str(), "dlq");
    let both = || DeadLetterKeys { queue: Some(queue("my.dlq")), ..keys() };
    let settings = resolve(both(), &shared());
    assert_eq!((settings.queue.as_str(), settings.address(&queue("work")).0), ("my.dlq", exchange("my.dlx")));
    let alone = resolve(DeadLetterKeys { scope: Some(DeadLetterScope::PerQueue), ..both() }, &shared());
    assert_eq!(alone.letters(), &alone.queue);
    let names: Vec<String> = declared(&alone).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["my.dlq"], "declared once");
    assert!(alone.address(&queue("work")).0.is_nameless());
}

#[test]
fn a_queue_of_its_own_behind_the_exchange_of_all_would_take_the_letters_of_all() {
    let keys = DeadLetterKeys { queue: Some(queue("mine")), ..DeadLetterKeys::default() };
    assert_eq!(refused(keys, &shared()), ["dead_letter.queue"]);
    let same =
        DeadLetterKeys { queue: Some(queue("dlq")), exchange: Some(exchange("dlx")), ..DeadLetterKeys::default() };
    assert_eq!(refused(same, &shared()), [""; 0]);
}

#[test]
fn expired_letters_move_to_an_archive_that_has_no_bounds() {
    let settings = archived();
    let day = bounds_of(Some(86_400_000), None, "archive");
    let expected = [("archive".to_owned(), Headers::new()), ("dlq".to_owned(), day.clone())];
    assert_eq!(declared(&settings), expected);
    let own = resolve(per_queue(), &settings);
    let [archive, dlq] = expected;
    assert_eq!(declared(&own), [archive, dlq, ("work.dlq".to_owned(), day)], "the archive is declared once");
    let named: Vec<String> = settings
        .steps()
        .into_iter()
        .filter_map(|step| if let Step::Queue(queue) = step { Some(queue.named) } else { None })
        .flatten()
        .collect();
    assert_eq!(named, ["x-dead-letter-routing-key", "x-message-ttl"]);
}

#[test]
fn a_length_bounds_only_what_takes_our_letters_alone() {
    let bounds = Bounds { archive_queue: Some(queue("archive")), message_ttl: None, max_length: Some(9) };
    let (_, findings) = all(DeadLetterScope::Shared, bounds.clone());
    assert_eq!(findings[0].place, Place::Key("dead_letter.max_length"));

    let (common, findings) = all(DeadLetterScope::PerQueue, bounds.clone());
    assert_eq!(findings, []);
    assert_eq!(declared(&common)[1], ("dlq".to_owned(), Headers::new()));
    let settings = resolve(DeadLetterKeys::default(), &common);
    assert_eq!(
        declared(&settings)[1..],
        [("dlq".to_owned(), Headers::new()), ("work.dlq".to_owned(), bounds_of(None, Some(9), "archive")),]
    );
    assert_eq!(settings.when_full(), Some(&queue("archive")));
    let bound = DeadLetterKeys { exchange: Some(exchange("my.dlx")), queue: Some(queue("mine")), ..per_queue() };
    assert_eq!(refused(DeadLetterKeys { bounds, ..bound }, &shared()), ["dead_letter.max_length"]);
}

#[test]
fn bounds_need_an_archive_and_an_archive_is_no_dead_letter_queue() {
    let bounds = |archive: Option<&str>, message_ttl, max_length| Bounds {
        archive_queue: archive.map(queue),
        message_ttl,
        max_length,
    };
    let places = |bounds| -> Vec<String> {
        all(DeadLetterScope::PerQueue, bounds).1.into_iter().map(|finding| finding.place.to_string()).collect()
    };
    assert_eq!(places(bounds(None, Some(DAY), Some(1))), ["dead_letter.message_ttl", "dead_letter.max_length"]);
    assert_eq!(places(bounds(Some("dlq"), Some(DAY), None)), ["dead_letter.archive_queue"]);
    assert_eq!(places(bounds(Some("archive"), None, None)), ["dead_letter.archive_queue"], "nothing goes there");
    assert_eq!(
        refused(DeadLetterKeys { bounds: bounds(Some("work.dlq"), Some(DAY), None), ..per_queue() }, &shared()),
        ["dead_letter.archive_queue"]
    );
}

#[test]
fn one_subscription_cannot_bound_the_letters_of_others() {
    let bounds = Bounds { message_ttl: Some(DAY), ..Bounds::default() };
    let keys = DeadLetterKeys { bounds: bounds.clone(), ..DeadLetterKeys::default() };
    assert_eq!(refused(keys, &archived()), ["dead_letter.message_ttl"]);
    let own =
        resolve(DeadLetterKeys { bounds: Bounds { message_ttl: Some(DAY * 2), ..bounds }, ..per_queue() }, &archived());
    assert_eq!(own.own.unwrap().archive.unwrap().message_ttl, Some(DAY * 2));
    assert_eq!(own.archive.unwrap().message_ttl, Some(DAY), "the shared queue keeps its own");
}

#[test]
fn a_name_that_would_be_too_long_is_told() {
    let (settings, findings) = of_queue(per_queue(), &shared(), &queue(&"x".repeat(252)));
    assert_eq!(findings[0].place, Place::Key("dead_letter.scope"));
    assert_eq!(settings.own, None);
}

#[test]
fn what_is_repeated_word_for_word_changes_nothing() {
    for keys in [per_queue(), DeadLetterKeys { queue: Some(queue("bad")), ..per_queue() }] {
        let settings = resolve(keys.clone(), &archived());
        assert_eq!(resolve(DeadLetterKeys::default(), &settings), settings);
        assert_eq!(resolve(keys, &settings), settings);
    }
    assert_eq!(
        resolve(per_queue(), &archived()).queues().map(QueueName::as_str).collect::<Vec<_>>(),
        ["dlq", "work.dlq", "archive", "archive"]
    );
}

#[test]
fn an_exchange_that_the_subscription_names_must_be_that_of_its_queue() {
    let common = shared();
    let named = DeadLetterKeys { exchange: Some(common.exchange.clone()), ..DeadLetterKeys::default() };
    assert!(resolve(named, &common).is_exchange_named);
    assert!(!resolve(DeadLetterKeys::default(), &common).is_exchange_named);
}

#[test]
fn the_exchange_of_letters_is_named_a_fanout_that_takes_publishes() {
    let steps = shared().steps();
    let exchange =
        steps.iter().find_map(|step| if let Step::Exchange(exchange) = step { Some(exchange) } else { None });
    let exchange = exchange.unwrap();
    assert_eq!((exchange.kind, exchange.internal), (ExchangeKind::Fanout, false));
    assert_eq!(exchange.named.iter().map(String::as_str).collect::<Vec<_>>(), ["internal", "type"]);
}
