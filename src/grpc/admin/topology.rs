//! `TopologyService`: what is wanted on the broker, and bindings made while the sidecar runs. Knows no broker.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Door, page};
use crate::bridge::{
    AdministrationError, BindingSource, Known, Missing, Owner, Rehearsal, StepDone, StepOutcome, Wanted,
};
use crate::broker::Findings;
use crate::domain::difference::{self, Difference, Examined, ObjectKind, ObjectState, is_same_binding};
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::Binding;
use crate::domain::topology::Step;
use crate::grpc::problem::{FieldViolation, Problem};
use crate::grpc::proto::sidebus::admin::v1 as admin;
use crate::grpc::proto::sidebus::admin::v1::topology_service_server::TopologyService;
use crate::grpc::proto::sidebus::v1;
use crate::grpc::wire;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Topology(pub(super) Arc<Door>);

#[tonic::async_trait]
impl TopologyService for Topology {
    async fn get_topology(
        &self,
        request: Request<admin::GetTopologyRequest>,
    ) -> Result<Response<admin::GetTopologyResponse>, Status> {
        let only = named(&request.into_inner().subscription, "subscription")?;
        let wanted = self.0.administration.wanted(only.as_ref()).map_err(Problem::from)?;
        let subscriptions = wanted.iter().map(subscription_to_proto).collect();
        let examined = self.0.administration.examine(only.as_ref()).await.map_err(Problem::from)?;
        let objects = examined.iter().map(|(owner, examined)| object_to_proto(owner.as_ref(), examined)).collect();
        let management_available = self.0.administration.sees_bindings().await;
        Ok(Response::new(admin::GetTopologyResponse { objects, subscriptions, management_available }))
    }

    async fn apply_topology(
        &self,
        request: Request<admin::ApplyTopologyRequest>,
    ) -> Result<Response<admin::ApplyTopologyResponse>, Status> {
        let request = request.into_inner();
        let only = named(&request.subscription, "subscription")?;
        let rehearsal = rehearsal(request.validate_only);
        let done = self.0.administration.apply(only.as_ref(), rehearsal).await.map_err(Problem::from)?;
        Ok(Response::new(admin::ApplyTopologyResponse { steps: done.iter().map(step_to_proto).collect() }))
    }

    async fn list_bindings(
        &self,
        request: Request<admin::ListBindingsRequest>,
    ) -> Result<Response<admin::ListBindingsResponse>, Status> {
        let request = request.into_inner();
        let only = named(&request.subscription, "subscription")?;
        let wanted = self.0.administration.wanted(only.as_ref()).map_err(Problem::from)?;
        let found = self.0.administration.found_bindings(&wanted).await;
        let mut entries: Vec<_> = wanted.iter().flat_map(entries_of).collect();
        entries.extend(found.iter().flatten().filter_map(|(name, binding)| foreign_entry(&wanted, name, binding)));
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|(one, _), (other, _)| one == other);
        let (bindings, next_page_token) = page::page(entries, (request.page_size, &request.page_token))?;
        Ok(Response::new(admin::ListBindingsResponse { bindings, next_page_token, complete: found.is_some() }))
    }

    async fn create_binding(
        &self,
        request: Request<admin::CreateBindingRequest>,
    ) -> Result<Response<admin::CreateBindingResponse>, Status> {
        let request = request.into_inner();
        let (name, binding) = self.0.target(&request.subscription, request.binding)?;
        let rehearsal = rehearsal(request.validate_only);
        let bound = self.0.administration.bind(&name, binding.clone(), rehearsal).await;
        let (owner, source) = bound.map_err(Problem::from)?;
        let binding = entry_to_proto(&name, &binding, source_to_proto(owner, source));
        Ok(Response::new(admin::CreateBindingResponse { binding: Some(binding) }))
    }

    async fn delete_binding(
        &self,
        request: Request<admin::DeleteBindingRequest>,
    ) -> Result<Response<admin::DeleteBindingResponse>, Status> {
        let request = request.into_inner();
        let (name, binding) = self.0.target(&request.subscription, request.binding)?;
        let missing = if request.allow_missing { Missing::IsFine } else { Missing::IsAnError };
        let known = self.0.administration.unbind(&name, &binding, missing).await.map_err(Problem::from)?;
        let still_configured = match known {
            Known::Own => true,
            Known::No | Known::Added => false,
        };
        Ok(Response::new(admin::DeleteBindingResponse { still_configured }))
    }

    async fn create_subscription(
        &self,
        _: Request<admin::CreateSubscriptionRequest>,
    ) -> Result<Response<admin::CreateSubscriptionResponse>, Status> {
        let what =
            "CreateSubscription; configure it under [queues.<name>], or let a handler bring it with open.declare";
        Err(Problem::FeatureUnavailable(what.to_owned()).into())
    }

    async fn delete_subscription(
        &self,
        _: Request<admin::DeleteSubscriptionRequest>,
    ) -> Result<Response<admin::DeleteSubscriptionResponse>, Status> {
        let what = "DeleteSubscription; take it out of the settings and delete its queue on the broker";
        Err(Problem::FeatureUnavailable(what.to_owned()).into())
    }
}

impl Door {
    /// Subscription and binding of a request, checked. A binding that names no exchange is to the one of its subscription.
    fn target(&self, subscription: &str, binding: Option<v1::Binding>) -> Result<(SubscriptionName, Binding), Problem> {
        let name = named(subscription, "subscription")?.ok_or_else(|| missing("subscription"))?;
        let binding = binding.ok_or_else(|| missing("binding"))?;
        let running = self.administration.subscription(&name)?;
        let defaults = wire::DeclareDefaults {
            exchange: &running.exchange,
            namespace: &self.settings.namespace,
            delivery: &self.settings.delivery,
            retry: &self.settings.retry,
            dead_letter: &self.settings.dead_letter,
        };
        Ok((name, wire::binding_from_proto(binding, "binding", &defaults)?))
    }
}

fn named(text: &str, field: &str) -> Result<Option<SubscriptionName>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    SubscriptionName::parse(text).map(Some).map_err(|error| violation(field, error.to_string()))
}

fn missing(field: &str) -> Problem {
    violation(field, "is required".to_owned())
}

fn violation(field: &str, description: String) -> Problem {
    Problem::InvalidRequest(vec![FieldViolation { field: field.to_owned(), description }])
}

fn rehearsal(validate_only: bool) -> Rehearsal {
    if validate_only { Rehearsal::Dry } else { Rehearsal::Real }
}

impl From<AdministrationError> for Problem {
    fn from(error: AdministrationError) -> Self {
        match error {
            AdministrationError::NotFound(name) => Self::SubscriptionNotFound(name.as_str().to_owned()),
            AdministrationError::ReadOnly(_) => Self::NotAllowed {
                what: error.to_string(),
                hint: "set bus.amqp.topology = \"create\", or change it with a tool of the broker".to_owned(),
            },
            AdministrationError::NotKnown => Self::NotManaged {
                what: error.to_string(),
                hint: "correct exchange, key or arguments, or set allow_missing: another process may have made it"
                    .to_owned(),
            },
            AdministrationError::TooMany { name, limit } => Self::HandlerLimit {
                what: format!("bindings of subscription {name} made at run time"),
                limit: u64::try_from(limit).unwrap_or(u64::MAX),
            },
            AdministrationError::Down(error) => Self::BrokerUnavailable(error.to_string()),
            AdministrationError::Broker(error) => Self::from_broker(error),
        }
    }
}

fn source_to_proto(owner: Owner, source: BindingSource) -> admin::Source {
    match (source, owner) {
        (BindingSource::Admin, _) => admin::Source::Admin,
        (BindingSource::Subscription, Owner::Settings) => admin::Source::Settings,
        (BindingSource::Subscription, Owner::Handler) => admin::Source::Handler,
    }
}

/// The bindings of one subscription.
fn entries_of(wanted: &Wanted) -> Vec<(String, admin::BindingEntry)> {
    let entry = |(binding, source): &(Binding, BindingSource)| {
        entry(&wanted.subscription.name, binding, source_to_proto(wanted.owner, *source))
    };
    wanted.bindings.iter().map(entry).collect()
}

/// A binding that is on the broker and that nobody here wants.
fn foreign_entry(wanted: &[Wanted], name: &SubscriptionName, found: &Binding) -> Option<(String, admin::BindingEntry)> {
    let own = wanted.iter().filter(|one| one.subscription.name == *name).flat_map(|one| &one.bindings);
    let is_wanted = own.into_iter().any(|(binding, _)| is_same_binding(binding, found));
    (!is_wanted).then(|| entry(name, found, admin::Source::Broker))
}

/// An entry by a key that sorts and tells it from others.
fn entry(name: &SubscriptionName, binding: &Binding, source: admin::Source) -> (String, admin::BindingEntry) {
    let key = format!("{name}\n{}\n{}\n{:?}", binding.exchange, binding.routing_key, binding.arguments);
    (key, entry_to_proto(name, binding, source))
}

fn entry_to_proto(name: &SubscriptionName, binding: &Binding, source: admin::Source) -> admin::BindingEntry {
    admin::BindingEntry {
        subscription: name.as_str().to_owned(),
        binding: Some(wire::binding_to_proto(binding)),
        source: source.into(),
    }
}

fn subscription_to_proto(wanted: &Wanted) -> admin::Subscription {
    let bindings: Vec<Binding> = wanted.bindings.iter().map(|(binding, _)| binding.clone()).collect();
    admin::Subscription {
        name: wanted.subscription.name.as_str().to_owned(),
        spec: Some(wire::spec_to_proto(&wanted.subscription, &bindings)),
        queues: vec![wanted.subscription.queue.name.as_str().to_owned()],
        source: source_to_proto(wanted.owner, BindingSource::Subscription).into(),
    }
}

fn object_to_proto(owner: Option<&SubscriptionName>, examined: &Examined) -> admin::TopologyObject {
    let kind = match examined.kind {
        ObjectKind::Exchange => admin::TopologyObjectKind::Exchange,
        ObjectKind::Queue => admin::TopologyObjectKind::Queue,
        ObjectKind::Binding => admin::TopologyObjectKind::Binding,
    };
    let (state, differences) = match &examined.state {
        ObjectState::Same => (admin::TopologyState::Same, &[][..]),
        ObjectState::Missing => (admin::TopologyState::Missing, &[][..]),
        ObjectState::Different(differences) => (admin::TopologyState::Different, differences.as_slice()),
        ObjectState::Adopted(lacks) => (admin::TopologyState::Adopted, lacks.as_slice()),
        ObjectState::Unknown(_) => (admin::TopologyState::Unknown, &[][..]),
        ObjectState::Extra => (admin::TopologyState::Extra, &[][..]),
    };
    admin::TopologyObject {
        kind: kind.into(),
        name: examined.name.clone(),
        subscription: owner.map(|name| name.as_str().to_owned()).unwrap_or_default(),
        state: state.into(),
        differences: differences.iter().map(|it| difference_to_proto(it, (examined.kind, state))).collect(),
    }
}

fn difference_to_proto(
    difference: &Difference,
    (kind, state): (ObjectKind, admin::TopologyState),
) -> admin::TopologyDifference {
    let hint = if state == admin::TopologyState::Different {
        difference::hint(kind, std::slice::from_ref(difference))
    } else {
        "used as it is: the settings do not name this"
    };
    admin::TopologyDifference {
        key: difference.key.clone(),
        wanted: difference.wanted.clone(),
        found: difference.found.clone(),
        hint: hint.to_owned(),
    }
}

fn step_to_proto(done: &StepDone) -> admin::TopologyStep {
    let (applied, problem) = match &done.outcome {
        StepOutcome::Planned => (false, String::new()),
        StepOutcome::Done(findings) => (was_applied(&done.step, findings), String::new()),
        StepOutcome::Failed(error) => (false, format!("{error}; try: {}", error.hint())),
    };
    admin::TopologyStep { description: done.step.to_string(), applied, problem }
}

/// What was there already was not applied; of bindings the broker does not tell.
fn was_applied(step: &Step, findings: &Findings) -> bool {
    match step {
        Step::Exchange(_) | Step::Queue(_) => !findings.created.is_empty(),
        Step::Bind { .. } | Step::Unbind { .. } => true,
    }
}
