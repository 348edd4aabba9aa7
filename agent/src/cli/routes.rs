//! `margay routes`.

use super::table;
use crate::server::answer::Route;

/// The answer for people: a line a path, the best one marked `*`, others in use `=`, those kept from an ended session `s`.
#[must_use]
pub(crate) fn table(routes: &[Route], wide: bool) -> String {
    let mut heading = vec![
        "", "PREFIX", "NEXT-HOP", "FROM", "PREF", "MED", "AS-PATH", "WHY",
    ];
    if wide {
        heading.extend(["ORIGIN", "COMMUNITIES", "ORIGINATOR", "CLUSTERS"]);
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
            if path.stale {
                mark.push('s');
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::answer::Path;

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
