//! Logs, traces and metrics of the process: how they are set up, and every metric name.
//!
//! Promises that what is set up is what the configuration says, and that the process-wide parts
//! (subscriber, metrics) are set by [`init`] alone, which only a `main` calls: the library logs
//! and counts into whatever is there, or into nothing. Never sees the contents of a record.
//!
//! Everything may use this module; it uses only `clock` and `config`. Without a collector there is
//! no thread and no task beyond what the runtime has.

mod endpoint;
pub mod metrics;
pub mod trace;

use std::{
    fmt::{self, Debug, Formatter},
    io::{self, IsTerminal},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::MeterProvider as _};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use tokio::task::JoinHandle;
use tracing::{Level, Subscriber, info, warn};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, Targets},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::{
    clock::SystemClock,
    config::{LogFormat, TelemetryConfig},
};

pub use metrics::Metrics;
pub use trace::{current_traceparent, set_parent_from};

/// Name of the instrumentation in traces and metrics.
const SCOPE: &str = "lianxi";

/// Ended spans that wait for the collector; more are dropped.
const MAX_WAITING_SPANS: usize = 2048;

/// Longest wait for the collector at the end, for traces and metrics each.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter of the log has a mistake.
    #[error("[telemetry] log_level is no log filter")]
    LogLevel(#[source] ParseError),
    /// The collector's address cannot be used.
    #[error("[telemetry] otlp_endpoint {endpoint:?} cannot be used")]
    Collector {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: ExporterBuildError,
    },
    /// The metrics endpoint cannot be bound.
    #[error("cannot listen at {address}, choose another [telemetry] metrics_listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The Prometheus exporter did not start.
    #[error("cannot start the metrics endpoint: {0}")]
    Exporter(String),
    /// This process has telemetry already.
    #[error("telemetry is already set up in this process")]
    Twice,
}

/// Telemetry that is set up. Ends with [`Guard::shutdown`]; dropped, it loses what waits.
#[must_use = "dropped, it stops the metrics endpoint and loses spans that wait"]
pub struct Guard {
    tracer_provider: SdkTracerProvider,
    meter_provider: SdkMeterProvider,
    metrics: Metrics,
    endpoint: Option<(SocketAddr, JoinHandle<()>)>,
}

/// Sets up logs, traces and metrics for the whole process. Runs inside a tokio runtime.
///
/// # Errors
///
/// - [`Error::LogLevel`], [`Error::Collector`], [`Error::Listen`]: a value of `config` does not
///   work here.
/// - [`Error::Twice`]: called before in this process.
pub async fn init(config: &TelemetryConfig) -> Result<Guard, Error> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(Error::LogLevel)?;
    let resource = resource(config);
    let tracer_provider = tracer_provider(config, resource.clone())?;
    let (meter_provider, endpoint) = meter_provider(config, resource).await?;
    let metrics = Metrics::new(&meter_provider.meter(SCOPE), Arc::new(SystemClock));

    Registry::default()
        .with(log_layer(config.log_format).with_filter(filter))
        .with(trace::layer(&tracer_provider).with_filter(own_spans()))
        .try_init()
        .map_err(|_| Error::Twice)?;
    limit_foreign_log();
    metrics.install().map_err(|_| Error::Twice)?;
    if let Some((address, _)) = &endpoint {
        info!(%address, "metrics endpoint open");
    }
    Ok(Guard { tracer_provider, meter_provider, metrics, endpoint })
}

impl Guard {
    /// The process's metrics; cheap to clone.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Where `/metrics` and `/healthz` are served; `None`: nowhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(|(address, _)| *address)
    }

    /// Sends what waits to the collector, for at most a few seconds, and closes the endpoint.
    pub async fn shutdown(mut self) {
        let (tracers, meters) = (self.tracer_provider.clone(), self.meter_provider.clone());
        // Both wait for tasks of this runtime, so they must not hold one of its workers.
        let flushed = tokio::task::spawn_blocking(move || {
            let traces = tracers.shutdown_with_timeout(FLUSH_TIMEOUT);
            let metrics = meters.shutdown_with_timeout(FLUSH_TIMEOUT);
            traces.and(metrics)
        });
        if let Ok(Err(error)) = flushed.await {
            warn!(%error, "telemetry that waited was not sent");
        }
        if let Some((_, task)) = self.endpoint.take() {
            task.abort();
            // Ends cancelled; after it the port is free.
            let _ = task.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.endpoint {
            task.abort();
        }
    }
}

impl Debug for Guard {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guard").field("metrics_address", &self.metrics_address()).finish()
    }
}

fn resource(config: &TelemetryConfig) -> Resource {
    Resource::builder_empty()
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Spans of this program's own crates: those of the HTTP stack would trace the exporter itself.
fn own_spans() -> Targets {
    Targets::new().with_target("lianxi", Level::INFO).with_target("lianxi_node", Level::INFO)
}

/// Third-party crates that log through `log` do so from warnings up, whatever the filter says: the
/// store's engine writes keys and values of records below that (P1), and some of it when a thread
/// ends, where logging aborts the process.
fn limit_foreign_log() {
    log::set_max_level(log::max_level().min(log::LevelFilter::Warn));
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().with_current_span(true).with_span_list(false).boxed(),
    }
}

/// Without a collector spans get their ids and end nowhere: a trace that runs through this host
/// goes on at the next.
fn tracer_provider(
    config: &TelemetryConfig,
    resource: Resource,
) -> Result<SdkTracerProvider, Error> {
    let builder = SdkTracerProvider::builder().with_resource(resource);
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(builder.build()) };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| Error::Collector { endpoint: endpoint.clone(), source })?;
    let limits = BatchConfigBuilder::default().with_max_queue_size(MAX_WAITING_SPANS).build();
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(limits).build();
    Ok(builder.with_span_processor(batches).build())
}

async fn meter_provider(
    config: &TelemetryConfig,
    resource: Resource,
) -> Result<(SdkMeterProvider, Option<(SocketAddr, JoinHandle<()>)>), Error> {
    let mut builder = SdkMeterProvider::builder().with_resource(resource);
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| Error::Collector { endpoint: endpoint.clone(), source })?;
        builder = builder.with_periodic_exporter(exporter);
    }
    let Some(address) = config.metrics_listen else { return Ok((builder.build(), None)) };
    let registry = prometheus::Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(|error| Error::Exporter(error.to_string()))?;
    let serving = endpoint::serve(address, registry)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    Ok((builder.with_reader(exporter).build(), Some(serving)))
}
