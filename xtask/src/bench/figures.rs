//! From samples to a verdict: medians, ratios and goals. Nothing here measures.

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    RequestsPerS,
    MibPerS,
    Micros,
    Seconds,
    Mib,
    Kib,
}

/// What must hold for the ratio of ours to the better of the others', or for our figure where there is no other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// All samples of one contender, one a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    pub name: String,
    pub values: Vec<f64>,
}

/// Ours beside the others', as medians.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub unit: Unit,
    pub goal: Goal,
    pub ours: f64,
    pub others: Vec<(String, f64)>,
    /// The median over the rounds of ours by the better one's of the same round.
    pub ratio: f64,
    /// The least and the greatest of these: how much the machine let them vary.
    pub spread: (f64, f64),
    /// Which of the others that is.
    pub better: usize,
}

/// A figure that is compared with nothing but its goal.
#[derive(Debug, Clone, PartialEq)]
pub struct Absolute {
    pub unit: Unit,
    pub goal: Goal,
    pub ours: f64,
}

/// How a cell ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Compared(Comparison),
    Measured(Absolute),
    /// Something it needs is missing; says what.
    Skipped(String),
    /// It was tried and gave no figure; says why.
    Failed(String),
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub work: String,
    pub outcome: Outcome,
}

impl Goal {
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
        }
    }
}

impl Outcome {
    /// Whether the goal is met; none without a figure.
    pub fn met(&self) -> Option<bool> {
        match self {
            Self::Compared(comparison) => Some(comparison.goal.is_met(comparison.ratio)),
            Self::Measured(absolute) => Some(absolute.goal.is_met(absolute.ours)),
            Self::Skipped(_) | Self::Failed(_) => None,
        }
    }
}

/// The middle one, or the mean of the middle two; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => None,
        (0, Some(upper)) => Some(f64::midpoint(sorted[middle - 1], *upper)),
        (_, Some(value)) => Some(*value),
    }
}

/// The first contender is ours; what the goal asks more of is what is better. None without others or samples.
pub fn compare(contenders: &[Samples], unit: Unit, goal: Goal) -> Option<Comparison> {
    let (ours, others) = contenders.split_first()?;
    let medians: Option<Vec<(String, f64)>> =
        others.iter().map(|other| Some((other.name.clone(), median(&other.values)?))).collect();
    let medians = medians?;
    let by_median = |a: &usize, b: &usize| medians[*a].1.total_cmp(&medians[*b].1);
    let better = match goal {
        Goal::AtLeast(_) => (0..medians.len()).max_by(by_median)?,
        Goal::AtMost(_) => (0..medians.len()).min_by(by_median)?,
    };
    let ratios: Vec<f64> =
        ours.values.iter().zip(&others[better].values).map(|(ours, theirs)| ours / theirs).collect();
    Some(Comparison {
        unit,
        goal,
        ours: median(&ours.values)?,
        others: medians,
        ratio: median(&ratios)?,
        spread: (ratios.iter().copied().reduce(f64::min)?, ratios.iter().copied().reduce(f64::max)?),
        better,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(name: &str, values: &[f64]) -> Samples {
        Samples { name: name.to_owned(), values: values.to_vec() }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn ours_is_held_against_the_better_of_the_others() {
        let contenders =
            [samples("ferry", &[10.0, 12.0, 11.0]), samples("a", &[4.0, 5.0, 6.0]), samples("b", &[8.0; 3])];
        let most = compare(&contenders, Unit::RequestsPerS, Goal::AtLeast(1.0)).unwrap();
        assert_eq!((most.better, most.ours, most.ratio), (1, 11.0, 11.0 / 8.0));
        assert_eq!(most.spread, (10.0 / 8.0, 12.0 / 8.0));
        assert_eq!(most.others, [("a".to_owned(), 5.0), ("b".to_owned(), 8.0)]);
        let least = compare(&contenders, Unit::Micros, Goal::AtMost(1.2)).unwrap();
        assert_eq!((least.better, least.ratio), (0, 12.0 / 5.0));
    }

    #[test]
    fn a_slow_machine_slows_both_and_the_ratio_stays() {
        let contenders = [samples("ferry", &[20.0, 2.0, 20.0]), samples("a", &[10.0, 1.0, 10.0])];
        let comparison = compare(&contenders, Unit::MibPerS, Goal::AtLeast(1.0)).unwrap();
        assert_eq!(comparison.ratio, 2.0);
    }

    #[test]
    fn without_others_there_is_nothing_to_compare() {
        assert_eq!(compare(&[], Unit::MibPerS, Goal::AtLeast(1.0)), None);
        assert_eq!(compare(&[samples("ferry", &[1.0])], Unit::MibPerS, Goal::AtLeast(1.0)), None);
        let empty = [samples("ferry", &[]), samples("a", &[])];
        assert_eq!(compare(&empty, Unit::MibPerS, Goal::AtLeast(1.0)), None);
    }

    #[test]
    fn a_goal_is_met_at_its_very_bound() {
        assert!(Goal::AtLeast(1.0).is_met(1.0) && !Goal::AtLeast(1.0).is_met(0.999));
        assert!(Goal::AtMost(1.2).is_met(1.2) && !Goal::AtMost(1.2).is_met(1.201));
        let measured = |ours| Outcome::Measured(Absolute { unit: Unit::Mib, goal: Goal::AtMost(10.0), ours });
        assert_eq!(measured(9.0).met(), Some(true));
        assert_eq!(measured(11.0).met(), Some(false));
        assert_eq!(Outcome::Skipped("no fio".to_owned()).met(), None);
    }
}
