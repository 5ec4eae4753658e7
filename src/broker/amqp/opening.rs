//! Opens channels. A channel that the broker has closed costs lapin its number for good, so a connection wears out.
//!
//! lapin keeps what the broker said of such a number: given out again, the open fails in the words of then, and the number is
//! lost. With `channel_max` of them (2,047 by default) the connection opens nothing any more (measured, `bus_amqp::wearing`).

use std::time::Duration;

use lapin::{Channel, Connection, ErrorKind};

use super::error::within;
use super::hub::Hub;
use crate::broker::BrokerError;

/// A channel of a connection that the session does not end with.
pub(super) async fn channel(connection: &Connection, limit: Duration) -> Result<Channel, BrokerError> {
    within(limit, "opening a channel", open(connection)).await
}

/// A channel of a connection of the session: one that opens nothing any more ends it.
pub(super) async fn own_channel(connection: &Connection, limit: Duration, hub: &Hub) -> Result<Channel, BrokerError> {
    let opening = async {
        let opened = open(connection).await;
        if let Err(error) = &opened
            && matches!(error.kind(), ErrorKind::ChannelsLimitReached)
        {
            let reason = "the broker has closed as many channels as a connection has".to_owned();
            hub.close(BrokerError::SessionLost { reason });
        }
        opened
    };
    within(limit, "opening a channel", opening).await
}

async fn open(connection: &Connection) -> lapin::Result<Channel> {
    loop {
        match connection.create_channel().await {
            // No broker refuses to open a channel in words that leave the connection: it is what it said when it closed one
            // with this number. That number is not given out a third time.
            Err(error) if error.is_amqp_soft_error() => {}
            answer => return answer,
        }
    }
}

/// True once a connection that was taken so often, for a channel each time, would give out numbers again.
pub(super) fn is_worn(connection: &Connection, taken: usize) -> bool {
    taken >= usize::from(connection.configuration().channel_max())
}
