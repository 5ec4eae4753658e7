//! `topology plan` and `topology export` from settings alone, and what every topology command refuses before it connects.

use serde_json::Value as Json;

use crate::support::process::Place;

/// A classic deployment that is only looked at, with a second exchange and a queue of the process itself.
const PRODUCTION: &str = r#"
[bus.amqp]
host = "localhost"
vhost = "orders"
topology = "verify"
management = { url = "https://localhost:15671" }
[exchanges."billing.commands"]
type = "direct"
[queues.player-projector]
queue = "prod.player-projector"
bindings = ["player.#", { exchange = "billing.commands", routing_key = "player.credit" }]
[queues.audit]
exclusive = true
bindings = [{ exchange = "elsewhere", arguments = { x-match = "any", level = 3 } }]
"#;

/// The documented example for production, with its paths replaced.
const DOCUMENTED: &str = r#"
[bus]
state_dir = "."
[bus.amqp]
host = "rabbit.prod.svc"
vhost = "orders"
username_file = "username"
password_file = "password"
tls = { require = true, ca_file = "ca.crt" }
topology = "verify"
management = { url = "https://rabbit.prod.svc:15671" }
[exchanges."billing.commands"]
type = "direct"
[queues.player-projector]
queue = "prod.player-projector"
bindings = ["player.#", { exchange = "billing.commands", routing_key = "player.credit" }]
retry = { max_attempts = 8, max_backoff = "10m" }
dead_letter = { scope = "per_queue" }
[dead_letter]
archive_queue = "orders.archive"
message_ttl = "720h"
[grpc]
unix_socket = "sidebus.sock"
"#;

fn worked_example() -> Place {
    Place::new().file("sidebus.toml", sidebus::config::worked_example())
}

fn production() -> Place {
    Place::new().file("sidebus.toml", PRODUCTION)
}

/// Data of a command that ends well.
async fn data(place: &Place, args: &[&str]) -> String {
    let said = place.run(args).await;
    assert_eq!(said.code, 0, "{args:?}: {said:?}");
    said.stdout
}

#[tokio::test]
async fn the_plan_of_the_worked_example_is_ordered_and_needs_no_broker() {
    insta::assert_snapshot!(data(&worked_example(), &["topology", "plan"]).await, @r##"
    shared
       1  exchange  angzarr.events                               topic, durable
       2  exchange  angzarr.dlx                                  fanout*, durable, not internal*
       3  queue     angzarr.dlq                                  durable, x-delivery-limit = 2000000000, x-queue-type = "quorum"
       4  bind      angzarr.dlx -> angzarr.dlq
    subscription hand-saga
       5  queue     hand-saga                                    durable, x-dead-letter-exchange = "angzarr.dlx", x-dead-letter-strategy = "at-least-once", x-delivery-limit = 20, x-overflow = "reject-publish", x-queue-type = "quorum"
       6  bind      angzarr.events -> hand-saga hand.#
    subscription output-projector
       7  queue     output-projector                             durable, x-dead-letter-exchange = "angzarr.dlx", x-dead-letter-strategy = "at-least-once", x-delivery-limit = 20, x-overflow = "reject-publish", x-queue-type = "quorum"
       8  bind      angzarr.events -> output-projector player.#
    subscription player-projector
       9  queue     player-projector                             durable*, not auto_delete*, not exclusive*, x-dead-letter-exchange = "angzarr.dlx"*, x-dead-letter-strategy = "at-least-once", x-delivery-limit = 20, x-overflow = "reject-publish", x-queue-type = "quorum"
      10  bind      angzarr.events -> player-projector player.#
    subscription topology-tracker
      11  queue     topology-tracker                             durable, x-dead-letter-exchange = "angzarr.dlx", x-dead-letter-strategy = "at-least-once", x-delivery-limit = 20, x-overflow = "reject-publish", x-queue-type = "quorum"
      12  bind      angzarr.events -> topology-tracker *.#
    on first need
          delay slots sidebus.delay.000000100 to sidebus.delay.104857600: an exchange and a queue each, at most 81 of them
    "##);
}

#[tokio::test]
async fn the_plan_of_a_verified_deployment_is_the_same_kind_of_list() {
    let place = production();
    insta::assert_snapshot!(data(&place, &["topology", "plan"]).await, @r##"
    shared
       1  exchange  angzarr.events                                           topic, durable
       2  exchange  billing.commands                                         direct*, durable
       3  exchange  angzarr.dlx                                              fanout*, durable, not internal*
       4  queue     angzarr.dlq                                              durable, x-delivery-limit = 2000000000, x-queue-type = "quorum"
       5  bind      angzarr.dlx -> angzarr.dlq
    subscription audit
       6  queue     audit                                                    durable, exclusive*, x-dead-letter-exchange = "angzarr.dlx", x-overflow = "reject-publish", x-queue-type = "classic"
       7  bind      elsewhere -> audit                                       level = 3, x-match = "any"
    subscription player-projector
       8  queue     prod.player-projector                                    durable, x-dead-letter-exchange = "angzarr.dlx", x-dead-letter-strategy = "at-least-once", x-delivery-limit = 20, x-overflow = "reject-publish", x-queue-type = "quorum"
       9  bind      angzarr.events -> prod.player-projector player.#
      10  bind      billing.commands -> prod.player-projector player.credit
    on first need
          delay slots sidebus.delay.000000100 to sidebus.delay.104857600: an exchange and a queue each, at most 81 of them
    "##);
    let said = place.run(&["topology", "plan"]).await;
    assert!(said.stderr.contains("looked for only"), "{said:?}");
}

#[tokio::test]
async fn the_plan_of_the_documented_production_example_has_its_own_letters_and_their_archive() {
    let place = Place::new().file("sidebus.toml", DOCUMENTED);
    let place = place.file("username", "app").file("password", "canary-3").file("ca.crt", "");
    insta::assert_snapshot!(data(&place, &["topology", "plan"]).await, @r##"
    shared
       1  exchange  angzarr.events                                           topic, durable
       2  exchange  billing.commands                                         direct*, durable
       3  queue     orders.archive                                           durable, x-delivery-limit = 2000000000, x-queue-type = "quorum"
       4  exchange  angzarr.dlx                                              fanout*, durable, not internal*
       5  queue     angzarr.dlq                                              durable, x-dead-letter-exchange = "", x-dead-letter-routing-key = "orders.archive"*, x-dead-letter-strategy = "at-least-once", x-delivery-limit = 2000000000, x-message-ttl = 2592000000*, x-overflow = "reject-publish", x-queue-type = "quorum"
       6  bind      angzarr.dlx -> angzarr.dlq
    subscription player-projector
       7  queue     prod.player-projector.dlq                                durable, x-dead-letter-exchange = "", x-dead-letter-routing-key = "orders.archive"*, x-dead-letter-strategy = "at-least-once", x-delivery-limit = 2000000000, x-message-ttl = 2592000000*, x-overflow = "reject-publish", x-queue-type = "quorum"
       8  queue     prod.player-projector                                    durable, x-dead-letter-exchange = "angzarr.dlx", x-dead-letter-strategy = "at-least-once", x-delivery-limit = 20, x-overflow = "reject-publish", x-queue-type = "quorum"
       9  bind      angzarr.events -> prod.player-projector player.#
      10  bind      billing.commands -> prod.player-projector player.credit
    on first need
          delay slots sidebus.delay.000000100 to sidebus.delay.104857600: an exchange and a queue each, at most 81 of them
    "##);
}

#[tokio::test]
async fn a_plan_in_json_has_every_step_with_its_part() {
    let plan: Json = serde_json::from_str(&data(&production(), &["topology", "plan", "-o", "json"]).await).unwrap();
    assert_eq!(plan["mode"], "verify");
    let steps = plan["steps"].as_array().unwrap();
    let first = |step: &str| steps.iter().position(|it| it["step"] == step).unwrap();
    assert!(first("exchange") < first("queue") && first("queue") < first("bind"), "{plan:#}");
    let queue = steps.iter().find(|it| it["name"] == "prod.player-projector").unwrap();
    assert_eq!(queue["part"], "subscription player-projector");
    assert_eq!(queue["arguments"]["x-queue-type"], "quorum");
    let binding = steps.iter().find(|it| it["exchange"] == "elsewhere").unwrap();
    assert_eq!((&binding["queue"], &binding["arguments"]["level"]), (&"audit".into(), &3.into()));
    assert_eq!(plan["on_first_need"].as_array().unwrap().len(), 81);
}

#[tokio::test]
async fn one_subscription_and_all_slots_can_be_asked_for() {
    let place = production();
    let one = data(&place, &["topology", "plan", "--subscription", "player-projector"]).await;
    assert!(one.contains("prod.player-projector") && !one.contains("audit"), "{one}");
    let slots = data(&place, &["topology", "export", "--format", "definitions", "--delay-slots"]).await;
    let slots: Json = serde_json::from_str(&slots).unwrap();
    let is_slot = |it: &&Json| it["name"].as_str().unwrap().starts_with("sidebus.delay.");
    assert_eq!(slots["queues"].as_array().unwrap().iter().filter(is_slot).count(), 81);
}

#[tokio::test]
async fn graphs_show_bindings_with_their_keys_and_the_way_of_dead_letters() {
    let place = production();
    insta::assert_snapshot!(data(&place, &["topology", "export", "--format", "dot"]).await, @r##"
    digraph topology {
      rankdir = LR;
      node [fontname = "sans-serif"];
      e0 [label = "angzarr.events\ntopic", shape = ellipse];
      e1 [label = "billing.commands\ndirect", shape = ellipse];
      e2 [label = "angzarr.dlx\nfanout", shape = ellipse];
      e3 [label = "elsewhere", shape = ellipse, style = dashed];
      q4 [label = "angzarr.dlq", shape = box];
      q5 [label = "audit", shape = box];
      q6 [label = "prod.player-projector", shape = box];
      e2 -> q4 [label = ""];
      e3 -> q5 [label = "level = 3, x-match = \"any\""];
      e0 -> q6 [label = "player.#"];
      e1 -> q6 [label = "player.credit"];
      q5 -> e2 [label = "dead letters", style = dashed];
      q6 -> e2 [label = "dead letters", style = dashed];
    }
    "##);
    insta::assert_snapshot!(data(&place, &["topology", "export", "--format", "mermaid"]).await, @r##"
    flowchart LR
      e0(["angzarr.events<br/>topic"])
      e1(["billing.commands<br/>direct"])
      e2(["angzarr.dlx<br/>fanout"])
      e3(["elsewhere"])
      q4["angzarr.dlq"]
      q5["audit"]
      q6["prod.player-projector"]
      e2 --> q4
      e3 -->|"level = 3, x-match = #34;any#34;"| q5
      e0 -->|"player.#35;"| q6
      e1 -->|"player.credit"| q6
      q5 -.->|"dead letters"| e2
      q6 -.->|"dead letters"| e2
    "##);
}

#[tokio::test]
async fn hostile_names_stay_inside_their_labels() {
    let evil = r#"a\"]; rm -rf /\\ <b>#x</b> &#35; `md`"#;
    let settings =
        format!("[bus.amqp]\nexchange = \"{evil}\"\n[queues.q]\nqueue = \"{evil}\"\nbindings = [\"{evil}\"]\n");
    let place = Place::new().file("sidebus.toml", &settings);
    let dot = data(&place, &["topology", "export", "--format", "dot"]).await;
    assert!(dot.contains(r#"[label = "a\"]; rm -rf /\\ <b>#x</b> &amp;#35; `md`\ntopic", shape = ellipse];"#), "{dot}");
    let mermaid = data(&place, &["topology", "export", "--format", "mermaid"]).await;
    for line in mermaid.lines().skip(1) {
        assert!(line.matches('"').count() <= 2 && !line.contains('`') && !line.contains("<b>"), "{line}");
    }
    assert!(
        mermaid.contains("a#34;]#59; rm -rf /#92; #60;b#62;#35;x#60;/b#62; #38;#35;35#59; #96;md#96;<br/>topic"),
        "{mermaid}"
    );
}

#[tokio::test]
async fn control_characters_of_a_binding_key_do_not_reach_the_terminal() {
    let settings = "[queues.q]\nbindings = [\"a\\u001b[2J\\nb\"]\n";
    let place = Place::new().file("sidebus.toml", settings);
    for args in [&["topology", "plan"][..], &["topology", "export"], &["topology", "export", "--format", "dot"]] {
        let text = data(&place, args).await;
        assert!(!text.contains('\u{1b}') && text.contains("u{1b}[2J"), "{args:?}: {text}");
    }
}

#[tokio::test]
async fn definitions_leave_out_what_lasts_no_longer_than_a_connection() {
    let said = production().run(&["topology", "export", "--format", "definitions"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let definitions: Json = serde_json::from_str(&said.stdout).unwrap();
    for (collection, count) in [("exchanges", 3), ("queues", 2), ("bindings", 3)] {
        let entries = definitions[collection].as_array().unwrap();
        assert_eq!(entries.len(), count, "{definitions:#}");
        assert!(entries.iter().all(|entry| entry["vhost"] == "orders"), "{definitions:#}");
    }
    for words in ["queue audit is left out", "exchange elsewhere must be there", "--delay-slots"] {
        assert!(said.stderr.contains(words), "{said:?}");
    }
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let (bad, good) = (Place::new().file("sidebus.toml", "[bus.amqp]\ntopology = \"maybe\"\n"), production());
    for command in ["plan", "apply", "diff", "export"] {
        let said = bad.run(&["topology", command]).await;
        assert_eq!((said.code, said.stdout.as_str()), (4, ""), "{command}: {said:?}");
        assert!(said.stderr.contains("bus.amqp.topology"), "{said:?}");
        let said = good.run(&["topology", command, "--subscription", "palyer"]).await;
        assert_eq!((said.code, said.stdout.as_str()), (8, ""), "{command}: {said:?}");
        assert!(said.stderr.contains("audit, player-projector"), "{said:?}");
    }
    for command in ["apply", "diff"] {
        let said = Place::memory().run(&["topology", command]).await;
        assert_eq!((said.code, said.stdout.as_str()), (4, ""), "{command}: {said:?}");
        assert!(said.stderr.contains("BUS_BACKEND"), "{said:?}");
    }
    assert_eq!(good.run(&["topology", "export", "--format", "visio"]).await.code, 2);
}

#[cfg(feature = "amqp")]
#[tokio::test]
async fn a_broker_that_is_away_or_silent_has_its_code() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:canary-77@{}", listener.local_addr().unwrap());
    let place = worked_example().with("AMQP_URL", &url);
    for command in ["apply", "diff"] {
        // The system accepts the connection; nobody ever answers.
        let said = place.run(&["topology", command, "--timeout", "300ms"]).await;
        assert_eq!((said.code, said.stdout.as_str()), (124, ""), "{command}: {said:?}");
    }
    drop(listener);
    for command in ["apply", "diff"] {
        let said = place.run(&["topology", command]).await;
        assert_eq!((said.code, said.stdout.as_str()), (5, ""), "{command}: {said:?}");
        assert!(said.stderr.contains("cannot reach the broker") && !said.stderr.contains("canary"), "{said:?}");
    }
}

#[tokio::test]
async fn the_help_tells_what_the_exit_codes_hang_on() {
    for (command, words) in [
        ("diff", &["3 = bus.amqp.management.url is set", "Without it", "7 = something differs"][..]),
        ("apply", &["0 = no part failed", "3 = some parts", "7 = something exists that does not fit"]),
    ] {
        let said = Place::new().run(&["topology", command, "--help"]).await;
        let help = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(help.contains(word), "{word}: {help}");
        }
    }
}
