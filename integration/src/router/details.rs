//! A path with all its attributes, as each router prints it.

use std::collections::BTreeSet;

use serde_json::Value;

/// A path of one prefix. Absent attributes are `None` or empty; a router that prints a default prints it here too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// `igp`, `egp` or `incomplete`.
    pub origin: String,
    /// AS numbers, nearest first.
    pub as_path: Vec<u32>,
    /// Next hop.
    pub next_hop: String,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// `64512:1`.
    pub communities: BTreeSet<String>,
    /// `64512:1:2`.
    pub large_communities: BTreeSet<String>,
    /// Route targets: `rt:64512:1`.
    pub route_targets: BTreeSet<String>,
    /// ORIGINATOR_ID.
    pub originator: Option<String>,
    /// CLUSTER_LIST, latest first.
    pub cluster_list: Vec<String>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR: `64512 192.0.2.1`.
    pub aggregator: Option<String>,
    /// What the router does not know and prints all the same: `99 deadbeef`.
    pub unknown: BTreeSet<String>,
}

/// `show route PREFIX all` of BIRD.
#[must_use]
pub fn of_bird(text: &str) -> Vec<Details> {
    let mut list: Vec<Details> = Vec::new();
    for line in text.lines() {
        // Both `[name time] * (100)` of BIRD 2 and `[name time from 1.2.3.4] * (100)` of 1.6 start a path.
        if line.contains(" [") && line.contains("] ") {
            list.push(Details::default());
        }
        let (Some((name, value)), Some(path)) = (line.trim().split_once(':'), list.last_mut())
        else {
            continue;
        };
        // BIRD 3 says `bgp_path`.
        let renamed = name.strip_prefix("bgp_").map(|name| match name {
            "path" => "BGP.as_path".to_owned(),
            name => format!("BGP.{name}"),
        });
        let name = renamed.as_deref().unwrap_or(name);
        let value = value.trim();
        let tuples = || -> BTreeSet<String> {
            value
                .split(')')
                .map(|tuple| tuple.trim().trim_start_matches('(').replace(", ", ":"))
                .map(|tuple| tuple.replace(',', ":"))
                .filter(|tuple| !tuple.is_empty())
                .collect()
        };
        match name {
            "BGP.origin" => path.origin = value.to_lowercase(),
            "BGP.as_path" => path.as_path = numbers(value),
            // Without a global address the link-local one comes after "::".
            "BGP.next_hop" => path.next_hop = first_word(value.trim_start_matches(":: ")),
            "BGP.med" => path.med = value.parse().ok(),
            "BGP.local_pref" => path.local_pref = value.parse().ok(),
            "BGP.community" => path.communities = tuples(),
            "BGP.large_community" => path.large_communities = tuples(),
            "BGP.ext_community" => path.route_targets = tuples(),
            "BGP.originator_id" => path.originator = Some(first_word(value)),
            "BGP.cluster_list" => {
                path.cluster_list = value.split_whitespace().map(str::to_owned).collect();
            }
            // It has no value.
            "BGP.atomic_aggr" => path.atomic_aggregate = true,
            "BGP.aggregator" => path.aggregator = aggregator_of_bird(value),
            _ => path.unknown.extend(unknown_of_bird(name, value)),
        }
    }
    list.retain(|path| !path.next_hop.is_empty());
    list
}

/// `show bgp ipv4 unicast PREFIX json` of FRR.
#[must_use]
pub fn of_frr(answer: &Value) -> Vec<Details> {
    let paths = answer.get("paths").and_then(Value::as_array);
    let from = |path: &Value| Details {
        origin: text(path, "/origin").to_lowercase(),
        as_path: numbers(text(path, "/aspath/string").trim_start_matches("Local")),
        next_hop: text(path, "/nexthops/0/ip"),
        med: number(path, "/metric"),
        local_pref: number(path, "/locPrf"),
        communities: words(&text(path, "/community/string")),
        large_communities: words(&text(path, "/largeCommunity/string")),
        route_targets: words(&text(path, "/extendedCommunity/string").to_lowercase()),
        originator: path
            .get("originatorId")
            .and_then(Value::as_str)
            .map(str::to_owned),
        cluster_list: strings(path.pointer("/clusterList/list")),
        atomic_aggregate: truth(path, "/atomicAggregate"),
        aggregator: aggregator(path, "/aggregatorAs", "/aggregatorId"),
        // It passes such attributes on and shows none of them.
        unknown: BTreeSet::new(),
    };
    paths.into_iter().flatten().map(from).collect()
}

/// `gobgp global rib PREFIX -j`.
#[must_use]
pub fn of_gobgp(answer: &Value) -> Vec<Details> {
    let lists = answer
        .as_object()
        .into_iter()
        .flat_map(|prefixes| prefixes.values());
    let from = |path: &Value| {
        let mut details = Details::default();
        let attributes = path.get("attrs").and_then(Value::as_array);
        for attribute in attributes.into_iter().flatten() {
            match attribute.get("type").and_then(Value::as_u64) {
                Some(1) => {
                    let names = ["igp", "egp", "incomplete"];
                    let name = number(attribute, "/value")
                        .and_then(|value| names.get(usize::try_from(value).ok()?));
                    details.origin = name.copied().unwrap_or_default().to_owned();
                }
                Some(2) => {
                    let segments = attribute.get("as_paths").and_then(Value::as_array);
                    details.as_path = segments
                        .into_iter()
                        .flatten()
                        .filter_map(|segment| segment.get("asns").and_then(Value::as_array))
                        .flatten()
                        .filter_map(|asn| u32::try_from(asn.as_u64()?).ok())
                        .collect();
                }
                Some(3 | 14) => details.next_hop = text(attribute, "/nexthop"),
                Some(4) => details.med = number(attribute, "/metric"),
                Some(5) => details.local_pref = number(attribute, "/value"),
                Some(6) => details.atomic_aggregate = true,
                Some(7) => details.aggregator = aggregator(attribute, "/as", "/address"),
                Some(8) => {
                    let values = attribute.get("communities").and_then(Value::as_array);
                    details.communities = values
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_u64)
                        .map(|value| format!("{}:{}", value >> 16, value & 0xffff))
                        .collect();
                }
                Some(9) => details.originator = Some(text(attribute, "/value")),
                Some(10) => details.cluster_list = strings(attribute.get("value")),
                Some(16) => {
                    let values = attribute.get("value").and_then(Value::as_array);
                    details.route_targets = values
                        .into_iter()
                        .flatten()
                        .filter(|value| value.get("subtype").and_then(Value::as_u64) == Some(2))
                        .map(|value| format!("rt:{}", text(value, "/value")))
                        .collect();
                }
                Some(32) => {
                    let values = attribute.get("value").and_then(Value::as_array);
                    let part = |value: &Value, key: &str| {
                        value.get(key).and_then(Value::as_u64).unwrap_or_default()
                    };
                    details.large_communities = values
                        .into_iter()
                        .flatten()
                        .map(|value| {
                            format!(
                                "{}:{}:{}",
                                part(value, "ASN"),
                                part(value, "LocalData1"),
                                part(value, "LocalData2")
                            )
                        })
                        .collect();
                }
                Some(code) => {
                    let value = octets_of_base64(&text(attribute, "/value"));
                    details.unknown.insert(unknown(code, &value));
                }
                None => {}
            }
        }
        details
    };
    lists
        .filter_map(Value::as_array)
        .flatten()
        .map(from)
        .collect()
}

/// `bgpctl -j show rib detail PREFIX` of OpenBGPD.
#[must_use]
pub fn of_openbgpd(answer: &Value) -> Vec<Details> {
    let paths = answer.get("rib").and_then(Value::as_array);
    let from = |path: &Value| {
        let mut details = Details {
            origin: text(path, "/origin").to_lowercase(),
            as_path: numbers(&text(path, "/aspath")),
            next_hop: text(path, "/exit_nexthop"),
            med: number(path, "/metric"),
            local_pref: number(path, "/localpref"),
            communities: strings(path.get("communities")).into_iter().collect(),
            large_communities: strings(path.get("large_communities")).into_iter().collect(),
            route_targets: strings(path.get("extended_communities"))
                .into_iter()
                .map(|text| text.replace(' ', ":"))
                .collect(),
            ..Details::default()
        };
        let attributes = path.get("attributes").and_then(Value::as_array);
        for attribute in attributes.into_iter().flatten() {
            match text(attribute, "/type").as_str() {
                "Originator Id" => {
                    details.originator = Some(text(attribute, "/originator"));
                }
                "Cluster Id List" => details.cluster_list = strings(attribute.get("cluster_list")),
                "Atomic Aggregate" => details.atomic_aggregate = true,
                "Aggregator" => details.aggregator = aggregator(attribute, "/AS", "/router_id"),
                other => {
                    let code = other.strip_prefix("Unknown Attribute #");
                    if let Some(code) = code.and_then(|code| code.parse().ok()) {
                        let value = octets_of_hex(&text(attribute, "/data"));
                        details.unknown.insert(unknown(code, &value));
                    }
                }
            }
        }
        details
    };
    paths.into_iter().flatten().map(from).collect()
}

/// `margay routes PREFIX -o json`.
#[must_use]
pub fn of_margay(answer: &Value) -> Vec<Details> {
    let routes = answer.as_array().into_iter().flatten();
    // All kinds are in one list.
    let target = |text: &String| text.starts_with("target:");
    let communities = |path: &Value, colons: usize| {
        let all = strings(path.get("communities")).into_iter();
        all.filter(|text| !target(text) && text.matches(':').count() == colons)
            .collect()
    };
    let targets = |path: &Value| {
        let all = strings(path.get("communities")).into_iter();
        all.filter(target)
            .map(|text| text.replacen("target", "rt", 1))
            .collect()
    };
    let unknowns = |path: &Value| {
        let list = path.get("unknownAttributes").and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|one| {
                let code = one.get("code").and_then(Value::as_u64)?;
                Some(unknown(code, &octets_of_hex(&text(one, "/value"))))
            })
            .collect()
    };
    let from = |path: &Value| Details {
        origin: text(path, "/origin").to_lowercase(),
        as_path: numbers(&text(path, "/asPath")),
        next_hop: text(path, "/nextHop"),
        med: number(path, "/med"),
        local_pref: number(path, "/localPref"),
        communities: communities(path, 1),
        large_communities: communities(path, 2),
        route_targets: targets(path),
        originator: path
            .get("originatorId")
            .and_then(Value::as_str)
            .map(str::to_owned),
        cluster_list: strings(path.get("clusterList")),
        atomic_aggregate: truth(path, "/atomicAggregate"),
        aggregator: aggregator(path, "/aggregator/asn", "/aggregator/address"),
        unknown: unknowns(path),
    };
    routes
        .filter_map(|route| route.get("paths").and_then(Value::as_array))
        .flatten()
        .map(from)
        .collect()
}

fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn number(value: &Value, pointer: &str) -> Option<u32> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .and_then(|number| u32::try_from(number).ok())
}

fn truth(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool) == Some(true)
}

fn aggregator(value: &Value, asn: &str, address: &str) -> Option<String> {
    let asn = number(value, asn)?;
    Some(format!("{asn} {}", text(value, address)))
}

/// `192.0.2.1 AS64512` of both BIRDs.
fn aggregator_of_bird(value: &str) -> Option<String> {
    let (address, asn) = value.split_once(" AS")?;
    Some(format!("{asn} {address}"))
}

/// `BGP.63 [t]: de ad be ef`: the code of an attribute that BIRD does not know is in hexadecimal.
fn unknown_of_bird(name: &str, value: &str) -> Option<String> {
    let code = name.strip_prefix("BGP.")?.split(' ').next()?;
    let code = u64::from_str_radix(code, 16).ok()?;
    Some(unknown(code, &octets_of_hex(value)))
}

/// As every unknown attribute is written here.
#[must_use]
pub fn unknown(code: u64, value: &[u8]) -> String {
    let digits: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{code} {digits}")
}

fn octets_of_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |octet, digit| octet << 4 | digit))
        .collect()
}

fn octets_of_base64(text: &str) -> Vec<u8> {
    let digit = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut octets, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter_map(digit) {
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            let [.., octet] = (bits >> held).to_be_bytes();
            octets.push(octet);
        }
    }
    octets
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|entry| entry.as_str().map(str::to_owned))
        .collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn first_word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bird_prints_a_reflected_path() {
        let text = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.92.0.0/24         unicast [m4 10:00:00.000 from 10.90.0.1] * (100) [AS4200000001i]\n\
            \tvia 10.90.0.9 on eth0\n\tType: BGP univ\n\tBGP.origin: IGP\n\tBGP.as_path: 65010 4200000001\n\
            \tBGP.next_hop: 10.90.0.9\n\tBGP.med: 77\n\tBGP.local_pref: 170\n\tBGP.community: (64609,7) (64609,8)\n\
            \tBGP.originator_id: 10.90.0.9\n\tBGP.cluster_list: 10.90.0.1\n\tBGP.large_community: (64609, 1, 2)\n\
            \tBGP.ext_community: (rt, 64609, 100)\n\tBGP.atomic_aggr: \n\tBGP.aggregator: 10.90.0.9 AS4200000009\n\
            \tBGP.63 [t]: de ad be ef\n";
        let wanted = Details {
            origin: "igp".to_owned(),
            as_path: vec![65010, 4_200_000_001],
            next_hop: "10.90.0.9".to_owned(),
            med: Some(77),
            local_pref: Some(170),
            communities: words("64609:7 64609:8"),
            large_communities: words("64609:1:2"),
            route_targets: words("rt:64609:100"),
            originator: Some("10.90.0.9".to_owned()),
            cluster_list: vec!["10.90.0.1".to_owned()],
            atomic_aggregate: true,
            aggregator: Some("4200000009 10.90.0.9".to_owned()),
            unknown: BTreeSet::from(["99 deadbeef".to_owned()]),
        };
        assert_eq!(of_bird(text), [wanted]);
    }

    #[test]
    fn base64_of_gobgp_is_read() {
        assert_eq!(octets_of_base64("3q2+7w=="), [0xde, 0xad, 0xbe, 0xef]);
        assert!(octets_of_base64("").is_empty());
    }
}
