//! `margay explain`.

use super::table;
use crate::server::answer::Explanation;

/// The answer for people: the conclusion, then what leads to it.
#[must_use]
pub(crate) fn table(explanation: &Explanation) -> String {
    let rows: Vec<Vec<String>> = explanation
        .steps
        .iter()
        .map(|step| vec![step.subject.clone(), step.reason.clone()])
        .collect();
    format!(
        "{}: {}\n\n{}",
        explanation.address,
        explanation.verdict,
        table::draw(&["LOOKED AT", "FOUND"], &rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::answer::Finding;

    #[test]
    fn the_verdict_comes_first() {
        let explanation = Explanation {
            address: "10.65.3.7".into(),
            routed: false,
            verdict: "nothing routes it".into(),
            steps: vec![Finding {
                subject: "pool".into(),
                reason: "in no pool".into(),
            }],
        };
        insta::assert_snapshot!(table(&explanation), @r"
        10.65.3.7: nothing routes it

        LOOKED AT  FOUND
        pool       in no pool
        ");
    }
}
