//! The state directory: what one run leaves to the next. Knows one note, the millisecond that the ids of a run have reached.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::StartError;
use crate::domain::delivery_id::DeliveryIds;
use crate::runtime::unix_ms;
use crate::telemetry::seldom::Seldom;

/// Milliseconds since 1970, in decimal, and a newline. Named for the start, at which it is written first.
const NOTE: &str = "last-start";
/// How often the note is looked at.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// So far the note is ahead of the ids, for a run that dies: ten million, in the time until the next look.
const AHEAD_MS: u64 = 5_000;

/// Begins the ids of this run, and notes its start where there is a place for it: before any id is handed out, so that no
/// later run can repeat one.
pub(super) fn begin(dir: Option<&Path>) -> Result<DeliveryIds, StartError> {
    begin_at(dir, unix_ms())
}

fn begin_at(dir: Option<&Path>, now: u64) -> Result<DeliveryIds, StartError> {
    let Some(dir) = dir else { return Ok(DeliveryIds::begin(now, None)?) };
    let broken = |reason: String| StartError::StateDir { path: dir.to_owned(), reason };
    let noted = read(dir).map_err(broken)?;
    let ids = DeliveryIds::begin(now, noted)?;
    write(dir, now).map_err(broken)?;
    Ok(ids)
}

/// Keeps the note ahead of the ids while it is polled; never ends. A run that dies in its first [`NOTE_EVERY`] leaves its
/// start alone: a note ahead of the clock would keep its successor from starting.
pub(super) async fn keep(dir: Option<&Path>, ids: &Mutex<DeliveryIds>) -> Infallible {
    let Some(dir) = dir else { return std::future::pending().await };
    let (mut noted, mut told) = (None, Seldom::default());
    loop {
        tokio::time::sleep(NOTE_EVERY).await;
        let reached = reached(ids);
        if noted.is_some_and(|noted| reached + AHEAD_MS / 2 <= noted) {
            continue;
        }
        match write(dir, reached + AHEAD_MS) {
            Ok(()) => noted = Some(reached + AHEAD_MS),
            // It is tried again with every look.
            Err(reason) if told.is_due(Instant::now()) => tell(dir, &reason),
            Err(_) => {}
        }
    }
}

/// Notes what the ids have reached, when no more are handed out.
pub(super) fn end(dir: Option<&Path>, ids: &Mutex<DeliveryIds>) {
    if let Some(dir) = dir
        && let Err(reason) = write(dir, reached(ids))
    {
        tell(dir, &reason);
    }
}

fn reached(ids: &Mutex<DeliveryIds>) -> u64 {
    ids.lock().unwrap_or_else(PoisonError::into_inner).reached_ms()
}

/// A run goes on without its note: only a clock that is set back could make use of it.
fn tell(dir: &Path, reason: &str) {
    warn!(path = %dir.display(), %reason, "bus.state_dir: what the ids of this run have reached is not noted");
}

fn read(dir: &Path) -> Result<Option<u64>, String> {
    if !dir.is_dir() {
        return Err("it is no directory; create it, or mount a volume there".to_owned());
    }
    match std::fs::read_to_string(dir.join(NOTE)) {
        Ok(text) => match text.trim().parse() {
            Ok(noted) => Ok(Some(noted)),
            Err(_) => Err(format!("the note {NOTE} in it holds no time; delete it if this host's clock is right")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("the note {NOTE} in it cannot be read: {error}")),
    }
}

/// In another file first: a crash in between leaves the old note or the new one, never half of one.
fn write(dir: &Path, now: u64) -> Result<(), String> {
    let (half, whole) = (dir.join(format!("{NOTE}.new")), dir.join(NOTE));
    let written = std::fs::write(&half, format!("{now}\n")).and_then(|()| std::fs::rename(&half, &whole));
    written.map_err(|error| {
        format!("it cannot be written to: {error}; give this process the right to, or set no bus.state_dir")
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn noted(dir: &Path) -> u64 {
        read(dir).unwrap().unwrap()
    }

    #[test]
    fn a_start_is_noted_and_the_next_one_begins_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let before = unix_ms();
        let first = begin(Some(dir.path())).unwrap().take(1).unwrap();
        assert!(noted(dir.path()) >= before);
        // The clock may not have moved on by a whole millisecond.
        let second = loop {
            if let Ok(mut ids) = begin(Some(dir.path())) {
                break ids.take(1).unwrap();
            }
        };
        assert!(first < second);
    }

    const T: u64 = 1_800_000_000_000;

    #[test]
    fn a_clock_set_back_to_behind_the_start_of_a_long_run_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ids = Mutex::new(begin_at(Some(dir.path()), T).unwrap());
        // As many as four seconds have at most.
        ids.lock().unwrap().take(4_000 << 11).unwrap();
        end(Some(dir.path()), &ids);
        assert!(matches!(begin_at(Some(dir.path()), T + 3_999).unwrap_err(), StartError::Clock(_)));
        assert!(begin_at(Some(dir.path()), T + 4_001).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_dies_has_noted_more_than_it_has_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let ids = Mutex::new(begin_at(Some(dir.path()), T).unwrap());
        for step in 1..=3 {
            ids.lock().unwrap().take(4_000 << 11).unwrap();
            let kept = tokio::time::timeout(NOTE_EVERY + NOTE_EVERY / 2, keep(Some(dir.path()), &ids)).await;
            assert!(kept.is_err(), "it never ends");
            assert_eq!(noted(dir.path()), T + step * 4_000 + AHEAD_MS);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_note_that_fails_is_tried_again_with_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let (state, aside) = (dir.path().join("state"), dir.path().join("aside"));
        std::fs::create_dir(&state).unwrap();
        let ids = Mutex::new(begin_at(Some(&state), T).unwrap());
        let mut kept = pin!(keep(Some(&state), &ids));
        std::fs::rename(&state, &aside).unwrap();
        assert!(tokio::time::timeout(NOTE_EVERY + NOTE_EVERY / 2, &mut kept).await.is_err());
        std::fs::rename(&aside, &state).unwrap();
        assert_eq!(noted(&state), T);
        assert!(tokio::time::timeout(NOTE_EVERY, &mut kept).await.is_err());
        assert_eq!(noted(&state), T + AHEAD_MS);
    }

    #[test]
    fn a_clock_behind_the_note_refuses_and_leaves_the_note() {
        let dir = tempfile::tempdir().unwrap();
        let later = unix_ms() + 3_600_000;
        write(dir.path(), later).unwrap();
        let error = begin(Some(dir.path())).unwrap_err();
        assert!(matches!(error, StartError::Clock(_)) && error.to_string().contains("set the clock"), "{error}");
        assert_eq!(noted(dir.path()), later);
    }

    #[test]
    fn a_directory_that_is_not_there_and_a_note_that_is_none_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = begin(Some(&dir.path().join("gone"))).unwrap_err().to_string();
        assert!(error.contains("bus.state_dir") && error.contains("gone") && error.contains("create it"), "{error}");
        std::fs::write(dir.path().join(NOTE), "yesterday").unwrap();
        let error = begin(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("holds no time"), "{error}");
    }
}
