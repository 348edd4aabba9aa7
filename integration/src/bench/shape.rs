//! What the clients of a benchmark announce.
//!
//! Prefix number `n` of the whole load is `base + (n << (32 - length))`, so a client's share is a range of numbers and
//! what a client holds is a bitmap over all of them.

use std::net::Ipv4Addr;
use std::ops::Range;

/// AS of the daemon and all clients.
pub const ASN: u32 = 64512;

/// The daemon's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);

/// The range that clients connect from.
pub const CLIENT_RANGE: &str = "10.100.128.0/17";

/// Prefixes announced one at a time.
pub const SINGLES: usize = 50;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its letter.
    pub name: &'static str,
    /// Sessions.
    pub clients: usize,
    /// Prefixes each announces.
    pub prefixes: usize,
    /// Their length.
    pub prefix_len: u8,
    /// Different attribute sets each announces.
    pub attribute_sets: usize,
}

/// Every shape by letter.
pub const ALL: &[Shape] = &[
    Shape {
        name: "A",
        clients: 100,
        prefixes: 1_000,
        prefix_len: 32,
        attribute_sets: 1,
    },
    Shape {
        name: "C",
        clients: 4,
        prefixes: 200_000,
        prefix_len: 24,
        attribute_sets: 20_000,
    },
    Shape {
        name: "D",
        clients: 1_000,
        prefixes: 4,
        prefix_len: 26,
        attribute_sets: 1,
    },
    Shape {
        name: "E",
        clients: 2,
        prefixes: 100_000,
        prefix_len: 32,
        attribute_sets: 1,
    },
    Shape {
        name: "F",
        clients: 10,
        prefixes: 100_000,
        prefix_len: 32,
        attribute_sets: 1,
    },
];

/// What the memory of paths is measured with: two clients that announce the same prefixes, and one that listens.
pub const PATHS: Shape = Shape {
    name: "paths",
    clients: 3,
    prefixes: 50_000,
    prefix_len: 32,
    attribute_sets: 500,
};

/// Address that prefix number 0 begins at.
const BASE: u32 = 0x1000_0000;

impl Shape {
    /// The shape of a letter.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        ALL.iter()
            .chain([&PATHS])
            .copied()
            .find(|shape| shape.name == name)
    }

    /// Prefixes of all clients together.
    #[must_use]
    pub fn total(&self) -> usize {
        self.clients * self.prefixes
    }

    /// Room for every prefix number that may occur.
    #[must_use]
    pub fn numbers(&self) -> usize {
        self.total() + SINGLES
    }

    /// What a client announces: its share, and the first one what is announced one at a time; one more than there are has nothing.
    #[must_use]
    pub fn own(&self, client: usize) -> [Range<usize>; 2] {
        let nothing = 0..0;
        match client {
            0 => [0..self.prefixes, self.total()..self.numbers()],
            _ if client < self.clients => [
                client * self.prefixes..(client + 1) * self.prefixes,
                nothing,
            ],
            _ => [nothing.clone(), nothing],
        }
    }

    /// The address a client connects from.
    #[must_use]
    pub fn client_address(client: usize) -> Ipv4Addr {
        let host = u32::try_from(client + 1).unwrap_or(u32::MAX) & 0x7fff;
        Ipv4Addr::from(0x0a64_8000 | host)
    }

    /// The number of a prefix; `None` for one that is not part of the load.
    #[must_use]
    pub fn number(&self, address: u32, len: u8) -> Option<usize> {
        if len != self.prefix_len {
            return None;
        }
        let number = usize::try_from(address.checked_sub(BASE)? >> (32 - u32::from(len))).ok()?;
        (number < self.numbers()).then_some(number)
    }

    /// Appends a prefix as it stands in an UPDATE.
    pub fn put_prefix(&self, number: usize, into: &mut Vec<u8>) {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let address = BASE + (number << (32 - u32::from(self.prefix_len)));
        into.push(self.prefix_len);
        into.extend(
            address
                .to_be_bytes()
                .iter()
                .take(usize::from(self.prefix_len.div_ceil(8))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_prefixes_are_each_others_inverse() {
        for shape in ALL {
            for number in [0, 1, shape.total() - 1, shape.numbers() - 1] {
                let mut wire = Vec::new();
                shape.put_prefix(number, &mut wire);
                let mut octets = [0; 4];
                octets[..wire.len() - 1].copy_from_slice(&wire[1..]);
                assert_eq!(
                    shape.number(u32::from_be_bytes(octets), wire[0]),
                    Some(number),
                    "shape {}",
                    shape.name
                );
            }
            assert_eq!(shape.number(BASE - 1, shape.prefix_len), None);
        }
    }

    #[test]
    fn clients_are_within_the_range() {
        assert_eq!(Shape::client_address(0), Ipv4Addr::new(10, 100, 128, 1));
        assert_eq!(
            Shape::client_address(1_000),
            Ipv4Addr::new(10, 100, 131, 233)
        );
    }
}
