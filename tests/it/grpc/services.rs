//! What else the door offers: health, reflection, and a clear word for what comes later.

use futures_util::stream;
use sidebus::broker::BrokerError;
use sidebus::broker::memory::{MemoryBroker, MemoryOptions};
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::call_service_client::CallServiceClient;
use sidebus::grpc::proto::sidebus::v1::consumer_service_client::ConsumerServiceClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::WORK;
use crate::support::errors::refused;
use crate::support::sidecar::Sidecar;
use crate::support::words::message;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

#[tokio::test]
async fn what_comes_later_is_unimplemented_with_a_reason() {
    let sidecar = Sidecar::start(WORK).await;
    let channel = sidecar.channel().await;
    let mut consumer = ConsumerServiceClient::new(channel.clone());
    let code = Code::Unimplemented;
    refused(consumer.receive(v1::ReceiveRequest::default()).await, code, "FEATURE_UNAVAILABLE");
    refused(consumer.settle(v1::SettleRequest::default()).await, code, "FEATURE_UNAVAILABLE");
    let request = v1::CallRequest { message: Some(message("work.A", "1")) };
    refused(CallServiceClient::new(channel).call(request).await, code, "FEATURE_UNAVAILABLE");
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let sidecar = Sidecar::start(WORK).await;
    let mut client = ServerReflectionClient::new(sidecar.channel().await);
    let ask = |message_request| ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let asked = stream::iter([ask(MessageRequest::ListServices(String::new()))]);
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("no list: {answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["sidebus.v1.ConsumerService", "sidebus.v1.PublisherService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{name} not in {names:?}");
    }
}

#[tokio::test]
async fn reflection_can_be_turned_off() {
    let sidecar = Sidecar::start(&format!("{WORK}[grpc]\nreflection = false\n")).await;
    let mut client = ServerReflectionClient::new(sidecar.channel().await);
    let asked = stream::iter([ServerReflectionRequest::default()]);
    refused(client.server_reflection_info(asked).await, Code::Unimplemented, "");
}

#[tokio::test]
async fn health_follows_readiness_for_the_server_and_each_service() {
    let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
    broker
        .faults()
        .refuse_connects(BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "not yet".to_owned() });
    let sidecar = Sidecar::start_over(broker, WORK).await;
    let mut health = HealthClient::new(sidecar.channel().await);
    for service in ["", "sidebus.v1.ConsumerService", "sidebus.v1.PublisherService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status;
        assert_eq!(status, NOT_SERVING, "{service:?}");
    }
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, NOT_SERVING);

    sidecar.broker.faults().accept_connects();

    assert_eq!(watch.message().await.unwrap().unwrap().status, SERVING);
    sidecar.ready().await;
    for service in ["sidebus.v1.ConsumerService", "sidebus.v1.PublisherService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, SERVING, "{service}");
    }
}

/// A publish to a sidecar that is called by this name.
async fn publish_as(sidecar: &Sidecar, name: &str) -> Result<(), tonic::Status> {
    let address = format!("http://{}", sidecar.addresses.grpc.expect("a TCP door"));
    let origin = format!("http://{name}").parse().unwrap();
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().origin(origin).connect().await.unwrap();
    let request = v1::PublishRequest { messages: vec![message("work.A", "1")], options: None };
    let mut publisher = v1::publisher_service_client::PublisherServiceClient::new(channel);
    publisher.publish(request).await.map(|_| ())
}

#[tokio::test]
async fn a_door_on_loopback_answers_to_its_own_names_only() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.ready().await;
    for name in ["localhost", "LOCALHOST:7672", "127.0.0.1:1", "[::1]:7672"] {
        publish_as(&sidecar, name).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    }
    for name in ["evil.example", "evil.example:7672", "localhost.evil.example"] {
        let why = refused(publish_as(&sidecar, name).await, Code::PermissionDenied, "NOT_ALLOWED");
        assert!(why.text.contains("grpc.allowed_authorities"), "{why:?}");
    }
}

#[tokio::test]
async fn further_names_are_a_setting() {
    let names = "[grpc]\nallowed_authorities = [\"sidecar.shop\", \"127.0.0.1\"]\n";
    let sidecar = Sidecar::start(&format!("{WORK}{names}")).await;
    sidecar.ready().await;
    publish_as(&sidecar, "sidecar.shop:7672").await.unwrap();
    refused(publish_as(&sidecar, "localhost").await, Code::PermissionDenied, "NOT_ALLOWED");
}

#[tokio::test]
async fn calls_at_a_time_on_one_connection_are_a_setting() {
    let sidecar = Sidecar::start(&format!("{WORK}[limits]\nstreams_per_connection = 1\n")).await;
    sidecar.ready().await;
    let channel = sidecar.channel().await;
    let mut consumer = ConsumerServiceClient::new(channel.clone());
    let (requests, waiting) = tokio::sync::mpsc::channel(1);
    let open = v1::SubscribeOpen { subscription: "work".to_owned(), ..Default::default() };
    requests.send(v1::SubscribeRequest { open: Some(open), ..Default::default() }).await.unwrap();
    let stream = consumer.subscribe(tokio_stream::wrappers::ReceiverStream::new(waiting)).await.unwrap();
    // The only place is taken: the next call waits until the first one ends.
    let mut health = HealthClient::new(channel);
    let second = health.check(HealthCheckRequest { service: String::new() });
    tokio::pin!(second);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut second).await;
    assert!(early.is_err(), "{early:?}");
    drop((stream, requests));
    crate::support::within("the second call", second).await.unwrap();
}
