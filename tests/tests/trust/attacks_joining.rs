//! Attempts to get in without an invitation, or further than it reaches: each is refused with its
//! own reason, stands in the journal of the parent, and burns nothing for the unit that was invited.

use futures::future::join;
use lianxi_node::{
    domain::{refusals, unit::Level as UnitLevel},
    identity::token::Token,
    node::{self, JoinOptions},
};
use lianxi_proto::{
    admin::v1::{JoinRequest, RecoverRequest},
    types::v1::Level,
};
use lianxi_tests::{
    acts::{acts, refusals as refusals_of},
    federation::Federation,
};
use tonic::Code;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Joins in a directory of its own; what the child is told if it may not.
async fn join_with(token: &str) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let child = directory.path().join("child");
    let joined = node::join_offline(&child, token, JoinOptions::default()).await;
    joined.map(|_| ()).map_err(|error| error.to_string())
}

async fn is_told(token: &str, words: &str) {
    let told = join_with(token).await.unwrap_err();
    assert!(told.contains(words), "{told}");
}

fn changed(token: &str, change: impl FnOnce(&mut Token)) -> String {
    let mut token: Token = token.parse().unwrap();
    change(&mut token);
    token.to_text().to_string()
}

/// A city that has invited C-1.
async fn inviting() -> (Federation, String) {
    let city = Federation::city("C").await;
    let token = city.invite("C-1", "C", Level::District).await.unwrap();
    (city, token)
}

async fn joins_refused(city: &Federation, unit: &str) -> Vec<String> {
    refusals_of(city, "C", "node.join", unit).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_is_worth_nothing_once_it_was_used() {
    let (city, token) = inviting().await;
    join_with(&token).await.unwrap();
    is_told(&token, "the token was used").await;
    assert_eq!(joins_refused(&city, "C-1").await, ["token-spent"]);
    let joined = acts(&city, "C").await;
    let joined = joined.iter().filter(|act| act.name == "node.join" && act.refused.is_empty());
    assert_eq!(joined.count(), 1, "one child joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_children_that_take_a_token_at_once_one_gets_in() {
    let (city, token) = inviting().await;
    let (one, other) = join(join_with(&token), join_with(&token)).await;
    let told = match (one, other) {
        (Ok(()), Err(told)) | (Err(told), Ok(())) => told,
        both => panic!("{both:?}"),
    };
    let reserved = told.contains("the token is reserved for another key");
    assert!(reserved || told.contains("the token was used"), "{told}");
    let reason = if reserved { "token-reserved" } else { "token-spent" };
    assert_eq!(joins_refused(&city, "C-1").await, [reason]);
    city.wait_for_roster("C", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused_by_the_parents_clock() {
    let (city, token) = inviting().await;
    city.clock.shift_to(4 * DAY_MS);
    is_told(&token, "the token has expired").await;
    assert_eq!(joins_refused(&city, "C-1").await, ["token-expired"]);
    city.clock.shift_to(0);
    join_with(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guessed_secret_or_token_is_refused() {
    let (city, token) = inviting().await;
    is_told(&changed(&token, |token| token.secret[0] ^= 1), "no such token").await;
    is_told(&changed(&token, |token| token.id[0] ^= 1), "no such token").await;
    assert_eq!(joins_refused(&city, "C-1").await, ["unknown-token", "unknown-token"]);
    join_with(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_a_secret_locks_its_token_and_even_the_right_one_waits() {
    let (city, token) = inviting().await;
    for _ in 0..5 {
        is_told(&changed(&token, |token| token.secret[0] ^= 1), "no such token").await;
    }
    is_told(&token, "too many wrong tokens").await;
    let refused = joins_refused(&city, "C-1").await;
    assert_eq!(refused, [vec!["unknown-token"; 5], vec!["locked-out"]].concat());
    // Another invitation is not held up by it.
    let other = city.invite("C-2", "C", Level::District).await.unwrap();
    join_with(&other).await.unwrap();
    city.clock.shift_to(60_000);
    join_with(&token).await.unwrap();
}

/// Whoever tries token after token is held up by the address that he tries from, and the journal
/// tells of the first and counts the rest.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_tokens_waits_with_all_of_them() {
    let (city, token) = inviting().await;
    for guess in 0..20 {
        is_told(&changed(&token, |token| token.id[0] ^= 1 + guess), "no such token").await;
    }
    for _ in 0..3 {
        is_told(&token, "too many wrong tokens").await;
    }
    let refused = joins_refused(&city, "C-1").await;
    let written = usize::try_from(refusals::WRITTEN).unwrap();
    assert_eq!(
        refused,
        vec!["unknown-token"; written],
        "of a minute so many, the rest as a number"
    );
    city.clock.shift_to(refusals::WINDOW_MS);
    join_with(&token).await.unwrap();
    city.host("C").units().head().unwrap().unit.settle_refusals().await.unwrap();
    let acts = acts(&city, "C").await;
    let counted = acts.iter().filter(|act| act.refused == "too-many");
    let counted: Vec<_> = counted.map(|act| act.subject.as_str()).collect();
    assert_eq!(counted, ["3 of 127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_token_at_a_false_parent_is_never_shown_to_it() {
    let (mut city, token) = inviting().await;
    let false_city = Federation::city("C").await;
    let false_address = false_city.host("C").link_address().unwrap().to_string();
    let misled = changed(&token, |token| token.addresses = vec![false_address.clone()]);
    is_told(&misled, "does not show the CA").await;
    let other_city = Federation::city("D").await;
    let other_address = other_city.host("D").link_address().unwrap().to_string();
    is_told(&changed(&token, |token| token.addresses = vec![other_address]), "does not serve C")
        .await;
    assert!(refusals_of(&false_city, "C", "node.join", "C-1").await.is_empty(), "nothing was sent");

    // A host that runs already has a journal of its own, and writes down where it was led.
    city.add_host("C-2", "C", Level::District).await;
    let token = city.invite("C-2-1", "C-2", Level::Street).await.unwrap();
    let misled = changed(&token, |token| {
        token.addresses = vec![false_address];
        token.parent = "C".parse().unwrap();
    });
    let request = JoinRequest { token: misled, dry_run: false };
    let refused = city.client("C-2").node().join(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert_eq!(refusals_of(&city, "C-2", "node.join", "C-2-1").await, ["wrong-ca"]);
    let request = JoinRequest { token, dry_run: false };
    city.client("C-2").node().join(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_gets_no_place_but_the_one_that_it_was_invited_to() {
    let (mut city, token) = inviting().await;
    city.add_host("C-2", "C", Level::District).await;
    for (unit, level, reason) in [
        ("C-3", UnitLevel::District, "other-unit"),
        ("C-2", UnitLevel::District, "siblings-code"),
        ("C", UnitLevel::District, "parents-code"),
        ("C-1", UnitLevel::City, "higher-level"),
        ("C-1", UnitLevel::Street, "other-level"),
    ] {
        let other = changed(&token, |token| {
            token.unit = unit.parse().unwrap();
            token.level = level;
        });
        is_told(&other, "the token is for C-1, a district").await;
        let refused = joins_refused(&city, unit).await;
        assert_eq!(refused.last().map(String::as_str), Some(reason), "{unit} as {level}");
    }
    join_with(&token).await.unwrap();
    city.wait_for_roster("C", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_invited_to_a_place_that_is_taken_or_too_high() {
    let mut city = Federation::city("C").await;
    city.add_host("C-1", "C", Level::District).await;
    city.add_host("C-1-1", "C-1", Level::Street).await;
    city.wait_for_roster("C", 3).await;
    for (unit, level, code, reason) in [
        ("C-9", Level::City, Code::InvalidArgument, "level"),
        ("C-1", Level::District, Code::AlreadyExists, "already-joined"),
        ("C-1-1", Level::Street, Code::FailedPrecondition, "elsewhere"),
        ("C", Level::District, Code::FailedPrecondition, "elsewhere"),
    ] {
        let refused = city.invite(unit, "C", level).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert_eq!(refusals_of(&city, "C", "node.invite", unit).await, [reason], "{unit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_past_the_budget_and_its_approval_stand_in_the_journal() {
    let mut city = Federation::city("C").await;
    city.add_host("C-1", "C", Level::District).await;
    city.wait_for_link("C-1", true).await;
    city.stop("C-1").await;
    city.clock.shift_to(150 * DAY_MS);
    city.host("C").renew_certificates().await;
    city.start("C-1").await;
    city.host("C-1").renew_certificates().await;
    let refused = refusals_of(&city, "C", "node.recover", "C-1").await;
    assert_eq!(refused.first().map(String::as_str), Some("recovery-late"));
    let request =
        |child: &str| RecoverRequest { unit: "C".into(), child: child.into(), dry_run: false };
    city.client("C").node().recover(request("C-9")).await.unwrap_err();
    assert_eq!(refusals_of(&city, "C", "node.recover.approve", "C-9").await, ["no-child"]);
    city.client("C").node().recover(request("C-1")).await.unwrap();
    let acts = acts(&city, "C").await;
    let approved =
        acts.iter().find(|act| act.name == "node.recover.approve" && act.refused.is_empty());
    assert!(approved.unwrap().actor.starts_with("uid:"), "{approved:?}");
}
