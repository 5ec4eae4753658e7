//! Conversions between `sidebus.v1` and the domain, both ways, with every rule of the contract's comments.
//!
//! Knows no transport, no stream and no broker. Nothing here panics, whatever comes in from either side.

mod decimal;
mod declare;
mod delivery;
mod difference;
mod header;
mod incoming;
mod open;
mod outgoing;
mod publish;
mod spec;
mod time;
mod trace;
mod verdict;
mod violations;

pub(in crate::grpc) use declare::PATH as DECLARE_PATH;
pub use declare::{DeclareDefaults, Declared, binding_from_proto, subscription_from_proto};
pub use delivery::{DeliveryParts, ShownDelivery, delivery_to_proto, failure_to_proto};
pub use difference::differences;
pub use incoming::{MessageProblem, PublishDefaults, PublishLimits, message_from_proto};
pub use open::{BatchTerms, OpenRequest, ResultMode, WindowChange, flow_from_proto, open_from_proto};
pub use outgoing::{ShownMessage, deaths_to_proto, message_to_proto};
pub use publish::{
    MESSAGES_MAX, PublishTerms, batch_from_proto, failure_kind, publish_terms_from_proto, routing_from_proto,
};
pub use spec::{binding_to_proto, spec_to_proto};
pub use time::duration_to_proto;
pub use trace::trace_from_metadata;
pub use verdict::{IDS_MAX, InvalidVerdict, extension_from_proto, settlement_from_proto};

/// How the nameless exchange of AMQP is written on gRPC, where the empty name means "the configured one".
pub const NAMELESS_EXCHANGE: &str = "@default";
/// Longest short string of AMQP in bytes: properties, names, keys.
const SHORT_BYTES_MAX: usize = 255;
/// Longest name of a header in bytes.
const HEADER_NAME_BYTES_MAX: usize = 128;

/// A label without control characters: it goes into log lines and headers.
pub(in crate::grpc) fn label(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
