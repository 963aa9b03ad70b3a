//! The rows as one table, for the terminal and for the page that is kept.

use std::fmt::Write;

use super::figures::{Comparison, Goal, Outcome, Row, Unit};
use super::machine::Machine;
use super::options::Options;
use super::reasons;

const HEAD: [&str; 6] = ["work", "Ferry", "others", "ratio", "goal", ""];

/// A Markdown table with its columns aligned, so that it reads as well in a terminal.
pub fn table(rows: &[Row]) -> String {
    let mut lines: Vec<[String; 6]> = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let widths: [usize; 6] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(widths) {
            write!(text, "| {cell:width$} ").expect("a String takes everything");
        }
        text.push_str("|\n");
        if at == 0 {
            for width in widths {
                write!(text, "|{}", "-".repeat(width + 2)).expect("a String takes everything");
            }
            text.push_str("|\n");
        }
    }
    text
}

/// How many goals were met and missed, in one sentence.
pub fn summary(rows: &[Row]) -> String {
    let count = |wanted| rows.iter().filter(|row| row.outcome.met() == wanted).count();
    let (met, missed, without) = (count(Some(true)), count(Some(false)), count(None));
    format!("{met} goals met, {missed} missed, {without} cells without a figure.")
}

/// The page that is kept: the table, and the machine and settings it came from.
pub fn page(rows: &[Row], machine: &Machine, begun: jiff::Timestamp, options: &Options) -> String {
    let Machine { cores, processor, memory_mib, kernel, load } = machine;
    format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench --write`; figures of other machines differ, ratios less so. A ratio is Ferry's \
         figure by that of\n\
         the better of the others (in bold) in the same round: the median (and the range) over {pairs} \
         alternating rounds.\nFigures are medians.\n\n\
         {date}, {cores} cores ({processor}), {memory_gib:.0} GiB of memory, Linux {kernel}, load average {load} before. \
         fio runs of {seconds} s on {size} MiB;\n{hydration} MiB hydrated.\n\n\
         All copies end with the bytes durable at the target (`nbdcopy --flush`, `qemu-img -t writeback`, our map on \
         disk), from servers\nthat run already. Beside them stands what a file written and synced, or one loopback \
         connection, gives. Each contender finds\nmemory that was used just before. The guard is told a p99 of 1.4 \
         times the calm one of the same guest.\n\n\
         {table}\n{summary}\n{reasons}",
        pairs = options.pairs,
        date = begun.strftime("%Y-%m-%d"),
        memory_gib = *memory_mib as f64 / 1024.0,
        seconds = options.seconds,
        size = options.size_mib,
        hydration = options.hydration_mib,
        table = table(rows),
        summary = summary(rows),
        reasons = reasons(rows),
    )
}

/// The sections of a page behind its table, with the empty line before them.
pub fn further_sections(page: &str) -> &str {
    page.find("\n## ").map_or("", |at| &page[at..])
}

/// Why goals were missed, as a list; nothing if none was, or nothing is known.
fn reasons(rows: &[Row]) -> String {
    let missed = rows.iter().filter(|row| row.outcome.met() == Some(false));
    let known: Vec<String> = missed
        .filter_map(|row| reasons::of(&row.work).map(|reason| format!("- {}: {reason}\n", row.work)))
        .collect();
    if known.is_empty() {
        String::new()
    } else {
        format!("\nWhy, as far as is known about those:\n\n{}", known.concat())
    }
}

fn cells(row: &Row) -> [String; 6] {
    let verdict = |met| if met { "met" } else { "**missed**" }.to_owned();
    let none = || "-".to_owned();
    let work = row.work.clone();
    match &row.outcome {
        Outcome::Compared(comparison) => [
            work,
            figure(comparison.ours, comparison.unit),
            others(comparison),
            format!("{:.2} ({:.2}-{:.2})", comparison.ratio, comparison.spread.0, comparison.spread.1),
            bound(comparison.goal, |figure| format!("{figure:.1}")),
            verdict(comparison.goal.is_met(comparison.ratio)),
        ],
        Outcome::Measured(absolute) => [
            work,
            figure(absolute.ours, absolute.unit),
            none(),
            none(),
            bound(absolute.goal, |value| figure(value, absolute.unit)),
            verdict(absolute.goal.is_met(absolute.ours)),
        ],
        Outcome::Skipped(reason) => {
            [work, none(), none(), none(), none(), format!("skipped: {}", plain(reason))]
        }
        Outcome::Failed(reason) => {
            [work, none(), none(), none(), none(), format!("**failed**: {}", plain(reason))]
        }
    }
}

/// A reason on one line that cannot end its cell.
fn plain(reason: &str) -> String {
    reason.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

fn others(comparison: &Comparison) -> String {
    let told = comparison.others.iter().enumerate().map(|(at, (name, median))| {
        let told = format!("{name} {}", figure(*median, comparison.unit));
        if at == comparison.better && comparison.others.len() > 1 { format!("**{told}**") } else { told }
    });
    told.collect::<Vec<_>>().join(", ")
}

fn bound(goal: Goal, tell: impl Fn(f64) -> String) -> String {
    match goal {
        Goal::AtLeast(bound) => format!("≥ {}", tell(bound)),
        Goal::AtMost(bound) => format!("≤ {}", tell(bound)),
    }
}

fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::RequestsPerS => format!("{value:.0}/s"),
        Unit::MibPerS => format!("{value:.0} MiB/s"),
        Unit::Micros => format!("{value:.0} µs"),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Mib => format!("{value:.1} MiB"),
        Unit::Kib => format!("{value:.0} KiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Absolute;
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |work: &str, outcome| Row { work: work.to_owned(), outcome };
        vec![
            row(
                "random read",
                Outcome::Compared(Comparison {
                    unit: Unit::RequestsPerS,
                    goal: Goal::AtLeast(1.0),
                    ours: 51_234.4,
                    others: vec![("qemu-nbd".to_owned(), 30_000.0), ("nbdkit".to_owned(), 60_000.0)],
                    ratio: 0.854,
                    spread: (0.7, 0.9),
                    better: 1,
                }),
            ),
            row(
                "idle",
                Outcome::Measured(Absolute { unit: Unit::Mib, goal: Goal::AtMost(10.0), ours: 5.25 }),
            ),
            row("copy", Outcome::Skipped("nbdcopy is not installed".to_owned())),
            row("burn", Outcome::Failed("fio\nsaid | no".to_owned())),
        ]
    }

    #[test]
    fn the_table_tells_figures_ratio_goal_and_verdict() {
        let table = table(&rows());
        let cells: Vec<Vec<&str>> =
            table.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
        assert_eq!(cells[0], HEAD);
        let compared = [
            "random read",
            "51234/s",
            "qemu-nbd 30000/s, **nbdkit 60000/s**",
            "0.85 (0.70-0.90)",
            "≥ 1.0",
            "**missed**",
        ];
        assert_eq!(cells[2], compared);
        assert_eq!(cells[3], ["idle", "5.2 MiB", "-", "-", "≤ 10.0 MiB", "met"]);
        assert_eq!(cells[4][5], "skipped: nbdcopy is not installed");
        assert_eq!(cells[5][5], "**failed**: fio said / no");
    }

    #[test]
    fn all_lines_of_the_table_are_equally_long() {
        let lengths: Vec<usize> = table(&rows()).lines().map(|line| line.chars().count()).collect();
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    }

    #[test]
    fn the_page_names_the_machine_the_day_and_the_settings() {
        let machine = Machine {
            cores: 2,
            processor: "A CPU".to_owned(),
            memory_mib: 24_000,
            kernel: "6.1.0".to_owned(),
            load: "0.10".to_owned(),
        };
        let begun = "2026-03-04T05:06:07Z".parse().unwrap();
        let page = page(&rows(), &machine, begun, &Options::default());
        for part in [
            "# Benchmarks\n",
            "2026-03-04, 2 cores (A CPU), 23 GiB of memory, Linux 6.1.0, load average 0.10",
            "over 5 alternating",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(page.contains("1 goals met, 1 missed, 2 cells without a figure."), "{page}");
    }
}
