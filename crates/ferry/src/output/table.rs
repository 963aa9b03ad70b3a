//! Tables: columns without borders, so that `awk` and eyes read them alike; and two-column fact sheets.

use comfy_table::{Table, presets};

/// Space between two columns.
const GAP: u16 = 3;

/// Renders `rows` under `header`; every row has as many cells as the header.
pub fn columns<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    render(table)
}

/// Renders facts as `name   value` lines.
pub fn facts(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    rows.into_iter().for_each(|(name, value)| {
        table.add_row([name.to_owned(), value]);
    });
    render(table)
}

fn render(mut table: Table) -> String {
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, GAP));
    });
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let text = columns(
            ["NAME", "SIZE"],
            [["data".into(), "8 GiB".into()], ["log-of-web".into(), "1 KiB".into()]],
        );
        assert_eq!(text, "NAME         SIZE\ndata         8 GiB\nlog-of-web   1 KiB");
    }

    #[test]
    fn facts_line_up() {
        assert_eq!(facts([("id", "7".into()), ("state", "open".into())]), "id      7\nstate   open");
    }
}
