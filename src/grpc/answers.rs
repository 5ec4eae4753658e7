//! The answers of a stream, one after the other: their end is told to whoever reads its requests, and a bug in making one ends
//! the stream with a word. Knows no message.

use futures_util::{Stream, stream};
use tokio_util::sync::DropGuard;
use tonic::Status;
use tracing::error;

use super::problem::Problem;
use crate::runtime::until_panic;

/// The answers that `next` makes out of a state, until it makes none. `gone` is dropped with the stream, and `name` is what a
/// bug is found by in the log.
pub(super) fn answers<S, T, F>(
    gone: DropGuard,
    name: String,
    state: S,
    next: fn(S) -> F,
) -> impl Stream<Item = Result<T, Status>>
where
    F: Future<Output = Option<(Result<T, Status>, S)>>,
{
    let begin = (Some(state), gone, name);
    stream::unfold(begin, move |(state, gone, name)| async move {
        match until_panic(next(state?)).await {
            Ok(made) => made.map(|(answer, state)| (answer, (Some(state), gone, name))),
            Err(panic) => {
                error!(stream = name, %panic, "an answer could not be made: this is a bug");
                let problem = Problem::Internal { request_id: name.clone() };
                Some((Err(problem.into()), (None, gone, name)))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;

    /// One answer, and then the end, or a bug.
    async fn one(state: (u32, bool)) -> Option<(Result<u32, Status>, (u32, bool))> {
        let (count, is_bad) = state;
        assert!(count == 0 || !is_bad, "a bug");
        (count == 0).then_some((Ok(7), (1, is_bad)))
    }

    async fn collected(is_bad: bool) -> Vec<Result<u32, Status>> {
        let gone = CancellationToken::new();
        let all = answers(gone.clone().drop_guard(), "stream 7".to_owned(), (0, is_bad), one).collect().await;
        assert!(gone.is_cancelled(), "its reader hears of the end");
        all
    }

    #[tokio::test]
    async fn a_stream_ends_after_its_last_answer() {
        assert!(matches!(collected(false).await[..], [Ok(7)]));
    }

    /// failures.md S4.
    #[tokio::test]
    async fn a_panic_in_making_an_answer_ends_its_stream_with_internal() {
        let all = collected(true).await;
        let [Ok(7), Err(status)] = &all[..] else { panic!("{all:?}") };
        assert!(status.code() == Code::Internal && status.message().contains("stream 7"), "{status:?}");
    }
}
