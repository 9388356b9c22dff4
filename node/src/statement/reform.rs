//! Body bytes of `lianxi.reform.v1` and `lianxi.reform-step.v1`.
//!
//! Promises that what was decoded has every required field within bounds. Whether an order holds is
//! decided by `identity::trust`.

use std::fmt;

use lianxi_proto::{envelope, types::v1 as pb};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    Envelope,
    delegation::{check_trust_domain, key_use_to_proto, suite_to_proto, text},
    handed::{Handed, handed_from_proto, handed_to_proto},
    header::{Malformed, StatementId, unit_at},
    journal::Evidence,
};
use crate::domain::{
    delegation::PublicKey,
    period::Period,
    reform::{Count, Division, Item, MAX_CHILDREN, MAX_HANDED, Order, StepKind},
    unit::UnitCode,
};

/// Most open items that an answer names.
pub const MAX_ITEMS: usize = 50;

/// Most delegations, returned statements or periods of one step.
const MAX_LIST: usize = 256;

/// Longest token.
const MAX_TOKEN_BYTES: usize = 4_096;

/// Longest number of an item.
const MAX_NUMBER_BYTES: usize = 200;

/// One step of a reform.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The order, or the question of a dry run.
    pub reform: StatementId,
    /// Which step.
    pub kind: StepKind,
    /// What is asked about: the unit, its old and its new parent.
    pub asked: Option<(UnitCode, UnitCode, UnitCode)>,
    /// What of the unit would go to its sibling, if it is asked about a division.
    pub division: Option<Division>,
    /// What is concerned at the unit that answers.
    pub count: Option<Count>,
    /// The invitation, or empty.
    pub token: String,
    /// Why the unit does not take part, or empty.
    pub refused: String,
    /// Delegations that the receiver needs, issuers before issued.
    pub introduced: Vec<Envelope>,
    /// Periods that the unit had reported to its old parent.
    pub periods: Vec<Period>,
    /// What waited for the unit.
    pub returned: Vec<Envelope>,
    /// An open item that goes to the successor.
    pub handed: Option<Handed>,
    /// Keys with which the successor reads what is sealed to the unit.
    pub agreement_keys: Vec<AgreementPrivate>,
    /// Reports of the unit with what shows that they were there before it ended.
    pub shown: Vec<(StatementId, Evidence)>,
}

impl Step {
    /// A step that says nothing more.
    pub fn new(reform: StatementId, kind: StepKind) -> Self {
        Self {
            reform,
            kind,
            asked: None,
            division: None,
            count: None,
            token: String::new(),
            refused: String::new(),
            introduced: Vec::new(),
            periods: Vec::new(),
            returned: Vec::new(),
            handed: None,
            agreement_keys: Vec::new(),
            shown: Vec::new(),
        }
    }
}

/// A private agreement key on its way. Debug shows nothing of it.
#[derive(Clone, PartialEq)]
pub struct AgreementPrivate(pub Zeroizing<[u8; 32]>);

impl fmt::Debug for AgreementPrivate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AgreementPrivate")
    }
}

/// What `Reform.keys_sha256` is of a unit with these keys.
pub fn keys_sha256(keys: &[PublicKey]) -> [u8; 32] {
    let tag = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    let mut rows: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| {
            let suite = tag(suite_to_proto(key.suite).into());
            let key_use = tag(key_use_to_proto(key.key_use).into());
            [&[suite, key_use][..], &key.bytes].concat()
        })
        .collect();
    rows.sort();
    let digest = rows.into_iter().fold(Sha256::new(), |digest, row| digest.chain_update(row));
    digest.finalize().into()
}

/// Serialises an order.
pub fn encode_body(order: &Order) -> Vec<u8> {
    pb::Reform {
        trust_domain: order.trust_domain.clone(),
        unit: order.unit.to_string(),
        from: order.from.to_string(),
        to: order.to.to_string(),
        on: order.on.to_string(),
        effective_unix_ms: order.effective_unix_ms,
        keys_sha256: order.keys_sha256.to_vec(),
        text: order.text.clone(),
        merge: order.merge,
        division: order.division.as_ref().map(division_to_proto),
    }
    .encode_to_vec()
}

fn division_to_proto(division: &Division) -> pb::ReformDivision {
    let child = |(unit, keys): &(UnitCode, [u8; 32])| pb::ReformChild {
        unit: unit.to_string(),
        keys_sha256: keys.to_vec(),
    };
    pb::ReformDivision {
        children: division.children.iter().map(child).collect(),
        items: division.items.iter().map(|item| item.to_vec()).collect(),
    }
}

fn division_from_proto(message: pb::ReformDivision) -> Result<Division, Malformed> {
    for (field, length, limit) in [
        ("body.division.children", message.children.len(), MAX_CHILDREN),
        ("body.division.items", message.items.len(), MAX_HANDED),
    ] {
        if length > limit {
            return Err(Malformed::new(field, format_args!("{length} are over {limit}")));
        }
    }
    let child = |child: pb::ReformChild| {
        let unit = unit_at("body.division.children.unit", &child.unit)?;
        Ok((unit, keys_at("body.division.children.keys_sha256", &child.keys_sha256)?))
    };
    let children: Vec<_> = message.children.into_iter().map(child).collect::<Result<_, _>>()?;
    let item = |item: &Vec<u8>| {
        let id = StatementId::try_from(item.as_slice());
        let id = id.map_err(|_| Malformed::new("body.division.items", "is no id"))?;
        Ok(*id.as_bytes())
    };
    let items: Vec<_> = message.items.iter().map(item).collect::<Result<_, _>>()?;
    let mut units: Vec<_> = children.iter().map(|(unit, _)| unit).collect();
    units.sort();
    units.dedup();
    let mut ids = items.clone();
    ids.sort_unstable();
    ids.dedup();
    if units.len() < children.len() || ids.len() < items.len() {
        return Err(Malformed::new("body.division", "names something twice"));
    }
    Ok(Division { children, items })
}

fn keys_at(field: &str, bytes: &[u8]) -> Result<[u8; 32], Malformed> {
    bytes.try_into().map_err(|_| Malformed::new(field, "must have 32 bytes"))
}

/// Id by which the steps name the move of `child` by the division `reform`: a UUID of version 7 with
/// the time of that, and the first bytes of SHA-256 over `lianxi.division.v1`, a zero byte, the id and
/// the code.
pub fn part_id(reform: StatementId, child: &UnitCode) -> StatementId {
    let digest = Sha256::new()
        .chain_update(b"lianxi.division.v1\0")
        .chain_update(reform.as_bytes())
        .chain_update(child.as_str().as_bytes())
        .finalize();
    let mut id = *reform.as_bytes();
    for (place, byte) in digest.iter().take(10).enumerate() {
        // Version and variant stand in the upper bits of the first and the third byte.
        let kept = match place {
            0 => 0xf0,
            2 => 0xc0,
            _ => 0,
        };
        if let Some(one) = id.get_mut(6 + place) {
            *one = (*one & kept) | (byte & !kept);
        }
    }
    StatementId::try_from(&id[..]).unwrap_or(reform)
}

/// Reads the body of an order.
///
/// # Errors
///
/// [`Malformed`] names the first field that is missing or out of bounds.
pub fn decode_body(body: &[u8]) -> Result<Order, Malformed> {
    let message = pb::Reform::decode(body)
        .map_err(|error| Malformed::new("body", format_args!("is no order: {error}")))?;
    check_trust_domain("body.trust_domain", &message.trust_domain)?;
    let on = message.on.parse();
    let on = on.map_err(|_| Malformed::new("body.on", "is no day; write 2026-12-01"))?;
    if message.effective_unix_ms <= 0 {
        return Err(Malformed::new("body.effective_unix_ms", "is missing"));
    }
    let order = Order {
        trust_domain: message.trust_domain,
        unit: unit_at("body.unit", &message.unit)?,
        from: unit_at("body.from", &message.from)?,
        to: unit_at("body.to", &message.to)?,
        on,
        effective_unix_ms: message.effective_unix_ms,
        keys_sha256: keys_at("body.keys_sha256", &message.keys_sha256)?,
        text: text("body.text", message.text)?,
        merge: message.merge,
        division: message.division.map(division_from_proto).transpose()?,
    };
    if order.from == order.to || order.unit == order.to || order.unit == order.from {
        return Err(Malformed::new("body.to", "must be another unit than unit and from"));
    }
    if order.division.is_some() && order.merge {
        return Err(Malformed::new("body.division", "stands beside a merge"));
    }
    let empty = |division: &Division| division.children.is_empty() && division.items.is_empty();
    if order.division.as_ref().is_some_and(empty) {
        return Err(Malformed::new("body.division", "names nothing"));
    }
    if order.steps().iter().any(|step| [&order.unit, &order.from, &order.to].contains(&&step.unit))
    {
        let detail = "names the unit itself, its parent or its sibling";
        return Err(Malformed::new("body.division.children.unit", detail));
    }
    Ok(order)
}

/// An order as a grant holds it.
///
/// # Errors
///
/// [`Malformed`] at `body.reform` for bytes that are no envelope.
pub fn order_of_grant(bytes: &[u8]) -> Result<Envelope, Malformed> {
    Envelope::decode(bytes)
        .map_err(|error| Malformed::new("body.reform", format_args!("is no envelope: {error}")))
}

/// The bytes with which a grant holds an order.
pub fn order_to_grant(order: &Envelope) -> Vec<u8> {
    order.encode_to_vec()
}

/// Serialises a step.
pub fn encode_step(step: &Step) -> Vec<u8> {
    let (unit, from, to) = match &step.asked {
        Some((unit, from, to)) => (unit.to_string(), from.to_string(), to.to_string()),
        None => Default::default(),
    };
    pb::ReformStep {
        reform_id: step.reform.as_bytes().to_vec(),
        kind: kind_to_proto(step.kind).into(),
        unit,
        from,
        to,
        division: step.division.as_ref().map(division_to_proto),
        count: step.count.as_ref().map(count_to_proto),
        token: step.token.clone(),
        refused: step.refused.clone(),
        introduced: step.introduced.clone(),
        periods: step.periods.iter().map(ToString::to_string).collect(),
        returned: step.returned.clone(),
        handed: step.handed.as_ref().map(handed_to_proto),
        agreement_keys: step.agreement_keys.iter().map(|key| key.0.to_vec()).collect(),
        shown: step
            .shown
            .iter()
            .map(|(id, evidence)| pb::ReformShown {
                statement_id: id.as_bytes().to_vec(),
                evidence: Some(evidence.to_message()),
            })
            .collect(),
    }
    .encode_to_vec()
}

/// Reads the body of a step.
///
/// # Errors
///
/// [`Malformed`] names the first field that is missing, out of bounds or of unknown meaning.
pub fn decode_step(body: &[u8]) -> Result<Step, Malformed> {
    let message = pb::ReformStep::decode(body)
        .map_err(|error| Malformed::new("body", format_args!("is no step: {error}")))?;
    let reform = message.reform_id.as_slice().try_into();
    let reform = reform.map_err(|_| Malformed::new("body.reform_id", "is no id"))?;
    let kind = kind_from_proto(message.kind)
        .ok_or_else(|| Malformed::new("body.kind", "is unknown to this program"))?;
    let asked = match kind {
        StepKind::Asked => Some((
            unit_at("body.unit", &message.unit)?,
            unit_at("body.from", &message.from)?,
            unit_at("body.to", &message.to)?,
        )),
        StepKind::Answered
        | StepKind::Given
        | StepKind::Moved
        | StepKind::Released
        | StepKind::Returned
        | StepKind::Handed => None,
    };
    if message.token.len() > MAX_TOKEN_BYTES {
        return Err(Malformed::new("body.token", "is too long"));
    }
    for (field, length) in [
        ("body.introduced", message.introduced.len()),
        ("body.periods", message.periods.len()),
        ("body.returned", message.returned.len()),
        ("body.agreement_keys", message.agreement_keys.len()),
        ("body.shown", message.shown.len()),
    ] {
        if length > MAX_LIST {
            return Err(Malformed::new(field, format_args!("{length} are over {MAX_LIST}")));
        }
    }
    let period = |text: &String| {
        text.parse().map_err(|error| Malformed::new("body.periods", format_args!("{error}")))
    };
    Ok(Step {
        reform,
        kind,
        asked,
        division: message.division.map(division_from_proto).transpose()?,
        count: message.count.map(count_from_proto).transpose()?,
        token: message.token,
        refused: text("body.refused", message.refused)?,
        introduced: message.introduced,
        periods: message.periods.iter().map(period).collect::<Result<_, _>>()?,
        returned: message.returned,
        handed: message.handed.map(handed_from_proto).transpose()?,
        agreement_keys: private_keys(message.agreement_keys)?,
        shown: message.shown.into_iter().map(shown_from_proto).collect::<Result<_, _>>()?,
    })
}

fn shown_from_proto(message: pb::ReformShown) -> Result<(StatementId, Evidence), Malformed> {
    let id = message.statement_id.as_slice().try_into();
    let id = id.map_err(|_| Malformed::new("body.shown.statement_id", "is no id"))?;
    let evidence = message.evidence;
    let evidence = evidence.ok_or_else(|| Malformed::new("body.shown.evidence", "is missing"))?;
    Ok((id, Evidence::of_message(evidence)?))
}

fn private_keys(keys: Vec<Vec<u8>>) -> Result<Vec<AgreementPrivate>, Malformed> {
    let key = |bytes: Vec<u8>| {
        let bytes = Zeroizing::new(bytes);
        let key: Result<[u8; 32], _> = bytes.as_slice().try_into();
        let key = key.map_err(|_| Malformed::new("body.agreement_keys", "must have 32 bytes"))?;
        Ok(AgreementPrivate(Zeroizing::new(key)))
    };
    keys.into_iter().map(key).collect()
}

fn count_to_proto(count: &Count) -> pb::ReformCount {
    pb::ReformCount {
        records: count.records,
        accounts: count.accounts,
        notices: count.notices,
        escalations: count.escalations,
        clocks: count.clocks,
        open: count
            .open
            .iter()
            .map(|item| pb::ReformItem {
                kind: item.kind.clone(),
                number: item.number.clone(),
                party: item.party.to_string(),
                id: item.id.map(|id| id.to_vec()).unwrap_or_default(),
            })
            .collect(),
    }
}

fn count_from_proto(count: pb::ReformCount) -> Result<Count, Malformed> {
    if count.open.len() > MAX_ITEMS {
        return Err(Malformed::new("body.count.open", "names too many items"));
    }
    let item = |item: pb::ReformItem| {
        if item.number.len() > MAX_NUMBER_BYTES || item.number.chars().any(char::is_control) {
            return Err(Malformed::new("body.count.open.number", "is no number of a case"));
        }
        if !matches!(item.kind.as_str(), "notice" | "escalation") {
            return Err(Malformed::new("body.count.open.kind", "is no kind of a case"));
        }
        let party = unit_at("body.count.open.party", &item.party)?;
        let id = match item.id.as_slice() {
            [] => None,
            id => {
                let id = StatementId::try_from(id);
                let id = id.map_err(|_| Malformed::new("body.count.open.id", "is no id"))?;
                Some(*id.as_bytes())
            }
        };
        Ok(Item { kind: item.kind, number: item.number, party, id })
    };
    Ok(Count {
        records: count.records,
        accounts: count.accounts,
        notices: count.notices,
        escalations: count.escalations,
        clocks: count.clocks,
        open: count.open.into_iter().map(item).collect::<Result<_, _>>()?,
    })
}

fn kind_to_proto(kind: StepKind) -> pb::ReformStepKind {
    match kind {
        StepKind::Asked => pb::ReformStepKind::Asked,
        StepKind::Answered => pb::ReformStepKind::Answered,
        StepKind::Given => pb::ReformStepKind::Given,
        StepKind::Moved => pb::ReformStepKind::Moved,
        StepKind::Released => pb::ReformStepKind::Released,
        StepKind::Returned => pb::ReformStepKind::Returned,
        StepKind::Handed => pb::ReformStepKind::Handed,
    }
}

fn kind_from_proto(kind: i32) -> Option<StepKind> {
    match pb::ReformStepKind::try_from(kind).ok()? {
        pb::ReformStepKind::Unspecified => None,
        pb::ReformStepKind::Asked => Some(StepKind::Asked),
        pb::ReformStepKind::Answered => Some(StepKind::Answered),
        pb::ReformStepKind::Given => Some(StepKind::Given),
        pb::ReformStepKind::Moved => Some(StepKind::Moved),
        pb::ReformStepKind::Released => Some(StepKind::Released),
        pb::ReformStepKind::Returned => Some(StepKind::Returned),
        pb::ReformStepKind::Handed => Some(StepKind::Handed),
    }
}

/// Size that a statement adds to a step.
pub fn returned_bytes(envelope: &Envelope) -> usize {
    envelope.encoded_len()
}

/// Bytes of returned statements, or of delegations, that one step may hold.
pub const MAX_RETURNED_BYTES: usize = envelope::MAX_PAYLOAD_BYTES - 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            trust_domain: "boston.example".to_owned(),
            unit: "BOS-01-S1".parse().unwrap(),
            from: "BOS-01".parse().unwrap(),
            to: "BOS-02".parse().unwrap(),
            on: "2026-12-01".parse().unwrap(),
            effective_unix_ms: 1_796_054_400_000,
            keys_sha256: [7; 32],
            text: "merged".to_owned(),
            merge: true,
            division: None,
        }
    }

    fn division() -> Division {
        Division {
            children: vec![("BOS-01-S1-1".parse().unwrap(), [1; 32])],
            items: vec![*StatementId::generate(1_000).as_bytes()],
        }
    }

    #[test]
    fn a_division_comes_back_and_names_each_part_once() {
        let whole = Order { merge: false, division: Some(division()), ..order() };
        assert_eq!(decode_body(&encode_body(&whole)).unwrap(), whole);
        let altered = |change: &dyn Fn(&mut pb::ReformDivision)| {
            let mut message = pb::Reform::decode(encode_body(&whole).as_slice()).unwrap();
            change(message.division.as_mut().unwrap());
            decode_body(&message.encode_to_vec()).unwrap_err().field
        };
        let child = |unit: &str| pb::ReformChild { unit: unit.into(), keys_sha256: vec![1; 32] };
        assert_eq!(altered(&|one| one.children.push(one.children[0].clone())), "body.division");
        assert_eq!(altered(&|one| one.items.push(one.items[0].clone())), "body.division");
        assert_eq!(altered(&|one| (one.children, one.items) = Default::default()), "body.division");
        for unit in ["BOS-01-S1", "BOS-01", "BOS-02"] {
            let field = altered(&|one| one.children = vec![child(unit)]);
            assert_eq!(field, "body.division.children.unit");
        }
        let many = |one: &mut pb::ReformDivision| {
            one.children = (0..33).map(|number| child(&format!("B-{number}"))).collect();
        };
        assert_eq!(altered(&many), "body.division.children");
        assert_eq!(altered(&|one| one.items = vec![vec![1; 15]]), "body.division.items");
        let merge = Order { merge: true, ..whole.clone() };
        assert_eq!(decode_body(&encode_body(&merge)).unwrap_err().field, "body.division");
    }

    #[test]
    fn each_child_of_a_division_has_an_id_of_its_own() {
        let reform = StatementId::generate(1_000);
        let of = |unit: &str| part_id(reform, &unit.parse().unwrap());
        assert_ne!(of("A"), of("B"));
        assert_eq!(of("A"), of("A"));
        assert_ne!(of("A"), reform);
        assert_ne!(of("A"), part_id(StatementId::generate(1_000), &"A".parse().unwrap()));
    }

    fn fault(change: impl FnOnce(&mut pb::Reform)) -> String {
        let mut message = pb::Reform::decode(encode_body(&order()).as_slice()).unwrap();
        change(&mut message);
        decode_body(&message.encode_to_vec()).unwrap_err().field
    }

    #[test]
    fn an_order_comes_back_and_each_field_is_asked_for_by_name() {
        assert_eq!(decode_body(&encode_body(&order())).unwrap(), order());
        assert_eq!(fault(|order| order.trust_domain.clear()), "body.trust_domain");
        assert_eq!(fault(|order| order.unit.clear()), "body.unit");
        assert_eq!(fault(|order| order.from.clear()), "body.from");
        assert_eq!(fault(|order| order.to.clear()), "body.to");
        assert_eq!(fault(|order| order.to.clone_from(&order.from)), "body.to");
        assert_eq!(fault(|order| order.on = "tomorrow".to_owned()), "body.on");
        assert_eq!(fault(|order| order.effective_unix_ms = 0), "body.effective_unix_ms");
        assert_eq!(fault(|order| order.keys_sha256.truncate(31)), "body.keys_sha256");
        assert_eq!(fault(|order| order.text = "a\nb".to_owned()), "body.text");
    }

    #[test]
    fn a_step_comes_back_and_is_checked() {
        let id = StatementId::generate(1_000);
        let open = Item {
            kind: "notice".to_owned(),
            number: "〔2026〕1号".to_owned(),
            party: "BOS".parse().unwrap(),
            id: Some(*StatementId::generate(1_000).as_bytes()),
        };
        let count =
            Count { records: 3, notices: 1, clocks: 1, open: vec![open], ..Count::default() };
        let step = Step {
            asked: Some((order().unit, order().from, order().to)),
            division: Some(division()),
            periods: vec!["2026-Q4".parse().unwrap()],
            ..Step::new(id, StepKind::Asked)
        };
        assert_eq!(decode_step(&encode_step(&step)).unwrap(), step);
        let answer = Step { count: Some(count), ..Step::new(id, StepKind::Answered) };
        let bytes = encode_step(&answer);
        assert_eq!(decode_step(&bytes).unwrap(), answer);
        let altered = |change: fn(&mut pb::ReformStep)| {
            let mut message = pb::ReformStep::decode(bytes.as_slice()).unwrap();
            change(&mut message);
            decode_step(&message.encode_to_vec()).unwrap_err().field
        };
        assert_eq!(altered(|step| step.reform_id.clear()), "body.reform_id");
        assert_eq!(altered(|step| step.kind = 0), "body.kind");
        assert_eq!(altered(|step| step.kind = 1), "body.unit");
        assert_eq!(altered(|step| step.token = "x".repeat(5_000)), "body.token");
        let item = |step: &mut pb::ReformStep| step.count.as_mut().unwrap().open[0].kind.clear();
        assert_eq!(altered(item), "body.count.open.kind");
        assert_eq!(altered(|step| step.periods = vec!["x".to_owned()]), "body.periods");
        assert_eq!(altered(|step| step.returned = vec![Envelope::default(); 300]), "body.returned");
    }
}
