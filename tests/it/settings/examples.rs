//! The files in `config/` are what they say: every commented key is known and valid, the examples load as written.

use super::*;

/// A commented key with the table that it would stand in.
fn commented(file: &str) -> Vec<String> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in file.lines() {
        // Words for people have a space behind their sign.
        let line = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).map_or(line, |rest| rest);
        if line.starts_with('[') {
            line.clone_into(&mut table);
        } else if !line.starts_with('#') && !line.is_empty() {
            found.push(format!("{table}\n{line}\n"));
        }
    }
    found
}

#[test]
fn every_key_of_the_worked_example_is_known_and_valid_where_it_stands() {
    let keys = commented(worked_example());
    assert!(keys.len() > 100, "{} keys were found", keys.len());
    for file in keys {
        let Err(problems) = Scene::new(&file).command(Command::Dev).load() else { continue };
        for problem in problems.iter() {
            // Some keys go with another one, which stands in a line of its own, or with a folder of the host.
            let is_known = ["is not used: ", "needs dead_letter.archive_queue", "is no directory"]
                .iter()
                .any(|start| problem.why.starts_with(start));
            assert!(is_known, "{file}{problems}");
        }
    }
}

#[test]
fn defaults_in_the_comments_are_the_defaults() {
    let rows = |file: &str| show(&Scene::new(file).with(&[("BUS_BACKEND", "memory")]).command(Command::Show).request);
    let mut compared = 0;
    for file in commented(worked_example()) {
        let table = file.lines().next().unwrap();
        // Tables of names are examples, and the example chooses these two.
        let is_chosen = file.contains("\nbackend") || file.contains("\nprefetch_count = 10 ");
        if table.contains('"') || table.starts_with("[queues.") || is_chosen {
            continue;
        }
        let (Ok(given), Ok(unset)) = (rows(&file), rows(table)) else { continue };
        let given =
            given.rows.iter().find(|row| matches!(&row.origin, Origin::Given(at) if at.starts_with("sidebus.toml")));
        let Some(given) = given else { continue };
        let is_same = |other: &&sidebus::config::Effective| other.key == given.key && other.origin == Origin::Default;
        if let Some(default) = unset.rows.iter().find(is_same) {
            assert_eq!(given.toml, default.toml, "{}", given.key);
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared} defaults were compared");
}

#[test]
fn a_service_runs_from_two_variables() {
    let scene = Scene::bare()
        .with(&[("BUS_BACKEND", "amqp"), ("AMQP_URL", "amqp://app:secret@rabbit:5672/orders")])
        .command(Command::Validate);
    let loaded = scene.loaded();
    assert_eq!(login(amqp(&loaded)), ("app", "secret"));
    assert_eq!(amqp(&loaded).vhost, "orders");
    assert!(loaded.settings.grpc.handlers_may_declare, "handlers bring their queues");
}

/// A certificate that signs others, as PEM.
fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.self_signed(&key).unwrap().pem()
}

#[test]
fn the_production_example_is_valid_once_its_files_are_there() {
    let scene = Scene::new(PRODUCTION)
        .file("etc/broker/username", "app\n")
        .file("etc/broker/password", "s3cret\n")
        .file("etc/ca.crt", &authority())
        .command(Command::Validate);
    let here = PRODUCTION.replace("/etc/sidebus/", "etc/").replace("/var/lib/sidebus", "state");
    fs::create_dir(scene.dir.path().join("state")).unwrap();
    fs::write(scene.dir.path().join("sidebus.toml"), here).unwrap();
    let loaded = scene.loaded();
    let broker = amqp(&loaded);
    assert_eq!((broker.vhost.as_str(), login(broker)), ("orders", ("app", "s3cret")));
    assert_eq!(loaded.settings.topology, TopologyMode::Verify);
    let player = subscription(&loaded, "player-projector");
    assert_eq!(player.queue.name.as_str(), "prod.player-projector");
    let bindings: Vec<_> =
        player.bindings.iter().map(|one| (one.exchange.as_str(), one.routing_key.as_str())).collect();
    assert_eq!(bindings, [("angzarr.events", "player.#"), ("billing.commands", "player.credit")]);
    assert_eq!(player.retry.max_attempts, 8);
}
