//! AS_PATH (RFC 4271 §5.1.2) and its two-octet form with AS4_PATH beside it (RFC 6793).
//!
//! A path is kept flat: one list of AS numbers in which everything is a sequence except the
//! ranges noted as sets. Adjacent sequences of the wire become one, so equal paths are equal
//! values whatever way a peer cut them, and the common path of a few hops needs no allocation.

use std::fmt;

use smallvec::SmallVec;

use crate::asn::Asn;

/// Most AS numbers a segment can hold: its count is one octet.
const SEGMENT_MAX: usize = 255;

/// What the members of a segment are to each other. Confederation segments have no place here:
/// they are malformed from any peer outside our confederation (RFC 5065 §5), and we are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// AS_SET, deprecated by RFC 9774 and accepted only where configured.
    Set,
    /// AS_SEQUENCE.
    Sequence,
}

/// A range of [`AsPath::asns`] that is a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SetRange {
    start: usize,
    len: usize,
}

/// The autonomous systems a route went through, nearest first.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct AsPath {
    asns: SmallVec<[Asn; 6]>,
    /// In order, without overlap, none empty.
    sets: Vec<SetRange>,
}

/// Why octets are no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AsPathError {
    /// A segment type other than 1 to 4.
    #[error("unknown segment type {0}")]
    SegmentType(u8),
    /// A segment without members.
    #[error("empty segment")]
    EmptySegment,
    /// A segment header or its members go past the end.
    #[error("segment overruns the attribute")]
    Overrun,
    /// A member is AS 0 (RFC 7607).
    #[error("AS 0 in the path")]
    Zero,
    /// AS_SET or AS_CONFED_SET (RFC 9774).
    #[error("AS_SET in the path")]
    Set,
    /// AS_CONFED_SEQUENCE or AS_CONFED_SET from outside our confederation.
    #[error("confederation segment in the path")]
    Confederation,
}

/// Which of the segments a path may hold, and how wide its numbers are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsPathRules {
    pub(crate) four_octet: bool,
    pub(crate) allow_sets: bool,
    /// AS4_PATH: confederation segments are left out rather than refused (RFC 6793 §6).
    pub(crate) skip_confederations: bool,
}

impl AsPath {
    /// The path of a route that never left its AS.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// One sequence, nearest AS first.
    #[must_use]
    pub fn from_sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        Self {
            asns: asns.into_iter().collect(),
            sets: Vec::new(),
        }
    }

    /// Appends a set at the far end; nothing happens for an empty one.
    pub fn push_set(&mut self, members: impl IntoIterator<Item = Asn>) {
        let start = self.asns.len();
        self.asns.extend(members);
        let len = self.asns.len() - start;
        // A segment's count is one octet, so a larger set could not be sent.
        let mut offset = 0;
        while offset < len {
            let part = (len - offset).min(SEGMENT_MAX);
            self.sets.push(SetRange {
                start: start + offset,
                len: part,
            });
            offset += part;
        }
    }

    /// Whether the path has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asns.is_empty()
    }

    /// Length for route selection: a set counts as one (RFC 4271 §9.1.2.2 a).
    #[must_use]
    pub fn hop_count(&self) -> usize {
        let in_sets: usize = self.sets.iter().map(|set| set.len).sum();
        self.asns.len() - in_sets + self.sets.len()
    }

    /// The AS the route was heard from: the leftmost, unless the path is empty or starts with a
    /// set. Routes are grouped by it to compare MEDs.
    #[must_use]
    pub fn first(&self) -> Option<Asn> {
        match self.sets.first() {
            Some(set) if set.start == 0 => None,
            _ => self.asns.first().copied(),
        }
    }

    /// The AS that originated the route: the rightmost, unless the path is empty or ends with a
    /// set.
    #[must_use]
    pub fn origin(&self) -> Option<Asn> {
        match self.sets.last() {
            Some(set) if set.start + set.len == self.asns.len() => None,
            _ => self.asns.last().copied(),
        }
    }

    /// Every member of every segment, nearest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Asn> + ExactSizeIterator {
        self.asns.iter().copied()
    }

    /// Whether `asn` is anywhere in the path.
    #[must_use]
    pub fn contains(&self, asn: Asn) -> bool {
        self.asns.contains(&asn)
    }

    /// How often `asn` is in the path: what loop detection counts (RFC 4271 §9.1.2).
    #[must_use]
    pub fn count(&self, asn: Asn) -> usize {
        self.asns.iter().filter(|&&member| member == asn).count()
    }

    /// Puts `asn` in front, `times` times.
    pub fn prepend(&mut self, asn: Asn, times: usize) {
        self.asns.insert_many(0, std::iter::repeat_n(asn, times));
        for set in &mut self.sets {
            set.start += times;
        }
    }

    /// Replaces every `from` by `to`.
    pub fn replace(&mut self, from: Asn, to: Asn) {
        for asn in &mut self.asns {
            if *asn == from {
                *asn = to;
            }
        }
    }

    /// Replaces every member that `which` names by `to`.
    pub fn replace_where(&mut self, which: impl Fn(Asn) -> bool, to: Asn) {
        for asn in &mut self.asns {
            if which(*asn) {
                *asn = to;
            }
        }
    }

    /// Takes out every member that `keep` does not want; sets that lose all of theirs go with them.
    pub fn retain(&mut self, keep: impl Fn(Asn) -> bool) {
        if !self.sets.is_empty() {
            // How many members are kept before each position.
            let mut kept = vec![0_usize];
            for asn in &self.asns {
                kept.push(kept.last().copied().unwrap_or(0) + usize::from(keep(*asn)));
            }
            let before = |position: usize| kept.get(position).copied().unwrap_or(0);
            self.sets.retain_mut(|set| {
                let end = before(set.start + set.len);
                set.start = before(set.start);
                set.len = end - set.start;
                set.len > 0
            });
        }
        self.asns.retain(|asn| keep(*asn));
    }

    /// The segments nearest first; a sequence is as long as it is, not cut at 255.
    pub fn segments(&self) -> impl Iterator<Item = (SegmentKind, &[Asn])> {
        let mut sets = self.sets.iter().copied().peekable();
        let mut position = 0;
        std::iter::from_fn(move || {
            let (kind, end) = match sets.peek() {
                Some(set) if set.start == position => {
                    let end = set.start + set.len;
                    sets.next();
                    (SegmentKind::Set, end)
                }
                Some(set) => (SegmentKind::Sequence, set.start),
                None => (SegmentKind::Sequence, self.asns.len()),
            };
            let members = self
                .asns
                .get(position..end)
                .filter(|members| !members.is_empty())?;
            position = end;
            Some((kind, members))
        })
    }

    /// Whether a member needs four octets.
    pub(crate) fn needs_four_octets(&self) -> bool {
        !self.asns.iter().all(|asn| asn.is_two_octet())
    }

    /// Reads the value of AS_PATH or AS4_PATH. Of several faults the costliest is told, which is a set where none may be:
    /// it withdraws the route whichever attribute it is in.
    pub(crate) fn decode(mut octets: &[u8], rules: AsPathRules) -> Result<Self, AsPathError> {
        let mut path = Self::default();
        let mut fault = None;
        let width = if rules.four_octet { 4 } else { 2 };
        while let Some((&kind, rest)) = octets.split_first() {
            let whole = rest.split_first().and_then(|(&count, rest)| {
                let (members, rest) = rest.split_at_checked(usize::from(count) * width)?;
                Some((count, members, rest))
            });
            let Some((count, members, rest)) = whole else {
                fault = fault.or(Some(AsPathError::Overrun));
                break;
            };
            octets = rest;
            let is_set = match kind {
                3 | 4 if rules.skip_confederations => continue,
                1 | 4 if !rules.allow_sets => return Err(AsPathError::Set),
                1 => true,
                2 => false,
                3 | 4 => {
                    fault = fault.or(Some(AsPathError::Confederation));
                    continue;
                }
                _ => {
                    fault = fault.or(Some(AsPathError::SegmentType(kind)));
                    continue;
                }
            };
            if members.is_empty() {
                fault = fault.or(Some(AsPathError::EmptySegment));
            }
            let start = path.asns.len();
            if rules.four_octet {
                path.asns.extend(
                    members
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&asn| Asn(u32::from_be_bytes(asn))),
                );
            } else {
                let wide = |&asn: &[u8; 2]| Asn(u32::from(u16::from_be_bytes(asn)));
                path.asns.extend(members.as_chunks().0.iter().map(wide));
            }
            if is_set {
                path.sets.push(SetRange {
                    start,
                    len: usize::from(count),
                });
            }
        }
        if path.asns.contains(&Asn(0)) {
            fault = fault.or(Some(AsPathError::Zero));
        }
        fault.map_or(Ok(path), Err)
    }

    /// Appends the value of AS_PATH or AS4_PATH to `out`; numbers that do not fit two octets
    /// become AS_TRANS.
    pub(crate) fn encode(&self, four_octet: bool, out: &mut Vec<u8>) {
        for (kind, members) in self.segments() {
            for part in members.chunks(SEGMENT_MAX) {
                out.push(match kind {
                    SegmentKind::Set => 1,
                    SegmentKind::Sequence => 2,
                });
                out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                for asn in part {
                    if four_octet {
                        out.extend_from_slice(&asn.0.to_be_bytes());
                    } else {
                        out.extend_from_slice(&asn.to_two_octets().to_be_bytes());
                    }
                }
            }
        }
    }

    /// The path as it was before two-octet speakers put AS_TRANS into it: the leading hops of
    /// `self` that `as4` does not know of, then `as4` (RFC 6793 §4.2.3). `self` where `as4` is
    /// the longer one and therefore not about this path.
    pub(crate) fn merge(self, as4: &Self) -> Self {
        let Some(keep) = self.hop_count().checked_sub(as4.hop_count()) else {
            return self;
        };
        let mut merged = Self::default();
        let mut kept = 0;
        for (kind, members) in self.segments() {
            match kind {
                _ if kept == keep => break,
                SegmentKind::Set => {
                    merged.push_set(members.iter().copied());
                    kept += 1;
                }
                SegmentKind::Sequence => {
                    let part = members.len().min(keep - kept);
                    merged.asns.extend(members.iter().copied().take(part));
                    kept += part;
                }
            }
        }
        for (kind, members) in as4.segments() {
            match kind {
                SegmentKind::Set => merged.push_set(members.iter().copied()),
                SegmentKind::Sequence => merged.asns.extend_from_slice(members),
            }
        }
        merged
    }
}

/// Numbers separated by spaces, sets in braces, as the field's tools print paths.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, members)) in self.segments().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let (open, separator, close) = match kind {
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::Sequence => ("", " ", ""),
            };
            f.write_str(open)?;
            for (index, asn) in members.iter().enumerate() {
                if index > 0 {
                    f.write_str(separator)?;
                }
                write!(f, "{asn}")?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}
