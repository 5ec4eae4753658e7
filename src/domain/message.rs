//! What is published and what is delivered, with AMQP's value types kept exactly, so that a copy loses nothing.
//!
//! Knows no wire: `broker::amqp` and `grpc::wire` convert.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::name::ExchangeName;

/// A message: where it was published to, its properties, its body.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Exchange it was published to; nameless = AMQP's default exchange.
    pub exchange: ExchangeName,
    /// At most 255 bytes.
    pub routing_key: String,
    /// Properties and headers.
    pub properties: Properties,
    /// Opaque; never parsed and never copied: a clone shares the memory.
    pub body: Bytes,
}

/// The properties of AMQP 0-9-1, each `None` when absent. Texts have at most 255 bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// Such as `gzip`; never decoded here.
    pub content_encoding: Option<String>,
    /// Header table.
    pub headers: Headers,
    /// 2 = persistent; 1, absent or anything else = transient.
    pub delivery_mode: Option<u8>,
    /// 0 to 255.
    pub priority: Option<u8>,
    /// Id that joins a reply to its request.
    pub correlation_id: Option<String>,
    /// Address for replies.
    pub reply_to: Option<String>,
    /// Life time in milliseconds, as text (AMQP 0-9-1 keeps it so).
    pub expiration: Option<String>,
    /// Id given by the publisher.
    pub message_id: Option<String>,
    /// Publish time in seconds since 1970.
    pub timestamp: Option<u64>,
    /// Application's type name.
    pub kind: Option<String>,
    /// User that the broker validated.
    pub user_id: Option<String>,
    /// Publishing application.
    pub app_id: Option<String>,
    /// Kept in copies, never shown.
    pub cluster_id: Option<String>,
}

/// The delivery mode of a message that survives a restart of the broker.
pub const PERSISTENT: u8 = 2;

/// Header names and values in a stable order.
pub type Headers = BTreeMap<String, Value>;

/// One header value with its AMQP 0-9-1 type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    Int8(i8),
    /// `B`
    UInt8(u8),
    /// `s`
    Int16(i16),
    /// `u`
    UInt16(u16),
    /// `I`
    Int32(i32),
    /// `i`
    UInt32(u32),
    /// `l`
    Int64(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `value` with `scale` digits after the point.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits as one number.
        value: u32,
    },
    /// `S`: usually UTF-8, though the protocol does not promise it.
    Text(Bytes),
    /// `x`
    Binary(Bytes),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(Headers),
    /// `A`
    Array(Vec<Self>),
    /// `V`
    Void,
}

impl Value {
    /// A text value.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(Bytes::from(text.into()))
    }

    /// The text, if this is one in UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        let Self::Text(bytes) = self else { return None };
        std::str::from_utf8(bytes).ok()
    }

    /// Whether both say the same, whatever their width on the wire: clients differ in the width that they write.
    pub fn is_like(&self, other: &Self) -> bool {
        let float = |value: &Self| {
            if let Self::Float(number) = value { Some(f64::from(*number)) } else { value.as_double() }
        };
        match (self.as_integer(), other.as_integer(), float(self), float(other)) {
            (Some(one), Some(other), ..) => one == other,
            (.., Some(one), Some(other)) => one.to_bits() == other.to_bits(),
            (..) => self == other,
        }
    }

    fn as_double(&self) -> Option<f64> {
        let Self::Double(number) = self else { return None };
        Some(*number)
    }

    /// The number, if this is an integer of any width.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Int8(n) => Some(i64::from(*n)),
            Self::UInt8(n) => Some(i64::from(*n)),
            Self::Int16(n) => Some(i64::from(*n)),
            Self::UInt16(n) => Some(i64::from(*n)),
            Self::Int32(n) => Some(i64::from(*n)),
            Self::UInt32(n) => Some(i64::from(*n)),
            Self::Int64(n) => Some(*n),
            Self::Bool(_)
            | Self::Float(_)
            | Self::Double(_)
            | Self::Decimal { .. }
            | Self::Text(_)
            | Self::Binary(_)
            | Self::Timestamp(_)
            | Self::Table(_)
            | Self::Array(_)
            | Self::Void => None,
        }
    }

    /// The entries, if this is a table.
    pub fn as_table(&self) -> Option<&Headers> {
        let Self::Table(table) = self else { return None };
        Some(table)
    }

    /// Bytes that the value takes on the wire, its type octet included and its name not (AMQP 0-9-1, section 4.2.5).
    pub fn encoded_bytes(&self) -> usize {
        1 + match self {
            Self::Bool(_) | Self::Int8(_) | Self::UInt8(_) => 1,
            Self::Int16(_) | Self::UInt16(_) => 2,
            Self::Int32(_) | Self::UInt32(_) | Self::Float(_) => 4,
            Self::Int64(_) | Self::Double(_) | Self::Timestamp(_) => 8,
            Self::Decimal { .. } => 5,
            Self::Text(bytes) | Self::Binary(bytes) => 4 + bytes.len(),
            Self::Table(table) => encoded_bytes(table),
            Self::Array(items) => 4 + items.iter().map(Self::encoded_bytes).sum::<usize>(),
            Self::Void => 0,
        }
    }
}

/// Bytes that a header table takes on the wire, its length field included.
pub fn encoded_bytes(headers: &Headers) -> usize {
    4 + headers.iter().map(|(name, value)| 1 + name.len() + value.encoded_bytes()).sum::<usize>()
}

/// Values in a header table, nested ones included.
fn entries(headers: &Headers) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Table(table) => 1 + entries(table),
            Value::Array(items) => 1 + items.iter().map(of).sum::<usize>(),
            Value::Bool(_)
            | Value::Int8(_)
            | Value::UInt8(_)
            | Value::Int16(_)
            | Value::UInt16(_)
            | Value::Int32(_)
            | Value::UInt32(_)
            | Value::Int64(_)
            | Value::Float(_)
            | Value::Double(_)
            | Value::Decimal { .. }
            | Value::Text(_)
            | Value::Binary(_)
            | Value::Timestamp(_)
            | Value::Void => 1,
        }
    }
    headers.values().map(of).sum()
}

/// Bytes that a frame with this message alone takes at most on a wire that tags every field.
///
/// A bound and not the size: each nested value is given 24 bytes for its tags and lengths, each text property 10.
pub fn frame_bytes_bound(message: &Message) -> usize {
    let properties = &message.properties;
    let texts = [
        &properties.content_type,
        &properties.content_encoding,
        &properties.correlation_id,
        &properties.reply_to,
        &properties.message_id,
        &properties.kind,
        &properties.user_id,
        &properties.app_id,
    ];
    let texts: usize = texts.into_iter().flatten().map(|text| text.len() + 10).sum();
    let names = message.exchange.as_str().len() + message.routing_key.len();
    let headers = encoded_bytes(&properties.headers) + 24 * entries(&properties.headers);
    message.body.len() + names + texts + headers + 256
}

/// True for header names that Sidebus or the broker owns: refused from publishers, hidden from handlers.
///
/// `x-sidebus-key` and `x-sidebus-causation-id` belong to the publisher; they are message fields and not headers there.
pub fn is_reserved_header(name: &str) -> bool {
    const EXACT: [&str; 5] = ["x-death", "x-delivery-count", "x-acquired-count", "x-delay", "CC"];
    const PREFIXES: [&str; 4] = ["x-sidebus-", "x-first-death-", "x-last-death-", "x-stream-"];
    EXACT.contains(&name) || name == "BCC" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_counts_every_byte_of_the_wire() {
        let headers = Headers::from([("ab".to_owned(), Value::text("xyz")), ("n".to_owned(), Value::Int64(1))]);
        // length 4; name 1 + 2, type 1, length 4, text 3; name 1 + 1, type 1, number 8
        assert_eq!(encoded_bytes(&headers), 4 + 3 + 8 + 2 + 9);
    }

    #[test]
    fn reserved_headers_are_known_by_name_and_prefix() {
        for name in ["x-death", "CC", "BCC", "x-sidebus-attempt", "x-first-death-queue", "x-stream-offset", "x-delay"] {
            assert!(is_reserved_header(name), "{name}");
        }
        for name in ["x-tenant", "cc", "x-deaths", "traceparent"] {
            assert!(!is_reserved_header(name), "{name}");
        }
    }
}
