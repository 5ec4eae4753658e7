//! The deployment files hold what the documents promise of them. Starts no container: `scripts/image-check.sh` tries the image.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_yaml_ng::{Deserializer, Value};

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
fn names_in_the_environment_are_spelled_as_keys() {
    let names = environment_names();

    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let fixed =
            matches!(name.as_str(), "BUS_BACKEND" | "AMQP_URL" | "POD_NAME" | "POD_NAMESPACE" | "SSL_CERT_FILE");
        assert!(fixed || name.starts_with("BUS__"), "{name} is no setting");
    }
}

/// Every name that the deployment files put into the environment of Sidebus, for whoever can compare them with the settings.
pub(crate) fn environment_names() -> BTreeSet<String> {
    let compose = documents("deploy/compose.yaml").remove(0);
    let of_compose = at(&compose, &["services", "sidebus", "environment"]).as_mapping().unwrap().clone();
    let of_pod = pod()["initContainers"][0]["env"].as_sequence().cloned().unwrap_or_default();
    let dockerfile = file("Dockerfile");
    let of_image = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")?.split('=').next());

    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut names: BTreeSet<String> = of_compose.keys().map(text).collect();
    names.extend(of_pod.iter().map(|entry| text(&entry["name"])));
    names.extend(of_image.map(str::to_owned));
    names
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
