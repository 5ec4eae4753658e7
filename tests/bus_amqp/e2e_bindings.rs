//! Bindings made and taken away while sidecars run, on a queue that they share.

use sidebus::grpc::proto::sidebus::admin::v1 as admin;
use sidebus::grpc::proto::sidebus::admin::v1::topology_service_client::TopologyServiceClient;
use sidebus::grpc::proto::sidebus::v1;
use tonic::transport::{Channel, Endpoint};

use crate::support::management::managed;
use crate::support::nodes;
use crate::support::proxy::Proxy;
use crate::support::publisher::{Publisher, numbered};
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

async fn door(sidecar: &Sidecar) -> TopologyServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", sidecar.admin)).expect("an address");
    TopologyServiceClient::new(endpoint.connect().await.expect("the admin door listens"))
}

fn binding(routing_key: &str) -> v1::Binding {
    v1::Binding { routing_key: routing_key.to_owned(), ..v1::Binding::default() }
}

async fn is_routed(publisher: &Publisher, routing_key: &str) -> bool {
    let message = v1::Message { routing_key: routing_key.to_owned(), ..numbered(1) };
    publisher.publish(vec![message]).await.is_ok()
}

#[tokio::test]
async fn a_binding_made_at_run_time_outlives_the_process_that_made_it() {
    let scene = Scene::new().await;
    let work = format!("[queues.work]\nqueue = \"{}\"\nbindings = [\"player.#\"]\n", scene.name("work"));
    let (mut one, mut two) = (scene.sidecar(&work).await, scene.sidecar(&work).await);
    let publisher = two.publisher().await;
    assert!(!is_routed(&publisher, "extra.A").await);

    let request = admin::CreateBindingRequest {
        subscription: "work".to_owned(),
        binding: Some(binding("extra.#")),
        validate_only: false,
    };
    door(&one).await.create_binding(request).await.expect("bound");
    assert!(is_routed(&publisher, "extra.A").await);
    assert_eq!(one.process.stop().await, Some(0));

    assert!(is_routed(&publisher, "extra.B").await);
    scene.amqp().await.wait_for_depth(&scene.name("work"), 2).await;

    // The other process of the group, which has not made it, takes it away.
    let request = admin::DeleteBindingRequest {
        subscription: "work".to_owned(),
        binding: Some(binding("extra.#")),
        allow_missing: true,
    };
    let answer = door(&two).await.delete_binding(request).await.expect("unbound").into_inner();
    assert!(!answer.still_configured);
    assert!(!is_routed(&publisher, "extra.C").await);
    assert_eq!(two.process.stop().await, Some(0));
}

#[tokio::test]
async fn what_others_have_bound_is_listed_where_the_management_api_answers() {
    let managed = managed().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    for (management, is_seen) in [(managed.url(), true), (format!("http://guest:guest@{nobody}"), false)] {
        let scene = Scene::on(managed.node.url(("guest", "guest"), &managed.node.virtual_host().await));
        let work = format!("[queues.work]\nqueue = \"{}\"\nbindings = [\"player.#\"]\n", scene.name("work"));
        let settings =
            scene.settings(&work).replace("namespace", &format!("management.url = \"{management}\"\nnamespace"));
        let mut sidecar = Sidecar::from_file(&settings, &scene).await;
        sidecar.ready().await;
        let amqp = scene.amqp().await;
        let (queue, exchange) = (scene.name("work"), scene.name("events"));
        let options = lapin::options::QueueBindOptions::default();
        let table = lapin::types::FieldTable::default();
        amqp.channel
            .queue_bind(queue.as_str().into(), exchange.as_str().into(), "by.others".into(), options, table)
            .await
            .expect("bound");

        let mut door = door(&sidecar).await;
        let answer = door.list_bindings(admin::ListBindingsRequest::default()).await.expect("a list").into_inner();
        assert_eq!(answer.complete, is_seen);
        let entry = |it: &admin::BindingEntry| (it.binding.clone().expect("a binding").routing_key, it.source());
        let listed: Vec<_> = answer.bindings.iter().map(entry).collect();
        let own = ("player.#".to_owned(), admin::Source::Settings);
        let foreign = ("by.others".to_owned(), admin::Source::Broker);
        assert_eq!(listed, if is_seen { vec![foreign, own] } else { vec![own] });
        let shown = door.get_topology(admin::GetTopologyRequest::default()).await.expect("it is shown").into_inner();
        assert_eq!(shown.management_available, is_seen);
        assert_eq!(sidecar.process.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_binding_made_at_run_time_is_made_again_after_a_reconnect() {
    let node = nodes::managed().await;
    let (vhost, proxy) = (node.virtual_host().await, Proxy::to("127.0.0.1", node.port).await);
    let direct = node.url(("guest", "guest"), &vhost);
    let behind = Scene::on(direct.clone()).amqp().await;
    let scene = Scene::on(direct.replace(&format!(":{}/", node.port), &format!(":{}/", proxy.port)));
    assert_ne!(scene.url, direct);
    let work = format!("[queues.work]\nqueue = \"{}\"\nbindings = [\"player.#\"]\n", scene.name("work"));
    let mut sidecar = scene.sidecar(&work).await;
    let publisher = sidecar.publisher().await;
    let request = admin::CreateBindingRequest {
        subscription: "work".to_owned(),
        binding: Some(binding("extra.#")),
        validate_only: false,
    };
    door(&sidecar).await.create_binding(request).await.expect("bound");
    assert!(is_routed(&publisher, "extra.A").await);

    // Lost on the broker, behind the sidecar's back: only a new session brings it again.
    let (queue, exchange) = (scene.name("work"), scene.name("events"));
    let table = lapin::types::FieldTable::default();
    behind
        .channel
        .queue_unbind(queue.as_str().into(), exchange.as_str().into(), "extra.#".into(), table)
        .await
        .expect("unbound");
    assert!(!is_routed(&publisher, "extra.B").await);
    proxy.cut();

    until("the binding is there again", async || is_routed(&publisher, "extra.C").await.then_some(())).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}
