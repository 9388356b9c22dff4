//! Packs: what is believed, what is refused with which word, and that a second program, written from
//! the document alone, says the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene has to fail")]

use lianxi_node::{
    domain::{
        component::Component,
        summary::{CoverageState, SummaryKind},
        unit::{Level, UnitCode},
    },
    statement::{header::kinds, journal::Evidence, pack::HeldRevocations, revocation::Proven},
    verify::{Beside, Completeness, Resting, Verified, verify, verify_beside},
};
use lianxi_proto::{
    cells::withhold,
    note::{self, Note},
};
use lianxi_tests::packs::{
    City, DOMAIN, Made, NOW, Parts, SINGLE, delegation_key, evidence, figure, header, held, key,
    part_ranges, reseal, sign, statement_key,
};

fn city() -> City {
    City::new(2, 1, 2)
}

fn code(text: &str) -> UnitCode {
    text.parse().unwrap()
}

fn beside_it(revocations: &[Proven]) -> Beside<'_> {
    Beside { revocations, ..Beside::default() }
}

fn accepted(file: &[u8]) -> Verified {
    verify(file, &city().root_key()).unwrap_or_else(|broken| panic!("{broken}"))
}

/// Reason and unit of the link that is found broken.
fn refused(file: &[u8]) -> (&'static str, String) {
    let broken = verify(file, &city().root_key()).expect_err("a pack was believed");
    assert!(!broken.detail.is_empty());
    (broken.reason, broken.unit.map(|unit| unit.to_string()).unwrap_or_default())
}

#[track_caller]
fn assert_refused(parts: &Parts, reason: &str, unit: &str) {
    assert_eq!(refused(&parts.seal()), (reason, unit.to_owned()));
}

/// A pack whose summaries were made with a change.
fn made(change: impl FnMut(&UnitCode, &mut Made)) -> Parts {
    let city = city();
    city.parts_of(&city.summaries(change))
}

/// A valid pack in which one summary was made anew by its unit, after those above had added it.
fn remade(unit: &str, change: impl FnOnce(&mut Made)) -> Parts {
    let city = city();
    let mut signed = city.summaries(|_, _| {});
    let mut one = signed[&code(unit)].made.clone();
    change(&mut one);
    signed.insert(code(unit), one.sign(&statement_key(&code(unit))));
    city.parts_of(&signed)
}

fn add_one(made: &mut Made) {
    made.figures.subtree.insert(figure("received", ""), Component::Count(1_000_000));
}

#[test]
fn a_pack_is_believed_and_every_total_is_added_up_again() {
    let city = city();
    let verified = accepted(&city.parts().seal());
    assert_eq!(verified.statements.len(), city.members.len());
    let mut recomputed = 0;
    for one in &verified.statements {
        let found = one.summary.as_ref().unwrap();
        assert_eq!((found.withheld, &found.explained.unexplained), (0, &vec![]));
        assert!(found.explained.recomputed >= 6, "{}", one.header.source);
        recomputed += found.explained.recomputed;
        assert_eq!(one.key_ids, [statement_key(&one.header.source).key_id()]);
    }
    let cells: usize =
        city.summaries(|_, _| {}).values().map(|one| one.made.figures.subtree.len()).sum();
    assert_eq!(recomputed as usize, cells);
    let chain: Vec<String> = verified
        .chain(&code("C-2-1-1"))
        .into_iter()
        .map(|link| link.delegation.unit.to_string())
        .collect();
    assert_eq!(chain, ["C", "C-2", "C-2-1", "C-2-1-1"]);
    assert_eq!(verified.catalogue.unwrap().label, "packs@1");
}

#[test]
fn any_flipped_byte_of_a_pack_is_refused() {
    let small = City::new(1, 0, 0);
    let file = small.parts().seal();
    verify(&file, &small.root_key()).unwrap();
    for position in 0..file.len() {
        let mut changed = file.clone();
        changed[position] ^= 1 << (position % 8);
        let verdict = verify(&changed, &small.root_key());
        assert!(verdict.is_err(), "byte {position} of {} is not covered", file.len());
    }
}

#[test]
fn a_cut_or_longer_file_is_refused() {
    let small = City::new(1, 0, 0);
    let file = small.parts().seal();
    for length in (0..file.len()).step_by(7) {
        let broken = verify(&file[..length], &small.root_key()).unwrap_err();
        assert!(["not-a-pack", "truncated"].contains(&broken.reason), "{broken}");
    }
    let longer = [&file[..], &[0]].concat();
    assert_eq!(verify(&longer, &small.root_key()).unwrap_err().reason, "trailing-bytes");
    let twice = [&file[..], &file[..]].concat();
    assert_eq!(verify(&twice, &small.root_key()).unwrap_err().reason, "trailing-bytes");
}

/// The exporter itself adds a field that nobody reads, and seals it again.
#[test]
fn a_part_that_is_written_in_another_way_is_refused() {
    let small = City::new(1, 0, 0);
    let file = small.parts().seal();
    let ranges = part_ranges(&file);
    let (seal, parts) = ranges.split_last().unwrap();
    for (number, part) in parts.iter().enumerate() {
        // Field 1,000 of a part is a number.
        let added = [0xc0, 0x3e, 1];
        let length = u32::try_from(part.len() + added.len()).unwrap().to_be_bytes();
        let changed = [
            &file[..part.start - length.len()],
            &length,
            &file[part.clone()],
            &added,
            &file[part.end..seal.start - length.len()],
        ];
        let broken = verify(&reseal(changed.concat(), "C"), &small.root_key());
        let broken = broken.expect_err("a field that nobody reads was believed");
        assert_eq!((broken.reason, broken.part), ("not-canonical", Some(number)), "{broken}");
    }
}

/// The exporter itself changes what others signed, and seals it again.
#[test]
fn a_tampered_byte_at_every_position_of_an_envelope_is_refused() {
    let small = City::new(1, 0, 0);
    let mut parts = small.parts();
    for packed in &mut parts.statements {
        packed.evidence = None;
    }
    let file = parts.seal();
    let ranges = part_ranges(&file);
    // Head, two delegations, catalogue, two summaries, seal.
    assert_eq!(ranges.len(), 7);
    for part in [2, 3, 5] {
        for position in ranges[part].clone() {
            let mut changed = file[..ranges[6].start - 4].to_vec();
            changed[position] ^= 1 << (position % 8);
            let broken = verify(&reseal(changed, "C"), &small.root_key());
            let broken = broken.expect_err("a tampered byte was believed");
            assert_eq!(broken.part, Some(part), "{broken}");
        }
    }
}

#[test]
fn another_citys_root_key_believes_nothing() {
    let file = city().parts().seal();
    let other = lianxi_node::verify::RootKey::new(DOMAIN.to_owned(), key("other").verifying_key());
    assert_eq!(verify(&file, &other.unwrap()).unwrap_err().reason, "unknown-key");
    let elsewhere =
        lianxi_node::verify::RootKey::new("else.example".to_owned(), key("root").verifying_key());
    assert_eq!(verify(&file, &elsewhere.unwrap()).unwrap_err().reason, "wrong-domain");
    let mut parts = city().parts();
    parts.head.trust_domain = "else.example".to_owned();
    assert_refused(&parts, "wrong-domain", "");
}

#[test]
fn a_seal_by_another_key_or_over_other_bytes_is_refused() {
    let parts = city().parts();
    let seal = |signer: &str,
                change: fn(
        &mut lianxi_node::statement::header::Header,
        &mut lianxi_node::statement::pack::SealBody,
    )| { refused(&parts.seal_as(&key(signer), change)).0 };
    assert_eq!(seal("C-1/s", |_, _| {}), "wrong-source");
    assert_eq!(seal("C-1/s", |header, _| header.source = code("C-1")), "wrong-source");
    assert_eq!(seal("C/d", |_, _| {}), "unknown-key");
    assert_eq!(seal("stranger", |_, _| {}), "unknown-key");
    assert_eq!(seal("C/s", |_, body| body.sealed.sha256[0] ^= 1), "wrong-seal");
    assert_eq!(seal("C/s", |_, body| body.sealed.size_bytes += 1), "wrong-seal");
    assert_eq!(seal("C/s", |header, _| header.time_unix_ms += 1), "wrong-seal");
    assert_eq!(seal("C/s", |header, _| header.kind = kinds::SUMMARY.to_owned()), "unknown-type");
    accepted(&parts.seal_as(&key("C/s"), |_, _| {}));
}

#[test]
fn a_summary_signed_by_another_unit_is_refused() {
    let city = city();
    for (signer, reason) in [
        (key("C-1-1-2/s"), "wrong-source"),
        (key("C-1-1/s"), "wrong-source"),
        (delegation_key(&code("C-1-1-1")), "unknown-key"),
        (key("root"), "wrong-source"),
        (key("stranger"), "unknown-key"),
    ] {
        let mut signed = city.summaries(|_, _| {});
        let one = signed[&code("C-1-1-1")].clone();
        let forged = one.made.sign_over(one.packed.cells, &signer);
        signed.insert(code("C-1-1-1"), forged);
        assert_refused(&city.parts_of(&signed), reason, "C-1-1-1");
    }
}

#[test]
fn a_version_that_the_unit_above_did_not_add_is_refused() {
    assert_refused(&remade("C-1-1-1", |_| {}), "other-child", "C-1-1-1");
    assert_refused(&remade("C-1-1-1", |made| made.summary.version = 2), "other-child", "C-1-1-1");
}

#[test]
fn a_total_that_is_not_the_sum_of_its_parts_is_refused() {
    for unit in ["C-1-1-1", "C-1-1", "C-1", "C"] {
        let parts = made(|code, made| {
            if code.as_str() == unit {
                add_one(made);
            }
        });
        assert_refused(&parts, "wrong-total", unit);
    }
    // A figure that is left out.
    let parts = made(|code, made| {
        if code.as_str() == "C-2" {
            made.figures.subtree.remove(&figure("received", "water"));
        }
    });
    assert_refused(&parts, "wrong-total", "C-2");
}

#[test]
fn a_unit_that_is_left_out_unsaid_is_refused() {
    let mut parts = city().parts();
    let position = parts.position("C-2-1-2");
    parts.statements.remove(position);
    assert_refused(&parts, "missing-child", "C-2-1");
    // Said, it is shown as what cannot be added up again.
    parts.head.missing = vec![(code("C-2-1-2"), "no-link".to_owned())];
    let verified = accepted(&parts.seal());
    let street = verified.statements.iter().find(|one| one.header.source == code("C-2-1")).unwrap();
    let explained = &street.summary.as_ref().unwrap().explained;
    assert_eq!(explained.recomputed, 0);
    assert!(explained.unexplained.contains(&figure("received", "")));
    // Said of one that is there, or of nobody, it is refused.
    for wrong in ["C-2-1-1", "C-9"] {
        let mut parts = city().parts();
        parts.head.missing = vec![(code(wrong), "no-link".to_owned())];
        assert_refused(&parts, "malformed", "");
    }
}

#[test]
fn a_child_dropped_from_the_coverage_is_refused() {
    let parts = made(|unit, made| {
        if unit.as_str() == "C-1-1" {
            made.summary.coverage.inputs.pop();
        }
    });
    assert_refused(&parts, "not-included", "C-1-1-2");
    // Without its statement the counts no longer fit.
    let mut parts = made(|unit, made| {
        if unit.as_str() == "C-1-1" {
            made.summary.coverage.inputs.pop();
        }
    });
    let position = parts.position("C-1-1-2");
    parts.statements.remove(position);
    assert_refused(&parts, "wrong-coverage", "C-1-1");
}

#[test]
fn coverage_that_does_not_add_up_is_refused() {
    let changed = |change: fn(&mut Made)| {
        made(move |unit, made| {
            if unit.as_str() == "C-1" {
                change(made);
            }
        })
    };
    let zero = changed(|made| made.summary.coverage.zero = 1);
    assert_refused(&zero, "wrong-coverage", "C-1");
    let more = changed(|made| {
        made.summary.coverage.expected += 1;
        made.summary.coverage.included += 1;
    });
    assert_refused(&more, "wrong-coverage", "C-1");
    let state = changed(|made| made.summary.coverage.inputs[0].state = CoverageState::Zero);
    assert_refused(&state, "wrong-coverage", "C-1");
    let version = changed(|made| made.summary.coverage.inputs[0].version = 7);
    assert_refused(&version, "wrong-coverage", "C-1");
    let contradiction = changed(|made| made.summary.coverage.absent = 1);
    assert_eq!(refused(&contradiction.seal()).0, "malformed");
}

#[test]
fn a_child_that_belongs_to_another_unit_is_refused() {
    let parts = made(|unit, made| {
        if unit.as_str() == "C-1" {
            made.summary.coverage.inputs[0].unit = code("C-2-1");
        }
    });
    assert_refused(&parts, "outside-subtree", "C-1");
}

#[test]
fn units_twice_or_out_of_order_are_refused() {
    let mut twice = city().parts();
    twice.statements.push(twice.statements[3].clone());
    assert_eq!(refused(&twice.seal()).0, "twice");
    let mut swapped = city().parts();
    swapped.statements.swap(1, 2);
    assert_eq!(refused(&swapped.seal()).0, "not-included");
    let mut headless = city().parts();
    headless.statements.remove(0);
    assert_refused(&headless, "wrong-source", "C-1");
    let mut again = city().parts();
    again.delegations.push(again.delegations[1].clone());
    assert_refused(&again, "twice", "C-1");
}

#[test]
fn live_figures_and_other_periods_are_no_report() {
    let live = made(|unit, made| {
        if unit.as_str() == "C-1-1-1" {
            made.summary.kind = SummaryKind::Live;
            made.summary.version = 0;
        }
    });
    assert_refused(&live, "malformed", "C-1-1-1");
    let other = made(|unit, made| {
        if unit.as_str() == "C-1-1-1" {
            made.summary.period = "2026-08".parse().unwrap();
        }
    });
    assert_refused(&other, "malformed", "C-1-1-1");
}

#[test]
fn cells_that_are_not_those_under_the_signed_root_are_refused() {
    let changed = |change: fn(&mut Vec<lianxi_proto::types::v1::SaltedCell>)| {
        let mut parts = city().parts();
        let position = parts.position("C-2-1");
        change(&mut parts.statements[position].cells);
        parts
    };
    for change in [
        |cells: &mut Vec<lianxi_proto::types::v1::SaltedCell>| cells[0].salt[0] ^= 1,
        |cells: &mut Vec<lianxi_proto::types::v1::SaltedCell>| cells[1].cell[3] ^= 1,
        |cells: &mut Vec<lianxi_proto::types::v1::SaltedCell>| drop(cells.pop()),
        |cells: &mut Vec<lianxi_proto::types::v1::SaltedCell>| cells[0].index = 1,
        |cells: &mut Vec<lianxi_proto::types::v1::SaltedCell>| {
            let (one, other) = (cells[0].index, cells[1].index);
            (cells[0].index, cells[1].index) = (other, one);
        },
    ] {
        assert_refused(&changed(change), "cells-do-not-match", "C-2-1");
    }
}

#[test]
fn withheld_figures_leave_the_rest_provable() {
    let mut parts = city().parts();
    for packed in &mut parts.statements {
        for cell in &mut packed.cells {
            let text = String::from_utf8_lossy(&cell.cell).into_owned();
            if text.contains("oldest") {
                *cell = withhold(cell);
            }
        }
    }
    let verified = accepted(&parts.seal());
    for one in &verified.statements {
        let found = one.summary.as_ref().unwrap();
        assert_eq!(found.withheld, 2, "own and subtree of {}", one.header.source);
        assert!(!found.own.contains_key(&figure("oldest", "")));
        assert!(found.explained.recomputed >= 5 && found.explained.unexplained.is_empty());
    }
    // Withheld at one unit alone: the total above cannot be added up, and says so.
    let mut parts = city().parts();
    let position = parts.position("C-1-1-1");
    for cell in &mut parts.statements[position].cells {
        *cell = withhold(cell);
    }
    let verified = accepted(&parts.seal());
    let street = verified.statements.iter().find(|one| one.header.source == code("C-1-1")).unwrap();
    let explained = &street.summary.as_ref().unwrap().explained;
    assert_eq!(explained.recomputed, 0);
    assert!(explained.unexplained.contains(&figure("on_time", "")));
}

#[test]
fn a_withheld_figure_hides_no_wrong_total() {
    let mut parts = made(|unit, made| {
        if unit.as_str() == "C-1" {
            add_one(made);
        }
    });
    for packed in &mut parts.statements {
        for cell in &mut packed.cells {
            if String::from_utf8_lossy(&cell.cell).contains("oldest") {
                *cell = withhold(cell);
            }
        }
    }
    assert_refused(&parts, "wrong-total", "C-1");
}

#[test]
fn delegations_that_do_not_hold_are_refused() {
    let city = city();
    let street = city.members.iter().position(|member| member.code == code("C-1-1")).unwrap();
    let replaced = |envelope| {
        let mut parts = city.parts();
        parts.delegations[street] = envelope;
        parts
    };
    let member = &city.members[street];
    let changed = |change: fn(&mut lianxi_node::domain::delegation::Delegation)| {
        replaced(city.delegation(member, change))
    };
    let longer = changed(|grant| grant.not_after_unix_ms += 1);
    assert_refused(&longer, "expired", "C-1-1");
    let level = changed(|grant| grant.level = Level::District);
    assert_refused(&level, "outside-subtree", "C-1-1");
    let domain = changed(|grant| grant.trust_domain = "else.example".to_owned());
    assert_refused(&domain, "wrong-domain", "C-1-1");
    let taken = changed(|grant| grant.keys[0].bytes = key("C-1/s").public_key().to_vec());
    assert_refused(&taken, "malformed", "C-1-1");
    // The key of another unit than the issuer, though it is above.
    let mut foreign = member.clone();
    foreign.parent = Some(code("C"));
    let by_other = city.delegation(&foreign, |grant| grant.issuer = Some(code("C-1")));
    assert_eq!(refused(&replaced(by_other).seal()).0, "wrong-source");
    // Left out: its statements are by nobody.
    let mut parts = city.parts();
    parts.delegations.remove(street);
    assert_eq!(refused(&parts.seal()).0, "unknown-key");
    // Issued before its issuer.
    let mut parts = city.parts();
    parts.delegations.swap(0, 1);
    assert_eq!(refused(&parts.seal()).0, "unknown-key");
}

#[test]
fn what_is_dated_after_the_export_is_refused() {
    let mut parts = city().parts();
    parts.head.exported_unix_ms = NOW - 20 * 24 * 60 * 60 * 1000;
    assert_eq!(refused(&parts.seal()).0, "expired");
}

#[test]
fn a_catalogue_is_one_of_the_line_above_and_the_one_that_was_counted_by() {
    let mut parts = city().parts();
    let foreign = header(&code("C-1"), kinds::CATALOGUE, NOW);
    parts.catalogue = Some(sign(&foreign, b"", &statement_key(&code("C-1"))));
    assert_refused(&parts, "outside-subtree", "C-1");
    let mut parts = made(|_, _| {});
    parts.catalogue = Some(parts.statements[0].envelope.clone());
    assert_refused(&parts, "unknown-type", "C");
    let body = lianxi_node::statement::catalogue::CatalogueBody {
        name: "packs".to_owned(),
        version: 2,
        document: b"{}".to_vec(),
        active_from_unix_ms: 0,
    };
    let body = lianxi_node::statement::catalogue::encode_body(&body);
    let newer = header(&code("C"), kinds::CATALOGUE, NOW);
    parts.catalogue = Some(sign(&newer, &body, &statement_key(&code("C"))));
    assert_refused(&parts, "unknown-catalogue", "C");
    parts.catalogue = None;
    assert!(accepted(&parts.seal()).catalogue.is_none());
}

#[test]
fn one_statement_stands_alone() {
    let city = city();
    let mut parts = city.parts();
    let position = parts.position("C-1-1");
    parts.statements = vec![parts.statements[position].clone()];
    parts.head.period = String::new();
    parts.head.unit = code("C-1-1");
    let verified = accepted(&parts.seal());
    assert_eq!(verified.statements[0].summary.as_ref().unwrap().summary.unit, code("C-1-1"));
    parts.head.unit = code("C-1");
    assert_refused(&parts, "wrong-source", "C-1-1");
    parts.statements[0].evidence = None;
    let notice = header(&code("C-1"), kinds::NOTICE, NOW);
    parts.statements[0].envelope = sign(&notice, b"anything", &statement_key(&code("C-1")));
    assert_refused(&parts, "malformed", "C-1");
    parts.statements[0].cells.clear();
    assert_eq!(accepted(&parts.seal()).statements[0].body.as_ref(), b"anything");
    parts.statements.push(parts.statements[0].clone());
    assert_refused(&parts, "part-order", "C-1");
}

/// Who signed, when, and who saw it is proved of any statement, also of one of a kind that comes with a
/// later version.
#[test]
fn one_statement_of_any_kind_stands_alone() {
    let city = city();
    for kind in SINGLE {
        let parts = city.single("C-1-1", kind);
        let file = parts.seal();
        let verified = accepted(&file);
        let one = &verified.statements[0];
        assert_eq!((&*one.header.kind, verified.statements.len()), (kind, 1));
        assert_eq!(*one.body, *format!("what a {kind} says").as_bytes());
        let witnesses = &one.witnessed.as_ref().unwrap().witnesses;
        assert_eq!(witnesses[0].unit, code("C-1"), "{kind}");
        assert_eq!(verified.chain(&one.header.source).len(), 3);
        let place = file.windows(6).position(|part| part == b"what a").unwrap();
        let mut changed = file.clone();
        changed[place] ^= 1;
        assert!(verify(&changed, &city.root_key()).is_err(), "{kind}");
        let mut other = parts.clone();
        other.statements[0].envelope =
            sign(&header(&code("C-1-1"), kind, NOW), b"x", &statement_key(&code("C-1")));
        other.statements[0].evidence = None;
        assert_refused(&other, "wrong-source", "C-1-1");
    }
}

#[test]
fn witnesses_are_named_with_their_time_and_strangers_are_not() {
    let city = city();
    let verified = accepted(&city.parts().seal());
    for one in &verified.statements {
        let witnessed = one.witnessed.as_ref().unwrap();
        assert_eq!(witnessed.journal, one.header.source);
        let parent = city.members.iter().find(|it| it.code == one.header.source).unwrap();
        let expected = parent.parent.clone().unwrap_or_else(|| code("C-1"));
        let named: Vec<&UnitCode> = witnessed.witnesses.iter().map(|it| &it.unit).collect();
        assert_eq!(named, [&expected]);
        assert!(witnessed.witnesses[0].time_unix_ms > one.header.time_unix_ms);
    }
    let mut parts = city.parts();
    let street = parts.position("C-1-1");
    let envelope = parts.statements[street].envelope.clone();
    // A line by nobody that the file knows proves nothing, and harms nothing.
    parts.statements[street].evidence = Some(evidence(&code("C-1-1"), &envelope, &[&code("X")]));
    let verified = accepted(&parts.seal());
    assert!(verified.statements[street].witnessed.as_ref().unwrap().witnesses.is_empty());
    // The district's journal can say that it took the street's summary in.
    let taken = evidence(&code("C-1"), &envelope, &[&code("C")]);
    parts.statements[street].evidence = Some(taken);
    let verified = accepted(&parts.seal());
    assert_eq!(verified.statements[street].witnessed.as_ref().unwrap().journal, code("C-1"));
    parts.statements[street].evidence = None;
    assert!(accepted(&parts.seal()).statements[street].witnessed.is_none());
    // Whoever cosigned before it had the key for it is no witness.
    let mut early = evidence(&code("C-1-1"), &envelope, &[]);
    let mut checkpoint = Note::parse(&early.checkpoint).unwrap();
    checkpoint.cosign(&note::origin(DOMAIN, "C-1"), &statement_key(&code("C-1")), 1_000_000);
    early.checkpoint = checkpoint.to_string();
    parts.statements[street].evidence = Some(early);
    let verified = accepted(&parts.seal());
    assert!(verified.statements[street].witnessed.as_ref().unwrap().witnesses.is_empty());
}

#[test]
fn evidence_that_proves_something_else_is_refused() {
    let city = city();
    let parts = city.parts();
    let (street, other) = (parts.position("C-1-1"), parts.position("C-2-1"));
    let envelope = parts.statements[street].envelope.clone();
    let own = evidence(&code("C-1-1"), &envelope, &[&code("C-1")]);
    let with = |evidence: Evidence| {
        let mut parts = parts.clone();
        parts.statements[street].evidence = Some(evidence);
        parts
    };
    let refused = |evidence| assert_refused(&with(evidence), "wrong-evidence", "C-1-1");
    // Of another statement, of another journal, of one beside or below.
    refused(parts.statements[other].evidence.clone().unwrap());
    refused(evidence(&code("C-1-1"), &parts.statements[other].envelope, &[]));
    refused(evidence(&code("C-2"), &envelope, &[]));
    refused(evidence(&code("C-1-1-1"), &envelope, &[]));
    // A leaf, an index, a proof, a checkpoint or a cosignature that was changed.
    refused(Evidence { leaf: [&own.leaf[..], &[0]].concat(), ..own.clone() });
    refused(Evidence { leaf_index: 0, ..own.clone() });
    refused(Evidence { leaf_index: 3, ..own.clone() });
    refused(Evidence { inclusion: own.inclusion[..1].to_vec(), ..own.clone() });
    refused(Evidence { checkpoint: own.checkpoint.replacen("\n3\n", "\n4\n", 1), ..own.clone() });
    let lines: Vec<&str> = own.checkpoint.lines().collect();
    let unsigned = format!("{}\n{}\n{}\n\n{}\n", lines[0], lines[1], lines[2], lines[5]);
    refused(Evidence { checkpoint: unsigned, ..own.clone() });
    let forged = lines[5].replacen("C-1 ", "C ", 1);
    let forged = own.checkpoint.replace(lines[5], &forged);
    // Under another name the key is unknown: no witness, but no lie that can be told either.
    let verified = accepted(&with(Evidence { checkpoint: forged, ..own.clone() }).seal());
    assert!(verified.statements[street].witnessed.as_ref().unwrap().witnesses.is_empty());
    let mut stolen = own.checkpoint.clone().into_bytes();
    let last = stolen.len() - 6;
    stolen[last] = if stolen[last] == b'A' { b'B' } else { b'A' };
    refused(Evidence { checkpoint: String::from_utf8(stolen).unwrap(), ..own });
}

#[test]
fn what_a_replaced_key_signed_needs_a_witness_from_before_its_end() {
    let city = city();
    let street = city.members.iter().position(|member| member.code == code("C-1-1")).unwrap();
    let hour = 60 * 60 * 1000;
    let renewed = |begins| {
        let mut parts = city.parts();
        let newer = city.delegation(&city.members[street], |grant| {
            grant.serial = 2;
            grant.not_before_unix_ms = begins;
            grant.keys[0].bytes = key("renewed/s").public_key().to_vec();
        });
        parts.delegations.insert(street + 1, newer);
        parts
    };
    // Signed twelve hours before the export, witnessed an hour later.
    accepted(&renewed(NOW - hour).seal());
    assert_refused(&renewed(NOW - 11 * hour), "ended-key", "C-1-1");
    let mut unwitnessed = renewed(NOW - hour);
    let position = unwitnessed.position("C-1-1");
    unwitnessed.statements[position].evidence = None;
    assert_refused(&unwitnessed, "ended-key", "C-1-1");
    // Its own cosignature under another's journal is no witness: whoever has the key makes it.
    let mut by_itself = renewed(NOW - hour);
    let envelope = by_itself.statements[position].envelope.clone();
    let own = evidence(&code("C-1"), &envelope, &[&code("C-1-1")]);
    by_itself.statements[position].evidence = Some(own);
    assert_refused(&by_itself, "ended-key", "C-1-1");
}

/// A pack in which what `unit` signed is shown by nobody.
fn unwitnessed(unit: &str) -> Parts {
    let mut parts = city().parts();
    let position = parts.position(unit);
    parts.statements[position].evidence = None;
    parts
}

const HOUR: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOUR;

#[test]
fn what_a_revoked_unit_signed_needs_a_witness_from_before_the_theft() {
    let city = city();
    let with = |mut parts: Parts, proven| {
        parts.revocations.push(proven);
        parts
    };
    let revoked = || city.revocation("C-1", "C-1-1", |_, _| {});
    // Witnessed eleven hours before the export, revoked one hour before.
    let verified = accepted(&with(city.parts(), revoked()).seal());
    let [one] = &verified.revocations.items[..] else { panic!("{:?}", verified.revocations) };
    assert_eq!((one.by.as_str(), one.revocation.unit.as_str()), ("C-1", "C-1-1"));
    assert_eq!((one.cutoff_unix_ms, one.counts, one.in_file), (NOW - HOUR, true, true));
    assert_eq!(verified.revocations.completeness, Completeness::All);
    assert_refused(&with(unwitnessed("C-1-1"), revoked()), "revoked", "C-1-1");
    // Others lose nothing by it.
    accepted(&with(unwitnessed("C-2-1"), city.revocation("C-1", "C-1-1", |_, _| {})).seal());
    let stolen = city.revocation("C", "C-1-1", |revocation, _| {
        revocation.compromised_since_unix_ms = Some(NOW - 12 * HOUR);
    });
    assert_refused(&with(city.parts(), stolen), "revoked", "C-1-1");
    let one_key = || {
        city.revocation("C-1", "C-1-1", |revocation, _| {
            revocation.serial = 0;
            revocation.key_ids.truncate(1);
        })
    };
    accepted(&with(city.parts(), one_key()).seal());
    assert_refused(&with(unwitnessed("C-1-1"), one_key()), "ended-key", "C-1-1");

    // Whoever has the source's key can cosign for it, with any time.
    let mut parts = unwitnessed("C-1-1");
    let position = parts.position("C-1-1");
    let envelope = parts.statements[position].envelope.clone();
    let by_itself = evidence(&code("C-1"), &envelope, &[&code("C-1-1")]);
    parts.statements[position].evidence = Some(by_itself);
    accepted(&parts.seal());
    assert_refused(&with(parts, revoked()), "revoked", "C-1-1");
}

#[test]
fn a_revoked_witness_is_none_and_its_grants_are_named() {
    let city = city();
    let mut parts = city.parts();
    parts.revocations.push(city.revocation("C", "C-1", |_, _| {}));
    let verified = accepted(&parts.seal());
    let street = &verified.statements[parts.position("C-1-1")];
    assert!(street.witnessed.as_ref().unwrap().witnesses.is_empty());
    let resting = |one: &Resting| (one.unit.to_string(), one.issuer.to_string(), one.since_unix_ms);
    let resting: Vec<_> = verified.revocations.resting.iter().map(resting).collect();
    assert_eq!(resting, [("C-1-1".to_owned(), "C-1".to_owned(), NOW - HOUR)]);
    // What such a key granted once it was stolen, by its own date, is nothing.
    parts.revocations = vec![city.revocation("C", "C-1", |revocation, _| {
        revocation.compromised_since_unix_ms = Some(NOW - 11 * DAY);
        revocation.key_ids.remove(0);
        revocation.serial = 0;
    })];
    assert_refused(&parts, "ended-key", "C-1-1");
    // A new grant brings new keys.
    let mut parts = city.parts();
    parts.revocations.push(city.revocation("C-1", "C-1-1", |_, _| {}));
    let street = city.members.iter().position(|member| member.code == code("C-1-1")).unwrap();
    let again = city.delegation(&city.members[street], |grant| grant.serial = 2);
    parts.delegations.insert(street + 1, again);
    assert_refused(&parts, "ended-key", "C-1-1");
}

#[test]
fn revocations_that_do_not_hold_are_refused() {
    let city = city();
    let with = |proven| Parts { revocations: vec![proven], ..city.parts() };
    let beside = city.revocation("C-2", "C-1-1", |_, _| {});
    assert_refused(&with(beside), "outside-subtree", "C-2");
    let later = city.revocation("C-1", "C-1-1", |_, time| *time = NOW + 9 * DAY);
    assert_refused(&with(later), "expired", "C-1");
    let unknown = city.revocation("C-1", "C-1-9", |_, _| {});
    assert_refused(&with(unknown), "malformed", "C-1");
    let mut forged = city.revocation("C-1", "C-1-1", |_, _| {});
    forged.revocation.signatures[0].signature[7] ^= 1;
    assert_refused(&with(forged), "bad-signature", "C-1");
    let mut cut = city.revocation("C-1", "C-1-1", |_, _| {});
    cut.chain.pop();
    assert_refused(&with(cut), "unknown-key", "C-1");
    let one = city.revocation("C-1", "C-1-1", |_, _| {});
    let twice = Parts { revocations: vec![one.clone(), one.clone()], ..city.parts() };
    assert_refused(&twice, "twice", "C-1");
    // What a thief revoked counts for nothing, and is shown as that.
    let thief = city.revocation("C", "C-1", |revocation, _| {
        revocation.compromised_since_unix_ms = Some(NOW - 2 * HOUR);
    });
    let mut parts = unwitnessed("C-1-1");
    parts.revocations = vec![one, thief];
    let verified = accepted(&parts.seal());
    let items = verified.revocations.items.iter();
    let mut counts: Vec<_> = items.map(|it| (it.by.as_str(), it.counts)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [("C", true), ("C-1", false)]);
}

#[test]
fn a_revocation_that_was_left_out_shows_where_another_has_it() {
    let city = city();
    let revoked = city.revocation("C-1", "C-1-1", |_, _| {});
    let other = city.revocation("C-1", "C-1-9", |_, _| {});
    // The exporter held two, one of them of nobody in the file, and leaves the other one out too.
    let known = held(&[revoked.clone(), other.clone()]);
    let sealed = |parts: &Parts| {
        parts.seal_as(&statement_key(&code("C")), |_, body| body.held = Some(known.clone()))
    };
    let file = sealed(&city.parts());
    let alone = accepted(&file).revocations;
    assert_eq!((alone.completeness, alone.items.len()), (Completeness::Others(2), 0));
    let beside = |items: &[_]| {
        verify_beside(&file, &city.root_key(), beside_it(items))
            .unwrap_or_else(|broken| panic!("{broken}"))
    };
    let one = beside(std::slice::from_ref(&revoked)).revocations;
    assert_eq!((one.completeness, one.left_out.len()), (Completeness::Others(2), 1));
    let both = beside(&[revoked.clone(), other]).revocations;
    assert_eq!((both.completeness, both.left_out.len()), (Completeness::Known(2), 1));
    assert_eq!(both.left_out[0].revocation.unit, code("C-1-1"));
    let broken = verify_beside(
        &sealed(&unwitnessed("C-1-1")),
        &city.root_key(),
        beside_it(std::slice::from_ref(&revoked)),
    );
    assert_eq!(broken.unwrap_err().reason, "revoked");
    // The number and the digest in the seal are no less than what is there.
    let with = Parts { revocations: vec![revoked], ..city.parts() };
    let changes: [fn(&mut HeldRevocations); 2] =
        [|held| held.count = 0, |held| held.sha256[0] ^= 1];
    for change in changes {
        let file = with.seal_as(&statement_key(&code("C")), |_, body| {
            change(body.held.as_mut().unwrap());
        });
        assert_eq!(refused(&file), ("wrong-seal", "C".to_owned()));
    }
    let silent = with.seal_as(&statement_key(&code("C")), |_, body| body.held = None);
    assert_eq!(accepted(&silent).revocations.completeness, Completeness::Unsaid);
}

#[test]
fn what_was_revoked_since_the_export_counts_too() {
    let city = city();
    let later = |by, unit| city.revocation(by, unit, |_, time| *time = NOW + 90 * DAY);
    let street = later("C-1", "C-1-1");
    let verified = verify_beside(
        &city.parts().seal(),
        &city.root_key(),
        beside_it(std::slice::from_ref(&street)),
    )
    .unwrap();
    assert!(!verified.revocations.items[0].in_file && verified.revocations.left_out.is_empty());
    let file = unwitnessed("C-1-1").seal();
    accepted(&file);
    let broken = verify_beside(&file, &city.root_key(), beside_it(&[street])).unwrap_err();
    assert_eq!((broken.reason, broken.unit), ("revoked", Some(code("C-1-1"))));
    // A seal has no witness: whoever exported has to stand.
    let exporter = later("C", "C");
    let plain = Parts { catalogue: None, ..city.parts() }.seal();
    let broken = verify_beside(&plain, &city.root_key(), beside_it(&[exporter])).unwrap_err();
    assert_eq!((broken.reason, broken.kind.as_deref()), ("revoked", Some(kinds::PACK)));
    let mut forged = later("C-1", "C-1-1");
    forged.chain.pop();
    let broken =
        verify_beside(&city.parts().seal(), &city.root_key(), beside_it(&[forged])).unwrap_err();
    assert_eq!((broken.reason, broken.part), ("unknown-key", None));
}
