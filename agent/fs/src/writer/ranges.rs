//! A set of byte positions, kept as disjoint ranges that never touch.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-empty, non-adjacent ranges.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Everything that overlaps or touches becomes part of the new range.
        while let Some((&other_start, &other_end)) = self.0.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            start = start.min(other_start);
            end = end.max(other_end);
            self.0.remove(&other_start);
        }
        self.0.insert(start, end);
    }

    /// Removes everything from `from` on.
    pub fn truncate(&mut self, from: u64) {
        self.0.split_off(&from);
        if let Some((_, end)) = self.0.range_mut(..from).next_back() {
            *end = (*end).min(from);
        }
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let before = self.0.range(..range.start).next_back();
        let within = self.0.range(range.clone());
        for (&start, &end) in before.into_iter().chain(within) {
            if start > at {
                gaps.push(at..start.min(range.end));
            }
            at = at.max(end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::default();
        ranges.iter().for_each(|(start, end)| set.insert(*start..*end));
        set
    }

    #[test]
    fn gaps_are_what_was_not_inserted() {
        let check = |ranges: &[(u64, u64)], asked: Range<u64>, expected: &[(u64, u64)]| {
            let gaps: Vec<_> = set(ranges)
                .gaps(asked)
                .iter()
                .map(|gap| (gap.start, gap.end))
                .collect();
            assert_eq!(gaps, expected);
        };
        check(&[], 0..10, &[(0, 10)]);
        check(&[(2, 4), (6, 8)], 0..10, &[(0, 2), (4, 6), (8, 10)]);
        check(&[(0, 10)], 3..5, &[]);
        check(&[(0, 4)], 3..5, &[(4, 5)]);
        check(&[(5, 6)], 0..3, &[(0, 3)]);
        check(&[(2, 4), (4, 6)], 0..6, &[(0, 2)]);
    }

    #[test]
    fn touching_and_overlapping_ranges_become_one() {
        assert_eq!(set(&[(0, 2), (4, 6), (2, 4)]).0.len(), 1);
        assert_eq!(set(&[(0, 2), (4, 6), (1, 9)]).0.len(), 1);
        assert_eq!(set(&[(0, 2), (4, 6)]).0.len(), 2);
    }

    #[test]
    fn a_truncated_set_ends_there() {
        let mut cut = set(&[(0, 4), (6, 10)]);
        cut.truncate(7);
        assert_eq!(cut.gaps(0..10), [4..6, 7..10]);
        cut.truncate(0);
        assert_eq!(cut.gaps(0..10).len(), 1);
    }

    /// Against the simplest model there is, with a fixed sequence of inserts and cuts.
    #[test]
    fn it_agrees_with_a_bitmap() {
        let mut set = RangeSet::default();
        let mut model = [false; 64];
        let mut random = 12345_u64;
        for _ in 0..2000 {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let a = (random >> 33) % 64;
            let b = (random >> 45) % 64;
            if random >> 60 == 0 {
                set.truncate(a);
                model[a as usize..].fill(false);
            } else {
                set.insert(a.min(b)..a.max(b));
                model[a.min(b) as usize..a.max(b) as usize].fill(true);
            }
            let mut missing = [false; 64];
            for gap in set.gaps(0..64) {
                missing[gap.start as usize..gap.end as usize].fill(true);
            }
            assert!(missing.iter().zip(&model).all(|(gap, present)| gap != present));
        }
    }
}
