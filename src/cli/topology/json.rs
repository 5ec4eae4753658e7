//! Objects and steps of a topology as JSON. Knows no command.

use serde_json::{Map, Value as Json, json};

use crate::domain::desired::Objects;
use crate::domain::difference::Difference;
use crate::domain::message::{Headers, Value};
use crate::domain::name::QueueName;
use crate::domain::subscription::Binding;
use crate::domain::topology::{Exchange, Queue, Step};

/// One step of a plan.
pub(super) fn step(step: &Step) -> Json {
    match step {
        Step::Exchange(wanted) => tagged("exchange", exchange(wanted)),
        Step::Queue(wanted) => tagged("queue", queue(wanted)),
        Step::Bind { queue, binding: wanted, .. } => tagged("bind", binding(queue, wanted)),
        Step::Unbind { queue, binding: wanted, .. } => tagged("unbind", binding(queue, wanted)),
    }
}

fn tagged(step: &str, object: Json) -> Json {
    let mut entries = Map::from_iter([("step".to_owned(), json!(step))]);
    if let Json::Object(object) = object {
        entries.extend(object);
    }
    Json::Object(entries)
}

fn exchange(wanted: &Exchange) -> Json {
    json!({
        "name": wanted.name.as_str(),
        "type": wanted.kind.as_str(),
        "durable": wanted.durable,
        "auto_delete": wanted.auto_delete,
        "internal": wanted.internal,
        "arguments": table(&wanted.arguments),
        "named": wanted.named,
    })
}

fn queue(wanted: &Queue) -> Json {
    json!({
        "name": wanted.name.as_str(),
        "durable": wanted.durable,
        "auto_delete": wanted.auto_delete,
        "exclusive": wanted.exclusive,
        "arguments": table(&wanted.arguments),
        "named": wanted.named,
    })
}

fn binding(queue: &QueueName, wanted: &Binding) -> Json {
    json!({
        "exchange": wanted.exchange.as_str(),
        "queue": queue.as_str(),
        "routing_key": wanted.routing_key,
        "arguments": table(&wanted.arguments),
    })
}

/// The objects as one JSON object.
pub(super) fn objects(objects: &Objects) -> Json {
    json!({
        "exchanges": objects.exchanges.iter().map(exchange).collect::<Vec<_>>(),
        "queues": objects.queues.iter().map(queue).collect::<Vec<_>>(),
        "bindings": objects.bindings.iter().map(|(queue, wanted)| binding(queue, wanted)).collect::<Vec<_>>(),
    })
}

/// The objects as `RabbitMQ` imports them. Users, rights and the virtual host itself are left to the operator.
pub(super) fn definitions(objects: &Objects, vhost: &str) -> Json {
    let exchange = |wanted: &Exchange| {
        json!({
            "name": wanted.name.as_str(), "vhost": vhost, "type": wanted.kind.as_str(), "durable": wanted.durable,
            "auto_delete": wanted.auto_delete, "internal": wanted.internal, "arguments": table(&wanted.arguments),
        })
    };
    let queue = |wanted: &Queue| {
        json!({
            "name": wanted.name.as_str(), "vhost": vhost, "durable": wanted.durable,
            "auto_delete": wanted.auto_delete, "arguments": table(&wanted.arguments),
        })
    };
    let binding = |(queue, wanted): &(QueueName, Binding)| {
        json!({
            "source": wanted.exchange.as_str(), "vhost": vhost, "destination": queue.as_str(),
            "destination_type": "queue", "routing_key": wanted.routing_key, "arguments": table(&wanted.arguments),
        })
    };
    json!({
        "exchanges": objects.exchanges.iter().map(exchange).collect::<Vec<_>>(),
        "queues": objects.queues.iter().map(queue).collect::<Vec<_>>(),
        "bindings": objects.bindings.iter().map(binding).collect::<Vec<_>>(),
    })
}

/// Differences as a list.
pub(super) fn differences(differences: &[Difference]) -> Json {
    let one = |it: &Difference| json!({"key": it.key, "wanted": it.wanted, "found": it.found});
    differences.iter().map(one).collect()
}

fn table(headers: &Headers) -> Json {
    headers.iter().map(|(name, entry)| (name.clone(), value(entry))).collect::<Map<_, _>>().into()
}

/// What settings can hold is kept as it is; of the rest of AMQP's types JSON knows the nearest.
fn value(entry: &Value) -> Json {
    if let Some(number) = entry.as_integer() {
        return json!(number);
    }
    match entry {
        Value::Bool(truth) => json!(truth),
        Value::Float(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::Timestamp(seconds) => json!(seconds),
        Value::Text(bytes) | Value::Binary(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Decimal { scale, value } => json!(f64::from(*value) / 10_f64.powi(i32::from(*scale))),
        Value::Table(entries) => table(entries),
        Value::Array(items) => items.iter().map(value).collect(),
        Value::Void
        | Value::Int8(_)
        | Value::UInt8(_)
        | Value::Int16(_)
        | Value::UInt16(_)
        | Value::Int32(_)
        | Value::UInt32(_)
        | Value::Int64(_) => Json::Null,
    }
}
