//! Where settings come from, and which source wins.

use super::*;

#[test]
fn backend_and_url_in_the_environment_are_enough() {
    let scene = Scene::bare().with(&[("BUS_BACKEND", "amqp"), ("AMQP_URL", "amqp://app:s3cret@rabbit:5673/orders")]);
    let loaded = scene.loaded();
    let amqp = amqp(&loaded);
    assert_eq!((amqp.tls.is_some(), node(amqp), amqp.vhost.as_str()), (false, ("rabbit", 5673), "orders"));
    assert_eq!(login(amqp), ("app", "s3cret"));
    assert_eq!(loaded.settings.instance, "host-1");
    assert_eq!(loaded.origins["bus.amqp.url"], "AMQP_URL");
}

#[test]
fn dev_takes_the_worked_example_into_memory_where_no_file_is() {
    let url = ("AMQP_URL", "amqp://u:p@prod.example");
    for scene in [Scene::bare(), Scene::bare().with(&[url])] {
        let loaded = scene.command(Command::Dev).loaded();
        assert!(matches!(loaded.settings.backend, Backend::Memory { bytes_max: 268_435_456 }));
        assert_eq!(loaded.settings.subscriptions.len(), 4);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
    let own = Scene::new("[bus]\nbackend = \"amqp\"\n").command(Command::Dev).loaded();
    assert!(matches!(own.settings.backend, Backend::Memory { .. }));
    assert_eq!(own.warnings[0].key, "bus.backend");
}

#[test]
fn flags_win_over_the_environment_over_files() {
    let file = "[bus]\nbackend = \"memory\"\n[bus.amqp]\nprefetch_count = 1\n[grpc]\nlisten = \"127.0.0.1:1\"\n";
    let scene = || Scene::new(file).with(&[("BUS__AMQP__PREFETCH_COUNT", "2")]);

    let from_environment = scene().loaded();
    assert_eq!(from_environment.settings.delivery.prefetch_count, 2);
    assert_eq!(from_environment.origins["bus.amqp.prefetch_count"], "BUS__AMQP__PREFETCH_COUNT");
    assert_eq!(from_environment.settings.grpc.listen.as_ref().unwrap().port, 1);
    assert_eq!(from_environment.origins["grpc.listen"], "sidebus.toml:6");

    let mut from_flags = scene().set("bus.amqp.prefetch_count", "3");
    from_flags.request.flags.listen = Some("127.0.0.1:4".to_owned());
    let from_flags = from_flags.loaded();
    assert_eq!(from_flags.settings.delivery.prefetch_count, 3);
    assert_eq!(from_flags.origins["bus.amqp.prefetch_count"], "--set bus.amqp.prefetch_count");
    assert_eq!(from_flags.settings.grpc.listen.as_ref().unwrap().port, 4);
    assert_eq!(from_flags.origins["grpc.listen"], "--listen");
}

#[test]
fn an_empty_variable_is_not_set() {
    let loaded =
        Scene::new("[bus]\nbackend = \"memory\"\n").with(&[("BUS_BACKEND", ""), ("BUS__NONSENSE", "")]).loaded();
    assert!(matches!(loaded.settings.backend, Backend::Memory { .. }));
}

#[test]
fn later_files_win_and_a_directory_is_its_toml_files_by_name() {
    let mut scene = Scene::bare()
        .file("base.toml", "[bus]\nbackend = \"memory\"\n[bus.amqp]\nprefetch_count = 1\nprefetch_max = 9\n")
        .file("more/20.toml", "[bus.amqp]\nprefetch_count = 20\n")
        .file("more/10.toml", "[bus.amqp]\nprefetch_count = 10\n")
        .file("more/notes.txt", "not TOML");
    scene.request.files = vec!["base.toml".into(), "more".into()];
    let loaded = scene.loaded();
    assert_eq!((loaded.settings.delivery.prefetch_count, loaded.settings.delivery.prefetch_max), (20, 9));
    assert_eq!(loaded.origins["bus.amqp.prefetch_count"], "more/20.toml:2");
}

#[test]
fn files_are_found_by_flag_then_variable_then_place() {
    let text = |count| format!("[bus]\nbackend = \"memory\"\n[bus.amqp]\nprefetch_count = {count}\n");
    let mut scene = Scene::bare().file("system.toml", &text(4));
    scene.request.system_file = scene.dir.path().join("system.toml");
    let count = |scene: &Scene| scene.loaded().settings.delivery.prefetch_count;
    assert_eq!(count(&scene), 4);
    let scene = scene.file("sidebus.toml", &text(3));
    assert_eq!(count(&scene), 3);
    let mut scene = scene.file("variable.toml", &text(2)).with(&[("BUS_CONFIG", "variable.toml")]);
    assert_eq!(count(&scene), 2);
    scene = scene.file("flag.toml", &text(1));
    scene.request.files = vec!["flag.toml".into()];
    assert_eq!(count(&scene), 1);
}

#[test]
fn a_dashed_queue_is_reached_from_the_environment() {
    let scene = Scene::new("[bus]\nbackend = \"memory\"\n[queues.player-projector]\nbindings = [\"old.#\"]\n").with(&[
        ("BUS__QUEUES__PLAYER_PROJECTOR__BINDINGS", "player.#, hand.#"),
        ("BUS__QUEUES__PLAYER_PROJECTOR__RETRY__MAX_ATTEMPTS", "8"),
        ("BUS__QUEUES__NEW_ONE__QUEUE", "Real.Name"),
        ("BUS__QUEUES__NEW_ONE__BINDINGS", "[{ exchange = \"x\", routing_key = \"a,b\" }]"),
        ("BUS__QUEUES__NEW_ONE__ARGUMENTS__X_MESSAGE_TTL", "60000"),
        ("BUS__RETRY__MAX_ATTEMPTS", "3"),
    ]);
    let loaded = scene.loaded();
    assert_eq!(loaded.settings.subscriptions.len(), 2);
    let player = subscription(&loaded, "player-projector");
    let patterns: Vec<&str> = player.bindings.iter().map(|binding| binding.routing_key.as_str()).collect();
    assert_eq!((patterns, player.retry.max_attempts), (vec!["player.#", "hand.#"], 8));
    let new = subscription(&loaded, "new-one");
    assert_eq!(new.queue.name.as_str(), "Real.Name");
    let binding = Binding { exchange: exchange("x"), routing_key: "a,b".to_owned(), arguments: Headers::new() };
    assert_eq!(new.bindings, [binding]);
    assert_eq!(new.queue.arguments, Headers::from([("x-message-ttl".to_owned(), Value::Int64(60_000))]));
    assert_eq!(new.retry.max_attempts, 3);
}

#[test]
fn amqp_without_an_address_tries_the_local_broker_and_says_so() {
    let loaded = Scene::bare().with(&[("BUS_BACKEND", "amqp")]).loaded();
    assert_eq!((node(amqp(&loaded)), amqp(&loaded).vhost.as_str()), (("localhost", 5672), "/"));
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].what.contains("AMQP_URL"));
}

#[test]
fn the_pod_names_the_instance() {
    let instance =
        |variables: &[(&str, &str)]| Scene::bare().with(&[MEMORY]).with(variables).loaded().settings.instance;
    assert_eq!(instance(&[]), "host-1");
    assert_eq!(instance(&[("POD_NAME", "p-0"), ("POD_NAMESPACE", "shop")]), "shop/p-0");
    assert_eq!(instance(&[("POD_NAME", "p-0"), ("BUS__INSTANCE", "mine")]), "mine");
}

#[test]
fn a_subscription_on_a_dead_letter_queue_is_a_circle() {
    let scene = Scene::new("[bus]\nbackend = \"memory\"\n[queues.a]\n[dead_letter]\nqueue = \"a\"\n");
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 1 problem
      queues.a        a is a dead-letter queue: its failures would turn in a circle    hint: give dead_letter.queue another name, or read the letters with another tool
    "#);
}

#[test]
fn a_door_beyond_loopback_is_called_what_its_callers_like_unless_told_otherwise() {
    let authorities = |file: &str| Scene::new(file).with(&[MEMORY]).loaded().settings.grpc.allowed_authorities;
    let own = authorities("[grpc]\nlisten = \"127.0.0.5:7672\"\n").unwrap();
    assert_eq!(own, ["localhost", "127.0.0.1", "[::1]", "127.0.0.5:7672"]);
    assert_eq!(authorities("[grpc]\nlisten = \"0.0.0.0:7672\"\ninsecure = true\n"), None);
    let named = "[grpc]\nlisten = \"0.0.0.0:7672\"\ninsecure = true\nallowed_authorities = [\"sidebus\"]\n";
    assert_eq!(authorities(named), Some(vec!["sidebus".to_owned()]));
}

#[test]
fn a_question_to_a_sidecar_reads_no_secret() {
    let scene = Scene::new("[bus.amqp]\nhost = \"rabbit\"\npassword_file = \"/not/mine\"\n");
    assert!(scene.load().is_err());
    let client = scene.command(Command::Client).loaded().settings.client;
    assert_eq!(client.endpoint.as_deref(), Some("127.0.0.1:7672"));
    assert_eq!(client.admin_endpoint.as_deref(), Some("127.0.0.1:17672"));
}

#[test]
fn commands_find_the_doors_of_the_settings() {
    let client = |file: &str| {
        let client = Scene::new(file).command(Command::Client).loaded().settings.client;
        (client.endpoint.unwrap_or_default(), client.admin_endpoint.unwrap_or_default())
    };
    let is = |endpoint: &str, admin: &str| (endpoint.to_owned(), admin.to_owned());
    let open =
        "[grpc]\nlisten = \"0.0.0.0:1\"\ninsecure = true\n[admin]\nlisten = \"off\"\n[health]\nlisten = \"[::]:2\"\n";
    assert_eq!(client(open), is("127.0.0.1:1", "[::1]:2"));
    assert_eq!(client("[grpc]\nlisten = \"localhost:0\"\n[admin]\nlisten = \"off\"\n"), is("", ""));
    assert_eq!(client("[client]\nendpoint = \"/run/s\"\nadmin_endpoint = \"a:1\"\n"), is("/run/s", "a:1"));
}

#[test]
fn what_memory_does_not_use_is_told_in_one_warning() {
    let file = "[bus.amqp]\nhost = \"h\"\nnamespace = \"n\"\nheartbeat = \"5s\"\npublish.lanes = 2\npublish.confirm_timeout = \"1s\"\n";
    let loaded = Scene::new(file).with(&[MEMORY]).loaded();
    let told: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let others = "bus.amqp.host, bus.amqp.publish.confirm_timeout";
    assert_eq!(
        told,
        [format!("bus.amqp.heartbeat: is not used: bus.backend is memory; nor are {others} (sidebus.toml:4)")]
    );
    assert!(Scene::new("[bus.amqp]\nnamespace = \"n\"\n").with(&[MEMORY]).loaded().warnings.is_empty());
}

#[test]
fn a_variable_of_several_lines_is_read_and_smuggles_nothing_in() {
    let bindings = "[\n  \"a.#\", # why\n  \"b.#\",\n]\n";
    let loaded = Scene::bare().with(&[MEMORY, ("BUS__QUEUES__WORK__BINDINGS", bindings)]).loaded();
    assert_eq!(loaded.settings.subscriptions[0].bindings.len(), 2);
    let smuggling = "{ durable = true }\n[grpc]\ninsecure = true";
    let problems = Scene::bare().with(&[MEMORY, ("BUS__QUEUES__WORK", smuggling)]).problems();
    assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["queues.work"]);
}

#[test]
fn a_misspelt_variable_is_told_beside_the_problem_that_it_makes() {
    let scene = Scene::bare().with(&[("BUS_AMQP_URL", "amqp://app:canary@rabbit/")]);
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 1 problem
      bus.backend        no broker is named    hint: set AMQP_URL or BUS_BACKEND, or try `sidebus dev`, which needs no broker
    warning: BUS_AMQP_URL: is not read; did you mean AMQP_URL?
    "#);
}
