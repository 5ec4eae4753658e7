//! Faults that show only when sources, tables and names are seen together, and what looks like one and is none.

use super::*;

#[test]
fn a_secret_inside_a_table_of_the_command_line_is_refused_as_well() {
    let problems = Scene::bare()
        .with(&[MEMORY])
        .set("bus.amqp", r#"{ url = "amqp://app:canary@rabbit", vhost = "v" }"#)
        .set("bus", r#"{ amqp = { management = { password = "canary" } } }"#)
        .problems();
    let refused: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(refused, ["bus.amqp.management.password", "bus.amqp.url"]);
    assert!(problems.iter().all(|problem| problem.why.contains("not taken from the command line")));
    assert!(!problems.to_string().contains("canary"));

    let harmless = Scene::bare().with(&[MEMORY]).set("bus.amqp", "{ prefetch_count = 7 }").loaded();
    assert_eq!(harmless.settings.delivery.prefetch_count, 7);
}

#[test]
fn a_broken_file_hides_no_problem_of_variables_and_flags() {
    let scene = Scene::new("[bus\n").with(&[("BUS__AMQP__PREFETCH_COUNT", "many"), ("BUS__GRPC__NONSENSE", "1")]);
    let problems = scene.set("retry.jitter", "2").problems();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["bus.amqp.prefetch_count", "grpc.nonsense", "retry.jitter", "sidebus.toml"]);
}

#[test]
fn a_namespace_leaves_room_for_the_names_that_are_made_of_it() {
    let load = |length: usize| Scene::bare().with(&[MEMORY, ("BUS__AMQP__NAMESPACE", &"n".repeat(length))]).load();
    assert_eq!(load(239).unwrap().settings.namespace.len(), 239);
    let problems = load(240).unwrap_err();
    let told = problems.iter().next().unwrap();
    assert_eq!(told.key, "bus.amqp.namespace");
    assert_eq!(told.why, "has 240 bytes, at most 239 leave room for the names of delay slots");
}

#[test]
fn a_log_filter_that_cannot_be_read_is_a_problem() {
    let problems = Scene::new("[log]\nfilter = \"sidebus=loud\"\n").with(&[MEMORY]).problems();
    let told = problems.iter().next().unwrap();
    assert_eq!((told.key.as_str(), told.origin.as_str()), ("log.filter", "sidebus.toml:2"));
    assert!(told.why.starts_with("is not a log filter: "), "{}", told.why);
    assert!(Scene::new("[log]\nfilter = \"warn,sidebus=debug\"\n").with(&[MEMORY]).load().is_ok());
}

#[test]
fn what_a_release_does_anyway_may_be_spelled_out() {
    let [same, other] = ["false", "true"].map(|word| format!("[retry]\nallow_lossy_delay = {word}\n"));
    assert!(Scene::new(&same).with(&[MEMORY]).load().is_ok());
    let problems = Scene::new(&other).with(&[MEMORY]).problems();
    assert!(problems.iter().all(|problem| problem.why == "not supported in this release"), "{problems}");
}

#[test]
fn a_state_directory_that_is_not_there_is_a_problem_of_whoever_keeps_a_note_in_it() {
    let of = |command| Scene::new("[bus]\nstate_dir = \"state\"\n").with(&[MEMORY]).command(command);
    for command in [Command::Run, Command::Dev, Command::Validate] {
        let problems = of(command).problems();
        let told = problems.iter().next().unwrap();
        assert_eq!((told.key.as_str(), told.origin.as_str()), ("bus.state_dir", "sidebus.toml:2"));
        assert_eq!((problems.len(), told.why.as_str()), (1, "is no directory"));
        assert!(of(command).file("state/some", "").load().is_ok(), "once it is there");
    }
    let warnings = of(Command::Show).loaded().warnings;
    assert!(warnings.iter().any(|warning| warning.key == "bus.state_dir"), "{warnings:?}");
    for command in [Command::Broker, Command::Client] {
        assert!(of(command).load().is_ok(), "{command:?} goes elsewhere");
    }
}

#[test]
fn localhost_is_the_address_that_it_stands_for() {
    let load = |grpc: &str, admin: &str| {
        Scene::new(&format!("[grpc]\nlisten = \"{grpc}\"\n[admin]\nlisten = \"{admin}\"\n")).with(&[MEMORY]).load()
    };
    for (grpc, admin) in [
        ("localhost:4000", "127.0.0.1:4000"),
        ("[::1]:4000", "localhost:4000"),
        ("LocalHost:4000", "localhost:4000"),
        ("127.0.0.1:4000", "127.0.0.1:4000"),
    ] {
        let problems = load(grpc, admin).unwrap_err();
        let told = problems.iter().next().unwrap();
        assert_eq!(
            (told.key.as_str(), &told.why),
            ("admin.listen", &format!("grpc.listen has the address {grpc} already"))
        );
    }
    for (grpc, admin) in [
        ("localhost:4000", "127.0.0.1:4001"),
        ("localhost:0", "localhost:0"),
        ("localhost:4000", "127.0.0.2:4000"),
        ("127.0.0.1:4000", "[::1]:4000"),
    ] {
        assert!(load(grpc, admin).is_ok(), "{grpc} {admin}");
    }
}

#[test]
fn an_empty_file_of_a_secret_is_one_problem() {
    let management = "sasl = \"external\"\nmanagement = { url = \"https://u@h\", password_file = \"empty\" }\n";
    let tls = "host = \"h\"\ntls = { require = true, cert_file = \"empty\", key_file = \"empty\" }\n";
    for (lines, key) in [
        ("url_file = \"empty\"\n".to_owned(), "bus.amqp.url_file"),
        ("host = \"h\"\npassword_file = \"empty\"\n".to_owned(), "bus.amqp.password_file"),
        ("host = \"h\"\nmanagement = { url_file = \"empty\" }\n".to_owned(), "bus.amqp.management.url_file"),
        (format!("{tls}{management}"), "bus.amqp.management.password_file"),
    ] {
        let scene = Scene::new(&format!("[bus]\nbackend = \"amqp\"\n[bus.amqp]\n{lines}")).file("empty", "\n");
        let problems = scene.problems();
        let told: Vec<_> = problems.iter().map(|problem| (problem.key.as_str(), problem.why.as_str())).collect();
        assert_eq!(told, [(key, "the file is empty")]);
    }
}

#[test]
fn a_pattern_with_a_wildcard_inside_a_word_is_warned_about() {
    let warnings = |file: &str| {
        let found = Scene::new(file).with(&[MEMORY]).loaded().warnings.into_iter();
        found.map(|warning| (warning.key, warning.origin, warning.what)).collect::<Vec<_>>()
    };
    let queue = "[queues.work]\nbindings = [\"a.#\", \"b.##\", { exchange = \"other\", routing_key = \"c.*d\" }]\n";
    let what = |pattern: &str| {
        let what = format!("{pattern:?}: # and * count only as whole words between dots, here they are plain letters");
        ("queues.work.bindings".to_owned(), "sidebus.toml:2".to_owned(), what)
    };
    assert_eq!(warnings(queue), [what("b.##"), what("c.*d")]);
    let direct = format!("{queue}[exchanges.other]\ntype = \"direct\"\n");
    assert_eq!(warnings(&direct), [what("b.##")], "only a topic exchange knows wildcards");
    assert_eq!(warnings(&queue.replace("\"other\"", "\"amq.direct\"")), [what("b.##")]);
    assert_eq!(warnings("[queues.work]\nbindings = [\"a\"]\nunbind = [\"b.##\"]\n"), []);
}

#[test]
fn a_text_that_is_no_duration_is_told_how_one_is_written() {
    insta::assert_snapshot!(Scene::new("[queues.a]\nmessage_ttl = \"soon\"\n").with(&[MEMORY]).problems(), @r#"
    settings: 1 problem
      queues.a.message_ttl = "soon"    sidebus.toml:2    not a duration    hint: the units are d, h, m, s and ms, such as "10s" or "1h30m"
    "#);
}
