//! What was measured, beside what it shall be.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// All figures, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    /// With 10,000 hosts on 2 cores.
    target: Option<&'static str>,
}

impl Figures {
    pub(crate) fn put(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.push(name, value, unit, None);
    }

    pub(crate) fn put_for(
        &mut self,
        name: &'static str,
        value: f64,
        unit: &'static str,
        target: &'static str,
    ) {
        self.push(name, value, unit, Some(target));
    }

    fn push(&mut self, name: &'static str, value: f64, unit: &'static str, target: Option<&'static str>) {
        // At once, so that somebody who watches a long run sees how it goes.
        eprintln!("{name}: {value:.2} {unit}");
        self.0.push(Figure {
            name,
            value,
            unit,
            target,
        });
    }

    /// `{name: value}`.
    pub(crate) fn to_json(&self) -> Value {
        let values = self
            .0
            .iter()
            .map(|figure| (figure.name.to_owned(), json!(figure.value)));
        Value::Object(values.collect::<Map<_, _>>())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Figure {
            name,
            value,
            unit,
            target,
        } in &self.0
        {
            let target = target.map(|target| format!("  ({target})")).unwrap_or_default();
            writeln!(f, "{name:<34}{value:>12.2} {unit:<8}{target}")?;
        }
        Ok(())
    }
}

/// Durations of the same thing, done many times.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(crate) fn extend(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The duration that so many of a hundred do not exceed, in milliseconds. With fewer than a hundred samples p99 is
    /// the longest.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() * percent)
            .div_ceil(100)
            .clamp(1, sorted.len().max(1));
        sorted
            .get(rank - 1)
            .map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample_that_so_many_do_not_exceed() {
        let samples = |count: u64| Samples((1..=count).map(Duration::from_millis).rev().collect());
        assert_eq!(samples(100).percentile(99), 99.0);
        assert_eq!(samples(200).percentile(50), 100.0);
        assert_eq!(samples(10).percentile(99), 10.0);
        assert!(samples(0).percentile(99).is_nan());
    }
}
