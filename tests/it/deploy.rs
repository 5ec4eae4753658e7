//! The deployment files hold what the documents promise of them. Starts no container: `scripts/image-check.sh` tries the image.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_yaml_ng::{Deserializer, Value};
use sidebus::config::{Backend, Command, LoadRequest, Settings, load};

const UNKNOWN_PATH: Value = Value::Null;

#[test]
fn compose_opens_the_door_in_the_documented_way() {
    let compose = &documents("deploy/compose.yaml")[0];
    let environment = at(compose, &["services", "sidebus", "environment"]);

    let expected = [
        ("BUS_BACKEND", "amqp"),
        ("BUS__GRPC__LISTEN", "0.0.0.0:7672"),
        ("BUS__GRPC__INSECURE", "true"),
        ("BUS__GRPC__HANDLERS_MAY_DECLARE", "true"),
    ];
    for (name, value) in expected {
        assert_eq!(environment[name].as_str(), Some(value), "{name}");
    }
}

#[test]
fn compose_publishes_ports_to_this_machine_only() {
    let compose = &documents("deploy/compose.yaml")[0];
    let mut seen = 0;

    for (service, definition) in at(compose, &["services"]).as_mapping().unwrap() {
        for port in definition["ports"].as_sequence().into_iter().flatten() {
            let port = port.as_str().expect("a port in quotes");
            assert!(port.starts_with("127.0.0.1:"), "{service:?} publishes {port}");
            seen += 1;
        }
    }
    assert!(seen >= 2, "no ports were found");
}

#[test]
fn compose_builds_what_is_there() {
    let compose = &documents("deploy/compose.yaml")[0];
    let dockerfile = at(compose, &["services", "handler", "build", "dockerfile"]).as_str().unwrap();

    assert_eq!(at(compose, &["services", "sidebus", "build"]).as_str(), Some(".."));
    assert_eq!(at(compose, &["services", "handler", "build", "context"]).as_str(), Some(".."));
    assert!(file("Dockerfile").contains("FROM scratch"));
    assert!(file(dockerfile).contains("handler.py"));
}

#[test]
fn the_pod_starts_sidebus_as_a_native_sidecar() {
    let pod = pod();
    let sidecar = &at(&pod, &["initContainers"])[0];

    assert_eq!(sidecar["name"].as_str(), Some("sidebus"));
    assert_eq!(sidecar["restartPolicy"].as_str(), Some("Always"));
    assert_eq!(pod["enableServiceLinks"].as_bool(), Some(false));
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= 30);
}

#[test]
fn probes_go_to_the_health_port_by_its_name() {
    let pod = pod();
    let sidecar = &at(&pod, &["initContainers"])[0];
    let port = &sidecar["ports"][0];

    assert_eq!(port["containerPort"].as_u64(), Some(17673));
    for (probe, path) in [("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
        let get = at(sidecar, &[probe, "httpGet"]);
        assert_eq!(get["path"].as_str(), Some(path), "{probe}");
        assert_eq!(get["port"], port["name"], "{probe}");
    }
}

#[test]
fn every_container_of_the_pod_is_restricted() {
    let pod = pod();
    let containers =
        ["initContainers", "containers"].map(|kind| pod[kind].as_sequence().cloned().unwrap_or_default()).concat();

    assert_eq!(at(&pod, &["securityContext", "runAsNonRoot"]).as_bool(), Some(true));
    assert_eq!(at(&pod, &["securityContext", "seccompProfile", "type"]).as_str(), Some("RuntimeDefault"));
    assert_eq!(containers.len(), 2);
    for container in containers {
        let name = container["name"].as_str().unwrap();
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"].as_bool(), Some(false), "{name}");
        assert_eq!(context["readOnlyRootFilesystem"].as_bool(), Some(true), "{name}");
        assert_eq!(at(context, &["capabilities", "drop"])[0].as_str(), Some("ALL"), "{name}");
        assert!(at(&container, &["resources", "limits", "memory"]).is_string(), "{name}");
    }
}

#[test]
fn credentials_come_from_a_secret_and_are_in_no_manifest() {
    let pod = pod();
    let volumes = at(&pod, &["volumes"]).as_sequence().unwrap();
    let manifest = file("deploy/kubernetes/handler.yaml");
    let settings = documents("deploy/kubernetes/handler.yaml").remove(0);
    let settings = at(&settings, &["data", "sidebus.toml"]).as_str().unwrap();

    assert!(volumes.iter().any(|volume| volume["secret"]["secretName"].is_string()));
    assert!(settings.contains("url_file = "), "{settings}");
    let urls = manifest.lines().filter(|line| line.contains("amqp://") || line.contains("amqps://"));
    assert!(urls.clone().all(|line| line.starts_with('#')), "{:?}", urls.collect::<Vec<_>>());
}

#[test]
fn the_image_is_as_the_documents_say() {
    let dockerfile = file("Dockerfile");
    let (_, last) = dockerfile.split_once("\nFROM scratch\n").expect("an empty last stage");

    for line in [
        "USER 65532:65532",
        "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
        "ENV BUS__HEALTH__LISTEN=0.0.0.0:17673",
        "ENTRYPOINT [\"/sidebus\"]",
        "CMD [\"run\"]",
    ] {
        assert!(last.lines().any(|found| found == line), "the last stage lacks {line}");
    }
    assert!(last.contains("CMD [\"/sidebus\", \"healthcheck\"]"));
}

#[test]
fn compose_and_image_give_settings_that_are_accepted() {
    let compose = documents("deploy/compose.yaml").remove(0);
    let variables = at(&compose, &["services", "sidebus", "environment"]).as_mapping().unwrap().clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let variables = variables.iter().map(|(name, value)| (text(name), text(value)));

    // Inside the network of Compose alone, both as they stand.
    let warned = ["bus.amqp.url", "grpc.insecure"];
    let settings = accepted("", variables.chain(image_environment()).collect(), &warned);

    assert_eq!(settings.grpc.listen.unwrap().to_string(), "0.0.0.0:7672");
    assert!(settings.grpc.handlers_may_declare);
    assert_eq!(settings.health.listen.unwrap().to_string(), "0.0.0.0:17673");
    assert!(matches!(settings.backend, Backend::Amqp(amqp) if amqp.nodes[0].host == "rabbitmq"));
}

#[test]
fn pod_and_image_give_settings_that_are_accepted() {
    let url_file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&url_file, "amqps://user:password@broker.example:5671").unwrap();
    let config_map = documents("deploy/kubernetes/handler.yaml").remove(0);
    let file = at(&config_map, &["data", "sidebus.toml"]).as_str().unwrap();
    let file = file.replace("/etc/sidebus-broker/url", url_file.path().to_str().unwrap());
    let variables = pod()["initContainers"][0]["env"].as_sequence().cloned().unwrap_or_default();
    let variables = variables.iter().map(|entry| (entry["name"].as_str().unwrap().to_owned(), "a-name".to_owned()));

    let settings = accepted(&file, variables.chain(image_environment()).collect(), &[]);

    assert_eq!(settings.grpc.listen.unwrap().to_string(), "127.0.0.1:7672");
    assert_eq!(settings.health.listen.unwrap().to_string(), "0.0.0.0:17673");
    assert_eq!(settings.subscriptions.len(), 1);
    assert!(
        matches!(settings.backend, Backend::Amqp(amqp) if amqp.tls.is_some() && amqp.nodes[0].host == "broker.example")
    );
}

#[test]
fn the_build_context_of_the_image_holds_what_the_sources_include() {
    let ignore = fs::read_to_string(".dockerignore").unwrap();
    let mut folders = vec![Path::new("src").to_path_buf()];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for include in text.split("include_str!(\"").skip(1) {
                // Paths that leave src begin in the folder of their file and climb to the top.
                let named = include.split('"').next().unwrap().trim_start_matches("../");
                if !include.starts_with("../") {
                    continue;
                }
                let top = named.split('/').next().unwrap();
                assert!(ignore.lines().any(|line| line == format!("!{top}")), "{top} of {}", path.display());
                found += 1;
            }
        }
    }
    assert!(found > 0, "nothing outside src is included any more: this test can go");
}

/// What `sidebus run` makes of a file and an environment; problems end the test with their own words, and so do warnings but
/// for those on these keys.
fn accepted(file: &str, environment: BTreeMap<String, String>, warned: &[&str]) -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidebus.toml");
    fs::write(&path, file).unwrap();
    let mut request = LoadRequest::new(Command::Run, environment, folder.path().to_owned());
    request.files.push(path);
    let loaded = load(&request).unwrap_or_else(|problems| panic!("{problems}"));
    let keys: Vec<String> = loaded.warnings.iter().map(|warning| warning.key.clone()).collect();
    assert_eq!(keys, warned, "{:?}", loaded.warnings);
    loaded.settings
}

/// What the image puts into every environment.
fn image_environment() -> Vec<(String, String)> {
    let dockerfile = file("Dockerfile");
    let lines = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The pod that the Kubernetes example's deployment makes.
fn pod() -> Value {
    let manifests = documents("deploy/kubernetes/handler.yaml");
    let deployment = manifests.iter().find(|manifest| manifest["kind"] == "Deployment").expect("a deployment");
    at(deployment, &["spec", "template", "spec"]).clone()
}

fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    let found = path.iter().try_fold(value, |value, key| value.get(key)).unwrap_or(&UNKNOWN_PATH);
    assert!(!found.is_null(), "nothing at {path:?}");
    found
}

fn documents(path: &str) -> Vec<Value> {
    let text = file(path);
    Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn file(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}
