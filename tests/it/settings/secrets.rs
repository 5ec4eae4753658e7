//! The login from every source, and never in any output.

use super::*;

#[test]
fn a_numeric_password_of_the_environment_stays_text() {
    let loaded = Scene::bare()
        .with(&[("BUS__AMQP__HOST", "localhost"), ("BUS__AMQP__USERNAME", "app"), ("BUS__AMQP__PASSWORD", "000123")])
        .loaded();
    assert_eq!(login(amqp(&loaded)), ("app", "000123"));
}

#[test]
fn secrets_come_from_files_without_the_newline_at_the_end() {
    let loaded = Scene::bare()
        .file("secret/user", "app\n")
        .file("secret/password", " p@ss/word \n")
        .with(&[
            ("BUS__AMQP__HOST", "localhost"),
            ("BUS__AMQP__USERNAME_FILE", "secret/user"),
            ("BUS__AMQP__PASSWORD_FILE", "secret/password"),
        ])
        .loaded();
    assert_eq!(login(amqp(&loaded)), ("app", " p@ss/word "));
    let loaded = Scene::bare().file("url", "amqps://u:p@localhost\n").with(&[("AMQP_URL_FILE", "url")]).loaded();
    assert_eq!((amqp(&loaded).tls.is_some(), node(amqp(&loaded)).1, login(amqp(&loaded))), (true, 5671, ("u", "p")));
}

#[test]
fn the_highest_layer_that_names_an_address_decides() {
    let file = "[bus.amqp]\nhost = \"from-file\"\nport = 1\nusername = \"file\"\npassword = \"file\"\n";
    let loaded = Scene::new(file).with(&[("AMQP_URL", "amqp://localhost")]).loaded();
    assert_eq!(node(amqp(&loaded)), ("localhost", 5672));
    assert_eq!(login(amqp(&loaded)), ("file", "file"), "keys fill what the address lacks");
    let loaded = Scene::new(file).with(&[("AMQP_URL", "amqp://env@localhost")]).loaded();
    assert_eq!(login(amqp(&loaded)), ("env", "file"), "the higher layer wins part by part");
    let loaded = Scene::new("[bus.amqp]\nurl = \"amqp://a:b@localhost/v\"\n")
        .with(&[("BUS__AMQP__PASSWORD", "env"), ("BUS__AMQP__VHOST", "w")])
        .loaded();
    assert_eq!((login(amqp(&loaded)), amqp(&loaded).vhost.as_str()), (("a", "env"), "w"));
}

#[test]
fn a_file_twin_in_a_higher_layer_replaces_the_secret_below() {
    let loaded = Scene::new("[bus.amqp]\nhost = \"localhost\"\nusername = \"app\"\npassword = \"low\"\n")
        .file("p", "high")
        .with(&[("BUS__AMQP__PASSWORD_FILE", "p")])
        .loaded();
    assert_eq!(login(amqp(&loaded)), ("app", "high"));
}

#[test]
fn no_secret_is_in_any_output() {
    let canaries = "canary";
    let good = Scene::new("[bus.amqp]\nusername = \"canary-user\"\n").file("secret", "canary-password\n").with(&[
        ("AMQP_URL", "amqp://localhost/v"),
        ("BUS__AMQP__PASSWORD_FILE", "secret"),
        ("X", "canary"),
    ]);
    let loaded = good.loaded();
    assert!(login(amqp(&loaded)).0.contains(canaries) && login(amqp(&loaded)).1.contains(canaries));
    let words: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let mut seen = vec![format!("{loaded:?}"), format!("{:#?}", good.request), words.join("\n")];

    let files = [
        "[bus.amqp]\nurl = \"amqp://canary:canary@h:canary\"\n",
        "[bus.amqp]\nurl = \"canary\"\nurl_file = \"f\"\nurls = [\"canary\"]\nhost = \"http://canary@h\"\n",
        "[bus.amqp]\nurl = [\"canary\"]\npassword = { a = \"canary\" }\nusername = 5\n",
        "[bus.amqp]\nurl = \"amqp://u:canary@h\"\nusername = \"canary\"\npassword = \"canary\"\n",
        "[bus.amqp]\nurl = \"amqp://u:canary@h?canary=canary\"\npasword = \"canary\"\n",
        "[bus.amqp]\nhost = \"h\"\npassword = \"canary\"\npassword_file = \"gone\"\n",
        "[bus.amqp]\nmanagement = { url = \"http://canary\", password = \"canary\" }\n[admin]\ntoken = \"canary\"\n",
        "[bus.amqp]\npassword = \"canary\nurl = canary\n",
        "[bus.amqp]\nexchange = \"amqp://u:canary@h/\u{1}\"\ntopology = \"amqp://canary@h\"\n",
        "bus = \"canary\"\namqp_url = \"canary\"\n",
    ];
    for file in files {
        for command in [Command::Run, Command::Validate] {
            let scene = Scene::new(file)
                .command(command)
                .with(&[
                    ("BUS__AMQP__PASSWORD", "canary"),
                    ("BUS__AMQP__TOKEN", "canary"),
                    ("BUS_AMQP_PASSWORD", "canary"),
                ])
                .set("bus.amqp.password", "canary")
                .set("bus.amqp.secret", "canary");
            let problems = scene.problems();
            seen.extend([format!("{problems}"), format!("{problems:#?}"), format!("{:?}", scene.request)]);
        }
    }
    for text in seen {
        assert!(!text.contains(canaries), "{text}");
    }
}

/// An address where no address belongs.
const STRAY: &str = "amqp://u:canary@h:5672";

#[test]
fn an_address_in_the_place_of_a_file_is_told_without_its_login() {
    for command in [Command::Run, Command::Validate, Command::Show, Command::Client] {
        let of_variable = Scene::bare().command(command).with(&[MEMORY, ("BUS_CONFIG", STRAY)]);
        let mut of_flag = Scene::bare().command(command).with(&[MEMORY]);
        of_flag.request.files = vec![STRAY.into()];
        for scene in [of_variable, of_flag] {
            let told = scene.problems().to_string();
            assert!(told.contains("amqp://***@h:5672") && !told.contains("canary"), "{told}");
            let seen = format!("{:?} {:?}", scene.problems(), scene.request);
            assert!(!seen.contains("canary"), "{seen}");
        }
    }
}

#[test]
fn an_address_in_the_place_of_a_key_is_told_without_its_login() {
    let of_variable = Scene::bare().with(&[MEMORY, (&format!("BUS__{STRAY}"), "x")]);
    let of_name = Scene::bare().with(&[MEMORY, (&format!("BUS__QUEUES__{STRAY}__BINDINGS"), "x")]);
    let of_flag = Scene::bare().with(&[MEMORY]).set(&format!("queues.\"{STRAY}\".durable"), "x");
    let of_file =
        Scene::new(&format!("[bus]\n\"{STRAY}\" = 1\n[exchanges.\"{STRAY}\"]\ntype = \"x\"\n")).with(&[MEMORY]);
    for scene in [of_variable, of_name, of_flag, of_file] {
        let seen = format!("{0} {0:?} {1:?}", scene.problems(), scene.request);
        assert!(seen.contains("amqp://***@h:5672") && !seen.contains("canary"), "{seen}");
    }
}
