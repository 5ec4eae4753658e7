//! Which frames settle a batch of deliveries: the fewest, and never one that covers a delivery still being worked on.
//!
//! Knows tags and nothing else: no broker, no wire, no ids of ours. One value per channel; its memory is bounded by the
//! span between the oldest unsettled tag and the newest settled one, which is what is in flight.

use std::collections::BTreeSet;

/// What becomes of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done with it.
    Ack,
    /// Back to its queue.
    GiveBack,
}

/// How far a frame reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The tag alone.
    One,
    /// The tag and everything outstanding below it.
    UpTo,
}

/// One frame to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub outcome: Outcome,
    /// The tag that it names; always one of the batch, because RabbitMQ answers `PRECONDITION_FAILED` when the tag of a
    /// frame with [`Reach::UpTo`] is not itself outstanding.
    pub tag: u64,
    /// What it covers.
    pub reach: Reach,
}

/// The frames of one batch, in the order in which they must be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frames {
    /// To be written one after the other on the channel.
    pub frames: Vec<Frame>,
    /// Tags of the batch that had been settled before, or occur twice: no frame, they are stale.
    pub repeated: Vec<u64>,
}

/// The tags of one channel that are settled. Tags begin at 1 and rise by 1 with each delivery (AMQP 0-9-1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coalescer {
    /// Every tag up to here is settled.
    floor: u64,
    /// Settled tags above the floor; never holds `floor + 1`.
    above: BTreeSet<u64>,
}

impl Coalescer {
    /// Nothing is settled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// True if the tag was settled already.
    pub fn is_settled(&self, tag: u64) -> bool {
        tag <= self.floor || self.above.contains(&tag)
    }

    /// Settled tags that are remembered one by one: a gauge of the span in flight.
    pub fn remembered(&self) -> usize {
        self.above.len()
    }

    /// Takes a batch and answers the frames for it.
    ///
    /// Where the batch closes the gap at the front, one frame covers the whole front: of the kind that is more frequent
    /// there, after single frames for the other kind, which must leave the channel first or they would be covered too.
    pub fn settle(&mut self, batch: impl IntoIterator<Item = (u64, Outcome)>) -> Frames {
        let mut fresh: Vec<(u64, Outcome)> = Vec::new();
        let mut repeated = Vec::new();
        for (tag, outcome) in batch {
            if tag <= self.floor || !self.above.insert(tag) {
                repeated.push(tag);
            } else {
                fresh.push((tag, outcome));
            }
        }
        while self.above.remove(&(self.floor + 1)) {
            self.floor += 1;
        }
        fresh.sort_unstable_by_key(|(tag, _)| *tag);
        let front = fresh.partition_point(|(tag, _)| *tag <= self.floor);
        let (front, rest) = fresh.split_at(front);
        let mut frames = Vec::with_capacity(rest.len() + 1);
        cover_front(front, &mut frames);
        frames.extend(singles(rest, Outcome::GiveBack));
        frames.extend(singles(rest, Outcome::Ack));
        Frames { frames, repeated }
    }
}

/// The frames for the tags of the batch below which everything is settled.
fn cover_front(front: &[(u64, Outcome)], frames: &mut Vec<Frame>) {
    let acks = front.iter().filter(|(_, outcome)| *outcome == Outcome::Ack).count();
    let (many, few) =
        if acks * 2 >= front.len() { (Outcome::Ack, Outcome::GiveBack) } else { (Outcome::GiveBack, Outcome::Ack) };
    frames.extend(singles(front, few));
    let mut of_many = front.iter().filter(|(_, outcome)| *outcome == many);
    let Some((last, _)) = of_many.next_back() else { return };
    let reach = if of_many.next().is_some() { Reach::UpTo } else { Reach::One };
    frames.push(Frame { outcome: many, tag: *last, reach });
}

fn singles(tags: &[(u64, Outcome)], wanted: Outcome) -> impl Iterator<Item = Frame> {
    tags.iter().filter(move |(_, outcome)| *outcome == wanted).map(|(tag, outcome)| Frame {
        outcome: *outcome,
        tag: *tag,
        reach: Reach::One,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn one(outcome: Outcome, tag: u64) -> Frame {
        Frame { outcome, tag, reach: Reach::One }
    }

    fn up_to(outcome: Outcome, tag: u64) -> Frame {
        Frame { outcome, tag, reach: Reach::UpTo }
    }

    fn check(batches: &[&[(u64, Outcome)]], expected: &[&[Frame]]) {
        let mut coalescer = Coalescer::new();
        for (batch, frames) in batches.iter().zip(expected) {
            assert_eq!(coalescer.settle(batch.iter().copied()).frames, *frames, "{batch:?}");
        }
    }

    #[test]
    fn a_contiguous_prefix_takes_one_frame() {
        use Outcome::Ack;
        check(&[&[(1, Ack), (2, Ack), (3, Ack)]], &[&[up_to(Ack, 3)]]);
        check(&[&[(1, Ack)]], &[&[one(Ack, 1)]]);
    }

    #[test]
    fn a_gap_stops_the_frame_that_covers_many() {
        use Outcome::Ack;
        check(
            &[&[(3, Ack), (1, Ack), (2, Ack), (5, Ack)], &[(4, Ack)], &[(6, Ack), (7, Ack)]],
            &[&[up_to(Ack, 3), one(Ack, 5)], &[one(Ack, 4)], &[up_to(Ack, 7)]],
        );
    }

    #[test]
    fn the_rarer_kind_leaves_the_channel_first() {
        use Outcome::{Ack, GiveBack};
        check(
            &[&[(1, Ack), (2, GiveBack), (3, Ack)], &[(4, GiveBack), (5, Ack), (6, GiveBack), (7, GiveBack)]],
            &[&[one(GiveBack, 2), up_to(Ack, 3)], &[one(Ack, 5), up_to(GiveBack, 7)]],
        );
    }

    #[test]
    fn a_tag_settled_before_is_repeated_and_has_no_frame() {
        use Outcome::{Ack, GiveBack};
        let mut coalescer = Coalescer::new();
        coalescer.settle([(1, Ack), (4, Ack)]);
        let again = coalescer.settle([(1, GiveBack), (4, GiveBack), (2, Ack), (2, Ack)]);
        assert_eq!(again, Frames { frames: vec![one(Ack, 2)], repeated: vec![1, 4, 2] });
    }

    #[test]
    fn memory_is_the_span_in_flight() {
        let mut coalescer = Coalescer::new();
        coalescer.settle((2..=1000).map(|tag| (tag, Outcome::Ack)));
        assert_eq!(coalescer.remembered(), 999);
        coalescer.settle([(1, Outcome::Ack)]);
        assert_eq!(coalescer.remembered(), 0);
        assert!(coalescer.is_settled(1000) && !coalescer.is_settled(1001));
    }

    /// A broker in a few lines: what is outstanding, and what became of the rest.
    #[derive(Default)]
    struct Model {
        outstanding: BTreeSet<u64>,
        outcomes: BTreeMap<u64, Outcome>,
    }

    impl Model {
        fn read(&mut self, frame: Frame) {
            // Precondition failed: RabbitMQ closes the channel for an unknown tag.
            assert!(self.outstanding.contains(&frame.tag), "tag {} is not outstanding", frame.tag);
            let covered: Vec<u64> = match frame.reach {
                Reach::One => vec![frame.tag],
                Reach::UpTo => self.outstanding.range(..=frame.tag).copied().collect(),
            };
            for tag in covered {
                self.outstanding.remove(&tag);
                self.outcomes.insert(tag, frame.outcome);
            }
        }
    }

    /// Tags in the order in which they are settled, cut into batches.
    fn settlements() -> impl Strategy<Value = Vec<Vec<(u64, Outcome)>>> {
        (1_u64..200).prop_flat_map(|span| {
            let outcome = prop_oneof![3 => Just(Outcome::Ack), 1 => Just(Outcome::GiveBack)];
            let order = Just((1..=span).collect::<Vec<_>>()).prop_shuffle();
            let kinds = prop::collection::vec(outcome, usize::try_from(span).unwrap());
            (order, kinds, 0_usize..100, 1_usize..40).prop_map(|(mut order, kinds, shuffled, size)| {
                // From fully shuffled to nearly in order, as real handlers are.
                let cut = order.len() * shuffled / 100;
                order[cut..].sort_unstable();
                let kept = order.len() - order.len() / 8;
                order.truncate(kept);
                let pairs: Vec<_> = order.into_iter().zip(kinds).collect();
                pairs.chunks(size).map(<[_]>::to_vec).collect()
            })
        })
    }

    proptest! {
        #[test]
        fn the_broker_does_what_was_said_and_touches_nothing_else(batches in settlements()) {
            let mut coalescer = Coalescer::new();
            let mut broker = Model::default();
            broker.outstanding.extend(1..=200);
            let mut said = BTreeMap::new();
            for batch in batches {
                said.extend(batch.iter().copied());
                let answer = coalescer.settle(batch.iter().copied());
                prop_assert!(answer.repeated.is_empty());
                prop_assert!(answer.frames.len() <= batch.len());
                for frame in answer.frames {
                    broker.read(frame);
                }
                prop_assert_eq!(&broker.outcomes, &said);
            }
        }
    }
}
