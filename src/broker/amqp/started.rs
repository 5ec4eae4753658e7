//! Calls of lapin that are begun in order and awaited later. Knows no channel.
//!
//! lapin queues a frame at the first poll of its call and answers once the io thread has written it. Awaiting one call
//! after the other costs two thread switches each; beginning all and then awaiting costs a few for the whole batch.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use futures_util::future::{BoxFuture, FutureExt};

/// A call that has been polled once.
pub(super) enum Started<'a, T> {
    /// Its result. It can be there after the first poll already, and must not be lost.
    Done(lapin::Result<T>),
    /// Not ready yet.
    Waiting(BoxFuture<'a, lapin::Result<T>>),
}

impl<'a, T: Send> Started<'a, T> {
    /// Polls the call once.
    pub(super) fn begin(call: impl Future<Output = lapin::Result<T>> + Send + 'a) -> Self {
        let mut started = Self::Waiting(call.boxed());
        started.glance();
        started
    }

    /// Looks whether the result is there. Wakes nobody later: whoever waits polls again with a waker of its own.
    pub(super) fn glance(&mut self) {
        if let Self::Waiting(call) = self
            && let Poll::Ready(result) = call.poll_unpin(&mut Context::from_waker(Waker::noop()))
        {
            *self = Self::Done(result);
        }
    }

    /// Waits for the result and keeps it.
    pub(super) async fn finish(&mut self) {
        if let Self::Waiting(call) = self {
            let result = call.await;
            *self = Self::Done(result);
        }
    }

    /// True once the result is there.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// The rest of the call.
    pub(super) fn into_call(self) -> BoxFuture<'a, lapin::Result<T>>
    where
        T: 'a,
    {
        match self {
            Self::Done(result) => std::future::ready(result).boxed(),
            Self::Waiting(call) => call,
        }
    }

    /// The result, if it is there.
    pub(super) fn result(self) -> Option<lapin::Result<T>> {
        match self {
            Self::Done(result) => Some(result),
            Self::Waiting(_) => None,
        }
    }
}
