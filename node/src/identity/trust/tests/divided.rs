//! Units that are divided: a child moves by the order that names it, and the sibling speaks about the
//! items that it names.

use super::{
    moved::{STREET, add, by_city, moved, order, signed},
    *,
};
use crate::domain::reform::{Division, Order};

const ITEM: [u8; 16] = [7; 16];

/// District `BOS-01` gives its street and one item to district `BOS-02`.
fn division(after_days: i64) -> Order {
    Order {
        unit: code("BOS-01"),
        division: Some(Division {
            children: vec![(code(STREET), [3; 32])],
            items: vec![*item().as_bytes()],
        }),
        ..order("BOS", "BOS-02", after_days)
    }
}

fn item() -> StatementId {
    let mut id = ITEM;
    id[6] = 0x77;
    id[8] = 0x87;
    StatementId::try_from(&id[..]).unwrap()
}

fn refused(reform: Vec<u8>) -> String {
    let error = add(&mut city(), &moved("BOS-02", 9, Some(reform))).unwrap_err();
    assert_eq!(error.reason(), "outside-subtree", "{error}");
    error.to_string()
}

#[test]
fn a_child_that_is_named_comes_under_the_sibling_by_the_order_of_the_whole() {
    let mut trust = city();
    let whole = by_city(&division(7));
    add(&mut trust, &moved("BOS-02", 9, Some(whole.clone()))).unwrap();
    let street = code(STREET);
    assert_eq!(trust.parent(&street), Some(&code("BOS-02")));
    let [known] = trust.moves(&street)[..] else { panic!("{:?}", trust.moves(&street)) };
    assert_eq!((&known.unit, &known.from), (&street, &code("BOS-01")));
    assert_eq!(trust.parent(&code("BOS-01")), Some(&code("BOS")), "the divided unit stays");
    // A renewed grant repeats it.
    add(&mut trust, &moved("BOS-02", 10, Some(whole))).unwrap();
    assert_eq!(trust.moves(&street).len(), 1);
}

#[test]
fn a_child_that_is_not_named_or_not_below_the_divided_unit_stays() {
    let other = Division { children: vec![(code("BOS-01-W04"), [3; 32])], items: Vec::new() };
    let unnamed = Order { division: Some(other), ..division(7) };
    assert!(refused(by_city(&unnamed)).contains("another step"));
    // Of the sibling it is none: the order divides `BOS-02` the other way about.
    let stranger = Order { unit: code("BOS-02"), to: code("BOS-01"), ..division(7) };
    let error = add(&mut city(), &moved("BOS-02", 9, Some(by_city(&stranger)))).unwrap_err();
    assert!(error.to_string().contains("another step"), "{error}");
}

#[test]
fn an_order_to_divide_by_a_unit_that_is_not_above_both_is_refused() {
    for by in ["BOS-01", "BOS-02", STREET] {
        let order = signed(&division(7), by, &signer(by, KeyUse::Statement), NOW);
        let text = refused(order);
        assert!(text.contains("not above both"), "{by}: {text}");
    }
    // Between a unit and one that is no sibling of it.
    let apart = Order { from: code("BOS-03"), ..division(7) };
    assert!(refused(by_city(&apart)).contains("sibling"), "{}", refused(by_city(&apart)));
}

#[test]
fn an_order_to_divide_that_was_changed_by_one_byte_is_refused() {
    let whole = by_city(&division(7));
    for place in 0..whole.len() {
        let mut altered = whole.clone();
        altered[place] ^= 1;
        assert!(
            add(&mut city(), &moved("BOS-02", 9, Some(altered))).is_err(),
            "byte {place} of {}",
            whole.len()
        );
    }
}

#[test]
fn an_order_to_divide_is_used_once() {
    let mut trust = city();
    let whole = by_city(&division(7));
    add(&mut trust, &moved("BOS-02", 9, Some(whole.clone()))).unwrap();
    let back = by_city(&order("BOS-02", "BOS-01", 9));
    add(&mut trust, &moved("BOS-01", 11, Some(back))).unwrap();
    let error = add(&mut trust, &moved("BOS-02", 13, Some(whole))).unwrap_err();
    assert!(error.to_string().contains("used before"), "{error}");
}

/// What `source` says of the item at `time` in the name of `BOS-01`.
fn header_of(source: &str, time: UnixMillis, order: Vec<u8>) -> Header {
    header_about(&code(source), &code("BOS-01"), item(), time, order)
}

/// What `source` says of `item` at `time` in the name of `divided`.
pub(super) fn header_about(
    source: &UnitCode,
    divided: &UnitCode,
    item: StatementId,
    time: UnixMillis,
    order: Vec<u8>,
) -> Header {
    Header {
        id: StatementId::generate(time),
        source: source.clone(),
        kind: kinds::RECEIPT.to_owned(),
        subject: item.to_string(),
        time_unix_ms: time,
        dataschema: String::new(),
        epoch: 1,
        seq: 1,
        purpose: "joint-meeting".to_owned(),
        classification: Classification::Internal,
        exercise: false,
        destination: Some(code("BOS")),
        traceparent: String::new(),
        on_behalf_of: Some(divided.clone()),
        sealing: None,
        handed_by: order.into(),
    }
}

#[test]
fn the_sibling_alone_speaks_about_the_items_that_are_named_and_not_early() {
    let (trust, whole) = (city(), by_city(&division(7)));
    let check = |header: &Header, id: [u8; 16]| {
        let checked = trust.check_handed(header, &id, NOW + 30 * DAY);
        checked.cloned().map_err(|error| {
            assert_eq!(error.reason(), "wrong-source", "{error}");
            error.to_string()
        })
    };
    let named = *item().as_bytes();
    let good = header_of("BOS-02", NOW + 8 * DAY, whole.clone());
    assert_eq!(check(&good, named), Ok(code("BOS-01")));
    let refused = |header: Header, id, reason: &str| {
        let text = check(&header, id).unwrap_err();
        assert!(text.contains(reason), "{text}");
    };
    refused(good.clone(), [8; 16], "does not name this item");
    refused(header_of("BOS", NOW + 8 * DAY, whole.clone()), named, "other units");
    let other = Header { on_behalf_of: Some(code("BOS")), ..good.clone() };
    refused(other, named, "other units");
    refused(header_of("BOS-02", NOW + 3 * DAY, whole), named, "has not come");
    for by in ["BOS-01", "BOS-02"] {
        let order = signed(&division(7), by, &signer(by, KeyUse::Statement), NOW);
        refused(header_of("BOS-02", NOW + 8 * DAY, order), named, "not above both");
    }
    let reparent = by_city(&order("BOS-01", "BOS-02", 7));
    refused(header_of("BOS-02", NOW + 8 * DAY, reparent), named, "divides nobody");
    refused(Header { on_behalf_of: None, ..good }, named, "in whose name");
}
