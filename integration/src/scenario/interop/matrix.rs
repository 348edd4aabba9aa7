//! Peers times cases: what was seen, what failed, and which cells may stay empty.

use std::collections::BTreeMap;

use comfy_table::{Cell, Table, presets};

use super::foreign::Kind;

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// The peer dials, margay waits.
    MargayPassive,
    /// Margay dials, the peer waits.
    PeerPassive,
    /// Both dial.
    BothDial,
    /// IPv4 over IPv4.
    Ipv4,
    /// IPv6 over IPv6.
    Ipv6,
    /// Both families over IPv4.
    BothFamilies,
    /// IPv4 over IPv6, with next hops of IPv6.
    ExtendedNextHop,
    /// IPv6 over a link without addresses.
    Unnumbered6,
    /// IPv4 over a link without addresses (RFC 8950).
    Unnumbered4,
    /// TCP-MD5, margay dials.
    Password,
    /// TCP-MD5, the peer dials.
    PasswordCalled,
    /// TCP-MD5 with another key at each end.
    WrongPassword,
    /// TTL security, the peer dials.
    Gtsm,
    /// TTL security, margay dials.
    GtsmDials,
    /// The peer takes routes of margay's.
    AnnounceTo,
    /// The peer drops what margay withdraws.
    WithdrawTo,
    /// Margay takes routes of the peer's, and tells the third party.
    AnnounceFrom,
    /// Margay drops what the peer withdraws.
    WithdrawFrom,
    /// Attributes of margay's routes and of those it passes on, external.
    ExternalTo,
    /// Attributes of the peer's routes, external.
    ExternalFrom,
    /// Attributes of margay's own routes, internal.
    InternalTo,
    /// Attributes of the peer's own routes, internal.
    InternalFrom,
    /// Standard, extended and large communities both ways.
    Communities,
    /// ATOMIC_AGGREGATE and AGGREGATOR of margay's aggregates.
    AggregateTo,
    /// The same of what the peer was told to call an aggregate.
    AggregateFrom,
    /// An attribute nobody knows, through margay, as the peer prints it.
    UnknownTo,
    /// An attribute nobody knows, through the peer and through margay.
    UnknownAttribute,
    /// The third party's route through margay to the peer.
    MargayReflectsTo,
    /// The peer's route through margay to the third party.
    MargayReflectsFrom,
    /// The third party's route through the peer to margay.
    PeerReflectsTo,
    /// Margay's route through the peer to the third party.
    PeerReflectsFrom,
    /// Margay sends several paths of a prefix.
    AddPathTo,
    /// The peer sends several paths of a prefix.
    AddPathFrom,
    /// The peer asks again after it changed its mind.
    Refresh,
    /// What margay sends again is marked at both ends.
    EnhancedRefresh,
    /// Margay asks again.
    RefreshFrom,
    /// Another peer's malformed UPDATEs.
    Malformed,
    /// The peer closes with a text.
    TextFrom,
    /// Margay closes with a text.
    TextTo,
    /// Margay's kernel holds what the peer announced.
    Kernel,
    /// The peer is killed and comes back.
    PeerRestarts,
    /// The peer is killed, comes back and dials, while margay waits.
    PeerRestartsDialling,
    /// Margay is killed and comes back.
    MargayRestarts,
}

impl Case {
    /// Every row, in order.
    pub const ALL: [Self; 43] = [
        Self::MargayPassive,
        Self::PeerPassive,
        Self::BothDial,
        Self::Ipv4,
        Self::Ipv6,
        Self::BothFamilies,
        Self::ExtendedNextHop,
        Self::Unnumbered6,
        Self::Unnumbered4,
        Self::Password,
        Self::PasswordCalled,
        Self::WrongPassword,
        Self::Gtsm,
        Self::GtsmDials,
        Self::AnnounceTo,
        Self::WithdrawTo,
        Self::AnnounceFrom,
        Self::WithdrawFrom,
        Self::ExternalTo,
        Self::ExternalFrom,
        Self::InternalTo,
        Self::InternalFrom,
        Self::Communities,
        Self::AggregateTo,
        Self::AggregateFrom,
        Self::UnknownTo,
        Self::UnknownAttribute,
        Self::MargayReflectsTo,
        Self::MargayReflectsFrom,
        Self::PeerReflectsTo,
        Self::PeerReflectsFrom,
        Self::AddPathTo,
        Self::AddPathFrom,
        Self::Refresh,
        Self::EnhancedRefresh,
        Self::RefreshFrom,
        Self::Malformed,
        Self::TextFrom,
        Self::TextTo,
        Self::Kernel,
        Self::PeerRestarts,
        Self::PeerRestartsDialling,
        Self::MargayRestarts,
    ];

    /// As printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MargayPassive => "session: the peer dials, margay waits",
            Self::PeerPassive => "session: margay dials, the peer waits",
            Self::BothDial => "session: both dial, one connection survives",
            Self::Ipv4 => "IPv4 over IPv4",
            Self::Ipv6 => "IPv6 over IPv6",
            Self::BothFamilies => "both families over IPv4",
            Self::ExtendedNextHop => "IPv4 over IPv6 next hops (RFC 8950)",
            Self::Unnumbered6 => "unnumbered: IPv6 over link-local addresses",
            Self::Unnumbered4 => "unnumbered: IPv4 over link-local addresses",
            Self::Password => "TCP-MD5, margay dials",
            Self::PasswordCalled => "TCP-MD5, the peer dials",
            Self::WrongPassword => "TCP-MD5 with another key at each end",
            Self::Gtsm => "GTSM, the peer dials",
            Self::GtsmDials => "GTSM, margay dials",
            Self::AnnounceTo => "margay announces",
            Self::WithdrawTo => "margay withdraws",
            Self::AnnounceFrom => "the peer announces, a third party is told",
            Self::WithdrawFrom => "the peer withdraws, a third party is told",
            Self::ExternalTo => "attributes to the peer, eBGP",
            Self::ExternalFrom => "attributes from the peer, eBGP",
            Self::InternalTo => "attributes to the peer, iBGP",
            Self::InternalFrom => "attributes from the peer, iBGP",
            Self::Communities => "standard, extended and large communities",
            Self::AggregateTo => "an aggregate to the peer: ATOMIC_AGGREGATE, AGGREGATOR",
            Self::AggregateFrom => "an aggregate from the peer: the same",
            Self::UnknownTo => "an unknown transitive attribute, through margay",
            Self::UnknownAttribute => "an unknown transitive attribute, through both",
            Self::MargayReflectsTo => "margay reflects a third party's route to it",
            Self::MargayReflectsFrom => "margay reflects its route to a third party",
            Self::PeerReflectsTo => "it reflects a third party's route to margay",
            Self::PeerReflectsFrom => "it reflects margay's route to a third party",
            Self::AddPathTo => "ADD-PATH: margay sends several paths",
            Self::AddPathFrom => "ADD-PATH: the peer sends several paths",
            Self::Refresh => "route refresh asked by the peer",
            Self::EnhancedRefresh => "enhanced refresh: begin and end marked",
            Self::RefreshFrom => "route refresh asked by margay",
            Self::Malformed => "malformed UPDATEs of another peer",
            Self::TextFrom => "shutdown text from the peer",
            Self::TextTo => "shutdown text to the peer",
            Self::Kernel => "its routes in margay's kernel",
            Self::PeerRestarts => "graceful restart: the peer killed -9",
            Self::PeerRestartsDialling => "graceful restart: killed -9, the peer dials",
            Self::MargayRestarts => "graceful restart: margay killed -9",
        }
    }
}

/// Cells that stay empty or hold less than their row says, and why. Anything else that is empty fails the scenario.
pub const GAPS: &[(Kind, Case, &str)] = &[
    (
        Kind::Bird1,
        Case::BothFamilies,
        "a process of BIRD 1.6 speaks one family",
    ),
    (
        Kind::Bird1,
        Case::ExtendedNextHop,
        "a process of BIRD 1.6 speaks one family",
    ),
    (
        Kind::OpenBgpd,
        Case::ExtendedNextHop,
        "OpenBGPD 7.7 has no extended next hops",
    ),
    (
        Kind::GoBgp,
        Case::Refresh,
        "GoBGP keeps what its policy refused and never asks",
    ),
    (
        Kind::GoBgp,
        Case::EnhancedRefresh,
        "GoBGP has no enhanced refresh",
    ),
    (
        Kind::Bird1,
        Case::Unnumbered4,
        "a process of BIRD 1.6 speaks one family",
    ),
    (
        Kind::OpenBgpd,
        Case::Unnumbered4,
        "OpenBGPD 7.7 has no extended next hops",
    ),
    (
        Kind::Bird2,
        Case::AggregateFrom,
        "BIRD 2.0 shows both attributes and lets no filter set them; it passes them on like everybody",
    ),
    (
        Kind::Bird3,
        Case::AggregateFrom,
        "BIRD 3 shows both attributes and lets no filter set them; it passes them on like everybody",
    ),
    (
        Kind::Bird1,
        Case::AggregateFrom,
        "BIRD 1.6 shows both attributes and lets no filter set them; it passes them on like everybody",
    ),
    (
        Kind::GoBgp,
        Case::AggregateFrom,
        "GoBGP sets AGGREGATOR, and has no word for ATOMIC_AGGREGATE; it passes on both",
    ),
    (
        Kind::OpenBgpd,
        Case::AggregateFrom,
        "OpenBGPD aggregates nothing and sets neither attribute; it passes on both",
    ),
    (
        Kind::Frr,
        Case::UnknownTo,
        "FRR 8.4 prints no attribute that it does not know; it passes them on",
    ),
    (
        Kind::Bird3,
        Case::UnknownTo,
        "BIRD 3 prints that such an attribute is there, and none of its octets; it passes them on",
    ),
    (
        Kind::OpenBgpd,
        Case::Password,
        "OpenBGPD 7.7 on Linux sets its key where it dials and on no socket that listens",
    ),
    (
        Kind::OpenBgpd,
        Case::WrongPassword,
        "OpenBGPD 7.7 on Linux sets its key where it dials and on no socket that listens",
    ),
    (
        Kind::OpenBgpd,
        Case::RefreshFrom,
        "OpenBGPD 7.7 takes a request for one of a family that was not negotiated, and does not answer",
    ),
    (
        Kind::OpenBgpd,
        Case::PeerRestarts,
        "OpenBGPD starts without a family it kept forwarding for: its routes leave and come back",
    ),
    (
        Kind::OpenBgpd,
        Case::PeerRestartsDialling,
        "OpenBGPD starts without a family it kept forwarding for: its routes leave and come back",
    ),
];

/// What was seen.
#[derive(Debug, Default)]
pub struct Matrix(BTreeMap<(Case, Kind), Result<String, String>>);

impl Matrix {
    /// Fills a cell.
    pub fn fill(&mut self, case: Case, kind: Kind, seen: Result<String, String>) {
        self.0.insert((case, kind), seen);
    }

    /// Cells that are empty without a reason, of the peers that took part.
    #[must_use]
    pub fn unexplained(&self, kinds: &[Kind]) -> Vec<String> {
        let mut list = Vec::new();
        for case in Case::ALL {
            for &kind in kinds {
                if !self.0.contains_key(&(case, kind)) && gap(case, kind).is_none() {
                    list.push(format!("{}: {}", kind.name(), case.name()));
                }
            }
        }
        list
    }

    /// What ended an act early stands in every cell that nobody filled.
    pub fn fail_empty(&mut self, kinds: &[Kind], why: &str) {
        for case in Case::ALL {
            for &kind in kinds {
                if gap(case, kind).is_none() {
                    let cell = self.0.entry((case, kind));
                    cell.or_insert_with(|| Err(why.to_owned()));
                }
            }
        }
    }

    /// As a table, with the reasons of empty cells below.
    #[must_use]
    pub fn table(&self, kinds: &[Kind]) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let mut header = vec![""];
        header.extend(kinds.iter().map(|kind| kind.name()));
        table.set_header(header);
        let mut notes = String::new();
        let mut count = 0;
        for case in Case::ALL {
            let mut row = vec![Cell::new(case.name())];
            for &kind in kinds {
                row.push(match (self.0.get(&(case, kind)), gap(case, kind)) {
                    (Some(Ok(_)), None) => Cell::new("ok"),
                    (Some(Err(_)), _) => Cell::new("FAIL"),
                    (seen, Some(reason)) => {
                        count += 1;
                        notes.push_str(&format!("({count}) {reason}\n"));
                        let ok = if seen.is_some() { "ok " } else { "" };
                        Cell::new(format!("{ok}({count})"))
                    }
                    (None, None) => Cell::new("?"),
                });
            }
            table.add_row(row);
        }
        format!("{table}\n{notes}")
    }
}

fn gap(case: Case, kind: Kind) -> Option<&'static str> {
    GAPS.iter()
        .find(|(of, at, _)| *of == kind && *at == case)
        .map(|(_, _, reason)| *reason)
}
