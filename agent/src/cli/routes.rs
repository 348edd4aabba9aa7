//! `margay routes`.

use super::table;
use crate::server::answer::{Path, Route};

/// The answer for people: a line a path, the best one marked `*`, others in use `=`, those kept from an ended session `s`, or `l`
/// where they are long-lived stale.
#[must_use]
pub(crate) fn table(routes: &[Route], wide: bool) -> String {
    let mut heading = vec![
        "", "PREFIX", "NEXT-HOP", "FROM", "PREF", "MED", "AS-PATH", "WHY",
    ];
    if wide {
        heading.extend([
            "ORIGIN",
            "COMMUNITIES",
            "ORIGINATOR",
            "CLUSTERS",
            "PATH-ID",
            "WEIGHT",
            "AGGREGATOR",
            "OTHERS",
        ]);
    }
    let mut rows = Vec::new();
    for route in routes {
        for (position, path) in route.paths.iter().enumerate() {
            let mut mark = match (path.best, path.used) {
                (true, _) => "*",
                (false, true) => "=",
                (false, false) => " ",
            }
            .to_owned();
            match path.retention.as_str() {
                "long-lived-stale" => mark.push('l'),
                _ if path.stale => mark.push('s'),
                _ => {}
            }
            let number =
                |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
            let mut row = vec![
                mark,
                if position == 0 {
                    route.prefix.clone()
                } else {
                    " ".to_owned()
                },
                path.next_hop.clone().unwrap_or_default(),
                path.from.clone(),
                number(path.local_pref),
                number(path.med),
                path.as_path.clone(),
                path.unusable
                    .clone()
                    .or_else(|| path.step.clone())
                    .unwrap_or_default(),
            ];
            if wide {
                row.extend([
                    path.origin.clone(),
                    path.communities.join(" "),
                    path.originator_id.clone().unwrap_or_default(),
                    path.cluster_list.join(" "),
                    number(path.path_id),
                    path.weight.to_string(),
                    aggregator(path),
                    others(path),
                ]);
            }
            rows.push(row);
        }
    }
    let mut text = table::draw(&heading, &rows);
    if let [route] = routes
        && !route.advertised_to.is_empty()
    {
        text.push_str(&format!(
            "\nadvertised to {}\n",
            route.advertised_to.join(", ")
        ));
    }
    text
}

fn aggregator(path: &Path) -> String {
    let mut text = path.aggregator.as_ref().map_or_else(String::new, |made| {
        format!("AS {} {}", made.asn, made.address)
    });
    if path.atomic_aggregate {
        text.push_str(" atomic");
    }
    text.trim_start().to_owned()
}

/// Attributes without a column, by name and value or by type and length.
fn others(path: &Path) -> String {
    let only_to_customer = path
        .only_to_customer
        .map(|asn| format!("only-to-customer {asn}"));
    let unknown = path.unknown_attributes.iter().map(|unknown| {
        let octets = unknown.value.len() / 2;
        format!("attribute {} ({octets} octets)", unknown.code)
    });
    let words: Vec<String> = only_to_customer.into_iter().chain(unknown).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_path_is_marked_and_comes_first() {
        let path = |from: &str, best| Path {
            from: from.into(),
            next_hop: Some(from.into()),
            local_pref: Some(100),
            best,
            used: best,
            step: Some("router id".into()),
            ..Path::default()
        };
        let routes = [Route {
            prefix: "10.65.0.0/26".into(),
            paths: vec![path("10.0.1.3", true), path("10.0.1.4", false)],
            advertised_to: vec!["10.0.1.5".into()],
        }];
        insta::assert_snapshot!(table(&routes, false), @r"
           PREFIX        NEXT-HOP  FROM      PREF  MED  AS-PATH  WHY
        *  10.65.0.0/26  10.0.1.3  10.0.1.3  100   -    -        router id
                         10.0.1.4  10.0.1.4  100   -    -        router id

        advertised to 10.0.1.5
        ");
    }
}
