//! Every metric, with its help and unit.
//!
//! No label has values that grow with the cluster, with peers or with pods: what belongs to one of them is in `margay peers`,
//! `margay routes` and `margay explain`. Gauges that mirror somebody else's state are set when they are scraped, so that none of them
//! can disagree with the state for longer than a scrape.

use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Seconds from a tenth of a millisecond to ten seconds.
const LATENCY_BUCKETS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// All metrics of a daemon. Clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Sessions by FSM state.
    pub bgp_sessions: IntGaugeVec,
    /// Paths received from peers before import policy, by family.
    pub bgp_received: IntGaugeVec,
    /// Paths that import policy let through, by family.
    pub bgp_accepted: IntGaugeVec,
    /// Routes advertised, summed over peers, by family.
    pub bgp_advertised: IntGaugeVec,
    /// Best routes, by family.
    pub bgp_best: IntGaugeVec,
    /// Routes kept stale during a graceful restart.
    pub bgp_stale: IntGauge,
    /// Sessions that became Established.
    pub bgp_established: IntCounter,
    /// Sessions that were lost.
    pub bgp_lost: IntCounter,
    /// Malformed messages of peers, by where the mistake is and what was done.
    pub bgp_errors: IntCounterVec,
    /// Prefixes this node originates.
    pub bgp_originated: IntGauge,
    /// Sessions kept beyond their configuration until their replacement is complete.
    pub bgp_lingering: IntGauge,
    /// Paths watched by BFD, by state.
    pub bfd_sessions: IntGaugeVec,
    /// Changes of those states.
    pub bfd_transitions: IntCounter,
    /// Paths that were up and ended.
    pub bfd_losses: IntCounter,
    /// BFD packets sent.
    pub bfd_sent: IntCounter,
    /// BFD packets taken by a session.
    pub bfd_received: IntCounter,
    /// Datagrams on BFD's ports that were dropped, by reason.
    pub bfd_dropped: IntCounterVec,
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
    /// Interned attribute sets.
    pub bgp_attribute_sets: IntGauge,
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
    process: Process,
}

#[derive(Clone, Debug)]
struct Process {
    cpu: Counter,
    resident: IntGauge,
    files: IntGauge,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Never with the names below: the registry refuses only names that are malformed or taken.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let int_gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let int_gauges =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
                let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let bfd_dropped = IntCounterVec::new(
            Opts::new(
                "margay_bfd_packets_dropped_total",
                "Datagrams on BFD's ports that no session took.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(bfd_dropped.clone()))?;
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
                let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let gauge = |name: &str, help: &str| -> prometheus::Result<Gauge> {
            let metric = Gauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let cni_seconds = HistogramVec::new(
            HistogramOpts::new(
                "margay_cni_request_duration_seconds",
                "Time the daemon took to answer the CNI plugin.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["verb", "result"],
        )?;
        registry.register(Box::new(cni_seconds.clone()))?;
        let build = GaugeVec::new(
            Opts::new(
                "margay_build_info",
                "Always 1; the label carries the version.",
            ),
            &["version"],
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        registry.register(Box::new(build))?;
        let start = gauge(
            "process_start_time_seconds",
            "Start of the process since the epoch in seconds.",
        )?;
        start.set(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
        );
        // The standard process metrics; prometheus' own collector would bring another dependency for three numbers.
        let cpu = Counter::new(
            "process_cpu_seconds_total",
            "User and system CPU time in seconds.",
        )?;
        registry.register(Box::new(cpu.clone()))?;
        Ok(Self {
            bgp_sessions: int_gauges("margay_bgp_sessions", "BGP sessions by state.", &["state"])?,
            bgp_received: int_gauges(
                "margay_bgp_routes_received",
                "Paths received from peers, before import policy.",
                &["family"],
            )?,
            bgp_accepted: int_gauges(
                "margay_bgp_routes_accepted",
                "Paths received from peers that import policy accepted.",
                &["family"],
            )?,
            bgp_advertised: int_gauges(
                "margay_bgp_routes_advertised",
                "Routes advertised, summed over peers.",
                &["family"],
            )?,
            bgp_best: int_gauges(
                "margay_bgp_routes_best",
                "Prefixes with a best route.",
                &["family"],
            )?,
            bgp_stale: int_gauge(
                "margay_bgp_routes_stale",
                "Paths kept while their peer restarts.",
            )?,
            bgp_established: counter(
                "margay_bgp_sessions_established_total",
                "Sessions that became Established.",
            )?,
            bgp_lost: counter(
                "margay_bgp_sessions_lost_total",
                "Sessions that left Established.",
            )?,
            bgp_errors: counters(
                "margay_bgp_errors_total",
                "Mistakes in messages of peers, by where they are and what was done.",
                &["class", "action"],
            )?,
            bgp_originated: int_gauge(
                "margay_bgp_routes_originated",
                "Prefixes this node originates.",
            )?,
            bgp_lingering: int_gauge(
                "margay_bgp_sessions_lingering",
                "Sessions kept beyond their configuration until what replaces them is complete.",
            )?,
            bfd_sessions: int_gauges(
                "margay_bfd_sessions",
                "Paths watched by BFD, by state.",
                &["state"],
            )?,
            bfd_transitions: counter(
                "margay_bfd_transitions_total",
                "Changes of BFD sessions' states.",
            )?,
            bfd_losses: counter(
                "margay_bfd_paths_lost_total",
                "Paths that were up and ended by nobody's will.",
            )?,
            bfd_sent: counter("margay_bfd_packets_sent_total", "BFD packets sent.")?,
            bfd_received: counter(
                "margay_bfd_packets_received_total",
                "BFD packets that a session took.",
            )?,
            bfd_dropped,
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
            bgp_attribute_sets: int_gauge(
                "margay_bgp_attribute_sets",
                "Distinct sets of path attributes held.",
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
            process: Process {
                cpu,
                resident: int_gauge("process_resident_memory_bytes", "Resident memory in bytes.")?,
                files: int_gauge("process_open_fds", "Open file descriptors.")?,
            },
            registry,
        })
    }

    /// The text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.read();
        let mut text = Vec::new();
        // Encoding into memory fails only for metrics without samples' names, which registration has refused.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Raises a counter to a total that is counted elsewhere.
pub fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// A count as a gauge takes it.
#[must_use]
pub fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Process {
    fn read(&self) {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .unwrap_or(4096);
        if let Ok(text) = std::fs::read_to_string("/proc/self/statm")
            && let Some(pages) = text
                .split_whitespace()
                .nth(1)
                .and_then(|field| field.parse::<i64>().ok())
        {
            self.resident.set(pages.saturating_mul(page));
        }
        if let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        {
            let seconds = |time: nix::sys::time::TimeVal| {
                use nix::sys::time::TimeValLike;
                std::time::Duration::from_micros(
                    u64::try_from(time.num_microseconds()).unwrap_or(0),
                )
                .as_secs_f64()
            };
            let total = seconds(usage.user_time()) + seconds(usage.system_time());
            self.cpu.inc_by((total - self.cpu.get()).max(0.0));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(gauge_value(files.count()));
        }
    }
}
