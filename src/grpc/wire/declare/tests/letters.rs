//! Dead letters of declared subscriptions: what handlers may name, and what they never get.

use super::*;

#[test]
fn handlers_take_no_letters_of_others() {
    let queue = |name: &str| v1::SubscriptionSpec { queue: name.to_owned(), ..spec() };
    let letters = |name: &str| {
        let policy = v1::DeadLetterPolicy { queue: name.to_owned(), ..own_letters() };
        v1::SubscriptionSpec { dead_letter: Some(policy), ..spec() }
    };
    assert_eq!(refused(queue("billing.dlq")), ["queue"]);
    assert_eq!(refused(letters("billing.dlq")), ["dead_letter.queue"]);
    for own in ["player-projector.dlq", "bad-players"] {
        let found = declare(letters(own)).expect("its own");
        assert_eq!((found.dead_letter.letters().as_str(), found.dead_letter.queue.as_str()), (own, "angzarr.dlq"));
    }
    let mut fixture = Fixture::new();
    fixture.dead_letter.archive = Some(ArchiveSettings {
        queue: QueueName::parse("archive").expect("a name"),
        message_ttl: None,
        max_length: None,
    });
    for (spec, field) in
        [(queue("archive"), "open.declare.queue"), (letters("archive"), "open.declare.dead_letter.queue")]
    {
        let problem = subscription_from_proto(&name(), spec, &fixture.defaults()).expect_err("not for handlers");
        let Problem::InvalidRequest(violations) = problem else { panic!("{problem:?}") };
        assert_eq!(violations.first().map(|violation| violation.field.as_str()), Some(field));
    }
}

#[test]
fn letters_go_where_nobody_else_takes_them() {
    let policy = |exchange: &str, queue: &str| v1::DeadLetterPolicy {
        exchange: exchange.to_owned(),
        queue: queue.to_owned(),
        ..Default::default()
    };
    let with = |policy, bindings| v1::SubscriptionSpec { dead_letter: Some(policy), bindings, ..spec() };
    let listening = with(policy("my.dlx", ""), vec![binding("my.dlx", "")]);
    let declared =
        subscription_from_proto(&name(), listening, &Fixture::new().defaults()).expect("somebody may listen");
    assert!(declared.warnings[0].starts_with("open.declare.bindings: my.dlx is also"), "{:?}", declared.warnings);
    assert_eq!(refused(with(policy("angzarr.events", ""), Vec::new())), ["dead_letter.exchange"]);
    assert_eq!(refused(with(policy("", "mine"), Vec::new())), ["dead_letter.queue"], "the letters of all would come");
    let legal = declare(with(policy("my.dlx", "mine"), vec![binding("", "#")])).expect("legal");
    assert_eq!((legal.dead_letter.exchange.as_str(), legal.dead_letter.queue.as_str()), ("my.dlx", "mine"));
}

#[test]
fn letters_of_its_own_differ_only_where_they_are_named() {
    let fixture = Fixture::new();
    let named = v1::DeadLetterPolicy { queue: "bad".to_owned(), ..own_letters() };
    let configured = declare(v1::SubscriptionSpec { dead_letter: Some(named.clone()), ..spec() }).expect("legal");
    assert_eq!(configured.dead_letter.scope, DeadLetterScope::PerQueue);
    let difference = |policy| {
        let spec = v1::SubscriptionSpec { dead_letter: Some(policy), ..spec() };
        differences(&configured, &spec, &fixture.defaults()).expect("legal").map(|found| (found.key, found.declared))
    };
    for same in [v1::DeadLetterPolicy::default(), own_letters(), named] {
        assert_eq!(difference(same), None);
    }
    let other = v1::DeadLetterPolicy { queue: "worse".to_owned(), ..own_letters() };
    assert_eq!(difference(other), Some(("dead_letter.queue".to_owned(), "worse".to_owned())));
}

#[test]
fn what_users_write_today_names_the_dead_letter_exchange() {
    let subscription = declare(with_argument("x-dead-letter-exchange", text("my.dlx"))).expect("legal");
    assert_eq!(subscription.dead_letter.exchange.as_str(), "my.dlx");

    let promised = declare(with_argument("x-dead-letter-exchange", text("angzarr.dlx"))).expect("the promised example");
    let named = DeadLetterSettings { is_exchange_named: true, ..Fixture::new().dead_letter };
    assert_eq!(promised.dead_letter, named);

    let other = v1::DeadLetterPolicy { exchange: "other".to_owned(), ..Default::default() };
    let spec =
        v1::SubscriptionSpec { dead_letter: Some(other), ..with_argument("x-dead-letter-exchange", text("my.dlx")) };
    assert_eq!(refused(spec), ["dead_letter.exchange"]);
}
