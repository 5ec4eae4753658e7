//! The administration door: what is wanted on the broker, and bindings made while the sidecar runs.

use sidebus::grpc::proto::sidebus::admin::v1 as admin;
use sidebus::grpc::proto::sidebus::admin::v1::topology_service_client::TopologyServiceClient;
use sidebus::grpc::proto::sidebus::v1;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::errors::refused;
use crate::support::sidecar::{Sidecar, channel};
use crate::support::words::{ack, body, message, open, settle};
use crate::support::{eventually, http};

const WORK: &str = "[queues.work]\nbindings = [\"work.#\", \"own.#\"]\n";

async fn door(sidecar: &Sidecar) -> TopologyServiceClient<Channel> {
    TopologyServiceClient::new(channel(sidecar.addresses.admin.unwrap().port()).await)
}

fn key(routing_key: &str) -> v1::Binding {
    v1::Binding { routing_key: routing_key.to_owned(), ..v1::Binding::default() }
}

fn create(subscription: &str, routing_key: &str) -> admin::CreateBindingRequest {
    let binding = Some(key(routing_key));
    admin::CreateBindingRequest { subscription: subscription.to_owned(), binding, validate_only: false }
}

fn delete(subscription: &str, routing_key: &str) -> admin::DeleteBindingRequest {
    let binding = Some(key(routing_key));
    admin::DeleteBindingRequest { subscription: subscription.to_owned(), binding, allow_missing: false }
}

/// Routing keys and sources of every binding.
async fn listed(door: &mut TopologyServiceClient<Channel>) -> Vec<(String, admin::Source)> {
    let answer = door.list_bindings(admin::ListBindingsRequest::default()).await.unwrap().into_inner();
    let entry = |entry: admin::BindingEntry| (entry.binding.clone().unwrap().routing_key, entry.source());
    answer.bindings.into_iter().map(entry).collect()
}

/// True when a publish of this key reaches a queue.
async fn is_routed(sidecar: &Sidecar, routing_key: &str) -> bool {
    sidecar.try_publish(vec![message(routing_key, "1")]).await.is_ok()
}

/// Ends the session and waits for the next one.
async fn reconnect(sidecar: &Sidecar) {
    sidecar.broker.faults().break_sessions("a test");
    eventually("publishing after the reconnect", async || is_routed(sidecar, "work.probe").await.then_some(())).await;
}

#[tokio::test]
async fn a_binding_made_at_run_time_feeds_the_queue_and_is_listed() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    assert!(!is_routed(&sidecar, "extra.A").await);

    let made = door.create_binding(create("work", "extra.*")).await.unwrap().into_inner().binding.unwrap();

    assert_eq!((made.subscription.as_str(), made.source()), ("work", admin::Source::Admin));
    assert_eq!(made.binding.unwrap().exchange, "angzarr.events");
    sidecar.publish([message("extra.A", "routed")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.deliveries(1).await.remove(0);
    assert_eq!(body(&delivery), "routed");
    handler.say(settle([delivery.id], ack())).await;
    // Repeating it is harmless.
    door.create_binding(create("work", "extra.*")).await.unwrap();
    let own = admin::Source::Settings;
    let expected = [("extra.*", admin::Source::Admin), ("own.#", own), ("work.#", own)];
    assert_eq!(listed(&mut door).await, expected.map(|(key, source)| (key.to_owned(), source)));
}

#[tokio::test]
async fn a_binding_that_names_no_exchange_is_to_the_exchange_of_its_queue() {
    let settings = "[exchanges.moves]\n[queues.work]\nexchange = \"moves\"\nbindings = [\"own.#\"]\n";
    let sidecar = Sidecar::start(settings).await;
    let mut door = door(&sidecar).await;

    let made = door.create_binding(create("work", "extra.*")).await.unwrap().into_inner().binding.unwrap();
    let own = door.delete_binding(delete("work", "own.#")).await.unwrap().into_inner();

    assert_eq!(made.binding.unwrap().exchange, "moves");
    assert!(own.still_configured);
    assert_eq!(listed(&mut door).await, [("extra.*".to_owned(), admin::Source::Admin)]);
    assert!(!is_routed(&sidecar, "extra.A").await, "the exchange of all does not feed it");
}

#[tokio::test]
async fn a_binding_made_at_run_time_comes_back_with_an_exclusive_queue() {
    let sidecar = Sidecar::start(&format!("{WORK}[queues.mine]\nexclusive = true\n")).await;
    door(&sidecar).await.create_binding(create("mine", "mine.*")).await.unwrap();
    assert!(is_routed(&sidecar, "mine.A").await);
    reconnect(&sidecar).await;
    eventually("the binding of the new queue", async || is_routed(&sidecar, "mine.B").await.then_some(())).await;
    // What the lost queue held is gone with it.
    assert_eq!(sidecar.depth("mine").ready, 1);
}

#[tokio::test]
async fn what_was_unbound_stays_unbound_over_reconnects_and_is_said_to_be_configured() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    door.create_binding(create("work", "extra.*")).await.unwrap();

    let own = door.delete_binding(delete("work", "own.#")).await.unwrap().into_inner();
    let extra = door.delete_binding(delete("work", "extra.*")).await.unwrap().into_inner();

    assert_eq!((own.still_configured, extra.still_configured), (true, false));
    reconnect(&sidecar).await;
    assert!(!is_routed(&sidecar, "own.A").await && !is_routed(&sidecar, "extra.A").await);
    assert_eq!(listed(&mut door).await, [("work.#".to_owned(), admin::Source::Settings)]);
}

#[tokio::test]
async fn an_unknown_binding_is_not_managed_unless_missing_is_allowed() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    let unknown = delete("work", "never.made");
    refused(door.delete_binding(unknown.clone()).await, Code::FailedPrecondition, "NOT_MANAGED");
    let allowed = admin::DeleteBindingRequest { allow_missing: true, ..unknown };
    assert!(!door.delete_binding(allowed).await.unwrap().into_inner().still_configured);
}

#[tokio::test]
async fn every_field_of_a_binding_that_breaks_a_rule_is_told() {
    let sidecar = Sidecar::start(WORK).await;
    let arguments = [("empty".to_owned(), v1::HeaderValue::default())].into();
    let binding = Some(v1::Binding { exchange: "angzarr.dlx".to_owned(), routing_key: "k".repeat(256), arguments });
    let request = admin::CreateBindingRequest { binding, ..create("work", "") };

    let refused = refused(door(&sidecar).await.create_binding(request).await, Code::InvalidArgument, "INVALID_REQUEST");

    assert_eq!(refused.fields, ["binding.exchange", "binding.routing_key", "binding.arguments[\"empty\"]"]);
}

#[tokio::test]
async fn a_check_only_changes_nothing() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    let checked = admin::CreateBindingRequest { validate_only: true, ..create("work", "extra.*") };
    door.create_binding(checked).await.unwrap();
    assert!(!is_routed(&sidecar, "extra.A").await);
    assert_eq!(listed(&mut door).await.len(), 2);
    let plan = admin::ApplyTopologyRequest { validate_only: true, ..Default::default() };
    let steps = door.apply_topology(plan).await.unwrap().into_inner().steps;
    let texts: Vec<&str> = steps.iter().map(|step| step.description.as_str()).collect();
    assert!(texts.contains(&"declare quorum queue work"), "{texts:?}");
    assert!(steps.iter().all(|step| !step.applied && step.problem.is_empty()), "{steps:?}");
}

#[tokio::test]
async fn bad_orders_name_the_field_and_change_nothing() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    refused(door.create_binding(create("nobody", "a")).await, Code::NotFound, "SUBSCRIPTION_NOT_FOUND");
    let long = "x".repeat(256);
    for (request, field) in [
        (create("", "a"), "subscription"),
        (admin::CreateBindingRequest { binding: None, ..create("work", "a") }, "binding"),
        (create("work", &long), "binding.routing_key"),
        (create("a b", "a"), "subscription"),
        (exchange("sidebus.delay.000000100"), "binding.exchange"),
        (exchange("angzarr.dlx"), "binding.exchange"),
        (exchange("@default"), "binding.exchange"),
    ] {
        let why = refused(door.create_binding(request).await, Code::InvalidArgument, "INVALID_REQUEST");
        assert_eq!(why.fields, [field], "{why:?}");
    }
    refused(door.create_binding(exchange("nowhere")).await, Code::FailedPrecondition, "TOPOLOGY_MISMATCH");
    assert_eq!(listed(&mut door).await.len(), 2);
}

fn exchange(name: &str) -> admin::CreateBindingRequest {
    let binding = v1::Binding { exchange: name.to_owned(), ..key("a") };
    admin::CreateBindingRequest { binding: Some(binding), ..create("work", "a") }
}

#[tokio::test]
async fn verify_changes_nothing_from_here_either() {
    let first = Sidecar::start(WORK).await;
    let sidecar =
        Sidecar::start_over(first.broker.clone(), &format!("{WORK}[bus.amqp]\ntopology = \"verify\"\n")).await;
    sidecar.ready().await;
    let mut door = door(&sidecar).await;
    refused(door.create_binding(create("work", "extra.*")).await, Code::PermissionDenied, "NOT_ALLOWED");
    refused(door.delete_binding(delete("work", "own.#")).await, Code::PermissionDenied, "NOT_ALLOWED");
    refused(door.apply_topology(admin::ApplyTopologyRequest::default()).await, Code::PermissionDenied, "NOT_ALLOWED");
    assert!(is_routed(&sidecar, "own.A").await);
}

#[tokio::test]
async fn two_subscriptions_with_one_dead_letter_queue_want_both_its_bindings() {
    let toml = format!(
        "{WORK}[queues.other]\nbindings = [\"other.#\"]\narguments = {{ x-dead-letter-exchange = \"other.dlx\" }}\n"
    );
    let sidecar = Sidecar::start(&toml).await;
    let answer = door(&sidecar).await.get_topology(admin::GetTopologyRequest::default()).await.unwrap().into_inner();
    let states: Vec<_> = answer.objects.iter().map(|object| (object.name.as_str(), object.state())).collect();
    for name in ["angzarr.dlx -> angzarr.dlq", "other.dlx -> angzarr.dlq"] {
        let found: Vec<_> = states.iter().filter(|(object, _)| *object == name).collect();
        assert_eq!(found.len(), 1, "{states:?}");
        assert!(!matches!(found[0].1, admin::TopologyState::Extra | admin::TopologyState::Missing), "{states:?}");
    }
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_reach_the_door_under_a_name_of_its_own() {
    let sidecar = Sidecar::start(WORK).await;
    let address = sidecar.addresses.admin.unwrap();
    for path in ["/readyz", "/metrics", "/sidebus.admin.v1.TopologyService/ApplyTopology"] {
        assert_eq!(http::get_as(&address.to_string(), "evil.example", path).await.unwrap().0, 403, "{path}");
    }
    assert_eq!(http::get_as(&address.to_string(), "localhost:17672", "/readyz").await.unwrap().0, 200);
}

#[tokio::test]
async fn the_broker_being_away_is_told_and_nothing_is_remembered() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    let away = sidebus::broker::BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "away".to_owned() };
    sidecar.broker.faults().refuse_connects(away);
    sidecar.broker.faults().break_sessions("a test");
    eventually("the loss of the session", async || {
        let refused = door.create_binding(create("work", "extra.*")).await.err()?;
        (refused.code() == Code::Unavailable).then_some(())
    })
    .await;
    let before = listed(&mut door).await;
    refused(door.create_binding(create("work", "more.*")).await, Code::Unavailable, "BROKER_UNAVAILABLE");
    assert_eq!(listed(&mut door).await, before);
}

#[tokio::test]
async fn the_topology_is_shown_with_its_subscriptions() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    let mut brought = open("brought");
    brought.declare =
        Some(v1::SubscriptionSpec { bindings: vec![key("brought.#")], ..v1::SubscriptionSpec::default() });
    let _handler = sidecar.handler(brought).await;

    let answer = door.get_topology(admin::GetTopologyRequest::default()).await.unwrap().into_inner();

    let told: Vec<_> = answer.subscriptions.iter().map(|one| (one.name.as_str(), one.source())).collect();
    assert_eq!(told, [("brought", admin::Source::Handler), ("work", admin::Source::Settings)]);
    let spec = answer.subscriptions[1].spec.clone().unwrap();
    assert_eq!((spec.queue.as_str(), spec.queue_type(), spec.prefetch_count), ("work", v1::QueueType::Quorum, 100));
    assert_eq!(spec.bindings.len(), 2);
    let queue =
        |object: &&admin::TopologyObject| object.kind() == admin::TopologyObjectKind::Queue && object.name == "work";
    let queue = answer.objects.iter().find(queue).unwrap();
    assert_eq!((queue.subscription.as_str(), queue.state()), ("work", admin::TopologyState::Same));
    let letters = answer.objects.iter().filter(|object| object.name == "angzarr.dlq");
    assert_eq!(letters.map(|object| object.subscription.as_str()).collect::<Vec<_>>(), [""]);
    let only = admin::GetTopologyRequest { subscription: "work".to_owned() };
    let only = door.get_topology(only).await.unwrap().into_inner();
    assert!(only.objects.iter().all(|object| object.subscription == "work"), "{only:?}");
}

#[tokio::test]
async fn apply_makes_again_what_was_deleted() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    sidecar.broker.faults().delete_queue(&sidebus::domain::name::QueueName::parse("work").unwrap());
    assert!(!is_routed(&sidecar, "work.A").await);
    let request = admin::ApplyTopologyRequest { subscription: "work".to_owned(), validate_only: false };
    let steps = door.apply_topology(request).await.unwrap().into_inner().steps;
    let made: Vec<_> = steps.iter().filter(|step| step.applied).map(|step| step.description.as_str()).collect();
    assert!(made.contains(&"declare quorum queue work"), "{steps:?}");
    assert!(is_routed(&sidecar, "work.A").await);
}

#[tokio::test]
async fn pages_end_and_a_strange_token_is_refused() {
    let sidecar = Sidecar::start(WORK).await;
    let mut door = door(&sidecar).await;
    let page = |token: &str| admin::ListBindingsRequest {
        page_size: 1,
        page_token: token.to_owned(),
        ..admin::ListBindingsRequest::default()
    };
    let first = door.list_bindings(page("")).await.unwrap().into_inner();
    let second = door.list_bindings(page(&first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((first.bindings.len(), second.bindings.len()), (1, 1));
    assert_ne!(first.bindings, second.bindings);
    assert!(second.next_page_token.is_empty());
    refused(door.list_bindings(page("§")).await, Code::InvalidArgument, "PAGE_TOKEN_EXPIRED");
}

#[tokio::test]
async fn the_health_listener_has_probes_and_no_administration() {
    let sidecar = Sidecar::start(&format!("{WORK}[health]\nlisten = \"127.0.0.1:0\"\n")).await;
    let health = sidecar.addresses.health.unwrap();
    let mut door = TopologyServiceClient::new(channel(health.port()).await);
    let answer = door.list_bindings(admin::ListBindingsRequest::default()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(http::get(&health.to_string(), "/livez").await.unwrap().0, 200);
    assert_eq!(http::get(&health.to_string(), "/anything").await.unwrap().0, 404);
}

#[tokio::test]
async fn the_door_tells_its_health_and_serves_probes_beside_the_services() {
    let sidecar = Sidecar::start(WORK).await;
    let address = sidecar.addresses.admin.unwrap();
    let mut health = HealthClient::new(channel(address.port()).await);
    eventually("the health of the door", async || {
        let request = HealthCheckRequest { service: "sidebus.admin.v1.TopologyService".to_owned() };
        (health.check(request).await.unwrap().into_inner().status == 1).then_some(())
    })
    .await;
    assert_eq!(http::get(&address.to_string(), "/readyz").await.unwrap().0, 200);
}
