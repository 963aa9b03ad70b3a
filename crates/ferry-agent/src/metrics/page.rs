//! A page under construction: families of figures, each with its help and type.

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use std::fmt::{Display, Result};

/// What tells a figure from its siblings.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One label.
pub(super) fn label(name: &'static str, value: impl Display) -> (&'static str, String) {
    (name, value.to_string())
}

/// Milliseconds as the unit that figures have.
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// Durations by class.
#[derive(Debug, Default)]
pub(super) struct Durations {
    /// All of them together, in seconds.
    pub(super) sum_s: f64,
    /// Upper bound in seconds and how many, the bounds rising; the last is infinity.
    pub(super) classes: Vec<(f64, u64)>,
}

/// Writes families one after the other.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl<'a> Page<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// A figure that has no siblings and may fall.
    pub(super) fn one(&mut self, name: &str, help: &str, value: f64) -> Result {
        self.gauge(name, help, [(Vec::new(), value)])
    }

    /// Figures that may fall.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        figures: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in figures {
            match labels.is_empty() {
                true => family.encode_gauge(&value)?,
                false => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// Figures that only rise. `_total` is added to the name.
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        figures: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in figures {
            let none = None::<&prometheus_client::metrics::exemplar::Exemplar<NoLabelSet, f64>>;
            match labels.is_empty() {
                true => family.encode_counter(&value, none)?,
                false => family.encode_family(&labels)?.encode_counter(&value, none)?,
            }
        }
        Ok(())
    }

    /// Durations that were counted elsewhere.
    pub(super) fn durations(
        &mut self,
        name: &str,
        help: &str,
        figures: impl IntoIterator<Item = (Labels, Durations)>,
    ) -> Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, Durations { sum_s, classes }) in figures {
            let count = classes.iter().map(|(_, count)| count).sum();
            let mut member = family.encode_family(&labels)?;
            member.encode_histogram::<NoLabelSet>(sum_s, count, &classes, None)?;
        }
        Ok(())
    }

    /// A histogram that counts itself.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> Result {
        histogram.encode(self.0.encode_descriptor(name, help, None, histogram.metric_type())?)
    }
}
