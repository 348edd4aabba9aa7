//! Tables as people read them: left-aligned columns two spaces apart, no lines, no trailing blanks.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

/// Draws rows under a heading. Narrow terminals do not wrap it: a table is also for `grep` and `awk`.
#[must_use]
pub fn draw(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heading.iter().copied());
    for row in rows {
        table.add_row(
            row.iter()
                .map(|cell| if cell.is_empty() { "-" } else { cell }),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A duration as people say it: `42s`, `7m03s`, `5h12m`, `3d04h`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_cells_show_a_dash() {
        let text = draw(
            &["NAME", "STATE"],
            &[
                vec!["a-long-name".into(), String::new()],
                vec!["b".into(), "up".into()],
            ],
        );
        assert_eq!(
            text,
            "NAME         STATE\na-long-name  -\nb            up\n"
        );
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(61), "1m01s");
        assert_eq!(duration(7384), "2h03m");
        assert_eq!(duration(90_000), "1d01h");
    }
}
