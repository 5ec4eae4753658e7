//! `PublisherService`: a unary batch is OK only when every message is routed and confirmed. Knows no broker.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::door::Door;
use super::problem::Problem;
use super::proto::sidebus::v1;
use super::proto::sidebus::v1::publisher_service_server::PublisherService;
use super::publish_stream::{self, Results};
use super::status::publish_status;
use super::wire::{self, PublishDefaults};
use crate::bridge::Refusal;
use crate::broker::Publication;
use crate::domain::name::ExchangeName;
use crate::runtime::unix_ms;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Publisher(pub(super) Arc<Door>);

#[tonic::async_trait]
impl PublisherService for Publisher {
    type PublishStreamStream = Results;

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let trace = wire::trace_from_metadata(request.metadata());
        let v1::PublishRequest { mut messages, options } = request.into_inner();
        if let Some(trace) = trace {
            for message in &mut messages {
                message.trace.get_or_insert_with(|| trace.clone());
            }
        }
        let settings = &self.0.settings;
        let defaults = PublishDefaults {
            exchange: &settings.exchange,
            limits: settings.publish,
            now_unix_seconds: unix_ms() / 1_000,
        };
        let messages = wire::batch_from_proto(messages, &defaults, || Uuid::now_v7().to_string())?;
        let routing = wire::routing_from_proto(options.as_ref());
        let message_ids: Vec<String> =
            messages.iter().map(|message| message.properties.message_id.clone().unwrap_or_default()).collect();
        let places: Vec<(ExchangeName, String)> =
            messages.iter().map(|message| (message.exchange.clone(), message.routing_key.clone())).collect();
        let publications = messages.into_iter().map(|message| Publication { message, routing }).collect();
        let confirms = self.0.publisher.publish(publications).await.map_err(refused)?;
        let failed = confirms.into_iter().zip(&places).enumerate().filter_map(|(index, (confirm, place))| {
            Problem::from_confirm(confirm, &place.0, &place.1).map(|problem| (index, problem))
        });
        let failed: Vec<(usize, Problem)> = failed.collect();
        match publish_status(&failed, message_ids.len()) {
            Some(status) => Err(status),
            None => Ok(Response::new(v1::PublishResponse { message_ids })),
        }
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Results>, Status> {
        publish_stream::open(&self.0, request)
    }
}

pub(super) fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Draining => Problem::Draining,
        Refusal::Blocked(reason) => Problem::BrokerBlocked(reason),
        Refusal::TooMany { limit } => Problem::HandlerLimit { what: "publishes in flight".to_owned(), limit },
    }
}
