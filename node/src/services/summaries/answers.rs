//! Answers of live pulls: those that are kept for a while, and those that are being collected, so
//! that pulls at the same time share the work.
//!
//! Promises that nobody gets an answer older than asked for, or one that was given up on earlier
//! than its own deadline allows. A collection that nobody waits for any more is dropped, and with it
//! the questions below.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::time::Instant;

use super::{Error, hop_margin};
use crate::{
    clock::UnixMillis,
    services::exchange::{Parcel, Question},
};

/// Most answers that are kept: each holds what a whole subtree said.
const MAX_KEPT: usize = 16;

/// What came of a collection, for everybody who waits for it.
pub(super) type Collected = Result<Arc<Answer>, Arc<Error>>;

/// The work of a collection.
pub(super) type Collection = Shared<BoxFuture<'static, Collected>>;

/// One answer to a live pull.
#[derive(Debug)]
pub(super) struct Answer {
    /// When the question was put, by the unit's clock.
    pub(super) at_unix_ms: UnixMillis,
    /// Age that answers from below may have had at that time.
    pub(super) below: Duration,
    /// Time that the question had.
    pub(super) deadline: Duration,
    /// Somebody did not answer in that time.
    pub(super) cut_short: bool,
    /// Descendants' parcels, the own last.
    pub(super) parcels: Vec<Parcel>,
}

/// What a question asks for. A deeper answer lists more than was asked: only the same depth is the
/// same answer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Asked {
    period: String,
    depth: u32,
}

impl Asked {
    fn of(question: &Question) -> Self {
        Self { period: question.period.clone(), depth: question.depth }
    }
}

/// Whose work a question waits for.
pub(super) enum Joined {
    /// That of a question before it.
    Shared(Collection),
    /// Its own.
    Begun(Collection),
}

/// A collection under way.
struct Running {
    at_unix_ms: UnixMillis,
    below: Duration,
    /// When it is over at the latest: who was asked below has answered or was given up on.
    ends: Instant,
    collection: WeakShared<BoxFuture<'static, Collected>>,
}

#[derive(Default)]
struct Known {
    kept: HashMap<Asked, Arc<Answer>>,
    running: HashMap<Asked, Running>,
}

/// The answers of one unit.
#[derive(Default)]
pub(super) struct Answers(Mutex<Known>);

/// Age that answers from below may have: the other half is for the time that this one is kept.
pub(super) fn age_below(max_age: Duration) -> Duration {
    max_age / 2
}

fn is_fresh(at: UnixMillis, below: Duration, question: &Question, now: UnixMillis) -> bool {
    // A clock that was set back makes an answer of the future: nobody knows its age.
    let age = now.checked_sub(at).and_then(|age| u64::try_from(age).ok());
    age.is_some_and(|age| Duration::from_millis(age) + below < question.max_age)
}

impl Answers {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept answer that will do.
    pub(super) fn kept(&self, question: &Question, now: UnixMillis) -> Option<Arc<Answer>> {
        let known = self.known();
        let answer = known.kept.get(&Asked::of(question))?;
        let had_time = !answer.cut_short || answer.deadline >= question.deadline;
        let fits = had_time && is_fresh(answer.at_unix_ms, answer.below, question, now);
        fits.then(|| Arc::clone(answer))
    }

    /// Waits for a collection under way that will do and is over in time, or lets others share `work`
    /// that begins. Looking and beginning are one step: of two who ask at the same time one begins.
    pub(super) fn join(
        &self,
        question: &Question,
        now: UnixMillis,
        begins: Instant,
        work: BoxFuture<'static, Collected>,
    ) -> Joined {
        let asked = Asked::of(question);
        let mut known = self.known();
        if let Some(running) = known.running.get(&asked) {
            let in_time = running.ends <= begins + question.deadline;
            let fits = in_time && is_fresh(running.at_unix_ms, running.below, question, now);
            if let Some(collection) = fits.then(|| running.collection.upgrade()).flatten() {
                return Joined::Shared(collection);
            }
        }
        known.running.retain(|_, running| running.collection.upgrade().is_some());
        let collection = work.shared();
        if let Some(weak) = collection.downgrade() {
            let running = Running {
                at_unix_ms: now,
                below: age_below(question.max_age),
                ends: begins + question.deadline.saturating_sub(hop_margin(question.deadline) / 2),
                collection: weak,
            };
            known.running.insert(asked, running);
        }
        Joined::Begun(collection)
    }

    /// Keeps an answer; the oldest goes if there are too many.
    pub(super) fn keep(&self, question: &Question, answer: &Arc<Answer>) {
        let mut known = self.known();
        let asked = Asked::of(question);
        known.kept.insert(asked, Arc::clone(answer));
        while known.kept.len() > MAX_KEPT {
            let oldest = known.kept.iter().min_by_key(|(_, answer)| answer.at_unix_ms);
            let Some(oldest) = oldest.map(|(asked, _)| asked.clone()) else { return };
            known.kept.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::services::exchange::Wanted;

    fn question(max_age_ms: u64, deadline_ms: u64, depth: u32) -> Question {
        Question {
            wanted: Wanted::Live,
            period: "2026-11".to_owned(),
            deadline: Duration::from_millis(deadline_ms),
            max_age: Duration::from_millis(max_age_ms),
            depth,
            traceparent: String::new(),
        }
    }

    fn answer(at_unix_ms: UnixMillis, below_ms: u64, cut_short: bool) -> Arc<Answer> {
        Arc::new(Answer {
            at_unix_ms,
            below: Duration::from_millis(below_ms),
            deadline: Duration::from_millis(1_000),
            cut_short,
            parcels: Vec::new(),
        })
    }

    #[test]
    fn age_counts_what_was_old_already_when_it_came_from_below() {
        let answers = Answers::default();
        let asked = question(10_000, 1_000, 1);
        answers.keep(&asked, &answer(100_000, 5_000, false));
        assert!(answers.kept(&asked, 104_999).is_some());
        assert!(answers.kept(&asked, 105_000).is_none(), "as old as 10 s below");
        assert!(answers.kept(&asked, 99_999).is_none(), "of the future");
        assert!(answers.kept(&question(0, 1_000, 1), 100_000).is_none(), "only a new one will do");
        assert!(answers.kept(&question(10_000, 1_000, 2), 100_000).is_none(), "another depth");
    }

    #[test]
    fn answer_that_was_cut_short_does_not_do_for_who_can_wait_longer() {
        let answers = Answers::default();
        answers.keep(&question(10_000, 1_000, 0), &answer(0, 0, true));
        assert!(answers.kept(&question(10_000, 1_000, 0), 1).is_some());
        assert!(answers.kept(&question(10_000, 1_001, 0), 1).is_none());
        answers.keep(&question(10_000, 1_000, 0), &answer(0, 0, false));
        assert!(answers.kept(&question(10_000, 9_000, 0), 1).is_some());
    }

    #[test]
    fn collection_is_shared_by_those_whom_it_serves_in_time_and_ends_with_the_last() {
        let answers = Answers::default();
        let asked = question(10_000, 1_000, 0);
        let begins = Instant::now();
        let join = |question: &Question| answers.join(question, 100, begins, pending().boxed());
        let Joined::Begun(first) = answers.join(&asked, 0, begins, pending().boxed()) else {
            panic!("nobody began before")
        };
        let Joined::Shared(second) = join(&asked) else { panic!("the same question") };
        let Joined::Shared(_) = join(&question(10_000, 960, 0)) else { panic!("over in time") };
        drop(first);
        let Joined::Shared(_) = join(&asked) else { panic!("the second still waits") };
        drop(second);
        let Joined::Begun(_) = join(&asked) else { panic!("nobody waited") };
    }

    #[test]
    fn collection_that_ends_too_late_or_is_too_old_is_not_shared() {
        for late_or_old in [question(10_000, 940, 0), question(5_000, 1_000, 0)] {
            let answers = Answers::default();
            let begins = Instant::now();
            let first = question(10_000, 1_000, 0);
            let Joined::Begun(_waits) = answers.join(&first, 0, begins, pending().boxed()) else {
                panic!("nobody began before")
            };
            let Joined::Begun(_) = answers.join(&late_or_old, 100, begins, pending().boxed())
            else {
                panic!("{late_or_old:?}")
            };
        }
    }

    #[tokio::test]
    async fn everybody_gets_the_answer_of_a_shared_collection() {
        let answers = Answers::default();
        let asked = question(10_000, 1_000, 0);
        let made = answer(7, 0, false);
        let begins = Instant::now();
        let Joined::Begun(first) = answers.join(&asked, 0, begins, ready(Ok(made)).boxed()) else {
            panic!("nobody began before")
        };
        let Joined::Shared(second) = answers.join(&asked, 0, begins, pending().boxed()) else {
            panic!("the same question")
        };
        let (first, second) = futures::join!(first, second);
        assert!(Arc::ptr_eq(&first.expect("made"), &second.expect("made")));
    }

    #[test]
    fn only_so_many_are_kept_and_the_oldest_goes() {
        let answers = Answers::default();
        let asked = |depth| question(10_000, 1_000, depth);
        for depth in 0..=u32::try_from(MAX_KEPT).expect("small") {
            answers.keep(&asked(depth), &answer(i64::from(depth), 0, false));
        }
        assert!(answers.kept(&asked(0), 20).is_none());
        assert!(answers.kept(&asked(1), 20).is_some());
    }
}
