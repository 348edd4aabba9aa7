//! One face for every foreign daemon of the matrix.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::plan::{Plan, family_of};
use crate::eventually::eventually;
use crate::netns::Netns;
use crate::router::bird::Version;
use crate::router::{Bird, Details, Frr, GoBgp, OpenBgpd, Router as _, details};
use crate::{exec, pace, workdir};

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// BIRD 2.
    Bird2,
    /// BIRD 3.
    Bird3,
    /// BIRD 1.6, a process for each family.
    Bird1,
    /// FRR.
    Frr,
    /// GoBGP.
    GoBgp,
    /// OpenBGPD.
    OpenBgpd,
}

impl Kind {
    /// All of them, in the order of the matrix.
    pub const ALL: [Self; 6] = [
        Self::Bird2,
        Self::Bird3,
        Self::Bird1,
        Self::Frr,
        Self::GoBgp,
        Self::OpenBgpd,
    ];

    /// As printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bird2 => "BIRD 2",
            Self::Bird3 => "BIRD 3",
            Self::Bird1 => "BIRD 1.6",
            Self::Frr => "FRR",
            Self::GoBgp => "GoBGP",
            Self::OpenBgpd => "OpenBGPD",
        }
    }

    /// Last octet of its address; tells it apart everywhere.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Bird2 => 2,
            Self::Bird1 => 3,
            Self::Frr => 4,
            Self::GoBgp => 5,
            Self::OpenBgpd => 6,
            Self::Bird3 => 7,
        }
    }

    /// Whether this machine's distribution has it no more, as `integration/setup` found.
    #[must_use]
    pub fn dropped(self) -> bool {
        let marker = workdir::checkout().join("integration/cache/bird1/absent");
        self == Self::Bird1 && marker.exists()
    }

    /// Whether this machine has it.
    #[must_use]
    pub fn present(self) -> bool {
        match self {
            Self::Bird2 => Version::Two.programs().is_some(),
            Self::Bird3 => Version::Three.programs().is_some(),
            Self::Bird1 => Version::One.programs().is_some() && Version::OneV6.programs().is_some(),
            Self::Frr => Path::new("/usr/lib/frr/bgpd").exists(),
            Self::GoBgp => {
                Path::new("/usr/bin/gobgpd").exists() && Path::new("/usr/bin/gobgp").exists()
            }
            Self::OpenBgpd => OpenBgpd::present(),
        }
    }
}

#[derive(Debug)]
enum Running {
    /// BIRD 2 or 3.
    Bird(Bird),
    Bird1(Bird, Bird),
    Frr(Frr),
    GoBgp(GoBgp),
    OpenBgpd(OpenBgpd),
}

/// A foreign daemon in its namespace.
#[derive(Debug)]
pub struct Foreign {
    /// Which.
    pub kind: Kind,
    netns: Netns,
    folder: PathBuf,
    running: Option<Running>,
    /// FRR between two lives of its bgpd: zebra stays.
    resting: Option<Frr>,
}

impl Foreign {
    /// In a namespace, not started.
    #[must_use]
    pub fn new(kind: Kind, netns: Netns, folder: &Path) -> Self {
        Self {
            kind,
            netns,
            folder: folder.to_path_buf(),
            running: None,
            resting: None,
        }
    }

    /// Starts it; `recovering` tells it that it was there before and kept its forwarding state.
    ///
    /// # Errors
    /// When it does not accept the plan.
    pub fn start(&mut self, plan: &Plan, recovering: bool) -> Result<()> {
        ensure!(self.running.is_none(), "{} runs already", self.kind.name());
        let flags: &[&str] = if recovering { &["-R"] } else { &[] };
        let bird = |version, text: String| {
            Bird::start_with(version, &self.netns, &text, &self.folder, flags)
        };
        let running = match self.kind {
            Kind::Bird2 => Running::Bird(bird(Version::Two, plan.bird2())?),
            Kind::Bird3 => Running::Bird(bird(Version::Three, plan.bird2())?),
            Kind::Bird1 => Running::Bird1(
                bird(Version::One, plan.bird1(4))?,
                bird(Version::OneV6, plan.bird1(6))?,
            ),
            Kind::Frr => Running::Frr(match self.resting.take() {
                Some(mut frr) => {
                    frr.start_bgpd(plan.asn, &plan.frr())?;
                    frr
                }
                None => Frr::start(&self.netns, plan.asn, &plan.frr(), &self.folder)?,
            }),
            Kind::GoBgp => {
                // Sessions open once the routes are there: a restarted one would say End-of-RIB before it had any.
                // It takes an unnumbered neighbour from the kernel's table of neighbours, and looks there once.
                let unnumbered = plan.sessions.iter().find_map(|session| {
                    let interface = session.interface.as_ref()?;
                    Some(format!("{}%{interface}", session.remote))
                });
                if let Some(neighbour) = &unnumbered {
                    exec::check(self.netns.command("ping").args(["-c1", "-W5", neighbour]))?;
                }
                let closed = unnumbered.is_none();
                let gobgp =
                    GoBgp::start(&self.netns, &plan.gobgp(closed), &self.folder, recovering)?;
                add_routes(&gobgp, plan)?;
                for session in plan.sessions.iter().filter(|_| closed) {
                    gobgp.ask(&["neighbor", &session.remote.to_string(), "enable"])?;
                }
                Running::GoBgp(gobgp)
            }
            Kind::OpenBgpd => {
                // Sessions open once its own routes are there: its session engine has the configuration before its route
                // engine, which sends what arrives in between on as if it reflected for nobody.
                let openbgpd = OpenBgpd::start(&self.netns, &plan.openbgpd(true), &self.folder)?;
                for route in &plan.routes {
                    eventually("OpenBGPD has its own routes", pace::seconds(10), || {
                        let answer = openbgpd.json(&["show", "rib", "detail", &route.prefix])?;
                        ensure!(!details::of_openbgpd(&answer).is_empty(), "{answer}");
                        Ok(())
                    })?;
                }
                for session in &plan.sessions {
                    openbgpd.ask(&["neighbor", &session.name, "up"])?;
                }
                Running::OpenBgpd(openbgpd)
            }
        };
        self.running = Some(running);
        Ok(())
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        match self.running.take().context("not running")? {
            Running::Bird(bird) => bird.kill(),
            Running::Bird1(one, other) => one.kill().and_then(|()| other.kill()),
            Running::Frr(mut frr) => {
                frr.kill_bgpd()?;
                self.resting = Some(frr);
                Ok(())
            }
            Running::GoBgp(gobgp) => gobgp.kill(),
            Running::OpenBgpd(openbgpd) => openbgpd.kill(),
        }
    }

    /// Whether it was started and not killed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn running(&self) -> Result<&Running> {
        self.running
            .as_ref()
            .with_context(|| format!("{} does not run", self.kind.name()))
    }

    /// Gives the running daemon another plan that differs in routes or in what is refused.
    ///
    /// # Errors
    /// When it refuses.
    pub fn change(&self, before: &Plan, after: &Plan) -> Result<()> {
        match self.running()? {
            Running::Bird(bird) => bird.reconfigure(&after.bird2()),
            Running::Bird1(one, other) => {
                one.reconfigure(&after.bird1(4))?;
                other.reconfigure(&after.bird1(6))
            }
            Running::Frr(frr) => {
                let mut lines = Vec::new();
                if before.refused != after.refused {
                    lines.push("no route-map TAKEN4 deny 5".to_owned());
                }
                for (index, route) in before.routes.iter().enumerate() {
                    if after
                        .routes
                        .iter()
                        .all(|other| other.prefix != route.prefix)
                    {
                        lines.push(format!("router bgp {}", before.asn));
                        lines.push(format!("address-family ipv{} unicast", route.family()));
                        lines.push(format!(
                            "no network {} route-map ROUTE{index}",
                            route.prefix
                        ));
                        lines.push("exit-address-family".to_owned());
                        lines.push("exit".to_owned());
                    }
                }
                let lines: Vec<_> = lines.iter().map(String::as_str).collect();
                frr.configure(&lines)
            }
            Running::GoBgp(gobgp) => {
                for route in &before.routes {
                    if after
                        .routes
                        .iter()
                        .all(|other| other.prefix != route.prefix)
                    {
                        let family = format!("ipv{}", route.family());
                        gobgp.ask(&["global", "rib", "del", &route.prefix, "-a", &family])?;
                    }
                }
                Ok(())
            }
            Running::OpenBgpd(openbgpd) => {
                openbgpd.reconfigure(&after.openbgpd(false))?;
                // It keeps what it was told before policy and asks only when told to.
                if before.refused != after.refused {
                    for session in &after.sessions {
                        openbgpd.ask(&["neighbor", &session.remote.to_string(), "refresh"])?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Whether the session with a neighbour is Established.
    ///
    /// # Errors
    /// When the daemon does not answer or knows no such neighbour.
    pub fn established(&self, remote: IpAddr) -> Result<bool> {
        let name = remote.to_string();
        match self.running()? {
            Running::Bird(bird) => state_in(&bird.sessions()?, remote),
            Running::Bird1(one, other) => match remote {
                IpAddr::V4(_) => state_in(&one.sessions()?, remote),
                IpAddr::V6(_) => state_in(&other.sessions()?, remote),
            },
            Running::Frr(frr) => state_in(&frr.sessions()?, remote),
            Running::GoBgp(gobgp) => {
                let answer = gobgp.json(&["neighbor", &name])?;
                let state = answer
                    .pointer("/state/session_state")
                    .or_else(|| answer.pointer("/state/session-state"));
                match state {
                    Some(Value::String(state)) => Ok(state.eq_ignore_ascii_case("established")),
                    Some(Value::Number(number)) => Ok(number.as_u64() == Some(6)),
                    _ => bail!("no state in {answer}"),
                }
            }
            Running::OpenBgpd(openbgpd) => {
                let answer = openbgpd.json(&["show", "neighbor", &name])?;
                let state = answer.pointer("/neighbors/0/state").and_then(Value::as_str);
                Ok(state == Some("Established"))
            }
        }
    }

    /// Every path it holds for a prefix, as it prints them.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn details(&self, prefix: &str) -> Result<Vec<Details>> {
        let family = family_of(prefix);
        let bird = |bird: &Bird| -> Result<Vec<Details>> {
            match bird.ask(&format!("show route {prefix} all")) {
                // BIRD 2 ends with a failure then, BIRD 1.6 does not.
                Err(error) if error.to_string().contains("Network not") => Ok(Vec::new()),
                answer => Ok(details::of_bird(&answer?)),
            }
        };
        match self.running()? {
            Running::Bird(two) => bird(two),
            Running::Bird1(one, other) => bird(if family == 4 { one } else { other }),
            Running::Frr(frr) => {
                let text = frr.ask(&format!("show bgp ipv{family} unicast {prefix} json"))?;
                let answer = serde_json::from_str(&text).unwrap_or(Value::Null);
                Ok(details::of_frr(&answer))
            }
            Running::GoBgp(gobgp) => {
                let family = format!("ipv{family}");
                // "Network not in table" ends with a failure.
                let answer = gobgp
                    .json(&["global", "rib", prefix, "-a", &family])
                    .unwrap_or(Value::Null);
                Ok(details::of_gobgp(&answer))
            }
            Running::OpenBgpd(openbgpd) => {
                let answer = openbgpd.json(&["show", "rib", "detail", prefix])?;
                Ok(details::of_openbgpd(&answer))
            }
        }
    }

    /// How many ROUTE-REFRESH messages came from a neighbour, those that begin and end an enhanced refresh included.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn refreshes(&self, remote: IpAddr) -> Result<u64> {
        let name = remote.to_string();
        let count = |answer: &Value, pointer: &str| match answer.pointer(pointer) {
            Some(Value::String(text)) => text.parse().unwrap_or(0),
            Some(number) => number.as_u64().unwrap_or(0),
            None => 0,
        };
        // BIRD counts them nowhere; its log has them.
        let logged = |bird: &Bird| {
            let session = format!("m{}: Got ", if remote.is_ipv4() { 4 } else { 6 });
            let log = bird.log();
            let kinds = ["ROUTE-REFRESH", "BEGIN-OF-RR", "END-OF-RR"];
            let lines = log.lines().filter(|line| {
                line.split_once(&session)
                    .is_some_and(|(_, what)| kinds.iter().any(|kind| what.starts_with(kind)))
            });
            u64::try_from(lines.count()).unwrap_or(u64::MAX)
        };
        match self.running()? {
            Running::Bird(bird) => Ok(logged(bird)),
            Running::Bird1(one, other) => Ok(logged(match remote {
                IpAddr::V4(_) => one,
                IpAddr::V6(_) => other,
            })),
            Running::Frr(frr) => {
                let text = frr.ask(&format!("show bgp neighbors {name} json"))?;
                let answer: Value = serde_json::from_str(&text).context(text)?;
                let pointer = format!("/{name}/messageStats/routeRefreshRecv");
                Ok(count(&answer, &pointer))
            }
            Running::GoBgp(gobgp) => {
                let answer = gobgp.json(&["neighbor", &name])?;
                Ok(count(&answer, "/state/messages/received/refresh"))
            }
            Running::OpenBgpd(openbgpd) => {
                let answer = openbgpd.json(&["show", "neighbor", &name])?;
                let pointer = "/neighbors/0/stats/message/received/route_refresh";
                Ok(count(&answer, pointer))
            }
        }
    }

    /// Closes a session with a text for the people at the other end.
    ///
    /// # Errors
    /// When it refuses.
    pub fn shut(&self, remote: IpAddr, text: &str) -> Result<()> {
        let name = remote.to_string();
        let session = format!("m{}", if remote.is_ipv4() { 4 } else { 6 });
        match self.running()? {
            Running::Bird(bird) | Running::Bird1(bird, _) => {
                // The client takes the text in quotes, as a person would type it.
                bird.ask(&format!("disable {session} \"{text}\"")).map(drop)
            }
            Running::Frr(frr) => frr.configure(&[
                &format!("router bgp {}", frr.asn()),
                &format!("neighbor {name} shutdown message {text}"),
            ]),
            Running::GoBgp(gobgp) => gobgp
                .ask(&["neighbor", &name, "shutdown", "--reason", text])
                .map(drop),
            Running::OpenBgpd(openbgpd) => {
                openbgpd.ask(&["neighbor", &name, "down", text]).map(drop)
            }
        }
    }

    /// Whether it logged a text it was sent in a NOTIFICATION: as it is, or, GoBGP, as the octets of the message's data.
    #[must_use]
    pub fn logged(&self, text: &str) -> bool {
        let log = self.log();
        let spoken = [
            &[u8::try_from(text.len()).unwrap_or(u8::MAX)],
            text.as_bytes(),
        ]
        .concat();
        let wrapped = [&[6, 2], spoken.as_slice()].concat();
        log.contains(text) || log.contains(&base64(&spoken)) || log.contains(&base64(&wrapped))
    }

    /// What it logged.
    fn log(&self) -> String {
        match &self.running {
            None => String::new(),
            Some(Running::Bird(bird)) => bird.log(),
            Some(Running::Bird1(one, other)) => one.log() + &other.log(),
            Some(Running::Frr(frr)) => frr.log(),
            Some(Running::GoBgp(gobgp)) => gobgp.log(),
            Some(Running::OpenBgpd(openbgpd)) => openbgpd.log(),
        }
    }
}

fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in octets.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, place| {
            bits << 8 | three.get(place).copied().map_or(0, usize::from)
        });
        for place in 0..4 {
            text.push(match place > three.len() {
                true => '=',
                false => DIGITS
                    .get(bits >> (18 - 6 * place) & 63)
                    .map_or('=', |digit| char::from(*digit)),
            });
        }
    }
    text
}

fn state_in(sessions: &std::collections::BTreeMap<IpAddr, bool>, remote: IpAddr) -> Result<bool> {
    sessions
        .get(&remote)
        .copied()
        .with_context(|| format!("no session with {remote}"))
}

fn add_routes(gobgp: &GoBgp, plan: &Plan) -> Result<()> {
    for route in &plan.routes {
        let family = route.family();
        let (med, local_pref) = (route.med.to_string(), route.local_pref.to_string());
        let hop = if family == 4 {
            &plan.router_id
        } else {
            &plan.ipv6
        };
        let family = format!("ipv{family}");
        let mut words = vec![
            "global",
            "rib",
            "add",
            "-a",
            &family,
            &route.prefix,
            "origin",
            "igp",
            "community",
            &route.community,
            "large-community",
            &route.large_community,
            "med",
            &med,
            "local-pref",
            &local_pref,
        ];
        // Over a link without addresses it names the one of the link if none is given.
        if plan
            .sessions
            .iter()
            .all(|session| session.interface.is_none())
        {
            words.extend(["nexthop", hop]);
        }
        if let Some(target) = &route.route_target {
            words.extend(["rt", target]);
        }
        let maker = format!("{}:{}", plan.asn, plan.router_id);
        if route.aggregated {
            words.extend(["aggregator", &maker]);
        }
        gobgp.ask(&words)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_gobgp_logs_it() {
        assert_eq!(base64(b"\x06\x02\x0afarewell-5"), "BgIKZmFyZXdlbGwtNQ==");
        assert_eq!(base64(b"\x06\x02"), "BgI=");
    }
}
