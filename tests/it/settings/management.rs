//! `[bus.amqp.management]`: where it is, whose login it uses, what is refused and what is warned of.

use secrecy::ExposeSecret as _;
use sidebus::config::ManagementSettings;

use super::*;

const BROKER: &str = "[bus.amqp]\nurl = \"amqp://app:pass@localhost\"\n";

fn management(loaded: &Loaded) -> &ManagementSettings {
    amqp(loaded).management.as_ref().unwrap()
}

fn credentials(settings: &ManagementSettings) -> (&str, &str) {
    (settings.username.expose_secret(), settings.password.expose_secret())
}

#[test]
fn nothing_is_asked_unless_an_address_is_given() {
    assert!(amqp(&Scene::new(BROKER).loaded()).management.is_none());
}

#[test]
fn the_login_is_that_of_amqp_unless_another_is_given() {
    let file = format!("{BROKER}management = {{ url = \"http://localhost:15672\" }}\n");
    let loaded = Scene::new(&file).loaded();
    let found = management(&loaded);
    assert_eq!((found.tls, found.host.as_str(), found.port), (false, "localhost", 15_672));
    assert_eq!(credentials(found), ("app", "pass"));
    let loaded = Scene::new(&file).with(&[("BUS__AMQP__MANAGEMENT__PASSWORD", "000123")]).loaded();
    assert_eq!(credentials(management(&loaded)), ("app", "000123"));
    let loaded = Scene::new(&file)
        .file("user", "seer\n")
        .file("word", "secret\n")
        .with(&[("BUS__AMQP__MANAGEMENT__USERNAME_FILE", "user"), ("BUS__AMQP__MANAGEMENT__PASSWORD_FILE", "word")])
        .loaded();
    assert_eq!(credentials(management(&loaded)), ("seer", "secret"));
}

#[test]
fn an_address_may_come_from_a_file_and_bring_its_login() {
    let loaded = Scene::new(BROKER)
        .file("address", "https://se%40er:s%2Fecret@[::1]:15671/rabbit/\n")
        .file("ca.pem", "")
        .with(&[("BUS__AMQP__MANAGEMENT__URL_FILE", "address"), ("BUS__AMQP__MANAGEMENT__CA_FILE", "ca.pem")])
        .loaded();
    let found = management(&loaded);
    assert_eq!((found.tls, found.host.as_str(), found.port), (true, "::1", 15_671));
    assert_eq!((found.base_path.as_str(), credentials(found)), ("/rabbit", ("se@er", "s/ecret")));
    assert!(found.ca_file.as_ref().unwrap().is_absolute(), "the working directory may change");
}

#[test]
fn its_authorities_are_those_of_amqp_unless_others_are_given() {
    let file = "[bus.amqp]\nurl = \"amqps://app:pass@localhost\"\ntls = { ca_file = \"ca.pem\" }\n\
                management = { url = \"https://localhost\" }\n";
    let ca_file = |scene: Scene| {
        let found = management(&scene.file("ca.pem", "").file("own.pem", "").loaded()).ca_file.clone();
        found.unwrap().file_name().unwrap().to_owned()
    };
    assert_eq!(ca_file(Scene::new(file)), "ca.pem");
    assert_eq!(ca_file(Scene::new(file).with(&[("BUS__AMQP__MANAGEMENT__CA_FILE", "own.pem")])), "own.pem");
    let plain = Scene::new(&format!("{BROKER}management = {{ url = \"https://localhost\" }}\n")).loaded();
    assert_eq!(management(&plain).ca_file, None, "the roots of the system");
}

#[test]
fn what_contradicts_itself_or_is_missing_is_named_at_once() {
    let file = format!(
        "{BROKER}[bus.amqp.management]\nurl = \"http://seer:canary@localhost\"\nusername = \"other\"\nca_file = \"none.pem\"\n"
    );
    let problems = Scene::new(&file).problems();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["bus.amqp.management.ca_file", "bus.amqp.management.username"], "{problems}");
    assert!(!problems.to_string().contains("canary"), "{problems}");

    let file = format!("{BROKER}[bus.amqp.management]\nusername = \"canary\"\npassword = \"canary\"\n");
    let problems = Scene::new(&file).problems();
    assert_eq!(problems.len(), 2, "{problems}");
    assert!(problems.iter().all(|problem| problem.why.contains("goes with bus.amqp.management.url")), "{problems}");

    let file = format!("{BROKER}management = {{ url = \"amqp://u:canary@localhost\" }}\n");
    let problems = Scene::new(&file).problems().to_string();
    assert!(problems.contains("must begin with http:// or https://") && !problems.contains("canary"), "{problems}");
}

#[test]
fn a_login_without_a_password_leaves_it_to_be_named() {
    let file = "[bus.amqp]\nurl = \"amqps://localhost\"\nsasl = \"oauth2\"\noauth2 = { token_file = \"token\" }\n\
                [bus.amqp.management]\nurl = \"https://localhost\"\n";
    let problems = Scene::new(file).file("token", "canary\n").problems();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["bus.amqp.management.password", "bus.amqp.management.username"], "{problems}");
    let named = format!("{file}username = \"seer\"\npassword = \"secret\"\n");
    let loaded = Scene::new(&named).file("token", "canary\n").loaded();
    assert_eq!(credentials(management(&loaded)), ("seer", "secret"));
}

#[test]
fn plain_http_to_another_host_is_warned_of() {
    let warned = |url: &str| {
        let loaded = Scene::new(&format!("{BROKER}management = {{ url = \"{url}\" }}\n")).loaded();
        loaded.warnings.iter().any(|warning| warning.key == "bus.amqp.management.url")
    };
    assert!(warned("http://rabbit.prod:15672"));
    assert!(!warned("https://rabbit.prod:15671") && !warned("http://127.0.0.1:15672"));
}

#[test]
fn its_password_is_in_no_output() {
    let file = format!("{BROKER}management = {{ url = \"http://seer:canary-4@localhost\" }}\n");
    let loaded = Scene::new(&file).loaded();
    assert!(!format!("{loaded:?}").contains("canary"));
}
