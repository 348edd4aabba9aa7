//! Texts and numbers with a form of their own.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use margay_bgp::asn::Asn;
use margay_bgp::prefix::Prefix;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::model::{CommunityValue, Selector};

/// Reads a text and parses it; the parser's error becomes serde's.
macro_rules! from_text {
    ($type:ty, $parse:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                $parse(text.trim()).map_err(de::Error::custom)
            }
        }
    };
}

/// A text where the empty one is the same as none, as in Go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(Self(text.filter(|text| !text.is_empty())))
    }
}

/// A prefix as written: `address/length`, or an address, which is a prefix of full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The prefix, host bits cleared.
    pub prefix: Prefix,
    /// The address as written, host bits and all.
    pub address: IpAddr,
    /// A length was written.
    pub has_length: bool,
}

impl Cidr {
    /// Parses a prefix or an address.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a prefix such as 10.0.0.0/16 or fd00::/48");
        // `IpNetwork` would also take a netmask and a plus sign for a length.
        let length = text.split_once('/').map(|(_, length)| length);
        if length.is_some_and(|length| !length.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(wrong());
        }
        let network: IpNetwork = text.parse().map_err(|_| wrong())?;
        Ok(Self {
            prefix: Prefix::new(network.ip(), network.prefix()).map_err(|_| wrong())?,
            address: network.ip(),
            has_length: length.is_some(),
        })
    }

    /// The prefix if no bit behind its length is set.
    ///
    /// # Errors
    /// Says which prefix was probably meant.
    pub fn strict(&self) -> Result<Prefix, String> {
        if self.prefix.addr() == self.address {
            Ok(self.prefix)
        } else {
            Err(format!(
                "{}/{} has bits set behind its length: write {}",
                self.address,
                self.prefix.len(),
                self.prefix
            ))
        }
    }
}

from_text!(Cidr, Cidr::parse);

/// An AS number: a number, or a text with a number or `high.low`. Zero stands for none, as in Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsNumber(pub Option<Asn>);

impl AsNumber {
    /// Parses the text form.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let asn: Asn = text.parse().map_err(|_| {
            format!("{text:?} is not an AS number: write 1 to 4294967295, or \"high.low\" with parts up to 65535")
        })?;
        Ok(Self(Some(asn).filter(|asn| !asn.is_reserved_zero())))
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = AsNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AS number from 1 to 4294967295, or a text such as \"65000.1\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<AsNumber, E> {
                let number = u32::try_from(number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))?;
                Ok(AsNumber(
                    Some(Asn(number)).filter(|asn| !asn.is_reserved_zero()),
                ))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<AsNumber, E> {
                // YAML has taken 1.10 for 1.1 by now.
                Err(E::custom(format!(
                    "{number} was read as a fraction: put an AS number with a dot in quotes"
                )))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AsNumber, E> {
                AsNumber::parse(text.trim()).map_err(E::custom)
            }
        }
        from.deserialize_any(Reader)
    }
}

/// A duration as Go writes it: `90s`, `1m30s`, `1.5h`, `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a duration such as \"90s\" or \"1m30s\"");
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut rest = text;
        let mut total = 0.0_f64;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|next: char| !next.is_ascii_digit() && next != '.')
                .ok_or_else(wrong)?;
            let number: f64 = rest
                .get(..digits)
                .unwrap_or("")
                .parse()
                .map_err(|_| wrong())?;
            rest = rest.get(digits..).unwrap_or("");
            let letters = rest
                .find(|next: char| next.is_ascii_digit() || next == '.')
                .unwrap_or(rest.len());
            let unit = match rest.get(..letters).unwrap_or("") {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
            total += number * unit;
            rest = rest.get(letters..).unwrap_or("");
        }
        Duration::try_from_secs_f64(total)
            .map(Self)
            .map_err(|_| wrong())
    }
}

from_text!(GoDuration, GoDuration::parse);

/// A selector; the empty text selects everything and counts as not written.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorText(pub Option<Selector>);

from_text!(SelectorText, |text: &str| {
    if text.is_empty() {
        return Ok(SelectorText(None));
    }
    Selector::parse(text)
        .map(|selector| SelectorText(Some(selector)))
        .map_err(|error| error.to_string())
});

/// A community, `aa:nn` or `aa:nn:mm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommunityText(pub CommunityValue);

from_text!(CommunityText, |text: &str| text
    .parse()
    .map(CommunityText)
    .map_err(|error: crate::model::NotACommunity| error.to_string()));

/// A MAC address with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacText(pub [u8; 6]);

impl MacText {
    /// Parses six octets in hexadecimal with colons (or dashes) between.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a MAC address such as 66:3c:00:11:22:33");
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(octets))
    }
}

from_text!(MacText, MacText::parse);

/// `Enabled` or `Disabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Switch {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn read<T: de::DeserializeOwned>(value: Value) -> Result<T, String> {
        from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn as_numbers_are_numbers_texts_or_dotted() {
        for (written, number) in [
            (json!(64512), 64512),
            (json!(4_294_967_295_u32), u32::MAX),
            (json!("64512"), 64512),
            (json!("1.10"), 65546),
            (json!("65000.1"), 65000 * 65536 + 1),
        ] {
            assert_eq!(read(written), Ok(AsNumber(Some(Asn(number)))));
        }
        assert_eq!(read(json!(0)), Ok(AsNumber(None)));
        for wrong in [
            json!(-1),
            json!(4_294_967_296_u64),
            json!("x"),
            json!("1.65536"),
            json!(true),
        ] {
            assert!(read::<AsNumber>(wrong).is_err());
        }
        assert!(read::<AsNumber>(json!(1.1)).unwrap_err().contains("quotes"));
    }

    #[test]
    fn strict_prefixes_say_what_was_meant() {
        assert!(Cidr::parse("10.0.0.0/16").unwrap().strict().is_ok());
        assert_eq!(
            Cidr::parse("10.0.0.1/16").unwrap().strict(),
            Err("10.0.0.1/16 has bits set behind its length: write 10.0.0.0/16".to_owned())
        );
        assert_eq!(Cidr::parse("fd00::1").unwrap().prefix.len(), 128);
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "fd00::/129",
            "x",
        ] {
            assert!(Cidr::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (written, millis) in [
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                GoDuration::parse(written),
                Ok(GoDuration(Duration::from_millis(millis))),
                "{written}"
            );
        }
        for wrong in ["", "90", "s", "-1s", "1x", "1..2s", "99999999999999999999h"] {
            assert!(GoDuration::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mac_addresses_have_six_octets() {
        assert_eq!(
            MacText::parse("66:3c:00:11:22:Ff"),
            Ok(MacText([0x66, 0x3c, 0, 0x11, 0x22, 0xff]))
        );
        for wrong in [
            "",
            "66:3c:00:11:22",
            "66:3c:00:11:22:33:44",
            "6:3c:00:11:22:33",
            "gg:3c:00:11:22:33",
        ] {
            assert!(MacText::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn empty_texts_are_none() {
        assert_eq!(read(json!("")), Ok(Text(None)));
        assert_eq!(read(json!(null)), Ok(Text(None)));
        assert_eq!(read(json!("")), Ok(SelectorText(None)));
    }
}
