//! The summaries of a period as a tree: who added whom, and whether totals are the sums of their
//! parts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verification, broken::Place, of_head};
use crate::{
    domain::{
        explanation::{Disclosed, explain, not_counted, recount},
        summary::{CoverageInput, FigureKey, Summary},
        unit::UnitCode,
    },
    statement::pack::Head,
    verify::Broken,
};

/// A summary at its place in the tree.
struct Node<'a> {
    place: Place<'a>,
    verification: Verification,
    disclosed: Disclosed,
}

impl Node<'_> {
    fn summary(&self) -> &Summary {
        let found = self.verification.summary.as_ref();
        &found.expect("invariant: a node of the tree is a summary").summary
    }
}

/// Summaries that were added so far.
pub(super) struct Tree<'a> {
    head: &'a Head,
    grants: BTreeSet<(UnitCode, UnitCode)>,
    /// What a parent added, by child.
    expected: BTreeMap<UnitCode, [u8; 32]>,
    places: BTreeMap<UnitCode, usize>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(head: &'a Head, grants: BTreeSet<(UnitCode, UnitCode)>) -> Self {
        Self { head, grants, expected: BTreeMap::new(), places: BTreeMap::new(), nodes: Vec::new() }
    }

    /// Takes the next summary: of the head, or one that a summary before it added.
    pub(super) fn add(
        &mut self,
        place: Place<'a>,
        verification: Verification,
        disclosed: Disclosed,
    ) -> Result<(), Box<Broken>> {
        let unit = verification.header.source.clone();
        if self.places.contains_key(&unit) {
            return Err(place.broken("twice", "header.source", "the unit is there already"));
        }
        if self.nodes.is_empty() {
            if unit != self.head.unit {
                let detail = format!("the figures of {} come first", self.head.unit);
                return Err(place.broken("wrong-source", "header.source", detail));
            }
        } else {
            match self.expected.get(&unit) {
                None => {
                    let detail = "no summary before it added this unit";
                    return Err(place.broken("not-included", "header.source", detail));
                }
                Some(digest) if *digest != verification.payload_sha256 => {
                    let detail = "is not the version that the unit above added";
                    return Err(place.broken("other-child", "", detail));
                }
                Some(_) => {}
            }
        }
        let node = Node { place, verification, disclosed };
        for (input, digest) in included(node.summary()) {
            if !self.grants.contains(&(unit.clone(), input.unit.clone())) {
                let detail = format!("{} is no child of {unit}", input.unit);
                return Err(place.broken("outside-subtree", "body.coverage.inputs", detail));
            }
            if self.expected.insert(input.unit.clone(), digest).is_some() {
                let detail = format!("{} is added twice", input.unit);
                return Err(place.broken("twice", "body.coverage.inputs", detail));
            }
        }
        self.places.insert(unit, self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    /// Checks that nothing is left out unsaid, and adds everything up again.
    pub(super) fn finish(mut self) -> Result<Vec<Verification>, Box<Broken>> {
        let missing: BTreeSet<&UnitCode> = self.head.missing.iter().map(|(unit, _)| unit).collect();
        for unit in &missing {
            if self.places.contains_key(unit) || !self.expected.contains_key(unit) {
                let detail = format!("{unit} is in the file, or in no figure of it");
                return Err(of_head("malformed", "missing", detail));
            }
        }
        for node in &self.nodes {
            for (input, _) in included(node.summary()) {
                if !self.places.contains_key(&input.unit) && !missing.contains(&input.unit) {
                    let detail = format!("the summary of {} is not in the file", input.unit);
                    let field = "body.coverage.inputs";
                    return Err(node.place.broken("missing-child", field, detail));
                }
            }
        }
        for position in 0..self.nodes.len() {
            let explained = self.explain(&self.nodes[position])?;
            if let Some(found) = &mut self.nodes[position].verification.summary {
                found.explained = explained;
            }
        }
        Ok(self.nodes.into_iter().map(|node| node.verification).collect())
    }

    fn explain(
        &self,
        node: &Node<'a>,
    ) -> Result<crate::domain::explanation::Explained, Box<Broken>> {
        let summary = node.summary();
        let children: Vec<(&UnitCode, Option<&Node<'a>>)> = included(summary)
            .map(|(input, _)| (&input.unit, self.places.get(&input.unit)))
            .map(|(unit, position)| (unit, position.map(|position| &self.nodes[*position])))
            .collect();
        let at_hand: BTreeMap<_, _> = children
            .iter()
            .filter_map(|(unit, child)| child.map(|child| ((*unit).clone(), counted(child))))
            .collect();
        if at_hand.len() == children.len() {
            recount(&summary.coverage, &at_hand).map_err(|field| {
                let detail = "is not what the coverage of the children comes to";
                let field = format!("body.coverage.{field}");
                node.place.broken("wrong-coverage", &field, detail)
            })?;
        }
        for (unit, child) in &children {
            let Some(child) = child else { continue };
            if let Some(key) = not_counted(&node.disclosed, &child.disclosed) {
                let detail = format!("{unit} is included, but does not count {}", shown(&key));
                let field = "body.coverage.inputs";
                return Err(node.place.broken("wrong-coverage", field, detail));
            }
        }
        let disclosed: Vec<_> =
            children.iter().map(|(_, child)| child.map(|child| &child.disclosed)).collect();
        explain(&node.disclosed, &disclosed).map_err(|wrong| {
            let detail = format!("the total of {} is not the sum of its parts", shown(&wrong.key));
            node.place.broken("wrong-total", "cells", detail)
        })
    }
}

/// Children that a summary added, with the digests of what was added.
fn included(summary: &Summary) -> impl Iterator<Item = (&CoverageInput, [u8; 32])> {
    let inputs = summary.coverage.inputs.iter();
    inputs.filter_map(|input| input.payload_sha256.map(|digest| (input, digest)))
}

fn counted<'a>(node: &'a Node<'_>) -> (&'a crate::domain::summary::Coverage, [u8; 32], u64) {
    let summary = node.summary();
    (&summary.coverage, node.verification.payload_sha256, summary.version)
}

fn shown(key: &FigureKey) -> String {
    let FigureKey { indicator, version, group } = key;
    if group.is_empty() {
        format!("{indicator} v{version}")
    } else {
        format!("{indicator} v{version}, group {group:?}")
    }
}
