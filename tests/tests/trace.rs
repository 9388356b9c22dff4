//! One act is one trace, through all levels and back, as a collector gets it.
//!
//! One test, because the subscriber belongs to the process.

use std::collections::BTreeSet;

use lianxi_node::{config::TelemetryConfig, telemetry};
use lianxi_proto::{
    admin::v1::AddDeskRequest,
    local::v1::{
        IssueNoticeRequest, MarkNoticeRequest, RaiseEscalationRequest, ShowEscalationRequest,
        ShowNoticeRequest, StepEscalationRequest,
    },
    types::v1::{Escalation, EscalationKind, EscalationStep, Level, Notice, ReceiptStage},
};
use lianxi_tests::{collector::Collector, federation::Federation, wait::until};
use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::Span};

#[tokio::test(flavor = "multi_thread")]
async fn one_notice_is_one_trace_through_four_levels_and_back() {
    let collector = Collector::start().await;
    let config = TelemetryConfig {
        otlp_endpoint: Some(collector.endpoint()),
        log_level: "warn".to_owned(),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config).await.unwrap();
    let mut federation = Federation::four_levels().await;
    for number in ["1号", "2号"] {
        pass_notice(&federation, number).await;
    }
    blow_whistle(&federation).await;
    assert_eq!(federation.pull("C", "2011-07").await.len(), 12);
    for host in ["C-2-1", "C-1-2", "C-1-1", "C-2", "C-1", "C"] {
        federation.stop(host).await;
    }
    guard.shutdown().await;
    let spans = collector.spans();

    let issued: Vec<_> = spans.iter().filter(|span| span.name == "notice.issue").collect();
    assert_eq!(issued.len(), 2);
    assert_ne!(issued[0].trace_id, issued[1].trace_id, "two acts are two traces");
    for issue in issued {
        assert_eq!(field(issue, "unit"), "C");
        check_notice(&spans, issue);
    }
    check_whistle(&spans);
    let pulls: Vec<_> = spans.iter().filter(|span| span.name == "summary.pull").collect();
    assert_eq!(units(&pulls).len(), 12);
    let traces: BTreeSet<_> = pulls.iter().map(|span| &span.trace_id).collect();
    assert_eq!(traces.len(), 1, "a pull is one trace");
}

fn check_notice(spans: &[Span], issue: &Span) {
    let trace: Vec<_> = spans.iter().filter(|span| span.trace_id == issue.trace_id).collect();
    let taken = |kind: &str| -> Vec<&Span> {
        let of_kind =
            |span: &&&Span| span.name == "statement.receive" && field(span, "kind") == kind;
        trace.iter().filter(of_kind).copied().collect()
    };
    let notices = taken("lianxi.notice.v1");
    let below = ["C-1", "C-1-1", "C-1-1-1", "C-1-1-2", "C-1-2", "C-1-2-1", "C-1-2-2"];
    assert_eq!(units(&notices), BTreeSet::from(below));
    assert!(notices.iter().all(|span| span.parent_span_id == issue.span_id));

    let receipts = taken("lianxi.receipt.v1");
    assert_eq!(units(&receipts), BTreeSet::from(["C", "C-1", "C-1-1", "C-1-2"]));
    let at_the_city: Vec<_> =
        receipts.iter().filter(|span| field(span, "unit") == "C").copied().collect();
    assert_eq!(at_the_city.len(), 5, "four validated, one seen");
    assert!(at_the_city.iter().all(|span| field(span, "peer") == "C-1"));
    let causes = |name: &str| {
        let ids: BTreeSet<_> = at_the_city.iter().map(|span| &span.parent_span_id).collect();
        let caused = |span: &&&Span| span.name == name && ids.contains(&span.span_id);
        let caused: Vec<_> = trace.iter().filter(caused).copied().collect();
        units(&caused)
    };
    let communities = ["C-1-1-1", "C-1-1-2", "C-1-2-1", "C-1-2-2"];
    assert_eq!(causes("statement.receive"), BTreeSet::from(communities));
    assert_eq!(causes("notice.mark"), BTreeSet::from(["C-1-2-1"]));
}

fn check_whistle(spans: &[Span]) {
    let raised = spans.iter().find(|span| span.name == "escalation.raise").unwrap();
    let trace: Vec<_> = spans.iter().filter(|span| span.trace_id == raised.trace_id).collect();
    let of = |name: &str, kind: &str| {
        let fits = |span: &&&Span| span.name == name && field(span, "kind") == kind;
        units(&trace.iter().filter(fits).copied().collect::<Vec<_>>())
    };
    assert_eq!(of("statement.receive", "lianxi.escalation.v1"), BTreeSet::from(["C-1"]));
    assert_eq!(of("escalation.step", ""), BTreeSet::from(["C-1"]));
    assert_eq!(of("statement.receive", "lianxi.escalation-event.v1"), BTreeSet::from(["C-1-1"]));
}

fn field<'a>(span: &'a Span, name: &str) -> &'a str {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name);
    match attribute.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        _ => "",
    }
}

fn units<'a>(spans: &[&'a Span]) -> BTreeSet<&'a str> {
    spans.iter().map(|span| field(span, "unit")).collect()
}

async fn pass_notice(federation: &Federation, number: &str) {
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1".into(),
        notice: Some(Notice {
            number: number.into(),
            title: "inspect street lights".into(),
            text: "before the first frost".into(),
            level: Level::Community.into(),
            duty_item: "street-light-inspection".into(),
            due_unix_ms: 4_000_000_000_000,
            ..Notice::default()
        }),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    wait_for_stage(federation, &issued.notice_id, ReceiptStage::Validated, 4).await;
    let request = MarkNoticeRequest {
        unit: "C-1-2-1".into(),
        notice_id: issued.notice_id.clone(),
        stage: ReceiptStage::Seen.into(),
        note: String::new(),
    };
    federation.client("C-1-2-1").notices().mark(request).await.unwrap();
    wait_for_stage(federation, &issued.notice_id, ReceiptStage::Seen, 1).await;
}

async fn wait_for_stage(federation: &Federation, id: &[u8], stage: ReceiptStage, units: usize) {
    until(&format!("{units} receipts of {stage:?}"), async || {
        let request = ShowNoticeRequest { unit: "C".into(), notice_id: id.to_vec() };
        let state = federation.client("C").notices().show(request).await.ok()?.into_inner();
        let reached = state.recipients.iter().filter(|unit| unit.stage() == stage).count();
        (reached == units).then_some(())
    })
    .await;
}

async fn blow_whistle(federation: &Federation) {
    let desk = AddDeskRequest {
        unit: "C-1".into(),
        desk: "GAS".into(),
        title: "Gas supply".into(),
        line: "utilities".into(),
    };
    federation.client("C-1").node().add_desk(desk).await.unwrap();
    let request = RaiseEscalationRequest {
        unit: "C-1-1".into(),
        destination: String::new(),
        escalation: Some(Escalation {
            number: "〔2026〕1号".into(),
            kind: EscalationKind::Emergency.into(),
            title: "gas smell at the market".into(),
            lead_desk: "GAS".into(),
            approved_by: "street head".into(),
            ..Escalation::default()
        }),
        exercise: false,
    };
    let raised = federation.client("C-1-1").escalations().raise(request).await.unwrap();
    let escalation_id = raised.into_inner().escalation_id;
    wait_for_step(federation, "C-1", &escalation_id, EscalationStep::Routed).await;
    let request = StepEscalationRequest {
        unit: "C-1".into(),
        escalation_id: escalation_id.clone(),
        step: EscalationStep::Answered.into(),
        desk: "GAS".into(),
        note: String::new(),
    };
    federation.client("C-1").escalations().step(request).await.unwrap();
    wait_for_step(federation, "C-1-1", &escalation_id, EscalationStep::Answered).await;
}

async fn wait_for_step(federation: &Federation, unit: &str, id: &[u8], step: EscalationStep) {
    until(&format!("{step:?} at {unit}"), async || {
        let request = ShowEscalationRequest { unit: unit.to_owned(), escalation_id: id.to_vec() };
        let state = federation.client(unit).escalations().show(request).await.ok()?;
        (state.into_inner().state() == step).then_some(())
    })
    .await;
}
