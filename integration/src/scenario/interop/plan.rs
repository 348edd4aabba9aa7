//! What one daemon is to do, in no daemon's language, and its translation into each.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Seconds each session offers as hold time.
pub const HOLD_TIME: u16 = 9;

/// One daemon in one act.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its AS.
    pub asn: u32,
    /// Its BGP Identifier, which is its IPv4 address too, and its cluster where it reflects.
    pub router_id: String,
    /// Its IPv6 address.
    pub ipv6: String,
    /// Whom it speaks with.
    pub sessions: Vec<Session>,
    /// What it announces.
    pub routes: Vec<Originated>,
    /// A prefix it does not accept from anyone.
    pub refused: Option<String>,
}

/// One session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Name, unique at this end.
    pub name: String,
    /// The other end.
    pub remote: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// Families (4, 6) it carries.
    pub families: Vec<u8>,
    /// Waits instead of dialling.
    pub passive: bool,
    /// The other end is a client of this one's as reflector.
    pub client: bool,
    /// Password of both ends.
    pub password: Option<String>,
    /// Both ends are one hop apart and take nothing from farther away (RFC 5082).
    pub gtsm: bool,
    /// Several paths of a prefix both ways (RFC 7911).
    pub add_path: bool,
    /// The link between both ends, where the session has no addresses but link-local ones.
    pub interface: Option<String>,
}

impl Session {
    /// IPv4 routes over an IPv6 session, with next hops of IPv6 (RFC 8950).
    fn extended_next_hop(&self) -> bool {
        self.remote.is_ipv6() && self.families.contains(&4)
    }
}

/// A route a daemon announces.
#[derive(Clone, Debug)]
pub struct Originated {
    /// Prefix.
    pub prefix: String,
    /// Its community.
    pub community: String,
    /// Its large community.
    pub large_community: String,
    /// Its route target; margay originates none.
    pub route_target: Option<String>,
    /// MED.
    pub med: u32,
    /// LOCAL_PREF towards internal peers.
    pub local_pref: u32,
    /// It stands for more specific ones and says so, as far as its speaker can.
    pub aggregated: bool,
}

impl Originated {
    /// 4 or 6.
    #[must_use]
    pub fn family(&self) -> u8 {
        family_of(&self.prefix)
    }
}

/// 4 or 6.
#[must_use]
pub fn family_of(prefix: &str) -> u8 {
    if prefix.contains(':') { 6 } else { 4 }
}

impl Plan {
    fn local(&self, session: &Session) -> &str {
        match session.remote {
            IpAddr::V4(_) => &self.router_id,
            IpAddr::V6(_) => &self.ipv6,
        }
    }

    fn routes_of(&self, family: u8) -> impl Iterator<Item = &Originated> {
        self.routes
            .iter()
            .filter(move |route| route.family() == family)
    }

    /// The YAML of `margay speaker`.
    #[must_use]
    pub fn margay(&self, install: bool) -> String {
        let mut text = format!(
            "asn: {}\nrouterId: {}\nclusterId: {}\nlisten: [\"0.0.0.0:179\", \"[::]:179\"]\nkernel: {{ install: {install} }}\n\
             families: [ipv4-unicast, ipv6-unicast]\nselectionDeferral: 8s\n",
            self.asn, self.router_id, self.router_id
        );
        for (list, aggregated) in [("originate", false), ("aggregates", true)] {
            let _ = writeln!(text, "{list}: [");
            for route in self
                .routes
                .iter()
                .filter(|route| route.aggregated == aggregated)
            {
                let _ = writeln!(
                    text,
                    "  {{ prefix: \"{}\", communities: [\"{}\"], largeCommunities: [\"{}\"], med: {}, localPref: {} }},",
                    route.prefix,
                    route.community,
                    route.large_community,
                    route.med,
                    route.local_pref
                );
            }
            text.push_str("]\n");
        }
        text.push_str("peers:\n");
        for session in &self.sessions {
            let families: Vec<_> = session
                .families
                .iter()
                .map(|family| format!("ipv{family}-unicast"))
                .collect();
            let other = match session.remote {
                IpAddr::V4(_) => format!(", nextHopAddress: \"{}\"", self.ipv6),
                IpAddr::V6(_) => String::new(),
            };
            let remote = match &session.interface {
                None => format!("address: \"{}\"", session.remote),
                Some(interface) => format!("interface: {interface}"),
            };
            let _ = writeln!(
                text,
                "  - {{ name: {}, {remote}, asn: {}, families: [{}], passive: {}, routeReflectorClient: {}, \
                 holdTime: {HOLD_TIME}, connectRetry: 500ms, idleHold: 500ms, idleHoldMax: 1s{other}{}{}{} }}",
                session.name,
                session.asn,
                families.join(", "),
                session.passive,
                session.client,
                session
                    .password
                    .as_ref()
                    .map_or_else(String::new, |password| format!(
                        ", password: \"{password}\""
                    )),
                if session.gtsm { ", ttlSecurity: 1" } else { "" },
                if session.add_path {
                    ", addPathSend: all"
                } else {
                    ""
                },
            );
        }
        text
    }

    /// BIRD 2, all families in one process.
    #[must_use]
    pub fn bird2(&self) -> String {
        let mut text = self.bird_start();
        text.push_str("protocol device { }\n");
        for family in [4, 6] {
            let _ = writeln!(text, "protocol static originated{family} {{ ipv{family};");
            for route in self.routes_of(family) {
                let _ = writeln!(text, "  route {} blackhole;", route.prefix);
            }
            text.push_str("}\n");
            text.push_str(&self.bird_filters(family, family));
        }
        for session in &self.sessions {
            text.push_str(&self.bird_session(session));
            for family in &session.families {
                let extended = match family {
                    4 if session.extended_next_hop() => " extended next hop on;",
                    _ => "",
                };
                let _ = writeln!(
                    text,
                    "  ipv{family} {{ import filter taken{family}; export filter told{family}; add paths on;{extended} }};"
                );
            }
            text.push_str("}\n");
        }
        text
    }

    /// BIRD 1.6, which has a process for each family.
    #[must_use]
    pub fn bird1(&self, family: u8) -> String {
        let mut text = self.bird_start();
        text.push_str("protocol device { }\nprotocol static originated {\n");
        for route in self.routes_of(family) {
            let _ = writeln!(text, "  route {} blackhole;", route.prefix);
        }
        text.push_str("}\n");
        text.push_str(&self.bird_filters(family, 4));
        for session in self
            .sessions
            .iter()
            .filter(|session| session.families.contains(&family))
        {
            text.push_str(&self.bird_session(session));
            if family == 6 {
                // Otherwise it names itself in what it reflects, whatever it was told: links have no such addresses here.
                text.push_str("  missing lladdr ignore;\n");
            }
            text.push_str("  import filter taken4; export filter told4; add paths on;\n}\n");
        }
        text
    }

    fn bird_start(&self) -> String {
        format!(
            "log stderr all;\ndebug protocols {{ states, events, packets }};\nrouter id {};\ngraceful restart wait 15;\n",
            self.router_id
        )
    }

    fn bird_filters(&self, family: u8, name: u8) -> String {
        let mut text = format!("filter told{name} {{\n");
        for route in self.routes_of(family) {
            let tuple = |value: &str| value.replace(':', ",");
            let _ = writeln!(
                text,
                "  if net = {} && source = RTS_STATIC then {{ bgp_community.add(({})); bgp_large_community.add(({})); \
                 {}bgp_med = {}; bgp_local_pref = {}; }}",
                route.prefix,
                tuple(&route.community),
                tuple(&route.large_community),
                route
                    .route_target
                    .as_ref()
                    .map_or_else(String::new, |target| format!(
                        "bgp_ext_community.add((rt,{})); ",
                        tuple(target)
                    )),
                route.med,
                route.local_pref
            );
        }
        let _ = writeln!(text, "  accept;\n}}\nfilter taken{name} {{");
        if let Some(refused) = self
            .refused
            .as_ref()
            .filter(|refused| family_of(refused) == family)
        {
            let _ = writeln!(text, "  if net = {refused} then reject;");
        }
        text.push_str("  accept;\n}\n");
        text
    }

    fn bird_session(&self, session: &Session) -> String {
        let (local, link) = match &session.interface {
            None => (self.local(session).to_owned(), String::new()),
            Some(interface) => (String::new(), format!("  interface \"{interface}\";\n")),
        };
        let mut text = format!(
            "protocol bgp {} {{\n{link}  local {local} as {};\n  neighbor {} as {};\n  direct; hold time {HOLD_TIME}; keepalive time 3;\n  \
             connect delay time 1; connect retry time 1; error wait time 1, 1; graceful restart on;\n",
            session.name, self.asn, session.remote, session.asn
        );
        if session.passive {
            text.push_str("  passive;\n");
        }
        if session.client {
            let _ = writeln!(text, "  rr client; rr cluster id {};", self.router_id);
        }
        if let Some(password) = &session.password {
            let _ = writeln!(text, "  password \"{password}\";");
        }
        if session.gtsm {
            text.push_str("  ttl security on;\n");
        }
        text
    }

    /// FRR's bgpd.
    #[must_use]
    pub fn frr(&self) -> String {
        // Route maps come first: one that is named before it is there denies all until FRR looks again.
        let mut text = "frr defaults traditional\n".to_owned();
        for (index, route) in self.routes.iter().enumerate() {
            let target = route.route_target.as_ref();
            let aggregate = match route.aggregated {
                true => format!(
                    " set aggregator as {} {}\n set atomic-aggregate\n",
                    self.asn, self.router_id
                ),
                false => String::new(),
            };
            let _ = writeln!(
                text,
                "route-map ROUTE{index} permit 10\n set community {}\n set large-community {}\n{aggregate}{} set metric {}\n \
                 set local-preference {}\nexit",
                route.community,
                route.large_community,
                target.map_or_else(String::new, |target| format!(
                    " set extcommunity rt {target}\n"
                )),
                route.med,
                route.local_pref
            );
        }
        let refused = self.refused.as_deref().unwrap_or("203.0.113.255/32");
        let _ = writeln!(
            text,
            "ip prefix-list REFUSED seq 5 permit {refused}\nroute-map TAKEN4 deny 5\n match ip address prefix-list REFUSED\nexit\n\
             route-map TAKEN4 permit 10\nexit\nroute-map TAKEN6 permit 10\nexit"
        );
        let _ = write!(
            text,
            "bgp route-map delay-timer 1\nrouter bgp {}\n bgp router-id {}\n bgp cluster-id {}\n no bgp ebgp-requires-policy\n \
             no bgp network import-check\n no bgp default ipv4-unicast\n bgp graceful-restart\n \
             bgp graceful-restart preserve-fw-state\n bgp log-neighbor-changes\n timers bgp 3 {HOLD_TIME}\n",
            self.asn, self.router_id, self.router_id
        );
        for session in &self.sessions {
            let remote = frr_name(session);
            if session.interface.is_some() {
                let _ = writeln!(
                    text,
                    " neighbor {remote} interface remote-as {}",
                    session.asn
                );
            } else {
                let local = self.local(session);
                let _ = writeln!(text, " neighbor {remote} remote-as {}", session.asn);
                let _ = writeln!(text, " neighbor {remote} update-source {local}");
            }
            let _ = writeln!(text, " neighbor {remote} timers connect 1");
            if session.extended_next_hop() {
                let _ = writeln!(text, " neighbor {remote} capability extended-nexthop");
            }
            if session.passive {
                let _ = writeln!(text, " neighbor {remote} passive");
            }
            if let Some(password) = &session.password {
                let _ = writeln!(text, " neighbor {remote} password {password}");
            }
            if session.gtsm {
                let _ = writeln!(text, " neighbor {remote} ttl-security hops 1");
            }
        }
        for family in [4, 6] {
            let _ = writeln!(text, " address-family ipv{family} unicast");
            for (index, route) in self.routes.iter().enumerate() {
                if route.family() == family {
                    let _ = writeln!(text, "  network {} route-map ROUTE{index}", route.prefix);
                }
            }
            for session in self
                .sessions
                .iter()
                .filter(|session| session.families.contains(&family))
            {
                let remote = frr_name(session);
                let _ = writeln!(text, "  neighbor {remote} activate");
                let _ = writeln!(text, "  neighbor {remote} route-map TAKEN{family} in");
                if session.client {
                    let _ = writeln!(text, "  neighbor {remote} route-reflector-client");
                }
                if session.add_path {
                    let _ = writeln!(text, "  neighbor {remote} addpath-tx-all-paths");
                }
            }
            text.push_str(" exit-address-family\n");
        }
        text
    }

    /// GoBGP; sessions are closed at the start where routes are to be there before they open.
    #[must_use]
    pub fn gobgp(&self, closed: bool) -> String {
        let mut text = format!(
            "[global]\nconfig = {{ as = {}, router-id = \"{}\", port = 179, local-address-list = [\"{}\", \"{}\"] }}\n",
            self.asn, self.router_id, self.router_id, self.ipv6
        );
        for session in &self.sessions {
            let password = session
                .password
                .as_ref()
                .map_or_else(String::new, |password| {
                    format!(", auth-password = \"{password}\"")
                });
            let (remote, local) = match &session.interface {
                None => (
                    format!("neighbor-address = \"{}\"", session.remote),
                    format!("local-address = \"{}\", ", self.local(session)),
                ),
                Some(interface) => (
                    format!("neighbor-interface = \"{interface}\""),
                    String::new(),
                ),
            };
            let _ = write!(
                text,
                "[[neighbors]]\nconfig = {{ {remote}, peer-as = {}, admin-down = {closed}{password} }}\n\
                 timers = {{ config = {{ hold-time = {HOLD_TIME}.0, keepalive-interval = 3.0, connect-retry = 1.0, \
                 idle-hold-time-after-reset = 1.0 }} }}\n\
                 transport = {{ config = {{ {local}passive-mode = {} }} }}\n\
                 error-handling = {{ config = {{ treat-as-withdraw = true }} }}\n\
                 graceful-restart = {{ config = {{ enabled = true, restart-time = 60, deferral-time = 8, notification-enabled = true }} }}\n",
                session.asn, session.passive
            );
            if session.gtsm {
                text.push_str("ttl-security = { config = { enabled = true, ttl-min = 255 } }\n");
            }
            if session.client {
                let _ = writeln!(
                    text,
                    "route-reflector = {{ config = {{ route-reflector-client = true, route-reflector-cluster-id = \"{}\" }} }}",
                    self.router_id
                );
            }
            for family in &session.families {
                let _ = write!(
                    text,
                    "  [[neighbors.afi-safis]]\n  config = {{ afi-safi-name = \"ipv{family}-unicast\" }}\n  \
                     mp-graceful-restart = {{ config = {{ enabled = true }} }}\n"
                );
                if session.add_path {
                    text.push_str("  add-paths = { config = { receive = true, send-max = 8 } }\n");
                }
            }
        }
        text
    }

    /// OpenBGPD; sessions are closed at the start where its configuration is to be all there before they open.
    #[must_use]
    pub fn openbgpd(&self, closed: bool) -> String {
        let mut text = format!(
            "AS {}\nrouter-id {}\nlisten on {}\nlisten on {}\nholdtime {HOLD_TIME}\nfib-update no\nnexthop qualify via default\n",
            self.asn, self.router_id, self.router_id, self.ipv6
        );
        for route in &self.routes {
            // Over an IPv4 session it would call itself ::1.
            let hop = match route.family() {
                4 => String::new(),
                _ => format!("nexthop {} ", self.ipv6),
            };
            let _ = writeln!(
                text,
                "network {} set {{ {hop}community {} large-community {} {}metric {} localpref {} }}",
                route.prefix,
                route.community,
                route.large_community,
                route
                    .route_target
                    .as_ref()
                    .map_or_else(String::new, |target| format!("ext-community rt {target} ")),
                route.med,
                route.local_pref
            );
        }
        for session in &self.sessions {
            let (remote, local) = match &session.interface {
                None => (
                    session.remote.to_string(),
                    format!(" local-address {}\n", self.local(session)),
                ),
                Some(interface) => (format!("{}%{interface}", session.remote), String::new()),
            };
            let _ = writeln!(
                text,
                "neighbor {remote} {{\n descr \"{}\"\n remote-as {}\n{local} announce restart yes\n announce refresh yes\n \
                 announce enhanced refresh yes",
                session.name, session.asn
            );
            for family in [4, 6] {
                let what = if session.families.contains(&family) {
                    "unicast"
                } else {
                    "none"
                };
                let _ = writeln!(text, " announce IPv{family} {what}");
            }
            if closed {
                text.push_str(" down\n");
            }
            if session.passive {
                text.push_str(" passive\n");
            }
            if session.client {
                let _ = writeln!(text, " route-reflector {}", self.router_id);
            }
            if let Some(password) = &session.password {
                let _ = writeln!(text, " tcp md5sig password {password}");
            }
            if session.gtsm {
                text.push_str(" ttl-security yes\n");
            }
            if session.add_path {
                text.push_str(" announce add-path recv yes\n announce add-path send all\n");
            }
            text.push_str("}\n");
        }
        if let Some(refused) = &self.refused {
            let _ = writeln!(
                text,
                "allow from any\ndeny from any prefix {refused}\nallow to any"
            );
        } else {
            text.push_str("allow from any\nallow to any\n");
        }
        text
    }
}

/// How FRR names a neighbour.
fn frr_name(session: &Session) -> String {
    let remote = || session.remote.to_string();
    session.interface.clone().unwrap_or_else(remote)
}
