//! What a subscription may ask for: options of its queue, its bindings, its retries and its dead letters.

use sidebus::domain::kill_switch::KillSwitchSettings;
use sidebus::domain::subscription::{ArchiveSettings, DeadLetterScope, OwnLetters, RetryBackoff, RetrySettings};

use super::*;

fn scene(tables: &str) -> Scene {
    Scene::new(&format!("[bus]\nbackend = \"memory\"\n{tables}"))
}

/// The problems of a file, each as `key: why`.
fn told(tables: &str) -> Vec<String> {
    scene(tables).problems().iter().map(|problem| format!("{}: {}", problem.key, problem.why)).collect()
}

fn queue(name: &str) -> QueueName {
    QueueName::parse(name).unwrap()
}

#[test]
fn every_option_of_a_queue_is_an_argument_of_the_broker() {
    let loaded = scene(
        r#"
[queues.a]
kind = "shared"
queue_type = "quorum"
message_ttl = "8760h"
max_length = 5_000_000_000
max_length_bytes = "1GiB"
overflow = "reject_publish"
delivery_limit = 50
single_active_consumer = true
ordering_mode = "none"
max_message_bytes = "2MiB"
unbind = ["old.#", { exchange = "legacy", routing_key = "x" }]
bindings = ["new.#"]
[queues.b]
max_priority = 10
[queues.c]
max_priority = 0
"#,
    )
    .loaded();
    let a = subscription(&loaded, "a");
    let expected = [
        ("x-message-ttl", Value::Int64(31_536_000_000)),
        ("x-max-length", Value::Int64(5_000_000_000)),
        ("x-max-length-bytes", Value::Int64(1 << 30)),
        ("x-overflow", Value::text("reject-publish")),
        ("x-delivery-limit", Value::Int64(50)),
        ("x-single-active-consumer", Value::Bool(true)),
    ];
    assert_eq!(a.queue.arguments, expected.map(|(name, value)| (name.to_owned(), value)).into());
    assert_eq!((a.queue.queue_type, a.delivery.message_bytes_max), (Some(QueueType::Quorum), 2 << 20));
    let unbind: Vec<_> = a.unbind.iter().map(|one| (one.exchange.as_str(), one.routing_key.as_str())).collect();
    assert_eq!(unbind, [("angzarr.events", "old.#"), ("legacy", "x")]);
    let b = subscription(&loaded, "b");
    assert_eq!(b.queue.arguments.get("x-max-priority"), Some(&Value::Int64(10)));
    assert_eq!(b.delivery.message_bytes_max, 17 << 20, "the body limit and 1 MiB");
    assert!(subscription(&loaded, "c").queue.arguments.is_empty());
    let warned: Vec<&str> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, ["queues.a.message_ttl"], "the broker gives up by itself what waits longer");
}

#[test]
fn options_come_from_the_environment_too() {
    let loaded = Scene::bare()
        .with(&[
            MEMORY,
            ("BUS__QUEUES__A_B__MAX_LENGTH", "7"),
            ("BUS__QUEUES__A_B__UNBIND", "old.#,older.#"),
            ("BUS__QUEUES__A_B__ARGUMENTS__X_EXPIRES", "60000"),
            ("BUS__QUEUES__A_B__RETRY__JITTER", "0.5"),
            ("BUS__DEAD_LETTER__SCOPE", "per_queue"),
        ])
        .loaded();
    let found = subscription(&loaded, "a-b");
    assert_eq!(found.queue.arguments.get("x-max-length"), Some(&Value::Int64(7)));
    assert_eq!(found.queue.arguments.get("x-expires"), Some(&Value::Int64(60_000)));
    assert_eq!((found.unbind.len(), found.retry.jitter.to_string()), (2, "0.5".to_owned()));
    assert_eq!(found.dead_letter.letters().as_str(), "a-b.dlq");
}

#[test]
fn impossible_combinations_name_both_keys() {
    for (keys, expected) in [
        ("queue_type = \"quorum\"\nmax_priority = 5", "queues.a.max_priority: contradicts queue_type = \"quorum\""),
        (
            "max_priority = 5\ndelivery_limit = 20",
            "queues.a.delivery_limit: is for quorum queues, and max_priority makes this a classic one",
        ),
        (
            "queue_type = \"classic\"\narguments = { x-dead-letter-strategy = \"at-least-once\" }",
            "queues.a.arguments: x-dead-letter-strategy: is for quorum queues, and queue_type = \"classic\" makes this a classic one",
        ),
        (
            "message_ttl = \"1m\"\narguments = { x-message-ttl = 60000 }",
            "queues.a.message_ttl: is also given as arguments.x-message-ttl",
        ),
        ("delivery_limit = 5", "queues.a.delivery_limit: must be 6 to 2147483647"),
        ("max_message_bytes = 1023", "queues.a.max_message_bytes: must be 1KiB to 1TiB"),
        ("ordering_mode = \"key\"", "queues.a.ordering_mode: not supported in this release"),
        (
            "bindings = [\"x\", \"y\"]\nunbind = [{ exchange = \"angzarr.events\", routing_key = \"y\" }]",
            "queues.a.unbind: \"y\" of angzarr.events is also in queues.a.bindings",
        ),
    ] {
        assert_eq!(told(&format!("[queues.a]\n{keys}\n")), [expected], "{keys}");
    }
}

#[test]
fn the_policy_of_retries_is_common_and_each_queue_may_change_parts_of_it() {
    let loaded = scene(
        r#"
[retry]
backoff = "linear"
max_attempts = 7
min_backoff = "2s"
max_backoff = "1h"
multiplier = 3
jitter = 0
crash_limit = 4
max_per_second = 50
[retry.kill_switch]
share = 0.25
sample = 40
min_pause = "5s"
[queues.a.retry]
backoff = "exponential"
max_backoff = "10m"
multiplier = 1.5
max_per_second = 7
kill_switch = { enabled = false, max_pause = "5m" }
[queues.b]
"#,
    )
    .loaded();
    let common = RetrySettings {
        max_attempts: 7,
        backoff: RetryBackoff::Linear,
        min_backoff: Duration::from_secs(2),
        max_backoff: Duration::from_hours(1),
        multiplier: 3.0,
        jitter: 0.0,
        crash_limit: 4,
        max_per_second: 50,
        kill_switch: KillSwitchSettings {
            enabled: true,
            share: 0.25,
            sample: 40,
            min_pause: Duration::from_secs(5),
            max_pause: Duration::from_mins(1),
        },
    };
    assert_eq!(subscription(&loaded, "b").retry, common);
    assert_eq!(loaded.settings.retry, common, "what a declaration leaves unset");
    let a = RetrySettings {
        backoff: RetryBackoff::Exponential,
        max_backoff: Duration::from_mins(10),
        multiplier: 1.5,
        max_per_second: 7,
        kill_switch: KillSwitchSettings { enabled: false, max_pause: Duration::from_mins(5), ..common.kill_switch },
        ..common
    };
    assert_eq!(subscription(&loaded, "a").retry, a);
}

#[test]
fn a_policy_that_cannot_be_is_told_with_both_keys() {
    assert_eq!(
        told("[retry]\nmin_backoff = \"10m\"\n[queues.a.retry]\nmax_backoff = \"20m\"\n"),
        ["retry.min_backoff: retry.min_backoff is 10m and above retry.max_backoff, which is 5m"]
    );
    assert_eq!(
        told("[queues.a.retry]\nmax_backoff = \"500ms\"\n"),
        ["queues.a.retry.max_backoff: retry.min_backoff is 1s and above retry.max_backoff, which is 500ms"]
    );
    assert_eq!(
        told("[retry.kill_switch]\nmax_pause = \"9s\"\n"),
        [
            "retry.kill_switch.max_pause: retry.kill_switch.min_pause is 10s and above retry.kill_switch.max_pause, which is 9s"
        ]
    );
    assert_eq!(told("[retry.kill_switch]\nshare = 1.5\n"), ["retry.kill_switch.share: must be 0 to 1"]);
    assert_eq!(told("[retry]\nmax_per_second = 0\n"), ["retry.max_per_second: must be 1 to 1000000"]);
    assert_eq!(told("[retry]\nmultiplier = 0.5\n"), ["retry.multiplier: must be 1 to 100"]);
    assert_eq!(told("[retry]\njitter = 1.5\n"), ["retry.jitter: must be 0 to 1"]);
    assert_eq!(told("[retry]\nmin_backoff = \"99ms\"\n"), ["retry.min_backoff: must be 100ms to 1d"]);
}

#[test]
fn dead_letters_have_a_scope_and_an_archive() {
    let loaded = scene(
        r#"
[queues.player-projector]
queue = "prod.player-projector"
dead_letter = { scope = "per_queue" }
[queues.b]
dead_letter = { scope = "per_queue", queue = "bad-b", message_ttl = "1h", max_length = 1000 }
[queues.c]
[dead_letter]
archive_queue = "orders.archive"
message_ttl = "720h"
"#,
    )
    .loaded();
    let archive = |message_ttl, max_length| {
        Some(ArchiveSettings { queue: queue("orders.archive"), message_ttl: Some(message_ttl), max_length })
    };
    let month = archive(Duration::from_hours(720), None);
    let common = &loaded.settings.dead_letter;
    assert_eq!((common.scope, &common.archive, &common.own), (DeadLetterScope::Shared, &month, &None));
    assert_eq!(&subscription(&loaded, "c").dead_letter, common);
    let of = |name| &subscription(&loaded, name).dead_letter;
    let expected = OwnLetters { queue: queue("prod.player-projector.dlq"), archive: month.clone() };
    assert_eq!(of("player-projector").own, Some(expected));
    let expected = OwnLetters { queue: queue("bad-b"), archive: archive(Duration::from_hours(1), Some(1_000)) };
    assert_eq!(of("b").own, Some(expected));
    for name in ["player-projector", "b"] {
        assert_eq!((of(name).queue.as_str(), &of(name).archive), ("angzarr.dlq", &month), "the broker's own letters");
    }
}

#[test]
fn bounds_that_would_lose_letters_are_problems() {
    let archive = "[dead_letter]\narchive_queue = \"archive\"\n";
    for (tables, expected) in [
        (
            "[dead_letter]\nmessage_ttl = \"1h\"\n".to_owned(),
            "dead_letter.message_ttl: needs dead_letter.archive_queue: letters that must go have to go somewhere",
        ),
        (
            format!("{archive}max_length = 5\n"),
            "dead_letter.max_length: would make angzarr.dlq refuse the broker's own letters, which then wait unseen or get lost",
        ),
        (
            format!("[queues.a.dead_letter]\nmessage_ttl = \"1h\"\n{archive}"),
            "queues.a.dead_letter.message_ttl: cannot be had for one subscription: its letters lie in angzarr.dlq with those of others",
        ),
        (
            "[queues.a.dead_letter]\nqueue = \"mine\"\n".to_owned(),
            "queues.a.dead_letter.queue: needs an exchange of its own: through angzarr.dlx the letters of all would go there too",
        ),
        (
            "[dead_letter]\narchive_queue = \"sidebus.archive\"\nmessage_ttl = \"1h\"\n".to_owned(),
            "dead_letter.archive_queue: sidebus.archive begins with \"sidebus.\", which is ours",
        ),
    ] {
        assert_eq!(told(&tables), [expected], "{tables}");
    }
}

#[test]
fn one_may_listen_at_the_exchange_of_letters_and_is_warned() {
    let loaded = scene("[queues.a]\nbindings = [{ exchange = \"angzarr.dlx\" }]\n").loaded();
    let expected = "queues.a.bindings: angzarr.dlx is also its dead-letter exchange: what it gives up comes back to it at \
                    once (sidebus.toml:4)";
    assert_eq!(loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn nobody_works_on_letters_or_archives() {
    for (name, tables) in [
        ("a.dlq", "[queues.a]\ndead_letter = { scope = \"per_queue\" }\n[queues.\"a.dlq\"]\n"),
        ("archive", "[queues.archive]\n[dead_letter]\narchive_queue = \"archive\"\nmessage_ttl = \"1h\"\n"),
    ] {
        let problems = told(tables);
        let expected = format!("{name} is a dead-letter queue: its failures would turn in a circle");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].ends_with(&expected), "{problems:?}");
    }
}

#[test]
fn an_archive_takes_nobodys_letters_but_those_that_leave_their_queue() {
    let own = |name: &str, keys: &str| format!("[queues.{name}]\ndead_letter = {{ scope = \"per_queue\"{keys} }}\n");
    let into = |archive: &str| format!(", archive_queue = \"{archive}\", message_ttl = \"1h\"");
    let problems = told(&[own("a", &into("b.dlq")), own("b", "")].concat());
    assert_eq!(problems, ["queues.a.dead_letter.archive_queue: b.dlq takes the letters of queues.b"]);

    let tables = [own("a", &into("angzarr.dlq")), own("b", "")].concat();
    assert!(scene(&tables).load().is_ok(), "the queue of all has no bounds, so both ask for the same one");
    let common = "[dead_letter]\narchive_queue = \"old\"\nmessage_ttl = \"1h\"\n";
    let problems = told(&format!("{}{common}", own("a", &into("angzarr.dlq"))));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("is the dead-letter queue of all, which has an archive itself"), "{problems:?}");
}

#[test]
fn subscriptions_that_share_a_queue_for_letters_give_it_the_same_bounds() {
    let team = |keys: &str| format!("dead_letter = {{ scope = \"per_queue\", queue = \"team\"{keys} }}\n");
    let tables = |b: &str| {
        format!("[queues.a]\n{}[queues.b]\n{}", team(", archive_queue = \"old\", message_ttl = \"1h\""), team(b))
    };
    assert!(scene(&tables(", archive_queue = \"old\", message_ttl = \"1h\"")).load().is_ok());
    assert_eq!(told(&tables("")), ["queues.b.dead_letter: queues.a gives the letters in team other bounds"]);
}

#[test]
fn only_what_an_exchange_names_must_be_so() {
    let loaded = scene(
        "[bus.amqp]\nexchange_type = \"topic\"\n[exchanges.a]\ntype = \"direct\"\narguments = { alternate-exchange = \"rest\" }\n\
         [exchanges.b]\n[exchanges.\"angzarr.events\"]\ndurable = true\n",
    )
    .loaded();
    let named = |exchange: &Exchange| exchange.named.iter().cloned().collect::<Vec<_>>().join(" ");
    let found: Vec<_> = loaded.settings.exchanges.iter().map(named).collect();
    assert_eq!(found, ["alternate-exchange type", ""]);
    assert_eq!(named(&loaded.settings.exchange), "durable type");
}

#[test]
fn a_queue_of_this_connection_alone_needs_somebody_who_declares_it() {
    let file = |mode: &str| format!("[bus.amqp]\ntopology = \"{mode}\"\n[queues.a]\nexclusive = true\n");
    let problems = Scene::new(&file("off")).with(&[MEMORY]).problems();
    let told: Vec<(&str, &str)> = problems.iter().map(|problem| (problem.key.as_str(), problem.why.as_str())).collect();
    let why = "cannot be had with bus.amqp.topology = \"off\": such a queue exists only for whoever declares it";
    assert_eq!(told, [("queues.a.exclusive", why)]);
    for mode in ["create", "verify"] {
        Scene::new(&file(mode)).with(&[MEMORY]).loaded();
    }
}
