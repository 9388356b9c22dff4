//! One act is one trace: what a collector sees of a notice that goes through four levels.
//!
//! One test, because the subscriber belongs to the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use lianxi_node::{config::TelemetryConfig, telemetry};
use lianxi_proto::{
    local::v1::{IssueNoticeRequest, MarkNoticeRequest, ShowNoticeRequest},
    types::v1::{Level, Notice, ReceiptStage},
};
use lianxi_tests::{federation::Federation, wait::until};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_and_its_receipts_are_one_trace_through_four_levels() {
    let (address, spans) = collector().await;
    let config = TelemetryConfig {
        otlp_endpoint: Some(format!("http://{address}")),
        log_level: "error".to_owned(),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config).await.expect("telemetry starts");

    let federation = Federation::four_levels().await;
    let notice = Notice {
        number: "〔2026〕17号".to_owned(),
        title: "Inspect street lights".to_owned(),
        level: Level::Community.into(),
        duty_item: "street-light-inspection".to_owned(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    };
    let request = IssueNoticeRequest {
        unit: "C".to_owned(),
        destination: "C-1-1".to_owned(),
        notice: Some(notice),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    receipts(&federation, &issued.notice_id, ReceiptStage::Validated, 2).await;
    let done = MarkNoticeRequest {
        unit: "C-1-1-1".to_owned(),
        notice_id: issued.notice_id.clone(),
        stage: ReceiptStage::Seen.into(),
        note: String::new(),
    };
    federation.client("C-1-1").notices().mark(done).await.unwrap();
    receipts(&federation, &issued.notice_id, ReceiptStage::Seen, 1).await;
    guard.shutdown().await;

    let spans = spans.lock().unwrap();
    let issue = spans.iter().find(|span| span.name == "notice.issue").expect("the act is traced");
    let mut units: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.trace_id == issue.trace_id) {
        units.entry(span.name.as_str()).or_default().insert(unit(span));
    }
    let everyone = ["C", "C-1", "C-1-1", "C-1-1-1", "C-1-1-2"].map(str::to_owned);
    assert_eq!(units["statement.receive"], BTreeSet::from(everyone), "{units:?}");
    assert_eq!(units["notice.mark"], BTreeSet::from(["C-1-1-1".to_owned()]), "{units:?}");
}

/// Waits until the city holds `count` receipts of `stage`.
async fn receipts(federation: &Federation, notice_id: &[u8], stage: ReceiptStage, count: usize) {
    until(&format!("{count} receipts of {stage:?}"), async || {
        let request = ShowNoticeRequest { unit: "C".to_owned(), notice_id: notice_id.to_vec() };
        let shown = federation.client("C").notices().show(request).await.ok()?.into_inner();
        let reached = shown.recipients.iter().filter(|unit| unit.stage() == stage).count();
        (reached == count).then_some(())
    })
    .await;
}

fn unit(span: &Span) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == "unit");
    let value = found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(unit)) => unit.clone(),
        other => panic!("{} names no unit but {other:?}", span.name),
    }
}

type Spans = Arc<Mutex<Vec<Span>>>;

struct Collector(Spans);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// An OpenTelemetry collector that keeps the spans that it gets.
async fn collector() -> (SocketAddr, Spans) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spans = Spans::default();
    let server = Server::builder().add_service(TraceServiceServer::new(Collector(spans.clone())));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, spans)
}
