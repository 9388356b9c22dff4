//! Two verifiers, one answer: `lianxi verify` and the Python program that was written from the
//! document alone agree on valid packs and on a thousand tampered ones, whatever was signed again.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene has to fail")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use lianxi_node::{
    domain::{
        component::Component,
        summary::{CoverageState, SummaryKind},
        unit::{Level, UnitCode},
    },
    verify::verify,
};
use lianxi_proto::cells::withhold;
use lianxi_tests::{
    packs::{
        City, Made, NOW, PERIOD, Parts, SINGLE, delegation_key, evidence, figure, key, part_ranges,
        reseal, statement_key,
    },
    python::Python,
};

/// Tampered files that both have to refuse.
const TAMPERED: u64 = 1_000;

/// The kind of tampering in which the exporter may do what it is free to do.
const BY_THE_EXPORTER: u64 = 1;

/// Numbers that follow from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// What the tampering begins with.
struct Scene {
    city: City,
    parts: Parts,
    file: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let city = City { sketches: true, ..City::new(2, 1, 2) };
        let parts = city.parts();
        let file = parts.seal();
        Self { city, parts, file }
    }

    fn unsealed(&self) -> (Vec<std::ops::Range<usize>>, Vec<u8>) {
        let mut ranges = part_ranges(&self.file);
        let seal = ranges.pop().unwrap();
        (ranges, self.file[..seal.start - 4].to_vec())
    }

    fn unit(&self, numbers: &mut Numbers) -> UnitCode {
        self.city.members[numbers.below(self.city.members.len())].code.clone()
    }

    /// Summaries of which one was changed before it was signed and added above.
    fn made(&self, unit: &UnitCode, mut change: impl FnMut(&mut Made)) -> Parts {
        let signed = self.city.summaries(|code, made| {
            if code == unit {
                change(made);
            }
        });
        self.city.parts_of(&signed)
    }

    /// Bytes changed after everything was sealed.
    fn outside(&self, numbers: &mut Numbers) -> Vec<u8> {
        let mut file = self.file.clone();
        let (at, other) = (numbers.below(file.len()), numbers.below(file.len()));
        match numbers.below(5) {
            0 | 1 => file[at] ^= 1 << numbers.below(8),
            2 => file.truncate(at),
            3 => file.extend_from_slice(&self.file[at..]),
            _ => {
                let end = (at + 1 + numbers.below(64)).min(file.len());
                let piece: Vec<u8> = file.drain(at..end).collect();
                let place = other.min(file.len());
                file.splice(place..place, piece.into_iter().map(|byte| byte ^ 0x10));
            }
        }
        file
    }

    /// Whole parts or bytes of them changed by the exporter, who seals again.
    fn by_the_exporter(&self, numbers: &mut Numbers) -> Vec<u8> {
        let (ranges, mut file) = self.unsealed();
        let one = numbers.below(ranges.len());
        let two = (one + 1 + numbers.below(ranges.len() - 1)) % ranges.len();
        let whole = |part: usize| ranges[part].start - 4..ranges[part].end;
        let bytes = |part: usize| self.file[whole(part)].to_vec();
        match numbers.below(5) {
            0 | 1 => {
                let place = ranges[one].start + numbers.below(ranges[one].len());
                file[place] ^= 1 << numbers.below(8);
            }
            2 => drop(file.drain(whole(one))),
            3 => drop(file.splice(whole(one), [bytes(one), bytes(two)].concat())),
            _ => {
                let (first, second) = (one.min(two), one.max(two));
                file.splice(whole(second), bytes(first));
                file.splice(whole(first), bytes(second));
            }
        }
        reseal(file, "C")
    }

    /// A summary signed by somebody else, or anew by its unit after it was added above.
    fn by_another_key(&self, numbers: &mut Numbers) -> Vec<u8> {
        let unit = self.unit(numbers);
        let mut signed = self.city.summaries(|_, _| {});
        let one = signed[&unit].clone();
        let stranger = self.unit(numbers);
        let forged = match numbers.below(5) {
            0 => one.made.sign_over(one.packed.cells, &statement_key(&stranger)),
            1 => one.made.sign_over(one.packed.cells, &delegation_key(&unit)),
            2 => one.made.sign_over(one.packed.cells, &key("root")),
            3 => one.made.sign_over(one.packed.cells, &key("stranger")),
            _ => one.made.sign(&statement_key(&unit)),
        };
        let is_head = unit == self.city.members[0].code;
        signed.insert(unit, forged);
        let mut parts = self.city.parts_of(&signed);
        if is_head {
            // A new version of the head's own would be as good as the first.
            parts.statements.swap(0, 1);
        }
        parts.seal()
    }

    /// Figures or coverage that a unit itself signs falsely, added above as they are.
    fn by_a_unit(&self, numbers: &mut Numbers) -> Vec<u8> {
        let unit = self.unit(numbers);
        let other = self.unit(numbers);
        let kind = numbers.below(10);
        let amount = 1 + numbers.next() % 1_000;
        let parts = self.made(&unit, |made| {
            let (subtree, coverage) = (&mut made.figures.subtree, &mut made.summary.coverage);
            match kind {
                0 | 1 => {
                    drop(subtree.insert(figure("received", ""), Component::Count(amount * 97)))
                }
                2 => drop(subtree.insert(figure("made-up", ""), Component::Count(amount))),
                3 => drop(subtree.remove(&figure("oldest", ""))),
                4 => {
                    let extreme = Component::Extreme { min_milli: None, max_milli: Some(-7) };
                    drop(subtree.insert(figure("oldest", ""), extreme));
                }
                5 => coverage.zero += 1,
                6 => {
                    (coverage.expected, coverage.included) =
                        (coverage.expected + 1, coverage.included + 1)
                }
                7 => match coverage.inputs.first_mut() {
                    Some(input) => input.unit = other.clone(),
                    None => made.summary.kind = SummaryKind::Live,
                },
                8 => match coverage.inputs.first_mut() {
                    Some(input) => input.state = CoverageState::ByParent,
                    None => made.summary.period = "2026-06".parse().unwrap(),
                },
                _ => match coverage.inputs.pop() {
                    Some(_) => {}
                    None => made.summary.unit = "C-9".parse().unwrap(),
                },
            }
        });
        parts.seal()
    }

    /// Cells that travel beside a summary.
    fn beside(&self, numbers: &mut Numbers) -> Vec<u8> {
        let mut parts = self.parts.clone();
        let place = numbers.below(parts.statements.len());
        let cells = &mut parts.statements[place].cells;
        let (one, two) = (numbers.below(cells.len()), numbers.below(cells.len() - 1));
        let two = if two >= one { two + 1 } else { two };
        if numbers.below(3) == 0 {
            self.evidence(&mut parts, place, numbers);
            return parts.seal();
        }
        match numbers.below(6) {
            0 => cells[one].salt[3] ^= 1,
            1 => drop(cells.remove(one)),
            2 => cells[one].index = cells[two].index,
            3 => {
                let (first, second) = (cells[one].cell.clone(), cells[two].cell.clone());
                (cells[one].cell, cells[two].cell) = (second, first);
            }
            4 => {
                cells[one] = withhold(&cells[one]);
                cells[one].leaf_sha256[0] ^= 1;
            }
            _ => cells[one].index = u32::MAX,
        }
        parts.seal()
    }

    /// Evidence of something else.
    fn evidence(&self, parts: &mut Parts, place: usize, numbers: &mut Numbers) {
        let (unit, other) = (self.city.members[place].code.clone(), self.unit(numbers));
        let next = (place + 1) % parts.statements.len();
        let foreign = parts.statements[next].envelope.clone();
        let packed = &mut parts.statements[place];
        let mut found = evidence(&unit, &packed.envelope, &[&other]);
        match numbers.below(6) {
            0 => found.leaf_index = numbers.next() % 5 + 2,
            1 => found.leaf[0] ^= 1,
            2 => found.inclusion[numbers.below(2)][5] ^= 1,
            3 => drop(found.inclusion.pop()),
            4 => found = evidence(&unit, &foreign, &[&other]),
            _ => found.checkpoint = found.checkpoint.replacen("\n3\n", "\n5\n", 1),
        }
        packed.evidence = Some(found);
    }

    /// Delegations that reach too far, or were signed by the wrong key.
    fn grants(&self, numbers: &mut Numbers) -> Vec<u8> {
        let mut parts = self.parts.clone();
        let place = 1 + numbers.below(self.city.members.len() - 1);
        let mut member = self.city.members[place].clone();
        let true_parent = member.parent.clone();
        let kind = numbers.below(8);
        if kind == 0 {
            // Signed by another unit in the parent's name.
            let strangers =
                self.city.members.iter().filter(|it| Some(&it.code) != true_parent.as_ref());
            let strangers: Vec<_> = strangers.collect();
            member.parent = Some(strangers[numbers.below(strangers.len())].code.clone());
        }
        let days = 24 * 60 * 60 * 1000;
        parts.delegations[place] = self.city.delegation(&member, |grant| match kind {
            0 => grant.issuer = true_parent,
            1 => grant.not_after_unix_ms += 1,
            2 => grant.not_before_unix_ms -= 30 * days,
            3 => grant.level = Level::City,
            4 => grant.trust_domain = "else.example".to_owned(),
            5 => grant.keys[0].bytes = key("root").public_key().to_vec(),
            6 => grant.keys[0].bytes = vec![0; 32],
            _ => grant.not_after_unix_ms = NOW - 9 * days,
        });
        parts.seal()
    }

    /// Revocations that do not hold, or that end what is in the file.
    fn revoked(&self, numbers: &mut Numbers) -> Vec<u8> {
        let mut parts = self.parts.clone();
        // A district's, by the city; a street's or community's by its parent.
        let place = 1 + numbers.below(self.city.members.len() - 1);
        let member = &self.city.members[place];
        let (unit, by) = (member.code.to_string(), member.parent.as_ref().unwrap().to_string());
        let kind = numbers.below(9);
        let stranger = match self.unit(numbers) {
            other if by.starts_with(other.as_str()) => unit.clone(),
            other => other.to_string(),
        };
        let by = if kind == 0 { stranger } else { by };
        let hours = 60 * 60 * 1000;
        let mut proven = self.city.revocation(&by, &unit, |revocation, time| match kind {
            1 => revocation.compromised_since_unix_ms = Some(NOW - 12 * hours),
            2 => *time = NOW + 96 * hours,
            3 => revocation.trust_domain = "else.example".to_owned(),
            4 => revocation.unit = "X-1".parse().unwrap(),
            5 => revocation.key_ids.truncate(1),
            _ => {}
        });
        let evidence = parts.statements.iter_mut().map(|packed| &mut packed.evidence);
        match kind {
            5 => evidence.for_each(|evidence| *evidence = None),
            6 => proven.revocation.signatures[0].signature[9] ^= 4,
            7 => drop(proven.chain.pop()),
            8 => parts.revocations.push(proven.clone()),
            _ => {}
        }
        parts.revocations.push(proven);
        if kind == 7 && parts.revocations[0].chain.is_empty() {
            return self.head(numbers);
        }
        parts.seal()
    }

    /// What the head or the seal says falsely.
    fn head(&self, numbers: &mut Numbers) -> Vec<u8> {
        let mut parts = self.parts.clone();
        let unit = self.city.members[1 + numbers.below(self.city.members.len() - 1)].code.clone();
        let amount = i64::try_from(1 + numbers.next() % 1_000).unwrap();
        match numbers.below(9) {
            0 => parts.head.trust_domain = "else.example".to_owned(),
            1 => parts.head.unit = unit,
            2 => parts.head.period = format!("{PERIOD}-01"),
            3 => parts.head.period = String::new(),
            4 => parts.head.missing = vec![(unit, "no-link".to_owned())],
            5 => parts.head.exported_unix_ms -= (20 + amount) * 24 * 60 * 60 * 1000,
            6 => return parts.seal_as(&statement_key(&unit), |_, _| {}),
            7 => {
                return parts.seal_as(&key("C/s"), |header, _| header.time_unix_ms += amount);
            }
            _ => {
                return parts.seal_as(&key("C/s"), |_, body| {
                    body.sealed.sha256[usize::try_from(amount % 32).unwrap()] ^= 1;
                });
            }
        }
        parts.seal()
    }

    fn tampered(&self, numbers: &mut Numbers, number: u64) -> Vec<u8> {
        match number % 8 {
            0 => self.outside(numbers),
            BY_THE_EXPORTER => self.by_the_exporter(numbers),
            2 => self.by_another_key(numbers),
            3 => self.by_a_unit(numbers),
            4 => self.beside(numbers),
            5 => self.grants(numbers),
            6 => self.revoked(numbers),
            _ => self.head(numbers),
        }
    }

    /// Packs that hold, each in its own way.
    fn valid(&self) -> BTreeMap<String, Vec<u8>> {
        let mut withheld = self.parts.clone();
        for packed in &mut withheld.statements {
            for cell in packed.cells.iter_mut().step_by(3) {
                *cell = withhold(cell);
            }
        }
        let mut missing = self.parts.clone();
        missing.statements.pop();
        let last = self.city.members.last().unwrap().code.clone();
        missing.head.missing = vec![(last, "deadline".to_owned())];
        let mut plain = self.parts.clone();
        plain.catalogue = None;
        let mut single = self.parts.clone();
        single.statements.drain(..2);
        single.statements.truncate(1);
        single.head.period = String::new();
        single.head.unit = self.city.members[2].code.clone();
        let mut revoked = self.parts.clone();
        revoked.revocations.push(self.city.revocation("C", "C-2", |_, _| {}));
        let mut stolen = self.parts.clone();
        stolen.revocations.push(self.city.revocation("C-1", "C-1-1", |revocation, _| {
            (revocation.serial, revocation.text) = (0, "laptop stolen".to_owned());
        }));
        // By a key that had been revoked: it is there, and counts for nothing.
        let mut thiefs = stolen.clone();
        for packed in &mut thiefs.statements[2..3] {
            packed.evidence = None;
        }
        thiefs.revocations.push(self.city.revocation("C", "C-1", |revocation, _| {
            revocation.compromised_since_unix_ms = Some(NOW - 3 * 60 * 60 * 1000);
        }));
        let deep = City { sketches: true, ..City::new(1, 2, 9) };
        let alone = City::new(0, 0, 0);
        let named = [
            ("whole", self.file.clone()),
            ("withheld", withheld.seal()),
            ("missing", missing.seal()),
            ("plain", plain.seal()),
            ("single", single.seal()),
            ("revoked", revoked.seal()),
            ("stolen", stolen.seal()),
            ("thiefs", thiefs.seal()),
            ("deep", deep.parts().seal()),
            ("alone", alone.parts().seal()),
        ];
        let mut files: BTreeMap<String, Vec<u8>> =
            named.map(|(name, file)| (format!("valid-{name}"), file)).into();
        for kind in SINGLE {
            let file = self.city.single(self.city.members[2].code.as_str(), kind).seal();
            files.insert(format!("valid-single-{kind}"), file);
        }
        files
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python/verify_pack.py")
}

/// The fixed word and the unit, as the Python program prints them.
fn verdict(file: &[u8], city: &City) -> String {
    match verify(file, &city.root_key()) {
        Ok(_) => "valid".to_owned(),
        Err(broken) => {
            let unit = broken.unit.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{} {unit}", broken.reason).trim().to_owned()
        }
    }
}

#[test]
fn another_implementation_agrees_on_valid_and_on_a_thousand_tampered_packs() {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(python) = Python::find("another implementation of the verifier", temporary) else {
        return;
    };
    let scene = Scene::new();
    let directory = tempfile::tempdir().unwrap();
    let batch = directory.path().join("batch");
    fs::create_dir(&batch).unwrap();
    let root = directory.path().join("root.pub");
    fs::write(&root, scene.city.root_key().to_string()).unwrap();
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for (name, file) in scene.valid() {
        fs::write(batch.join(&name), &file).unwrap();
        assert_eq!(verdict(&file, &scene.city), "valid", "{name}");
        expected.insert(name, "valid".to_owned());
    }
    let mut refused = 0;
    for number in 0.. {
        if refused == TAMPERED {
            break;
        }
        let mut numbers = Numbers(number);
        let file = scene.tampered(&mut numbers, number);
        let name = format!("tampered-{number:04}");
        fs::write(batch.join(&name), &file).unwrap();
        let verdict = verdict(&file, &scene.city);
        // Another order of siblings, or no catalogue, is another valid pack.
        let is_harmless = verdict == "valid";
        assert!(!is_harmless || number % 8 == BY_THE_EXPORTER, "{name} was believed");
        refused += u64::from(!is_harmless);
        expected.insert(name, verdict);
    }
    let mut command = python.run(&script());
    let output = command.arg("--root").arg(&root).arg("--batch").arg(&batch).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let said: BTreeMap<String, String> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, verdict)| (name.to_owned(), verdict.to_owned()))
        .collect();
    assert_eq!(said.len(), expected.len());
    let differ: Vec<String> = expected
        .iter()
        .filter(|(name, verdict)| said.get(*name) != Some(verdict))
        .map(|(name, verdict)| format!("{name}: {verdict} here, {:?} there", said.get(name)))
        .collect();
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    let mut words: BTreeMap<&str, usize> = BTreeMap::new();
    for verdict in expected.values() {
        *words.entry(verdict.split(' ').next().unwrap()).or_default() += 1;
    }
    // Every layer was reached: the file's shape, chains, signatures, cells, the fold, the seal.
    for word in [
        "not-canonical",
        "truncated",
        "part-order",
        "bad-signature",
        "unknown-key",
        "wrong-source",
        "outside-subtree",
        "expired",
        "wrong-domain",
        "malformed",
        "cells-do-not-match",
        "twice",
        "wrong-evidence",
        "missing-child",
        "other-child",
        "not-included",
        "wrong-coverage",
        "wrong-total",
        "wrong-seal",
    ] {
        assert!(words.contains_key(word), "no file was refused with {word}: {words:?}");
    }
}
