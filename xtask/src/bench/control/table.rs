//! The figures of the control path as one section of the page that is kept.

use super::super::figures::median;
use super::super::machine::Machine;
use super::super::options::Options;

/// The heading by which the section is found again.
pub const HEADING: &str = "## The control path";

/// Samples in short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Samples {
    pub median: f64,
    /// Nine of ten are at most that.
    pub p90: f64,
}

impl Samples {
    /// Of nothing both are 0.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let nine_tenths = (values.len() * 9).div_ceil(10).saturating_sub(1);
        let p90 = values.get(nine_tenths).copied().unwrap_or_default();
        Self { median: median(&values).unwrap_or_default(), p90 }
    }

    pub fn told(&self, unit: &str) -> String {
        format!("{:.1} {unit} (p90 {:.1})", self.median, self.p90)
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Line {
    what: String,
    unit: &'static str,
    samples: Samples,
    beside: String,
    at_most: Option<f64>,
}

impl Line {
    pub fn new(what: &str, unit: &'static str, values: Vec<f64>) -> Self {
        let samples = Samples::of(values);
        Self { what: what.to_owned(), unit, samples, beside: "-".to_owned(), at_most: None }
    }

    /// What the same run gave without Ferry.
    pub fn beside(self, beside: String) -> Self {
        Self { beside, ..self }
    }

    /// The median is to be at most that.
    pub fn at_most(self, bound: f64) -> Self {
        Self { at_most: Some(bound), ..self }
    }

    /// The line as it is told while others are still measured.
    pub fn told(&self) -> String {
        let beside = if self.beside == "-" { String::new() } else { format!("; {}", self.beside) };
        format!("{}: {}{beside}", self.what, self.samples.told(self.unit))
    }

    /// Its samples alone.
    pub fn told_short(&self) -> String {
        self.samples.told(self.unit)
    }

    pub fn median(&self) -> f64 {
        self.samples.median
    }

    /// Lines as a table.
    pub fn table(lines: &[Self]) -> String {
        let head = "| what | median | p90 | beside | goal | |\n|---|---|---|---|---|---|\n".to_owned();
        lines.iter().fold(head, |table, line| format!("{table}| {} |\n", line.cells().join(" | ")))
    }

    fn cells(&self) -> [String; 6] {
        let Self { what, unit, samples, beside, at_most } = self;
        let verdict = |bound: f64| if samples.median <= bound { "met" } else { "**missed**" }.to_owned();
        [
            what.clone(),
            format!("{:.1} {unit}", samples.median),
            format!("{:.1} {unit}", samples.p90),
            beside.clone(),
            at_most.map_or_else(|| "-".to_owned(), |bound| format!("≤ {bound:.0} {unit}")),
            at_most.map_or_else(String::new, verdict),
        ]
    }
}

/// The section: the table, and the machine and settings it came from.
pub fn section(lines: &[Line], machine: &Machine, begun: jiff::Timestamp, options: &Options) -> String {
    format!(
        "{HEADING}\n\n{} two agents on\nloopback. {} moves there and back of a machine with 8 MiB in use, by the times in their \
         journals; {} appends by the product's records;\n{} moves that wait for their time. Goals are for the median.\n\n{}",
        machine.preamble("control", begun),
        options.moves,
        options.appends,
        options.jobs,
        Line::table(lines),
    )
}

/// The page with this section in the place of the former one, or at its end.
pub fn with_section(page: &str, heading: &str, section: &str) -> String {
    let (before, rest) = match page.find(heading) {
        Some(at) => page.split_at(at),
        None => (page, ""),
    };
    let after = rest.get(heading.len()..).and_then(|rest| rest.find("\n## ").map(|at| &rest[at..]));
    format!("{}\n\n{section}{}", before.trim_end(), after.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_samples_are_at_most_the_p90() {
        let samples = Samples::of((1..=20).map(f64::from).collect());
        assert_eq!(samples, Samples { median: 10.5, p90: 18.0 });
        assert_eq!(Samples::of(vec![7.0]), Samples { median: 7.0, p90: 7.0 });
    }

    #[test]
    fn a_goal_is_held_against_the_median() {
        let line = |bound| Line::new("x", "ms", vec![1.0, 2.0, 30.0]).at_most(bound).cells()[5].clone();
        assert_eq!((line(2.0), line(1.9)), ("met".to_owned(), "**missed**".to_owned()));
    }

    #[test]
    fn a_section_takes_the_place_of_the_former_one_and_leaves_the_others() {
        let page = "# A\n\nx\n\n## The control path\n\nold\n\n## B\n\ny\n";
        let new = "## The control path\n\nnew\n";
        assert_eq!(with_section(page, HEADING, new), "# A\n\nx\n\n## The control path\n\nnew\n\n## B\n\ny\n");
        assert_eq!(with_section("# A\n\nx\n", HEADING, new), "# A\n\nx\n\n## The control path\n\nnew\n");
    }
}
