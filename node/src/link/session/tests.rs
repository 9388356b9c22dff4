use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::{
    domain::{epoch::Reach, preview::Program},
    services::exchange::{Arrival, Returned, Seen, Wanted},
};

const PERIOD: &str = "2011-07";

fn unit(code: &str) -> UnitCode {
    code.parse().unwrap()
}

fn standing(code: &str, received: Vec<Cursor>, roster: u8) -> Standing {
    Standing {
        trust_domain: "test".to_owned(),
        unit: unit(code),
        chain: Vec::new(),
        epoch: 1,
        received,
        clock_unix_ms: 1_000,
        roster_sha256: [roster; 32],
        revocations_sha256: [0; 32],
        catalogue: String::new(),
        addresses: Vec::new(),
        seen: Seen::default(),
        opening: None,
        reach: Reach::default(),
        stopped: false,
        program: Program::own(),
    }
}

fn envelope(text: &str) -> Envelope {
    Envelope { payload: text.to_owned().into_bytes().into(), ..Envelope::default() }
}

fn departure(lane: Lane, lane_seq: u64, after: u64, text: &str) -> Departure {
    let cursor = Cursor { lane, link_epoch: 5, lane_seq };
    Departure { cursor, after, envelope: envelope(text), cells: Vec::new(), evidence: None }
}

fn question() -> Question {
    Question {
        wanted: Wanted::Live,
        period: PERIOD.to_owned(),
        deadline: Duration::from_secs(1),
        max_age: Duration::ZERO,
        depth: 0,
        traceparent: String::new(),
    }
}

fn new(role: Role) -> Session {
    let peer = if role == Role::Child { "CITY" } else { "DISTRICT" };
    Session::new(
        role,
        unit(peer),
        Heartbeat::default(),
        Now { elapsed: Duration::ZERO, unix_ms: 0 },
    )
}

fn effects(session: &mut Session) -> Vec<Effect> {
    std::iter::from_fn(|| session.effect()).collect()
}

fn closed(session: &mut Session) -> Option<Closed> {
    effects(session)
        .into_iter()
        .find_map(|effect| if let Effect::Close(closed) = effect { Some(closed) } else { None })
}

/// A parent and a child, greeted; the parent holds `parent_roster` of the child's subtree, which
/// is 1 at the child.
fn greeted(parent_roster: u8) -> (Session, Session) {
    let (mut child, mut parent) = (new(Role::Child), new(Role::Parent));
    child.begin(standing("DISTRICT", Vec::new(), 1));
    parent.received(child.frame().unwrap());
    assert!(matches!(parent.effect(), Some(Effect::Judge(_))));
    parent.accepted(Meeting::Open, Some(standing("CITY", Vec::new(), parent_roster)));
    parent.returns_wanted(None);
    parent.roster(Vec::new());
    child.received(parent.frame().unwrap());
    assert!(matches!(child.effect(), Some(Effect::Judge(_))));
    child.accepted(Meeting::Open, None);
    child.returns_wanted(None);
    (child, parent)
}

/// Answers every fetch with nothing, so that the outboxes count as read.
fn drain(session: &mut Session) {
    for effect in effects(session) {
        if let Effect::Fetch { lane, .. } = effect {
            session.fetched(lane, Vec::new());
        }
    }
}

fn quiet() -> (Session, Session) {
    let (mut child, mut parent) = greeted(1);
    drain(&mut child);
    drain(&mut parent);
    (child, parent)
}

fn offer(session: &mut Session, departures: Vec<Departure>) {
    session.outbox_changed();
    for effect in effects(session) {
        if let Effect::Fetch { lane, after } = effect {
            let mine = departures
                .iter()
                .filter(|departure| departure.cursor.lane == lane)
                .filter(|departure| departure.cursor.lane_seq > after);
            session.fetched(lane, mine.take(FETCH_LIMIT).cloned().collect());
        }
    }
}

fn lanes(session: &mut Session) -> Vec<i32> {
    let frames = std::iter::from_fn(|| session.frame());
    frames
        .filter_map(|frame| match frame.kind {
            Some(Kind::Delivery(delivery)) => Some(delivery.lane),
            _ => None,
        })
        .collect()
}

fn at(seconds: u64) -> Now {
    Now { elapsed: Duration::from_secs(seconds), unix_ms: 0 }
}

#[test]
fn skew_is_reported_when_the_link_is_up() {
    let (mut child, _) = greeted(1);
    let up = effects(&mut child).into_iter().find_map(|effect| {
        if let Effect::Up { clock_skew_ms } = effect { Some(clock_skew_ms) } else { None }
    });
    assert_eq!(up, Some(-1_000));
}

#[test]
fn a_hello_of_another_unit_than_the_certificates_is_refused_in_words() {
    let (mut child, mut parent) = (new(Role::Child), new(Role::Parent));
    child.begin(standing("STREET", Vec::new(), 1));
    parent.received(child.frame().unwrap());
    assert!(matches!(closed(&mut parent), Some(Closed::Refusing(_))));
    child.received(parent.frame().unwrap());
    let Some(Closed::Refused { reason, .. }) = closed(&mut child) else { panic!("goes on") };
    assert_eq!(reason, "certificate-mismatch");
    assert!(!child.has_frame() && !parent.has_frame());
}

#[test]
fn a_peer_without_a_common_version_is_refused() {
    let mut parent = new(Role::Parent);
    let hello = pb::Hello { version_min: 2, version_max: 9, ..pb::Hello::default() };
    parent.received(wire::frame(Kind::Hello(hello)));
    let Some(Closed::Refusing(refusal)) = closed(&mut parent) else { panic!("goes on") };
    assert_eq!(refusal.reason, "version");
    assert!(matches!(parent.frame().unwrap().kind, Some(Kind::Refusal(_))));
}

#[test]
fn anything_before_the_hello_ends_the_session() {
    let mut parent = new(Role::Parent);
    parent.received(wire::pull_cancel(1));
    assert!(matches!(closed(&mut parent), Some(Closed::Protocol(_))));
}

#[test]
fn a_frame_of_no_known_kind_ends_the_session() {
    let (mut child, _) = quiet();
    child.received(Frame { kind: None });
    assert_eq!(closed(&mut child), Some(Closed::Malformed(Malformed::Unreadable)));
}

#[test]
fn an_escalation_overtakes_what_was_queued_before_it() {
    let (mut child, _) = quiet();
    let bulk = (1..=5).map(|n| departure(Lane::Bulk, n, n - 1, "bulk"));
    let summaries = (1..=5).map(|n| departure(Lane::Summary, n, n - 1, "summary"));
    offer(&mut child, bulk.chain(summaries).collect());
    child.frame().unwrap();
    offer(&mut child, vec![departure(Lane::Escalation, 1, 0, "whistle")]);
    assert_eq!(lanes(&mut child), [1, 3, 3, 3, 3, 5, 5, 5, 5, 5]);
}

#[test]
fn a_full_window_of_bulk_stops_bulk_alone() {
    let (mut child, _) = quiet();
    let rows: Vec<Departure> = (1..=200).map(|n| departure(Lane::Bulk, n, n - 1, "bulk")).collect();
    let mut sent = 0;
    for _ in 0..50 {
        offer(&mut child, rows.clone());
        sent += lanes(&mut child).len();
    }
    assert_eq!(sent, WINDOW_DELIVERIES);
    offer(&mut child, vec![departure(Lane::Escalation, 1, 0, "whistle")]);
    assert_eq!(lanes(&mut child), [1]);
    let cursor = Cursor { lane: Lane::Bulk, link_epoch: 5, lane_seq: 10 };
    child.received(wire::acknowledgement(cursor));
    let mut more = 0;
    for _ in 0..50 {
        offer(&mut child, rows.clone());
        more += lanes(&mut child).len();
    }
    assert_eq!(more, 10);
}

#[test]
fn bytes_in_flight_are_bounded() {
    let (mut child, _) = quiet();
    let text = "x".repeat(100_000);
    let rows: Vec<_> = (1..=5).map(|n| departure(Lane::Summary, n, n - 1, &text)).collect();
    offer(&mut child, rows.clone());
    assert_eq!(lanes(&mut child).len(), 1, "nothing is known of the line yet");
    let cursor = Cursor { lane: Lane::Summary, link_epoch: 5, lane_seq: 1 };
    for _ in 0..2 {
        child.received(wire::acknowledgement(cursor));
    }
    offer(&mut child, rows);
    // The line answers at once: the window of the lane is what bounds it now.
    assert_eq!(lanes(&mut child).len(), 1);
    child.received(wire::acknowledgement(Cursor { lane_seq: 2, ..cursor }));
    assert_eq!(lanes(&mut child).len(), WINDOW_BYTES / 100_000);
}

#[test]
fn other_lanes_wait_while_the_line_queues_and_whistles_do_not() {
    let (mut child, _) = quiet();
    let text = "x".repeat(15_000);
    let rows = (1..=8).map(|n| departure(Lane::Bulk, n, n - 1, &text)).collect();
    offer(&mut child, rows);
    assert_eq!(lanes(&mut child), [5], "one frame at the beginning");
    offer(&mut child, vec![departure(Lane::Notice, 1, 0, &text)]);
    assert!(lanes(&mut child).is_empty(), "what is on the line cannot be overtaken");
    offer(&mut child, vec![departure(Lane::Escalation, 1, 0, &text)]);
    assert_eq!(lanes(&mut child), [1]);
    // The peer rests the lane: the others do not wait for it for ever.
    child.tick(at(16));
    assert_eq!(lanes(&mut child), [2]);
}

#[test]
fn a_delivery_that_fits_no_frame_stops_its_lane_and_is_reported() {
    let (mut child, _) = quiet();
    let text = "x".repeat(wire::MAX_BULK_FRAME_BYTES);
    let huge = departure(Lane::Bulk, 1, 0, &text);
    offer(&mut child, vec![huge, departure(Lane::Notice, 1, 0, "notice")]);
    assert_eq!(lanes(&mut child), [2]);
    let cursor = Cursor { lane: Lane::Notice, link_epoch: 5, lane_seq: 1 };
    child.received(wire::acknowledgement(cursor));
    assert!(lanes(&mut child).is_empty());
    assert!(!child.has_frame());
    let reported = effects(&mut child);
    assert!(
        reported
            .iter()
            .any(|e| matches!(e, Effect::LaneStopped { lane: Lane::Bulk, lane_seq: 1, .. })),
        "{reported:?}"
    );
}

#[test]
fn one_acknowledgement_covers_everything_that_became_durable() {
    let (mut child, mut parent) = quiet();
    let rows = (1..=3).map(|n| departure(Lane::Notice, n, n - 1, "notice")).collect();
    offer(&mut child, rows);
    while let Some(frame) = child.frame() {
        parent.received(frame);
    }
    for _ in 0..3 {
        let received = effects(&mut parent);
        assert!(matches!(received[..], [Effect::Receive(_)]), "{received:?}");
        parent.handed(Lane::Notice);
    }
    // Commits resolve out of order: nothing is acknowledged before what comes before it.
    parent.committed(Lane::Notice, 2);
    assert!(!parent.has_frame());
    parent.committed(Lane::Notice, 1);
    parent.committed(Lane::Notice, 3);
    child.received(parent.frame().unwrap());
    assert!(!parent.has_frame());
    let told = effects(&mut child);
    assert!(matches!(told[..], [Effect::Acknowledged(Cursor { lane_seq: 3, .. })]), "{told:?}");
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_ends_the_session() {
    let (mut child, _) = quiet();
    let cursor = Cursor { lane: Lane::Notice, link_epoch: 5, lane_seq: 1 };
    child.received(wire::acknowledgement(cursor));
    assert!(matches!(closed(&mut child), Some(Closed::Protocol(_))));
}

#[test]
fn a_missing_delivery_is_found() {
    let (_, mut parent) = quiet();
    parent.received(wire::delivery(departure(Lane::Notice, 1, 0, "a")));
    parent.received(wire::delivery(departure(Lane::Notice, 3, 2, "c")));
    let Some(Closed::Gap { after: 2, have: 1, .. }) = closed(&mut parent) else {
        panic!("goes on")
    };
}

#[test]
fn a_lane_that_changes_its_epoch_within_a_stream_ends_it() {
    let (_, mut parent) = quiet();
    parent.received(wire::delivery(departure(Lane::Notice, 1, 0, "a")));
    let mut other = departure(Lane::Notice, 1, 0, "b");
    other.cursor.link_epoch = 6;
    parent.received(wire::delivery(other));
    assert!(matches!(closed(&mut parent), Some(Closed::Protocol(_))));
}

#[test]
fn heartbeats_are_sent_after_ten_seconds_and_silence_ends_after_thirty() {
    let (mut child, mut parent) = quiet();
    assert_eq!(child.deadline(), Duration::from_secs(10));
    child.tick(at(9));
    assert!(!child.has_frame());
    child.tick(at(10));
    parent.tick(at(10));
    let frame = child.frame().unwrap();
    assert!(matches!(frame.kind, Some(Kind::Heartbeat(_))));
    parent.received(frame);
    parent.tick(at(39));
    assert!(closed(&mut parent).is_none());
    child.tick(at(30));
    assert_eq!(closed(&mut child), Some(Closed::Silent(Duration::from_secs(30))));
    parent.tick(at(40));
    assert!(matches!(closed(&mut parent), Some(Closed::Silent(_))));
}

#[test]
fn a_lane_without_room_rests_while_the_others_go_on_and_the_next_link_brings_it_again() {
    let (_, mut parent) = quiet();
    parent.received(wire::delivery(departure(Lane::Notice, 1, 0, "a")));
    parent.received(wire::delivery(departure(Lane::Notice, 2, 1, "b")));
    effects(&mut parent);
    parent.tick(at(5));
    parent.no_room(Lane::Notice);
    parent.received(wire::delivery(departure(Lane::Notice, 3, 2, "c")));
    parent.received(wire::delivery(departure(Lane::Escalation, 1, 0, "whistle")));
    let told = effects(&mut parent);
    let [Effect::Receive(arrival)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(arrival.cursor.lane, Lane::Escalation);
    parent.handed(Lane::Escalation);
    parent.committed(Lane::Escalation, 1);
    // A commit of the resting lane that settles late says nothing.
    parent.committed(Lane::Notice, 2);
    let acknowledged = std::iter::from_fn(|| parent.frame()).filter_map(|it| match it.kind {
        Some(Kind::Acknowledgement(it)) => Some((it.lane, it.lane_seq)),
        _ => None,
    });
    assert_eq!(acknowledged.collect::<Vec<_>>(), [(pb::Lane::Escalation.into(), 1)]);
    for seconds in [14, 24, 34] {
        parent.received(wire::frame(Kind::Heartbeat(pb::Heartbeat::default())));
        parent.tick(at(seconds));
        assert!(closed(&mut parent).is_none());
    }
    assert_eq!(parent.deadline(), Duration::from_secs(35));
    parent.tick(at(35));
    assert_eq!(closed(&mut parent), Some(Closed::NoRoom(Lane::Notice)));
}

#[test]
fn a_peer_that_never_greets_is_given_up() {
    let mut parent = new(Role::Parent);
    parent.tick(at(30));
    assert!(matches!(closed(&mut parent), Some(Closed::Silent(_))));
}

#[test]
fn delegations_go_before_deliveries_and_are_kept_before_they_are_handed_over() {
    let (mut child, mut parent) = greeted(0);
    drain(&mut parent);
    let begun = effects(&mut child);
    assert!(begun.iter().any(|effect| matches!(effect, Effect::FetchRoster)));
    child.fetched(Lane::Escalation, vec![departure(Lane::Escalation, 1, 0, "whistle")]);
    assert!(!child.has_frame(), "a delivery leaves before the roster is known");
    child.roster(vec![envelope("desk")]);
    let first = child.frame().unwrap();
    assert!(matches!(first.kind, Some(Kind::Introduction(_))));
    parent.received(first);
    parent.received(child.frame().unwrap());
    assert!(matches!(effects(&mut parent)[..], [Effect::Introduce(_)]));
    parent.introduced();
    assert!(matches!(effects(&mut parent)[..], [Effect::Receive(_)]));
}

#[test]
fn the_peers_delegation_is_named_once_and_again_when_it_changed() {
    let (mut child, mut parent) = quiet();
    let mut told = Vec::new();
    for held in [None, Some([1; 32]), Some([1; 32]), Some([2; 32])] {
        child.held(held);
        told.push(child.frame());
    }
    assert!(told[0].is_none() && told[2].is_none());
    for (frame, held) in [(&told[1], [1; 32]), (&told[3], [2; 32])] {
        parent.received(frame.clone().unwrap());
        let took = effects(&mut parent);
        assert!(matches!(took[..], [Effect::Acquainted(one)] if one == held), "{took:?}");
        parent.took_acquaintance();
    }
    let short = pb::Acquainted { payload_sha256: vec![1; 31] };
    parent.received(wire::frame(Kind::Acquainted(short)));
    assert!(matches!(closed(&mut parent), Some(Closed::Malformed(_))));
}

#[test]
fn only_new_delegations_are_introduced_when_the_roster_changes() {
    let (mut child, _) = quiet();
    let mut counts = Vec::new();
    for names in [vec!["a", "b"], vec!["a", "b", "c"], vec!["a", "b", "c"]] {
        child.roster_changed();
        let wanted = effects(&mut child);
        assert!(wanted.iter().any(|effect| matches!(effect, Effect::FetchRoster)));
        child.revocations(Vec::new());
        child.roster(names.into_iter().map(envelope).collect());
        counts.push(match child.frame().map(|frame| frame.kind) {
            Some(Some(Kind::Introduction(introduction))) => introduction.delegations.len(),
            _ => 0,
        });
    }
    assert_eq!(counts, [2, 1, 0]);
}

#[test]
fn a_large_roster_travels_in_frames_within_the_limit() {
    let (mut child, _) = greeted(0);
    let text = "x".repeat(40_000);
    child.roster((0..20).map(|n| envelope(&format!("{n}{text}"))).collect());
    let mut delegations = 0;
    while let Some(frame) = child.frame() {
        assert!(frame.encoded_len() <= wire::MAX_FRAME_BYTES);
        if let Some(Kind::Introduction(introduction)) = frame.kind {
            delegations += introduction.delegations.len();
        }
    }
    assert_eq!(delegations, 20);
}

fn answer_of(session: &mut Session) -> Option<Result<Vec<Parcel>, NoAnswer>> {
    effects(session).into_iter().find_map(|effect| {
        if let Effect::Settled { answer, .. } = effect { Some(answer) } else { None }
    })
}

fn asked(parent: &mut Session, child: &mut Session, pull_id: u64) {
    parent.ask(pull_id, question());
    child.received(parent.frame().unwrap());
    let asked = effects(child);
    assert!(matches!(&asked[..], [Effect::Answer { question, .. }] if question.period == PERIOD));
}

fn parcel(text: &str) -> Parcel {
    Parcel { envelope: envelope(text), cells: Vec::new(), evidence: None }
}

#[test]
fn answers_of_several_pulls_do_not_mix() {
    let (mut child, mut parent) = quiet();
    asked(&mut parent, &mut child, 1);
    asked(&mut parent, &mut child, 2);
    child.answered(2, Ok(vec![parcel("two")]));
    child.answered(1, Ok(vec![parcel("one-a"), parcel("one-b")]));
    let mut answers = BTreeMap::new();
    while let Some(frame) = child.frame() {
        parent.received(frame);
        for effect in effects(&mut parent) {
            if let Effect::Settled { pull_id, answer } = effect {
                answers.insert(pull_id, answer.unwrap().len());
            }
        }
    }
    assert_eq!(answers, BTreeMap::from([(1, 2), (2, 1)]));
}

#[test]
fn a_cancelled_pull_is_stopped_at_the_child_and_its_answer_ignored() {
    let (mut child, mut parent) = quiet();
    asked(&mut parent, &mut child, 1);
    parent.cancel(1);
    child.received(parent.frame().unwrap());
    assert!(matches!(effects(&mut child)[..], [Effect::StopAnswer { pull_id: 1 }]));
    child.answered(1, Ok(vec![parcel("late")]));
    assert!(!child.has_frame());
    parent.received(wire::pull_item(1, parcel("late")));
    parent.received(wire::pull_end(1, Ok(())));
    assert!(answer_of(&mut parent).is_none());
}

#[test]
fn open_pulls_are_settled_when_the_link_ends() {
    let (mut child, mut parent) = quiet();
    asked(&mut parent, &mut child, 1);
    parent.close(Closed::Stopped);
    assert!(matches!(answer_of(&mut parent), Some(Err(NoAnswer::NoLink))));
}

#[test]
fn an_answer_that_fits_no_frame_is_withheld_whole() {
    let (mut child, mut parent) = quiet();
    asked(&mut parent, &mut child, 1);
    let huge = parcel(&"x".repeat(wire::MAX_FRAME_BYTES));
    child.answered(1, Ok(vec![parcel("small"), huge]));
    while let Some(frame) = child.frame() {
        parent.received(frame);
    }
    assert!(matches!(answer_of(&mut parent), Some(Err(NoAnswer::Refused))));
}

#[test]
fn an_endless_answer_is_cut_off() {
    let (mut child, mut parent) = quiet();
    asked(&mut parent, &mut child, 1);
    let text = "x".repeat(200_000);
    for _ in 0..=MAX_ANSWER_BYTES / 200_000 {
        parent.received(wire::pull_item(1, parcel(&text)));
    }
    assert!(matches!(answer_of(&mut parent), Some(Err(NoAnswer::Refused))));
    assert!(matches!(parent.frame().unwrap().kind, Some(Kind::PullCancel(_))));
}

#[test]
fn a_child_cannot_pull_from_its_parent() {
    let (_, mut parent) = quiet();
    parent.received(wire::pull_request(1, question()));
    assert!(matches!(closed(&mut parent), Some(Closed::Protocol(_))));
}

#[test]
fn a_flood_of_questions_is_refused_one_by_one() {
    let (mut child, mut parent) = quiet();
    for pull_id in 0..=MAX_QUESTIONS as u64 {
        parent.ask(pull_id, question());
        child.received(parent.frame().unwrap());
    }
    assert_eq!(effects(&mut child).len(), MAX_QUESTIONS);
    parent.received(child.frame().unwrap());
    assert!(matches!(answer_of(&mut parent), Some(Err(NoAnswer::Refused))));
}

#[test]
fn nothing_is_read_while_too_much_is_unsettled() {
    let (_, mut parent) = quiet();
    let text = "x".repeat(200_000);
    let mut seq = 0;
    while parent.wants_frames() {
        seq += 1;
        parent.received(wire::delivery(departure(Lane::Summary, seq, seq - 1, &text)));
        assert!(seq < 100, "memory is not bounded");
    }
    for settled in 1..=seq {
        parent.handed(Lane::Summary);
        parent.committed(Lane::Summary, settled);
    }
    assert!(parent.wants_frames());
}

/// xorshift64*: the seed alone decides a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % bound
    }
}

/// The durable half of one unit, and its session with everything that a cut takes along.
struct Side {
    code: &'static str,
    outbox: BTreeMap<Lane, Vec<Departure>>,
    acknowledged: BTreeMap<Lane, u64>,
    cursors: BTreeMap<Lane, Cursor>,
    sent: BTreeMap<Lane, Vec<String>>,
    taken: BTreeMap<Lane, Vec<String>>,
    session: Session,
    jobs: VecDeque<Effect>,
    commits: Vec<(Lane, u64)>,
    wire: VecDeque<Frame>,
    next_seq: u64,
    epoch: u64,
}

impl Side {
    fn new(code: &'static str, role: Role, epoch: u64) -> Self {
        Self {
            code,
            outbox: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            cursors: BTreeMap::new(),
            sent: BTreeMap::new(),
            taken: BTreeMap::new(),
            session: new(role),
            jobs: VecDeque::new(),
            commits: Vec::new(),
            wire: VecDeque::new(),
            next_seq: 0,
            epoch,
        }
    }

    fn standing(&self) -> Standing {
        standing(self.code, self.cursors.values().copied().collect(), 1)
    }

    fn restart(&mut self, role: Role) {
        self.session = new(role);
        self.jobs.clear();
        self.commits.clear();
        self.wire.clear();
        if role == Role::Child {
            self.session.begin(self.standing());
        }
    }

    fn write(&mut self, lane: Lane, random: &mut Random) {
        let rows = self.outbox.entry(lane).or_default();
        let before = rows.last().map(|row| row.cursor.lane_seq);
        let after = before.or_else(|| self.acknowledged.get(&lane).copied()).unwrap_or(0);
        self.next_seq += 1 + random.below(3) as u64;
        let text = format!("{} {lane:?} {}", self.code, self.next_seq);
        let mut row = departure(lane, self.next_seq, after, &text);
        row.cursor.link_epoch = self.epoch;
        rows.push(row);
        self.sent.entry(lane).or_default().push(text);
        self.session.outbox_changed();
    }

    /// Does one waiting job; which one is random, but deliveries of a lane keep their order
    /// because the session hands over one at a time.
    fn work(&mut self, random: &mut Random) -> bool {
        self.jobs.extend(effects(&mut self.session));
        if !self.commits.is_empty() && random.below(2) == 0 {
            let (lane, lane_seq) = self.commits.swap_remove(random.below(self.commits.len()));
            self.session.committed(lane, lane_seq);
            return true;
        }
        if self.jobs.is_empty() {
            return false;
        }
        let position = random.below(self.jobs.len());
        match self.jobs.remove(position).unwrap() {
            Effect::Judge(hello) => {
                for cursor in hello.received {
                    self.forget(cursor);
                }
                let own = self.standing();
                let is_parent = self.code == "CITY";
                self.session.accepted(Meeting::Open, is_parent.then_some(own));
            }
            Effect::Fetch { lane, after } => {
                let rows = self.outbox.get(&lane).into_iter().flatten();
                let rows = rows.filter(|row| row.cursor.lane_seq > after).take(FETCH_LIMIT);
                self.session.fetched(lane, rows.cloned().collect());
            }
            Effect::Receive(arrival) => self.receive(arrival),
            Effect::Acknowledged(cursor) => {
                self.forget(cursor);
                self.session.told(cursor.lane);
            }
            Effect::Close(_) => return false,
            Effect::Up { .. } => {}
            Effect::FetchRoster => self.session.roster(Vec::new()),
            Effect::Witness(_) => self.session.witnessed(Vec::new()),
            Effect::FetchRevocations => self.session.revocations(Vec::new()),
            Effect::FetchHeld => self.session.held(None),
            Effect::WantReturns => self.session.returns_wanted(None),
            Effect::TakeReturned(_)
            | Effect::GiveBack(_)
            | Effect::Acquainted(_)
            | Effect::Introduce(_)
            | Effect::Revoke(_)
            | Effect::Answer { .. }
            | Effect::StopAnswer { .. }
            | Effect::Settled { .. }
            | Effect::LaneStopped { .. } => panic!("nobody gave a reason for it"),
        }
        true
    }

    fn forget(&mut self, cursor: Cursor) {
        if cursor.link_epoch == self.epoch {
            let rows = self.outbox.entry(cursor.lane).or_default();
            rows.retain(|row| row.cursor.lane_seq > cursor.lane_seq);
            let acknowledged = self.acknowledged.entry(cursor.lane).or_default();
            *acknowledged = cursor.lane_seq.max(*acknowledged);
        }
    }

    fn receive(&mut self, arrival: Arrival) {
        let Arrival { cursor, after, envelope, .. } = arrival;
        let have = self
            .cursors
            .get(&cursor.lane)
            .filter(|have| have.link_epoch == cursor.link_epoch)
            .map_or(0, |have| have.lane_seq);
        assert!(after <= have && have < cursor.lane_seq, "{after} {have} {cursor:?}");
        self.cursors.insert(cursor.lane, cursor);
        let text = String::from_utf8(envelope.payload.to_vec()).unwrap();
        self.taken.entry(cursor.lane).or_default().push(text);
        self.session.handed(cursor.lane);
        self.commits.push((cursor.lane, cursor.lane_seq));
    }

    fn is_closed(&self) -> bool {
        self.session.state == State::Closed
    }
}

/// Moves one frame; sometimes it is lost or comes twice.
fn move_frame(from: &mut Side, to: &mut Side, faults: bool, random: &mut Random) -> bool {
    if from.session.has_frame() && from.wire.len() < 4 {
        from.wire.extend(from.session.frame());
    }
    if !to.session.wants_frames() {
        return false;
    }
    let Some(frame) = from.wire.pop_front() else { return false };
    let fault = if faults { random.below(40) } else { usize::MAX };
    if fault != 0 {
        to.session.received(frame.clone());
    }
    if fault == 1 {
        to.session.received(frame);
    }
    true
}

fn run(seed: u64) -> usize {
    let mut random = Random(seed);
    let mut child = Side::new("DISTRICT", Role::Child, 11);
    let mut parent = Side::new("CITY", Role::Parent, 22);
    child.restart(Role::Child);
    let mut cuts = 0;
    let mut idle = 0;
    let steps = 4_000;
    for step in 0.. {
        let faults = step < steps;
        if faults && random.below(6) == 0 {
            let lane = Lane::ALL[random.below(Lane::ALL.len())];
            let side = if random.below(2) == 0 { &mut child } else { &mut parent };
            side.write(lane, &mut random);
        }
        let cut = faults && random.below(150) == 0 || step == steps;
        if cut || child.is_closed() || parent.is_closed() {
            cuts += 1;
            // A lost frame may have left both waiting for long.
            idle = 0;
            child.restart(Role::Child);
            parent.restart(Role::Parent);
        }
        let moved = match random.below(4) {
            0 => move_frame(&mut child, &mut parent, faults, &mut random),
            1 => move_frame(&mut parent, &mut child, faults, &mut random),
            2 => child.work(&mut random),
            _ => parent.work(&mut random),
        };
        idle = if moved { 0 } else { idle + 1 };
        if !faults && idle > 200 {
            break;
        }
    }
    assert_eq!(child.sent, parent.taken, "seed {seed}: upward");
    assert_eq!(parent.sent, child.taken, "seed {seed}: downward");
    let left: usize = child.outbox.values().chain(parent.outbox.values()).map(Vec::len).sum();
    assert_eq!(left, 0, "seed {seed}: rows stay in the outbox");
    assert!(child.sent.values().map(Vec::len).sum::<usize>() > 100, "seed {seed}: nothing sent");
    cuts
}

#[test]
fn every_delivery_arrives_once_and_in_order_over_a_pipe_that_loses_repeats_and_cuts() {
    let cuts: usize = (1..=60).map(|seed| run(seed * 0x9E37_79B9)).sum();
    assert!(cuts > 600, "only {cuts} cuts: the pipe is too kind");
}

fn proven(text: &str) -> Proven {
    Proven { revocation: envelope(text), chain: vec![envelope("chain")], place: None }
}

fn kinds(session: &mut Session) -> Vec<&'static str> {
    let frames = std::iter::from_fn(|| session.frame());
    let kind = |frame: Frame| match frame.kind {
        Some(Kind::Revocations(_)) => "revocations",
        Some(Kind::Introduction(_)) => "introduction",
        Some(Kind::Delivery(_)) => "delivery",
        Some(Kind::Refusal(_)) => "refusal",
        _ => "other",
    };
    frames.map(kind).collect()
}

#[test]
fn revocations_leave_before_everything_that_they_may_forbid() {
    let (mut child, mut parent) = quiet();
    parent.roster_changed();
    parent.roster(vec![envelope("delegation")]);
    offer(&mut parent, vec![departure(Lane::Escalation, 1, 0, "whistle")]);
    assert!(!parent.has_frame(), "as long as it is not read what was revoked");
    parent.revocations(vec![proven("first"), proven("second")]);
    let frame = parent.frame().unwrap();
    assert!(matches!(&frame.kind, Some(Kind::Revocations(sent)) if sent.items.len() == 2));
    assert_eq!(kinds(&mut parent), ["introduction", "delivery"]);

    // What came with or after it waits until it is kept.
    child.received(frame);
    child.received(wire::frame(Kind::Introduction(pb::Introduction {
        delegations: vec![envelope("delegation")],
    })));
    child.received(wire::delivery(departure(Lane::Escalation, 1, 0, "whistle")));
    let taken = effects(&mut child);
    assert!(matches!(&taken[..], [Effect::Revoke(items)] if items.len() == 2), "{taken:?}");
    child.took_revocations();
    assert!(matches!(&effects(&mut child)[..], [Effect::Introduce(_)]));
    child.introduced();
    assert!(matches!(&effects(&mut child)[..], [Effect::Receive(_)]));

    // What the peer has is not sent back to it.
    child.roster_changed();
    drop(effects(&mut child));
    child.roster(Vec::new());
    child.revocations(vec![proven("first"), proven("second")]);
    assert_eq!(kinds(&mut child), Vec::<&str>::new());
}

#[test]
fn a_peer_that_holds_the_same_revocations_is_sent_none() {
    let fetches = |session: &mut Session| {
        effects(session).iter().any(|effect| matches!(effect, Effect::FetchRevocations))
    };
    let (mut child, _) = greeted(1);
    assert!(!fetches(&mut child));
    let mut child = new(Role::Child);
    child.begin(Standing { revocations_sha256: [7; 32], ..standing("DISTRICT", Vec::new(), 1) });
    child.received(wire::hello(standing("CITY", Vec::new(), 1)));
    child.accepted(Meeting::Open, None);
    child.returns_wanted(None);
    assert!(fetches(&mut child));
}

#[test]
fn a_banished_child_is_told_why_and_what_proves_it() {
    let (mut child, mut parent) = quiet();
    let refusal = Refusal { reason: "revoked", detail: "join again".to_owned() };
    parent.banished(refusal.clone(), &[proven("revocation")]);
    assert_eq!(closed(&mut parent), Some(Closed::Refusing(refusal)));
    let proof = parent.frame().unwrap();
    child.received(proof);
    assert!(matches!(&effects(&mut child)[..], [Effect::Revoke(_)]));
    child.received(parent.frame().unwrap());
    let Some(Closed::Refused { reason, detail }) = closed(&mut child) else { panic!("goes on") };
    assert_eq!((reason.as_str(), detail.as_str()), ("revoked", "join again"));
    assert!(!parent.has_frame());
}

#[test]
fn a_child_refuses_nobody() {
    let (_, mut parent) = quiet();
    parent.received(wire::frame(Kind::Refusal(pb::Refusal::default())));
    assert!(matches!(closed(&mut parent), Some(Closed::Protocol(_))));
}

/// A parent and a child of which one was rolled back.
fn standing_still() -> (Session, Session) {
    let (mut child, mut parent) = (new(Role::Child), new(Role::Parent));
    child.begin(standing("DISTRICT", Vec::new(), 1));
    parent.received(child.frame().unwrap());
    parent.accepted(Meeting::Quiet, Some(standing("CITY", Vec::new(), 1)));
    parent.roster(Vec::new());
    child.received(parent.frame().unwrap());
    child.accepted(Meeting::Quiet, None);
    (child, parent)
}

#[test]
fn nothing_passes_while_one_side_was_rolled_back() {
    let (mut child, mut parent) = standing_still();
    child.outbox_changed();
    let read = effects(&mut child).into_iter().any(|one| matches!(one, Effect::Fetch { .. }));
    assert!(!read, "its outbox is not even read");
    parent.ask(7, question());
    let settled = effects(&mut parent)
        .into_iter()
        .any(|one| matches!(one, Effect::Settled { pull_id: 7, answer: Err(NoAnswer::NoLink) }));
    assert!(settled, "no figures are asked for");
    child.received(wire::pull_request(8, question()));
    assert!(!effects(&mut child).iter().any(|one| matches!(one, Effect::Answer { .. })));
    parent.received(wire::delivery(departure(Lane::Notice, 1, 0, "over what was said")));
    assert!(matches!(closed(&mut parent), Some(Closed::Protocol(_))));
}

#[test]
fn journals_are_compared_while_one_side_was_rolled_back() {
    let (mut child, _) = standing_still();
    let witness = |one: &Effect| matches!(one, Effect::Witness(_));
    assert!(effects(&mut child).iter().any(witness), "so that the breach is on the record");
}

#[test]
fn own_statements_come_back_before_anything_leaves_or_is_taken_in() {
    let (mut child, mut parent) = quiet();
    let (mut restored, _) = greeted(1);
    drain(&mut restored);
    restored.returns.opened();
    restored.outbox_changed();
    offer(&mut restored, vec![departure(Lane::Notice, 1, 0, "new")]);
    assert!(lanes(&mut restored).is_empty(), "it has yet to look");
    let handed = |session: &mut Session| {
        effects(session).iter().filter(|one| matches!(one, Effect::Receive(_))).count()
    };
    restored.received(wire::delivery(departure(Lane::Escalation, 1, 0, "a step that follows own")));
    assert_eq!(handed(&mut restored), 0);
    restored.returns_wanted(Some(Number { epoch: 1, seq: 4 }));
    let asked = restored.frame().unwrap();
    assert!(matches!(asked.kind, Some(Kind::ReturnRequest(_))));
    assert!(lanes(&mut restored).is_empty(), "a page is on its way");

    parent.received(asked);
    let given = effects(&mut parent)
        .into_iter()
        .find_map(|one| if let Effect::GiveBack(after) = one { Some(after) } else { None });
    assert_eq!(given, Some(Number { epoch: 1, seq: 4 }));
    let one = Returned { envelope: envelope("own"), cells: Vec::new() };
    parent.returned(Page { statements: vec![one.clone()], last: true });
    restored.received(parent.frame().unwrap());
    let taken = effects(&mut restored)
        .into_iter()
        .find_map(|one| if let Effect::TakeReturned(page) = one { Some(page) } else { None });
    assert_eq!(taken, Some(Page { statements: vec![one], last: true }));
    assert!(lanes(&mut restored).is_empty(), "it is not kept yet");
    restored.returns_wanted(None);
    assert_eq!(lanes(&mut restored), [pb::Lane::Notice as i32]);
    assert_eq!(handed(&mut restored), 1);

    child.received(wire::returned(Page::default()));
    assert!(matches!(closed(&mut child), Some(Closed::Protocol(_))), "nobody asked");
}

#[test]
fn the_first_delivery_to_a_peer_that_has_nothing_of_this_outbox_follows_nothing() {
    let (mut child, _) = quiet();
    // Its rows were numbered while the peer still had those before.
    offer(
        &mut child,
        vec![departure(Lane::Notice, 9, 8, "a"), departure(Lane::Notice, 10, 9, "b")],
    );
    let frames = std::iter::from_fn(|| child.frame());
    let after: Vec<u64> = frames
        .filter_map(|frame| match frame.kind {
            Some(Kind::Delivery(delivery)) => Some(delivery.after),
            _ => None,
        })
        .collect();
    assert_eq!(after, [0, 9]);
}
