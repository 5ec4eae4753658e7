//! How the broker is reached and who comes in: TLS, several nodes, kinds of logins, Unix sockets.

use std::path::PathBuf;

use sidebus::config::{Node, SocketSettings, TlsSettings};

use super::*;

/// The only problem of `[bus.amqp]` with these lines, as `key: why`; files with these names are there.
fn problem(lines: &str) -> String {
    let scene = Scene::new(&format!("[bus.amqp]\n{lines}\n"));
    let scene = ["ca.pem", "cert.pem", "key.pem", "token"].into_iter().fold(scene, |scene, name| scene.file(name, "x"));
    let problems = scene.problems();
    assert_eq!(problems.len(), 1, "{lines}: {problems}");
    let shown = problems.to_string();
    assert!(!shown.contains("canary"), "{shown}");
    let problem = problems.iter().next().unwrap();
    format!("{}: {}", problem.key, problem.why)
}

#[test]
fn tls_is_what_its_keys_say_and_a_required_one_needs_no_scheme() {
    let file = "[bus.amqp]\nhost = \"rabbit\"\n[bus.amqp.tls]\nrequire = true\nca_file = \"ca.pem\"\n\
                cert_file = \"cert.pem\"\nkey_file = \"key.pem\"\nserver_name = \"rabbit.prod\"\n";
    let scene = Scene::new(file).file("ca.pem", "").file("cert.pem", "").file("key.pem", "");
    let loaded = scene.loaded();
    let at = |name: &str| scene.dir.path().join(name);
    let expected = TlsSettings {
        ca_file: Some(at("ca.pem")),
        identity: Some((at("cert.pem"), at("key.pem"))),
        server_name: Some("rabbit.prod".to_owned()),
    };
    assert_eq!((amqp(&loaded).tls.as_ref(), node(amqp(&loaded))), (Some(&expected), ("rabbit", 5671)));
    let without = Scene::new("[bus.amqp]\nhost = \"rabbit\"\n").loaded();
    assert_eq!((amqp(&without).tls.as_ref(), node(amqp(&without))), (None, ("rabbit", 5672)));
    let required = Scene::new("[bus.amqp]\ntls = { require = true }\nport = 7\nhost = \"rabbit\"\n").loaded();
    assert_eq!(node(amqp(&required)), ("rabbit", 7));
    assert!(amqp(&required).tls.is_some());
}

#[test]
fn what_would_end_in_plaintext_or_be_passed_over_is_a_problem() {
    for (lines, expected) in [
        (
            "url = \"amqp://u:canary@h\"\ntls = { require = true }",
            "bus.amqp.url: is amqp://, and bus.amqp.tls.require is true",
        ),
        (
            "url = \"amqp://h\"\ntls = { ca_file = \"ca.pem\" }",
            "bus.amqp.tls.ca_file: is not used: the address is plain AMQP",
        ),
        (
            "host = \"h\"\ntls = { server_name = \"x\" }",
            "bus.amqp.tls.server_name: is not used: the address is plain AMQP",
        ),
        (
            "url = \"amqps://h\"\ntls = { cert_file = \"cert.pem\" }",
            "bus.amqp.tls.cert_file: is half of a client certificate",
        ),
        (
            "url = \"amqps://h\"\ntls = { key_file = \"key.pem\" }",
            "bus.amqp.tls.key_file: is half of a client certificate",
        ),
        (
            "url = \"amqps://h\"\ntls = { ca_file = \"gone.pem\" }",
            "bus.amqp.tls.ca_file: the file cannot be read: no such file",
        ),
        ("url = \"amqps://h\"\ntls = { server_name = \"amqps://h\" }", "bus.amqp.tls.server_name: not a host name"),
    ] {
        assert_eq!(problem(lines), expected, "{lines}");
    }
}

#[test]
fn several_addresses_are_several_nodes_of_one_broker() {
    let urls = "[bus.amqp]\nurls = [\"amqps://u:p@a/v\", \"amqps://u:p@b:7/v\", \"amqps://u:p@[::1]/v\"]\n";
    let loaded = Scene::new(urls).loaded();
    let of = |host: &str, port| Node { host: host.to_owned(), port };
    assert_eq!(amqp(&loaded).nodes, [of("a", 5671), of("b", 7), of("::1", 5671)]);
    assert_eq!((login(amqp(&loaded)), amqp(&loaded).vhost.as_str()), (("u", "p"), "v"));
    let by_variable = Scene::bare().with(&[("BUS__AMQP__URLS", "amqp://u:p@a,amqp://u:p@b")]).loaded();
    assert_eq!(amqp(&by_variable).nodes, [of("a", 5672), of("b", 5672)]);
    assert!(!format!("{loaded:?}").contains("u:p"));
}

#[test]
fn addresses_that_are_not_of_one_broker_say_in_what_they_differ() {
    for (urls, expected) in [
        ("\"amqp://h\", \"amqps://h\"", "the addresses differ in their scheme"),
        ("\"amqp://u:canary@h\", \"amqp://v:canary@i\"", "the addresses differ in their user"),
        ("\"amqp://u:p@h\", \"amqp://u:canary@i\"", "the addresses differ in their password"),
        ("\"amqp://u:canary@h/v\", \"amqp://v:canary@i/w\"", "the addresses differ in their user and vhost"),
        ("\"amqp://h?heartbeat=5\", \"amqp://h\"", "the addresses differ in their heartbeat"),
        ("\"amqp://h\", \"canary:1\"", "address 2 of 2: must begin with amqp:// or amqps://"),
        ("", "names no address"),
    ] {
        assert_eq!(problem(&format!("urls = [{urls}]")), format!("bus.amqp.urls: {expected}"), "{urls}");
    }
    assert_eq!(
        problem("urls = [\"amqp://h\"]\nhost = \"h\""),
        "bus.amqp.host: excludes bus.amqp.urls (sidebus.toml:2)"
    );
}

#[test]
fn a_login_is_a_password_a_certificate_or_a_token() {
    let cert = "tls = { cert_file = \"cert.pem\", key_file = \"key.pem\" }";
    let external = format!("[bus.amqp]\nurl = \"amqps://h\"\nsasl = \"external\"\n{cert}\n");
    let loaded = Scene::new(&external).file("cert.pem", "").file("key.pem", "").loaded();
    assert!(matches!(amqp(&loaded).login, Login::Certificate));
    let oauth = "[bus.amqp]\nurl = \"amqps://h\"\nsasl = \"oauth2\"\noauth2 = { token_file = \"token\" }\n";
    let loaded = Scene::new(oauth).file("token", "canary\n").loaded();
    assert!(matches!(&amqp(&loaded).login, Login::Token(token) if token.expose_secret() == "canary"));
    assert!(!format!("{loaded:?}").contains("canary"));
    for (lines, expected) in [
        (
            "url = \"amqps://h\"\nsasl = \"external\"",
            "bus.amqp.sasl: is a login by client certificate, and there is none",
        ),
        ("url = \"amqps://h\"\nsasl = \"oauth2\"", "bus.amqp.sasl: needs a token"),
        (
            "url = \"amqps://h\"\noauth2 = { token_file = \"token\" }",
            "bus.amqp.oauth2.token_file: is not used: bus.amqp.sasl is plain",
        ),
        (
            "url = \"amqps://h\"\nsasl = \"oauth2\"\noauth2 = { token_file = \"token\" }\npassword = \"canary\"",
            "bus.amqp.password: is not used: bus.amqp.sasl is oauth2",
        ),
        (
            "url = \"amqps://u:canary@h\"\nsasl = \"oauth2\"\noauth2 = { token_file = \"token\" }",
            "bus.amqp.url: holds a login, which is not used: bus.amqp.sasl is oauth2",
        ),
        (
            "url = \"amqps://h\"\nsasl = \"oauth2\"\noauth2 = { token_file = \"gone\" }",
            "bus.amqp.oauth2.token_file: the file cannot be read: no such file",
        ),
    ] {
        assert_eq!(problem(lines), expected, "{lines}");
    }
}

#[test]
fn what_lies_in_files_is_read_again_by_the_same_rules() {
    let scene = Scene::new("[bus.amqp]\nhost = \"localhost\"\nusername = \"app\"\npassword_file = \"p\"\n")
        .file("p", "first\n");
    let files = amqp(&scene.loaded()).files.clone().unwrap();
    let scene = scene.file("p", "second\n");
    assert_eq!(login(&files.read().unwrap()), ("app", "second"));
    let scene = scene.file("p", "");
    let problems = files.read().unwrap_err();
    assert!(problems.to_string().contains("bus.amqp.password_file") && problems.to_string().contains("is empty"));
    drop(scene);

    let scene = Scene::new("").file("u", "amqp://a:b@h/v").with(&[("AMQP_URL_FILE", "u")]);
    let files = amqp(&scene.loaded()).files.clone().unwrap();
    let scene = scene.file("u", "amqps://c:d@i:7/w");
    let again = files.read().unwrap();
    assert_eq!(
        (again.tls.is_some(), node(&again), login(&again), again.vhost.as_str()),
        (true, ("i", 7), ("c", "d"), "w")
    );
    drop(scene);
    assert!(amqp(&Scene::new("[bus.amqp]\nurl = \"amqp://localhost\"\n").loaded()).files.is_none());
}

#[test]
fn a_fault_in_the_files_of_the_management_api_keeps_nobody_from_the_broker() {
    let lines = "host = \"localhost\"\npassword_file = \"p\"\nmanagement = { url_file = \"m\" }\n";
    let scene = Scene::new(&format!("[bus.amqp]\n{lines}")).file("p", "first").file("m", "http://localhost:15672");
    let files = amqp(&scene.loaded()).files.clone().unwrap();
    let scene = scene.file("p", "second").file("m", "http://other:15672");
    let (management, vhost) = files.management().unwrap().unwrap();
    assert_eq!(
        (management.host.as_str(), management.password.expose_secret(), vhost.as_str()),
        ("other", "second", "/")
    );

    let scene = scene.file("m", "");
    assert_eq!(login(&files.read().unwrap()), ("guest", "second"));
    let problems = files.management().unwrap_err().to_string();
    assert!(problems.contains("bus.amqp.management.url_file"), "{problems}");
    drop(scene);
}

#[test]
fn files_of_the_management_api_alone_are_read_again_too() {
    let lines = "host = \"localhost\"\nmanagement = { url = \"http://localhost\", password_file = \"p\" }\n";
    let scene = Scene::new(&format!("[bus.amqp]\n{lines}")).file("p", "first");
    let files = amqp(&scene.loaded()).files.clone().unwrap();
    let _scene = scene.file("p", "second");
    let (management, _) = files.management().unwrap().unwrap();
    assert_eq!(management.password.expose_secret(), "second");
}

#[test]
fn a_socket_stands_beside_the_address_or_alone_and_trusts_as_loopback_does() {
    let loaded = Scene::new("[grpc]\nunix_socket = \"/run/s.sock\"\n").with(&[MEMORY]).loaded();
    let grpc = &loaded.settings.grpc;
    let socket = SocketSettings { path: PathBuf::from("/run/s.sock"), mode: 0o660, uids: Vec::new() };
    assert_eq!((grpc.unix_socket.as_ref(), grpc.listen.is_some()), (Some(&socket), true));
    let alone = "[grpc]\nlisten = \"off\"\nunix_socket = \"s.sock\"\nunix_socket_mode = \"0600\"\nunix_socket_uids = [0, 1000]\n";
    let scene = Scene::new(alone).with(&[MEMORY]);
    let loaded = scene.loaded();
    let grpc = &loaded.settings.grpc;
    let socket = SocketSettings { path: scene.dir.path().join("s.sock"), mode: 0o600, uids: vec![0, 1000] };
    assert_eq!((grpc.unix_socket.as_ref(), grpc.listen.as_ref()), (Some(&socket), None));
    assert!(grpc.handlers_may_declare && grpc.reflection);
    let open = "[grpc]\nlisten = \"0.0.0.0:1\"\ninsecure = true\nunix_socket = \"s.sock\"\n";
    assert!(!Scene::new(open).with(&[MEMORY]).loaded().settings.grpc.handlers_may_declare, "one door reaches beyond");
}

#[test]
fn faults_of_a_socket_have_their_own_words() {
    for (lines, expected) in [
        ("unix_socket = \"s\"\nunix_socket_mode = \"rw\"", "grpc.unix_socket_mode: not the mode of a socket"),
        ("unix_socket = \"s\"\nunix_socket_mode = \"2660\"", "grpc.unix_socket_mode: not the mode of a socket"),
        ("unix_socket = \"s\"\nunix_socket_uids = [\"app\"]", "grpc.unix_socket_uids: must be numbers of users"),
        ("unix_socket = \"s\"\nunix_socket_uids = []", "grpc.unix_socket_uids: must be numbers of users"),
        ("unix_socket_uids = [5]", "grpc.unix_socket_uids: is not used: there is no socket"),
        ("unix_socket_mode = \"0600\"", "grpc.unix_socket_mode: is not used: there is no socket"),
    ] {
        let problems = Scene::new(&format!("[grpc]\n{lines}\n")).with(&[MEMORY]).problems();
        let told: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.key, problem.why)).collect();
        assert_eq!(told, [expected], "{lines}");
    }
    let long = format!("[grpc]\nunix_socket = \"/{}\"\n", "x".repeat(107));
    assert!(Scene::new(&long).with(&[MEMORY]).problems().to_string().contains("is longer than"));
}
