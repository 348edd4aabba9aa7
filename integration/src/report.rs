//! What was seen: a line as each check ends, a table at the end, and one verdict.

use std::fmt::Display;
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::{Cell, ContentArrangement, Table, presets};

/// Prints a line; a lab's output is for people, and nobody reading it is no reason to stop.
pub fn say(line: impl Display) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Collects the checks of a lab.
#[derive(Debug)]
pub struct Report {
    rows: Vec<Row>,
    start: Instant,
}

#[derive(Debug)]
struct Row {
    what: String,
    seen: String,
    held: bool,
    took: Duration,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            start: Instant::now(),
        }
    }
}

impl Report {
    /// Runs one check, prints how it went and remembers it. A check that fails does not stop the lab.
    ///
    /// Returns whether it held.
    pub fn check(&mut self, what: &str, run: impl FnOnce() -> Result<String>) -> bool {
        let start = Instant::now();
        let result = run();
        let held = result.is_ok();
        let seen = result.unwrap_or_else(|error| format!("{error:#}"));
        let took = start.elapsed();
        say(format_args!(
            "[{:>6.1} s] {} {what}: {seen}",
            self.start.elapsed().as_secs_f64(),
            if held { "ok  " } else { "FAIL" }
        ));
        self.rows.push(Row {
            what: what.to_owned(),
            seen,
            held,
            took,
        });
        held
    }

    /// Whether every check so far held, and there was one.
    #[must_use]
    pub fn held(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.held)
    }

    /// The table of all checks.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(150);
        table.set_header(["what must hold", "what was seen", "", "took"]);
        for row in &self.rows {
            table.add_row([
                Cell::new(&row.what),
                Cell::new(&row.seen),
                Cell::new(if row.held { "ok" } else { "FAIL" }),
                Cell::new(format!("{:.1} s", row.took.as_secs_f64())),
            ]);
        }
        table.to_string()
    }
}
