//! Every metric, with its help and unit: what a speaker is measured by in [`speaker`], what every daemon is in [`page`].
//!
//! No label has values that grow with the cluster, with peers or with pods: what belongs to one of them is in `margay peers`,
//! `margay routes` and `margay explain`. Gauges that mirror somebody else's state are set when they are scraped, so that none of them
//! can disagree with the state for longer than a scrape.

pub mod page;
pub mod speaker;

use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounter, IntGauge, IntGaugeVec};

pub use self::page::Page;
pub use self::speaker::SpeakerMetrics;

/// Seconds from a tenth of a millisecond to ten seconds.
const LATENCY_BUCKETS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// All metrics of a daemon. Clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    page: Page,
    /// Sessions, tables and watched paths.
    pub speaker: SpeakerMetrics,
    /// Prefixes this node originates.
    pub bgp_originated: IntGauge,
    /// Sessions kept beyond their configuration until their replacement is complete.
    pub bgp_lingering: IntGauge,
    /// Routes the kernel should hold, by family.
    pub kernel_routes: IntGaugeVec,
    /// Changes that failed and are retried.
    pub kernel_pending: IntGauge,
    /// Changes written.
    pub kernel_writes: IntCounter,
    /// Changes refused.
    pub kernel_errors: IntCounter,
    /// Differences that somebody else made and that were repaired.
    pub kernel_repairs: IntCounter,
    /// Whole comparisons of the kernel with the desired state.
    pub kernel_audits: IntCounter,
    /// Differences that only an audit noticed.
    pub kernel_audit_findings: IntCounter,
    /// Times the kernel dropped events.
    pub kernel_overruns: IntCounter,
    /// Nodes of the cluster.
    pub nodes: IntGauge,
    /// Objects that are understood and not acted on.
    pub unsupported_objects: IntGauge,
    /// Addresses of this node's blocks, by state.
    pub ipam_addresses: IntGaugeVec,
    /// Blocks of this node.
    pub ipam_blocks: IntGauge,
    /// Requests of the CNI plugin, by verb and result.
    pub cni_seconds: HistogramVec,
    /// Pods of this node.
    pub workloads: IntGauge,
    /// Objects that do not parse and count as absent.
    pub invalid_objects: IntGauge,
    /// Wishes of the cluster this node cannot honour.
    pub problems: IntGauge,
    /// Whether the datastore answers.
    pub in_sync: IntGauge,
    /// Seconds the last computation of the desired state took.
    pub desired_seconds: Gauge,
    /// Computations of the desired state.
    pub desired_runs: IntCounter,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Never with the names below: the registry refuses only names that are malformed or taken.
    pub fn new() -> prometheus::Result<Self> {
        let page = Page::new()?;
        let speaker = SpeakerMetrics::new(&page)?;
        let int_gauge = |name, help| page.gauge(name, help);
        let int_gauges = |name, help, labels: &[&str]| page.gauges(name, help, labels);
        let counter = |name, help| page.counter(name, help);
        let gauge = |name: &str, help: &str| page.add(Gauge::new(name, help)?);
        let cni_seconds = page.add(HistogramVec::new(
            HistogramOpts::new(
                "margay_cni_request_duration_seconds",
                "Time the daemon took to answer the CNI plugin.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["verb", "result"],
        )?)?;
        Ok(Self {
            speaker,
            bgp_originated: int_gauge(
                "margay_bgp_routes_originated",
                "Prefixes this node originates.",
            )?,
            bgp_lingering: int_gauge(
                "margay_bgp_sessions_lingering",
                "Sessions kept beyond their configuration until what replaces them is complete.",
            )?,
            kernel_routes: int_gauges(
                "margay_kernel_routes",
                "Routes this node's kernel should hold.",
                &["family"],
            )?,
            kernel_pending: int_gauge(
                "margay_kernel_changes_pending",
                "Kernel changes that failed and are retried.",
            )?,
            kernel_writes: counter(
                "margay_kernel_writes_total",
                "Changes written to the kernel.",
            )?,
            kernel_errors: counter("margay_kernel_errors_total", "Changes the kernel refused.")?,
            kernel_repairs: counter(
                "margay_kernel_repairs_total",
                "Changes made by others and repaired.",
            )?,
            kernel_audits: counter(
                "margay_kernel_audits_total",
                "Whole comparisons of the kernel with what it should hold.",
            )?,
            kernel_audit_findings: counter(
                "margay_kernel_audit_findings_total",
                "Differences that no event had told and an audit found.",
            )?,
            kernel_overruns: counter(
                "margay_kernel_event_overruns_total",
                "Times the kernel dropped events and everything was read again.",
            )?,
            nodes: int_gauge("margay_nodes", "Nodes of the cluster.")?,
            unsupported_objects: int_gauge(
                "margay_config_unsupported_objects",
                "Objects that are understood and not acted on.",
            )?,
            ipam_addresses: int_gauges(
                "margay_ipam_addresses",
                "Addresses of this node's blocks by state.",
                &["family", "state"],
            )?,
            ipam_blocks: int_gauge("margay_ipam_blocks", "Blocks affine to this node.")?,
            cni_seconds,
            workloads: int_gauge("margay_workloads", "Pods of this node.")?,
            invalid_objects: int_gauge(
                "margay_config_invalid_objects",
                "Objects that do not parse and count as absent.",
            )?,
            problems: int_gauge(
                "margay_config_problems",
                "Wishes of the cluster that this node cannot honour.",
            )?,
            in_sync: int_gauge(
                "margay_datastore_in_sync",
                "1 once every list of the datastore was complete.",
            )?,
            desired_seconds: gauge(
                "margay_desired_last_duration_seconds",
                "Time the last computation of the desired state took.",
            )?,
            desired_runs: counter(
                "margay_desired_runs_total",
                "Computations of the desired state.",
            )?,
            page,
        })
    }

    /// The text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        self.page.render()
    }
}

/// Raises a counter to a total that is counted elsewhere. A total that is lower begins anew, as that of a process that restarted does.
pub fn raise(counter: &IntCounter, total: u64) {
    if total < counter.get() {
        counter.reset();
    }
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// A count as a gauge takes it.
#[must_use]
pub fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_begins_anew_with_whoever_counts() {
        let counter = IntCounter::new("things_total", "Things.").expect("a good name");
        let mut seen = Vec::new();
        // The speaker is replaced after the third look, and has counted two when it is looked at again.
        for total in [0, 7, 9, 2, 2, 8, 10] {
            raise(&counter, total);
            seen.push(counter.get());
        }
        assert_eq!(seen, [0, 7, 9, 2, 2, 8, 10]);
    }
}
