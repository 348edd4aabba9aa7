//! One page of metrics: what is registered, and the process itself.

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::gauge_value;

/// Metrics that are shown together, those of the process among them. Clones share the values.
#[derive(Clone, Debug)]
pub struct Page {
    registry: Registry,
    process: Process,
}

#[derive(Clone, Debug)]
struct Process {
    cpu: Counter,
    resident: IntGauge,
    files: IntGauge,
}

impl Page {
    /// A page of the process alone.
    ///
    /// # Errors
    /// Never with the names below: the registry refuses only names that are malformed or taken.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
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
        let start = Gauge::new(
            "process_start_time_seconds",
            "Start of the process since the epoch in seconds.",
        )?;
        start.set(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
        );
        registry.register(Box::new(start))?;
        // The standard process metrics; prometheus' own collector would bring another dependency for three numbers.
        let process = Process {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "User and system CPU time in seconds.",
            )?,
            resident: IntGauge::new("process_resident_memory_bytes", "Resident memory in bytes.")?,
            files: IntGauge::new("process_open_fds", "Open file descriptors.")?,
        };
        registry.register(Box::new(process.cpu.clone()))?;
        registry.register(Box::new(process.resident.clone()))?;
        registry.register(Box::new(process.files.clone()))?;
        Ok(Self { registry, process })
    }

    /// Registers a metric.
    pub(super) fn add<M: Collector + Clone + 'static>(&self, metric: M) -> prometheus::Result<M> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
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
