//! Every fault in its own words, all of them in one run; surprises as warnings.

use super::*;

/// A file with one fault has exactly this problem.
fn check(file: &str, expected: &str) {
    let file = format!("[bus]\nbackend = \"memory\"\n{file}");
    let problems = Scene::new(&file).problems().to_string();
    let lines: Vec<String> =
        problems.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, [expected], "{file}");
}

#[test]
fn five_faults_in_one_file_are_named_at_once() {
    let problems = Scene::new(
        r#"
[bus]
backend = "amqp"
[bus.amqp]
urll = "amqp://localhost"
prefetch_count = 0
heartbeat = "soon"
[queues.player-projector]
type = "quorum"
exclusive = true
queue_type = "quorum"
"#,
    )
    .problems();
    assert_eq!(problems.len(), 5);
    insta::assert_snapshot!(problems, @r#"
    settings: 5 problems
      bus.amqp.heartbeat = "soon"                 sidebus.toml:7     not a duration                       hint: the units are d, h, m, s and ms, such as "10s" or "1h30m"
      bus.amqp.prefetch_count = 0                 sidebus.toml:6     must be 1 to 65535                   hint: 100 suits most handlers
      bus.amqp.urll                               sidebus.toml:5     unknown key                          hint: did you mean bus.amqp.url?
      queues.player-projector.exclusive = true    sidebus.toml:10    contradicts queue_type = "quorum"    hint: leave queue_type out
      queues.player-projector.type                sidebus.toml:9     unknown key                          hint: did you mean queues.player-projector.queue_type?
    "#);
}

#[test]
fn a_file_that_was_asked_for_and_is_missing_is_a_problem() {
    let mut scene = Scene::bare().with(&[MEMORY]);
    scene.request.files = vec!["gone.toml".into()];
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 1 problem
      gone.toml    -c    cannot be read: no such file
    "#);
    let scene = Scene::bare().with(&[MEMORY, ("BUS_CONFIG", "gone.toml")]);
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 1 problem
      gone.toml    BUS_CONFIG    cannot be read: no such file
    "#);
}

#[test]
fn two_sources_of_one_key_in_one_layer_are_a_problem_even_if_equal() {
    let scene = Scene::bare().with(&[("AMQP_URL", "amqp://localhost"), ("BUS__AMQP__URL", "amqp://localhost")]);
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 1 problem
      bus.amqp.url    BUS__AMQP__URL    is also set by AMQP_URL    hint: keep one of the two
    "#);
    let scene = Scene::new(
        "[bus.amqp]\nurl = \"amqp://u:p@localhost/v\"\nhost = \"x\"\npassword = \"p\"\npassword_file = \"q\"\n",
    );
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 3 problems
      bus.amqp.host              sidebus.toml:3    excludes bus.amqp.url (sidebus.toml:2)         hint: keep one of the two
      bus.amqp.password = ***    sidebus.toml:4    is also in bus.amqp.url (sidebus.toml:2)       hint: keep one of the two
      bus.amqp.password_file     sidebus.toml:5    excludes bus.amqp.password (sidebus.toml:4)    hint: keep one of the two
    "#);
    let mut scene = Scene::bare().set("bus.backend", "memory");
    scene.request.flags.backend = Some("memory".to_owned());
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 1 problem
      bus.backend    --set bus.backend    is also set by --backend    hint: keep one of the two
    "#);
}

#[test]
fn without_a_broker_run_names_dev() {
    insta::assert_snapshot!(Scene::bare().problems(), @r#"
    settings: 1 problem
      bus.backend        no broker is named    hint: set AMQP_URL or BUS_BACKEND, or try `sidebus dev`, which needs no broker
    "#);
    assert!(Scene::bare().command(Command::Validate).load().is_err());
    assert!(Scene::bare().command(Command::Client).load().is_ok(), "a question to a sidecar needs no broker");
}

#[test]
fn surprises_are_warnings_and_stop_nothing() {
    let scene = Scene::new(
        r#"
[queues.a]
queue_type = "classic"
auto_delete = true
durable = false
arguments = { x-max-priority = 20 }
max_lease = "40m"
prefetch_count = 2001
[grpc]
listen = "0.0.0.0:7672"
insecure = true
"#,
    )
    .with(&[
        ("AMQP_URL", "amqp://guest:canary@rabbit/"),
        ("BUS_AMQP_PREFETCH_COUNT", "5"),
        ("BUS_PORT", "tcp://1.2.3.4:80"),
    ]);
    let loaded = scene.loaded();
    let words: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(words.join("\n"), @r#"
    BUS_AMQP_PREFETCH_COUNT: is not read; did you mean BUS__AMQP__PREFETCH_COUNT?
    bus.amqp.url: brokers refuse the user guest from anywhere but their own host, and "rabbit" is another (AMQP_URL)
    bus.amqp.url: plain AMQP to "rabbit": password and messages can be read on the way; write amqps:// (AMQP_URL)
    bus.amqp.url: the address ends in a slash, which is the vhost with the empty name; leave the slash out for "/" (AMQP_URL)
    grpc.insecure: 0.0.0.0:7672 is open to everybody who reaches it, in plaintext and without identity (sidebus.toml:11)
    queues.a.arguments: x-max-priority: more than 10 priorities cost memory and time on the broker (sidebus.toml:6)
    queues.a.auto_delete: the queue and its backlog go with the last consumer, also when the link is lost (sidebus.toml:4)
    queues.a.durable: the queue and its messages are gone when the broker restarts (sidebus.toml:5)
    queues.a.max_lease: RabbitMQ takes deliveries back after 30m unless its consumer_timeout was raised (sidebus.toml:7)
    queues.a.prefetch_count: is above prefetch_max: no handler gets more than 2000 unless that is raised (sidebus.toml:8)
    queues.a.queue_type: a classic queue counts no deliveries: a message that kills its handler stalls it (sidebus.toml:3)
    "#);
    assert_eq!(amqp(&loaded).vhost, "");
    assert!(!loaded.settings.grpc.handlers_may_declare && !loaded.settings.grpc.reflection);
}

/// A file with one fault each, and the problem that it makes.
const FAULTS: &[(&str, &str)] = &[
    ("instance = \"\"", "bus.instance = \"\" sidebus.toml:3 must not be empty hint: leave the key out"),
    (
        "[bus.amqp]\nprefetch_count = 65536",
        "bus.amqp.prefetch_count = 65536 sidebus.toml:4 must be 1 to 65535 hint: 100 suits most handlers",
    ),
    (
        "[bus.amqp]\nprefetch_count = \"5\"",
        "bus.amqp.prefetch_count = \"5\" sidebus.toml:4 must be a whole number hint: without quotes",
    ),
    (
        "[bus.amqp]\nheartbeat = 10",
        "bus.amqp.heartbeat = 10 sidebus.toml:4 a duration needs a unit hint: write \"10s\" or \"10ms\"",
    ),
    (
        "[bus.amqp]\nheartbeat = \"2m\"",
        "bus.amqp.heartbeat = \"2m\" sidebus.toml:4 must be 1s to 1m hint: write \"10s\"",
    ),
    (
        "[bus.amqp]\ntopology = \"creat\"",
        "bus.amqp.topology = \"creat\" sidebus.toml:4 must be one of create, verify, off hint: did you mean \"create\"?",
    ),
    (
        "[grpc]\nmax_message_bytes = \"16MB\"",
        "grpc.max_message_bytes = \"16MB\" sidebus.toml:4 not a size hint: the units are B, KiB, MiB, GiB and TiB, such as \"16MiB\"",
    ),
    (
        "[grpc]\nlisten = \":7672\"",
        "grpc.listen = \":7672\" sidebus.toml:4 an address needs a host hint: \"0.0.0.0:7672\" is every address of this host",
    ),
    (
        "[grpc]\nlisten = \"0.0.0.0:7672\"",
        "grpc.listen = \"0.0.0.0:7672\" sidebus.toml:4 beyond loopback a door needs TLS, which is not supported in this release hint: listen on 127.0.0.1, or set grpc.insecure = true where the network is trusted",
    ),
    (
        "[admin]\nlisten = \"[::]:1\"",
        "admin.listen = \"[::]:1\" sidebus.toml:4 beyond loopback a door needs TLS, which is not supported in this release hint: listen on 127.0.0.1, or set admin.insecure = true where the network is trusted",
    ),
    (
        "[grpc]\nlisten = \"off\"",
        "grpc.listen = \"off\" sidebus.toml:4 is off, and there is no socket: handlers have no door hint: set grpc.unix_socket, or an address",
    ),
    (
        "[health]\nlisten = \"127.0.0.1:7672\"",
        "health.listen = \"127.0.0.1:7672\" sidebus.toml:4 grpc.listen has the address 127.0.0.1:7672 already",
    ),
    (
        "[admin]\nunix_socket = \"/run/s\"",
        "admin.unix_socket sidebus.toml:4 not supported in this release hint: listen on a loopback address",
    ),
    ("[bus.ampq]\nhost = \"x\"", "bus.ampq sidebus.toml:3 unknown key hint: did you mean bus.amqp.host?"),
    ("amqp = \"canary\"", "bus.amqp sidebus.toml:3 must be a table of keys"),
    ("[queues.a]\ndurable = \"yes\"", "queues.a.durable = \"yes\" sidebus.toml:4 must be true or false"),
    (
        "[queues.\"a b\"]\ndurable = true",
        "queues.\"a b\" sidebus.toml:3 contains ' '; letters from a to z, digits, '-', '_' and '.' are allowed hint: choose a plain name here, and set `queue` to the queue's own",
    ),
    (
        "[queues.a]\nbindings = [\"x\", { routingkey = \"y\" }]",
        "queues.a.bindings = [ … ] sidebus.toml:4 item 2: unknown key routingkey hint: write \"player.#\" or { exchange = \"…\", routing_key = \"…\" }",
    ),
    (
        "[queues.a]\nauto_delete = true\narguments = { x-queue-type = \"quorum\" }",
        "queues.a.auto_delete = true sidebus.toml:4 contradicts arguments.x-queue-type = \"quorum\" hint: leave arguments.x-queue-type out",
    ),
    (
        "[queues.a]\nqueue_type = \"quorum\"\narguments = { x-max-priority = 5 }",
        "queues.a.arguments = { … } sidebus.toml:5 x-max-priority: contradicts queue_type = \"quorum\" hint: leave queue_type out; quorum queues have priorities 0 to 31 without it from RabbitMQ 4.3 on",
    ),
    (
        "[queues.a]\nqueue_type = \"quorum\"\ndurable = false",
        "queues.a.durable = false sidebus.toml:5 contradicts queue_type = \"quorum\" hint: leave queue_type out",
    ),
    (
        "[queues.a]\nqueue_type = \"classic\"\narguments = { x-queue-type = \"classic\" }",
        "queues.a.queue_type = \"classic\" sidebus.toml:4 is also given as arguments.x-queue-type hint: keep one of the two",
    ),
    (
        "[queues.a]\nqueue_type = \"stream\"",
        "queues.a.queue_type = \"stream\" sidebus.toml:4 not supported in this release hint: one of quorum, classic",
    ),
    (
        "[queues.a]\narguments = { x-queue-type = \"stream\" }",
        "queues.a.arguments = { … } sidebus.toml:4 x-queue-type: streams are not supported in this release hint: leave it out for quorum",
    ),
    (
        "[queues.a]\nqueue_type = \"stream\"\nmessage_ttl = \"1m\"\nmax_priority = 4",
        "queues.a.queue_type = \"stream\" sidebus.toml:4 not supported in this release hint: one of quorum, classic",
    ),
    (
        "[queues.a]\nbindings = [{ arguments = { x-match = \"some\" } }]",
        "queues.a.bindings = [ … ] sidebus.toml:4 item 1: x-match must be one of all, any, all-with-x, any-with-x hint: leave it out for all",
    ),
    (
        "[queues.a]\narguments = { x-odds = nan }",
        "queues.a.arguments = { … } sidebus.toml:4 must be a finite number hint: the broker has none for nan and inf",
    ),
    (
        "[queues.a]\narguments = { x-delivery-limit = -1 }",
        "queues.a.arguments = { … } sidebus.toml:4 x-delivery-limit: must be a whole number of at least 0 hint: without a limit one bad message can go round for ever",
    ),
    (
        "[queues.a]\nexclusive = true\narguments = { x-delivery-limit = 20 }",
        "queues.a.arguments = { … } sidebus.toml:5 x-delivery-limit: is for quorum queues, and exclusive = true makes this a classic one hint: leave one of the two out",
    ),
    (
        "[queues.a]\narguments = { x-dead-letter-exchange = \"d\" }\ndead_letter = { exchange = \"e\" }",
        "queues.a.dead_letter.exchange = \"e\" sidebus.toml:5 is also in arguments as x-dead-letter-exchange hint: keep one of the two",
    ),
    (
        "[queues.a]\nqueue = \"q\"\n[queues.b]\nqueue = \"q\"",
        "queues.b.queue = \"q\" sidebus.toml:6 the queue q belongs to queues.a already hint: handlers that share work share one subscription",
    ),
    (
        "[queues.a]\nqueue = \"amq.x\"",
        "queues.a.queue = \"amq.x\" sidebus.toml:4 begins with \"amq.\", which the broker keeps for itself",
    ),
    (
        "[queues.a]\nqueue = \"sidebus.x\"",
        "queues.a.queue sidebus.toml:4 sidebus.x begins with \"sidebus.\", which is ours hint: set bus.amqp.namespace or another name",
    ),
    (
        "[queues.a]\nmax_lease = \"2m\"\nsettle_timeout = \"90s\"",
        "queues.a.settle_timeout = \"90s\" sidebus.toml:5 must be 1m below max_lease, which is 2m hint: write \"1m\"",
    ),
    (
        "[exchanges.\"angzarr.events\"]\ntype = \"direct\"",
        "exchanges.\"angzarr.events\".type = \"direct\" sidebus.toml:4 bus.amqp.exchange_type says topic for this exchange hint: give both the same type",
    ),
    (
        "[exchanges.\"angzarr.dlx\"]\ntype = \"direct\"",
        "dead_letter.exchange angzarr.dlx must be a fanout, [exchanges] says direct",
    ),
    (
        "[shutdown]\nbudget = \"5s\"",
        "shutdown.budget = \"5s\" sidebus.toml:4 the phases add up to 7s, the budget is 5s hint: shorten shutdown.notice, intake, drain, return or close",
    ),
    ("[retry]\nmax_attempts = 0", "retry.max_attempts = 0 sidebus.toml:4 must be 1 to 1000000 hint: 1 = never retry"),
];

#[test]
fn each_fault_has_its_own_words() {
    for (file, expected) in FAULTS {
        check(file, expected);
    }
}

#[test]
fn each_fault_of_an_address_has_its_own_words() {
    for (file, expected) in [
        (
            "url = \"rabbit:5672\"",
            "must begin with amqp:// or amqps:// hint: write amqp://user:password@host:5672/vhost",
        ),
        ("host = \"amqp://u:canary@rabbit\"", "is an address hint: set bus.amqp.url (AMQP_URL)"),
        ("host = \"rabbit:5672\"", "holds a port hint: set bus.amqp.port beside it"),
        ("port = 5672", "goes with bus.amqp.host only hint: write the port into the address"),
        ("url = \"amqp://h:1\"\nport = 5672", "goes with bus.amqp.host only hint: write the port into the address"),
        (
            "url = \"amqp://u:canary@h\"\nusername = \"v\"",
            "is also in bus.amqp.url (sidebus.toml:4) hint: keep one of the two",
        ),
        ("url = \"amqp://h/v\"\nvhost = \"w\"", "is also in bus.amqp.url (sidebus.toml:4) hint: keep one of the two"),
        (
            "url = \"amqp://h?heartbeat=5\"\nheartbeat = \"5s\"",
            "is also in the query of the address hint: keep one of the two",
        ),
        ("password = 123", "must be text, in quotes"),
        (
            "password_file = \"gone\"",
            "the file cannot be read: no such file hint: mount the secret, or correct the path",
        ),
        ("reconnect = { min_backoff = \"20s\" }", "must not be above bus.amqp.reconnect.max_backoff"),
    ] {
        let problems = Scene::new(&format!("[bus]\nbackend = \"amqp\"\n[bus.amqp]\n{file}\n")).problems();
        assert_eq!(problems.len(), 1, "{problems}");
        let problem = problems.iter().next().unwrap();
        let hint = problem.hint.as_ref().map(|hint| format!(" hint: {hint}")).unwrap_or_default();
        assert_eq!(format!("{}{hint}", problem.why), expected, "{file}");
        assert!(!problems.to_string().contains("canary"));
    }
}

#[test]
fn faults_of_variables_and_flags_name_them() {
    let scene = Scene::bare()
        .with(&[
            MEMORY,
            ("BUS__AMQP__URLL", "amqp://u:canary@h"),
            ("BUS__AMPQ__HOST", "x"),
            ("BUS__AMQP____HOST", "x"),
            ("BUS__AMQP", "x"),
            ("BUS__GRPC__LISTEN", "nowhere"),
            ("BUS__QUEUES__A__DURABLE", "yes"),
            ("BUS__TELEMETRY__SAMPLE", "1"),
            ("OTEL_SERVICE_NAME", "someone"),
        ])
        .set("bus.amqp.password", "canary")
        .set("bus.nonsense", "canary")
        .set("no key", "canary")
        .set("log.format", "xml");
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 11 problems
      --set                       --set                      not a key                                                           hint: write --set bus.amqp.prefetch_count=50
      BUS__AMQP____HOST           BUS__AMQP____HOST          unknown key                                                         hint: levels are joined by two underscores
      bus.ampq                    BUS__AMPQ__HOST            unknown key                                                         hint: did you mean BUS__AMQP__HOST?
      bus.amqp                    BUS__AMQP                  is a table of keys                                                  hint: set its keys one by one, or write TOML in { }, on one line
      bus.amqp.password           --set                      a secret is not taken from the command line, which others can read    hint: set BUS__AMQP__PASSWORD or its file
      bus.amqp.urll               BUS__AMQP__URLL            unknown key                                                         hint: did you mean AMQP_URL?
      bus.nonsense                --set bus.nonsense         unknown key
      grpc.listen = "nowhere"     BUS__GRPC__LISTEN          an address needs a port                                             hint: write "127.0.0.1:7672", "[::1]:7672" or "off"
      log.format = "xml"          --set log.format           must be one of auto, human, json
      queues.a.durable = "yes"    BUS__QUEUES__A__DURABLE    must be true or false
      telemetry.sample            BUS__TELEMETRY__SAMPLE     not supported in this release                                       hint: leave it out
    warning: OTEL_SERVICE_NAME: is not used in this release: no traces are exported yet
    "#);
}

#[test]
fn a_file_with_broken_syntax_is_told_with_line_and_column() {
    let scene =
        Scene::new("[bus]\nbackend = \"memory\"\n[bus.amqp]\npassword = \"canary\n").with(&[("BUS__NONSENSE", "1")]);
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 2 problems
      bus.nonsense    BUS__NONSENSE        unknown key
      sidebus.toml    sidebus.toml:4:19    not TOML: invalid basic string, expected `"`
    "#);
}

#[test]
fn kafka_is_not_in_this_build() {
    let problems = Scene::bare().with(&[("BUS_BACKEND", "kafka")]).problems();
    insta::assert_snapshot!(problems, @r#"
    settings: 1 problem
      bus.backend = "kafka"    BUS_BACKEND    not in this build    hint: one of amqp, memory
    "#);
}

#[test]
fn keys_of_later_releases_are_known_and_refused() {
    let problems = Scene::new(
        r#"
[bus]
backend = "memory"
[retry]
history_key_file = "/etc/key"
[telemetry]
sample = 0.5
[queues.work]
partition_count = 4
[grpc.tls]
cert_file = "/etc/tls.crt"
"#,
    )
    .problems();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    let expected = ["grpc.tls.cert_file", "queues.work.partition_count", "retry.history_key_file", "telemetry.sample"];
    assert_eq!(keys, expected);
    assert!(problems.iter().all(|problem| problem.why == "not supported in this release"));
}
