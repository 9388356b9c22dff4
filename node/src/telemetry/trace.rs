//! Trace context as it travels in statement headers: the W3C `traceparent`, as text.
//!
//! One act is one trace from the city to the community and back, whichever of the hosts on the
//! way export it. A context that cannot be read starts a new trace; it never fails a statement.

use std::collections::HashMap;

use opentelemetry::{
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;

use super::SCOPE;

/// Name of the field in W3C Trace Context.
const TRACEPARENT: &str = "traceparent";

/// Trace context of the current span for a statement's header. Empty: not traced.
pub fn current_traceparent() -> String {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT).unwrap_or_default()
}

/// Puts `span` under the act that `traceparent`, a statement's header field, names. Called before
/// the span has children or is asked for its own context; text that is empty or no trace context
/// changes nothing.
pub fn set_parent_from(traceparent: &str, span: &Span) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let parent = TraceContextPropagator::new().extract(&carrier);
    if parent.span().span_context().is_valid() {
        // Fails only without a subscriber that traces, and then there is nothing to connect.
        let _ = span.set_parent(parent);
    }
}

/// What turns spans into parts of traces.
///
/// A span begins its part when it is asked for its context, not when it is entered: a statement is
/// read, and its trace known, inside the span of its receipt.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SCOPE))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
}

#[cfg(test)]
mod tests {
    use tracing::{info_span, subscriber::with_default};
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::*;

    const ELSEWHERE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traced<T>(act: impl FnOnce() -> T) -> T {
        let provider = SdkTracerProvider::builder().build();
        with_default(Registry::default().with(layer(&provider)), act)
    }

    #[test]
    fn a_statement_goes_on_in_the_trace_that_it_came_in() {
        traced(|| {
            let span = info_span!("notice.receive");
            set_parent_from(ELSEWHERE, &span);
            let relayed = span.in_scope(current_traceparent);
            assert_eq!(relayed.get(3..35), ELSEWHERE.get(3..35), "another trace: {relayed}");
            assert_ne!(relayed.get(36..52), ELSEWHERE.get(36..52), "no span of its own");
        });
    }

    #[test]
    fn the_trace_may_become_known_inside_the_span() {
        traced(|| {
            let span = info_span!("statement.receive");
            let (outer, inner) = span.in_scope(|| {
                set_parent_from(ELSEWHERE, &Span::current());
                let inner = info_span!("notice.receive").in_scope(current_traceparent);
                (current_traceparent(), inner)
            });
            assert_eq!(outer.get(3..35), ELSEWHERE.get(3..35), "another trace: {outer}");
            assert_eq!(inner.get(3..35), ELSEWHERE.get(3..35), "another trace: {inner}");
        });
    }

    #[test]
    fn a_new_act_begins_a_trace() {
        traced(|| {
            let one = info_span!("notice.issue").in_scope(current_traceparent);
            let other = info_span!("notice.issue").in_scope(current_traceparent);
            assert_eq!(one.len(), ELSEWHERE.len());
            assert_ne!(one.get(3..35), other.get(3..35));
        });
    }

    #[test]
    fn a_hostile_context_is_ignored() {
        traced(|| {
            let zero = format!("00-{}-{}-01", "0".repeat(32), "0".repeat(16));
            let long = "f".repeat(100_000);
            for text in ["", "00", "市", &zero, &long, "ff-\r\n-x-01", &ELSEWHERE.replace('4', "g")]
            {
                let span = info_span!("notice.receive");
                set_parent_from(text, &span);
                let own = span.in_scope(current_traceparent);
                assert_eq!(own.len(), ELSEWHERE.len(), "{text:.40} broke the trace");
            }
        });
    }

    #[test]
    fn without_a_subscriber_nothing_is_traced() {
        with_default(tracing::subscriber::NoSubscriber::default(), || {
            let span = info_span!("notice.receive");
            set_parent_from(ELSEWHERE, &span);
            assert_eq!(span.in_scope(current_traceparent), "");
        });
    }
}
