//! `/metrics`, and `/livez` and `/readyz` on a port of their own. Read-only: nothing here changes anything.
//!
//! Both are on unless FelixConfiguration says false; its ports and hosts are honoured while the daemon runs, by moving the
//! listener. A port that is taken is tried again and again: a daemon that cannot show its metrics still routes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use margay_bgp::family::Family;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli::args::Listen;
use crate::config::{Config, HEALTH_PORT, METRICS_PORT, listen_address};
use crate::health::{Check, Health};
use crate::metrics::speaker::family_label;
use crate::metrics::{Metrics, Page, SpeakerMetrics, gauge_value, raise};
use crate::model::ClusterState;
use crate::reconcile::Dataplane;
use crate::routing::Routing;
use crate::server::http;

/// How long to wait before a port is tried again.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// Where the numbers come from that are read when they are asked for.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The values.
    pub metrics: Metrics,
    /// Sessions and routes.
    pub routing: Routing,
    /// The kernel's side.
    pub dataplane: Dataplane,
    /// The cluster.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
}

/// Where the two listeners are at the moment.
#[must_use]
pub fn listeners(config: &Config, cluster: &ClusterState) -> (Listen, Listen) {
    let felix = &cluster.felix;
    let metrics_host = felix.metrics_host.map(|host| host.to_string());
    let metrics = listen_address(
        config.metrics_listen,
        Some(felix.metrics_enabled),
        metrics_host.as_deref(),
        Some(felix.metrics_port),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), METRICS_PORT),
    );
    let health = listen_address(
        config.health_listen,
        Some(felix.health_enabled),
        Some(felix.health_host.as_str()),
        Some(felix.health_port),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), HEALTH_PORT),
    );
    (metrics, health)
}

/// Serves both until `stop` is cancelled.
pub async fn serve(config: Config, scrape: Scrape, health: Health, stop: CancellationToken) {
    let mut cluster = scrape.cluster.clone();
    loop {
        let now = listeners(&config, &cluster.borrow_and_update().clone());
        let round = stop.child_token();
        let metrics = scrape.clone();
        let page = Router::new().route("/metrics", get(move || render(metrics.clone())));
        let (live, ready) = (health.clone(), health.clone());
        let probes = Router::new()
            .route(
                "/livez",
                get({
                    let health = live.clone();
                    move || livez(health.clone())
                }),
            )
            .route(
                "/readyz",
                get({
                    let health = ready.clone();
                    move || readyz(health.clone())
                }),
            )
            // Calico's names, for probes written for it.
            .route("/liveness", get(move || livez(live.clone())))
            .route("/readiness", get(move || readyz(ready.clone())));
        let served = futures_util::future::join(
            listen("metrics", now.0, page, round.clone()),
            listen("health", now.1, probes, round.clone()),
        );
        let moved = async {
            while cluster.changed().await.is_ok() {
                if listeners(&config, &cluster.borrow_and_update().clone()) != now {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let until = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = moved => {}
            }
            round.cancel();
        };
        futures_util::future::join(served, until).await;
        if stop.is_cancelled() {
            return;
        }
    }
}

/// Serves the metrics of a lone speaker until `stop` is cancelled.
pub async fn serve_speaker(
    at: Listen,
    page: Page,
    metrics: SpeakerMetrics,
    routing: Routing,
    stop: CancellationToken,
) {
    let render = move || {
        let (page, metrics, routing) = (page.clone(), metrics.clone(), routing.clone());
        async move {
            metrics.read(routing.snapshot().await.ok().as_ref());
            as_text(page.render())
        }
    };
    let router = Router::new().route("/metrics", get(render));
    listen("metrics", at, router, stop).await;
}

async fn listen(what: &'static str, at: Listen, router: Router, stop: CancellationToken) {
    let Listen::On(address) = at else { return };
    let mut said = false;
    loop {
        let bound = match TcpListener::bind(address).await {
            // A host without IPv6 has no [::]; every IPv4 address is what is left of "all".
            Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                TcpListener::bind(SocketAddr::new(
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    address.port(),
                ))
                .await
            }
            bound => bound,
        };
        match bound {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(address);
                tracing::info!(what, %address, "listening");
                return http::serve(what, listener, router, &stop).await;
            }
            Err(error) if !said => {
                said = true;
                tracing::warn!(what, %address, %error, "cannot listen; trying again");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(BIND_RETRY) => {}
        }
    }
}

async fn livez(health: Health) -> Response {
    probe(&health.live(Instant::now()))
}

async fn readyz(health: Health) -> Response {
    probe(&health.ready())
}

fn probe(checks: &[Check]) -> Response {
    let well = checks.iter().all(|check| check.ok);
    let mut text = String::new();
    for check in checks {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "[{}] {}: {}",
            if check.ok { "+" } else { "-" },
            check.name,
            check.detail
        );
    }
    text.push_str(if well { "ok\n" } else { "not ok\n" });
    let status = if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, text).into_response()
}

async fn render(scrape: Scrape) -> Response {
    scrape.refresh().await;
    as_text(scrape.metrics.render())
}

fn as_text(page: String) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], page).into_response()
}

impl Scrape {
    /// Reads everything that is a state and not a count.
    pub async fn refresh(&self) {
        let snapshot = self.routing.snapshot().await.ok();
        let metrics = &self.metrics;
        metrics.speaker.read(snapshot.as_ref());
        let view = self.routing.view().borrow().clone();
        metrics.bgp_originated.set(gauge_value(view.originated));
        metrics.bgp_lingering.set(gauge_value(view.lingering.len()));
        metrics.problems.set(gauge_value(view.problems.len()));
        let of = |family: Family| {
            view.desired.as_ref().map_or(0, |state| {
                state
                    .routes
                    .keys()
                    .filter(|key| key.family() == family)
                    .count()
            })
        };
        for family in Family::ALL {
            metrics
                .kernel_routes
                .with_label_values(&[family_label(family)])
                .set(gauge_value(of(family)));
        }
        let counters = self.dataplane.counters();
        metrics
            .kernel_pending
            .set(gauge_value(self.dataplane.status().borrow().pending_total));
        let sum = |counts: &[u64]| counts.iter().sum();
        raise(
            &metrics.kernel_writes,
            sum(&[
                counters.routes_written.get(),
                counters.routes_deleted.get(),
                counters.link_changes.get(),
                counters.entry_changes.get(),
                counters.filter_writes.get(),
                counters.sysctl_writes.get(),
            ]),
        );
        raise(
            &metrics.kernel_errors,
            sum(&[
                counters.route_errors.get(),
                counters.link_errors.get(),
                counters.entry_errors.get(),
                counters.filter_errors.get(),
                counters.sysctl_errors.get(),
                counters.dump_errors.get(),
            ]),
        );
        raise(&metrics.kernel_repairs, counters.repairs.get());
        raise(&metrics.kernel_audits, counters.audits.get());
        raise(
            &metrics.kernel_audit_findings,
            counters.audit_findings.get(),
        );
        raise(&metrics.kernel_overruns, counters.overruns.get());
        self.cluster();
    }

    fn cluster(&self) {
        let metrics = &self.metrics;
        let cluster = self.cluster.borrow().clone();
        metrics
            .in_sync
            .set(i64::from(cluster.in_sync && !cluster.from_saved_view));
        metrics.workloads.set(gauge_value(cluster.workloads.len()));
        metrics
            .invalid_objects
            .set(gauge_value(cluster.invalid.len()));
        metrics
            .unsupported_objects
            .set(gauge_value(cluster.unsupported.len()));
        metrics.nodes.set(gauge_value(cluster.nodes.len()));
        let mut blocks = 0;
        for family in Family::ALL {
            let (mut used, mut size) = (0_usize, 0_usize);
            for block in cluster
                .blocks_of(&cluster.node_name)
                .filter(|block| block.cidr.family() == family)
            {
                blocks += 1;
                used += block.allocated;
                let bits = u32::from(block.cidr.max_len() - block.cidr.len());
                size = size.saturating_add(1_usize.checked_shl(bits).unwrap_or(usize::MAX));
            }
            let set = |state, count| {
                metrics
                    .ipam_addresses
                    .with_label_values(&[family_label(family), state])
                    .set(gauge_value(count));
            };
            set("allocated", used);
            set("free", size.saturating_sub(used));
        }
        metrics.ipam_blocks.set(blocks);
    }
}
