//! Telemetry as a whole process has it: what a collector gets, what the endpoint serves.
//!
//! One test, because the subscriber belongs to the process.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;

use lianxi_node::{
    config::TelemetryConfig,
    telemetry::{self, metrics::Side},
};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use tracing::info_span;

const ELSEWHERE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_and_a_scraper_get_what_happened() {
    let (collector, mut spans, mut metrics) = collector().await;
    let config = TelemetryConfig {
        otlp_endpoint: Some(format!("http://{collector}")),
        metrics_listen: "127.0.0.1:0".parse().ok(),
        service_name: "street-7".to_owned(),
        log_level: "warn".to_owned(),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config).await.expect("telemetry starts");
    assert!(telemetry::init(&config).await.is_err(), "a process has one subscriber");

    // A level of the log does not cut off traces.
    let span = info_span!(target: "lianxi_node::services::notices", "notice.receive");
    telemetry::set_parent_from(ELSEWHERE, &span);
    let carried = span.in_scope(telemetry::current_traceparent);
    assert_eq!(carried.get(..35), ELSEWHERE.get(..35));
    drop(span);
    telemetry::Metrics::installed().link_up(Side::Child, 12);

    let address = guard.metrics_address().expect("the endpoint is configured");
    let page = get(address, "/metrics").await;
    assert!(page.starts_with("HTTP/1.1 200 OK"), "{page}");
    assert!(page.contains("lianxi_link_up{side=\"child\"} 1"), "{page}");
    assert!(page.contains("service_name=\"street-7\""), "{page}");
    assert!(get(address, "/healthz").await.ends_with("ok\n"));
    assert!(get(address, "/keys").await.starts_with("HTTP/1.1 404"));

    guard.shutdown().await;
    let exported = spans.recv().await.expect("spans are flushed at the end");
    let span = exported
        .resource_spans
        .iter()
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| &scope.spans)
        .find(|span| span.name == "notice.receive")
        .expect("the span is exported");
    assert_eq!(hex::encode(&span.trace_id), ELSEWHERE.get(3..35).unwrap());
    assert_eq!(hex::encode(&span.parent_span_id), ELSEWHERE.get(36..52).unwrap());
    let exported = format!("{:?}", metrics.recv().await.expect("metrics are flushed at the end"));
    assert!(exported.contains("lianxi.link.up"), "{exported}");
    assert!(TcpStream::connect(address).await.is_err(), "the endpoint is closed");
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

struct Spans(UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

struct Figures(UnboundedSender<ExportMetricsServiceRequest>);

#[tonic::async_trait]
impl MetricsService for Figures {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

/// An OpenTelemetry collector that keeps what it gets.
async fn collector() -> (
    SocketAddr,
    UnboundedReceiver<ExportTraceServiceRequest>,
    UnboundedReceiver<ExportMetricsServiceRequest>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((to_spans, spans), (to_metrics, metrics)) =
        (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let server = Server::builder()
        .add_service(TraceServiceServer::new(Spans(to_spans)))
        .add_service(MetricsServiceServer::new(Figures(to_metrics)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, spans, metrics)
}
