//! Into which ranges a folder's names are divided, so that they can be listed at the same time. Decides only; asks nobody.
//!
//! A range holds the keys after `after` up to and with `end`, relative to the folder and in the order of their bytes. All
//! ranges together hold every key, and no two the same one. Nobody knows how names are spread, so where to divide is
//! guessed from those that were seen: a wrong guess costs one request that finds nothing.

/// Positions of names that are looked at when the space between two of them is divided: six digits are a million pieces.
const DIGITS: usize = 6;

/// Positions for which it is noted which characters stand there. What differs only behind them is not divided.
const POSITIONS_MAX: usize = 64;

/// All ranges of a listing.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    ranges: Vec<Range>,
    letters: Letters,
}

/// One range.
#[derive(Debug, Default)]
struct Range {
    /// The key before its first.
    after: String,
    /// The last key of it that was seen, or `after`.
    at: String,
    /// How many were seen.
    seen: usize,
    /// Its last key, if it has one.
    end: Option<String>,
    /// Some of its keys have been seen, or it is known that there are none.
    begun: bool,
    done: bool,
}

/// Which characters stand at which position of names.
#[derive(Debug, Default)]
struct Letters {
    at: Vec<Set>,
    anywhere: Set,
}

/// Characters of ASCII: a bit for each.
#[derive(Clone, Copy, Debug, Default)]
struct Set(u128);

impl Ranges {
    /// One range with everything; its number is 0.
    pub(super) fn whole() -> Ranges {
        Ranges {
            ranges: vec![Range::default()],
            letters: Letters::default(),
        }
    }

    /// Whether a key belongs to a range, which begins before it.
    pub(super) fn holds(&self, range: usize, key: &str) -> bool {
        self.ranges[range].end.as_deref().is_none_or(|end| key <= end)
    }

    /// The last key of a range that has come; before its first page, the one after which it begins.
    pub(super) fn at(&self, range: usize) -> &str {
        &self.ranges[range].at
    }

    /// A page of a range has come, with these keys; nothing follows if it is `done`.
    pub(super) fn came<'a>(&mut self, range: usize, keys: impl Iterator<Item = &'a str>, done: bool) {
        let own = &mut self.ranges[range];
        for key in keys {
            self.letters.note(key);
            if key > own.at.as_str() {
                own.at = key.to_owned();
            }
            own.seen += 1;
        }
        own.begun = true;
        own.done |= done;
    }

    /// Divides what is left, so that up to `idle` further requests have something to do: a range of which more than
    /// `page` keys seem to be left, besides those of the page that is on its way. Answers the new ranges.
    pub(super) fn divide(&mut self, idle: usize, page: usize) -> Vec<usize> {
        let mut fresh = Vec::new();
        while fresh.len() < idle {
            let left = |range: &Range| self.letters.left(range) / page as f64 - 1.0;
            let Some((largest, pages)) = self
                .ranges
                .iter()
                .enumerate()
                .filter(|(_, range)| range.begun && !range.done)
                .map(|(number, range)| (number, left(range)))
                .filter(|(_, pages)| *pages > 1.0)
                .max_by(|(_, a), (_, b)| a.total_cmp(b))
            else {
                break;
            };
            let range = &self.ranges[largest];
            let count = (idle - fresh.len()).min(pages.ceil() as usize);
            let points = match &range.end {
                // Of all keys it is not even known in which position they go on.
                None if range.after.is_empty() => self.letters.after(&range.at, count),
                end => self.letters.between(&range.at, end.as_deref(), count),
            };
            if points.is_empty() {
                break;
            }
            let last = self.ranges[largest].end.replace(points[0].clone());
            let ends = points[1..].iter().cloned().map(Some).chain([last]);
            for (point, end) in points.iter().zip(ends) {
                fresh.push(self.ranges.len());
                self.ranges.push(Range {
                    after: point.clone(),
                    at: point.clone(),
                    end,
                    ..Range::default()
                });
            }
        }
        fresh
    }
}

impl Letters {
    fn note(&mut self, key: &str) {
        for (position, byte) in key.bytes().take(POSITIONS_MAX).enumerate() {
            if !byte.is_ascii() {
                // Half a character is no place to divide at.
                return;
            }
            if self.at.len() == position {
                self.at.push(Set::default());
            }
            self.at[position].add(byte);
            self.anywhere.add(byte);
        }
    }

    /// What may stand at a position: what was seen there, the other digits if it was one, and the letters of the same case
    /// that were seen anywhere; where nothing was told from anything yet, letters and digits of any kind.
    fn of(&self, position: usize) -> Vec<u8> {
        let kinds = [
            u8::is_ascii_digit as fn(&u8) -> bool,
            u8::is_ascii_lowercase,
            u8::is_ascii_uppercase,
        ];
        let seen = self.at.get(position).copied().unwrap_or_default();
        let plain = seen.members().all(|byte| byte.is_ascii_alphanumeric());
        let any = plain && seen.count() < 2;
        let mut letters = seen;
        self.anywhere
            .members()
            .chain(b'0'..=b'9')
            .filter(|byte| {
                let of_kind =
                    |kind: &fn(&u8) -> bool| kind(byte) && (any || seen.members().any(|seen| kind(&seen)));
                kinds.iter().any(of_kind)
            })
            .for_each(|byte| letters.add(byte));
        letters.members().collect()
    }

    /// Where a key lies between 0 and 1, looked at from a position on.
    fn value(&self, key: &str, from: usize) -> f64 {
        let mut value = 0.0;
        let mut unit = 1.0;
        for position in from..from + DIGITS {
            let letters = self.of(position);
            if letters.is_empty() {
                break;
            }
            unit /= letters.len() as f64;
            let Some(byte) = key.as_bytes().get(position) else {
                break;
            };
            value += unit * letters.partition_point(|letter| letter < byte) as f64;
        }
        value
    }

    /// The same of the last key of a range: without one, it ends where all keys do.
    fn value_of_end(&self, end: Option<&str>, from: usize) -> f64 {
        end.map_or(1.0, |end| self.value(end, from))
    }

    /// How many keys of a range seem to be left, if the rest of it is as full as what was seen.
    fn left(&self, range: &Range) -> f64 {
        if range.end.is_none() && range.after.is_empty() {
            return f64::INFINITY;
        }
        let same = same(&range.after, range.end.as_deref());
        let [after, at] = [&range.after, &range.at].map(|key| self.value(key, same));
        let end = self.value_of_end(range.end.as_deref(), same);
        // Keys that differ only behind what is looked at seem to fill nothing.
        let filled = (at - after).max(f64::EPSILON);
        range.seen as f64 * ((end - at) / filled).max(0.0)
    }

    /// Keys that divide what lies between two others into pieces of the same size, in order.
    fn between(&self, after: &str, end: Option<&str>, count: usize) -> Vec<String> {
        let same = same(after, end);
        let (low, high) = (self.value(after, same), self.value_of_end(end, same));
        let mut points: Vec<String> = (1..=count)
            .filter_map(|piece| {
                let value = low + (high - low) * piece as f64 / (count + 1) as f64;
                let point = format!("{}{}", after.get(..same)?, self.key_at(value, same));
                let inside = point.as_str() > after && end.is_none_or(|end| point.as_str() < end);
                inside.then_some(point)
            })
            .collect();
        points.dedup();
        points
    }

    /// The shortest text with this value.
    fn key_at(&self, mut value: f64, from: usize) -> String {
        let mut key = String::new();
        for position in from..from + DIGITS {
            let letters = self.of(position);
            if letters.is_empty() {
                break;
            }
            value *= letters.len() as f64;
            let digit = (value as usize).min(letters.len() - 1);
            value -= digit as f64;
            key.push(char::from(letters[digit]));
            // What is left is less than a rounding error.
            if value < 1e-9 {
                break;
            }
        }
        key
    }

    /// Keys after this one: the same up to some position, and the next letter in its place. One of them tells how far the
    /// keys reach. Positions far behind the first one in which keys were seen to differ say nothing about that.
    fn after(&self, key: &str, count: usize) -> Vec<String> {
        let differ = self.at.iter().position(|seen| seen.count() > 1);
        let mut points: Vec<String> = key
            .bytes()
            .enumerate()
            .take(differ.map_or(POSITIONS_MAX, |position| position + 2))
            .take_while(|(_, byte)| byte.is_ascii())
            .filter_map(|(position, byte)| {
                let next = next_letter(byte)?;
                Some(format!("{}{}", &key[..position], char::from(next)))
            })
            .take(count)
            .collect();
        // The later the position, the nearer the point.
        points.reverse();
        points
    }
}

impl Set {
    fn add(&mut self, byte: u8) {
        self.0 |= 1 << byte;
    }

    fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// In their order.
    fn members(self) -> impl Iterator<Item = u8> {
        (0..128_u8).filter(move |byte| self.0 >> byte & 1 == 1)
    }
}

/// The next letter or digit of the same kind.
fn next_letter(byte: u8) -> Option<u8> {
    let next = byte + 1;
    let same_kind = (byte.is_ascii_digit() && next.is_ascii_digit())
        || (byte.is_ascii_lowercase() && next.is_ascii_lowercase())
        || (byte.is_ascii_uppercase() && next.is_ascii_uppercase());
    same_kind.then_some(next)
}

/// How many bytes all keys of a range begin with in common for certain.
fn same(after: &str, end: Option<&str>) -> usize {
    let pairs = after.bytes().zip(end.unwrap_or_default().bytes());
    pairs.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists keys that are there with so many requests at a time; answers how many rounds and requests it took.
    fn list(keys: &[String], page: usize, parallel: usize) -> (usize, usize) {
        let mut ranges = Ranges::whole();
        let mut open = vec![0];
        let (mut rounds, mut requests) = (0, 0);
        let mut seen: Vec<String> = Vec::new();
        while !open.is_empty() {
            rounds += 1;
            assert!(rounds < 10_000, "it never ends");
            let mut still = Vec::new();
            for range in std::mem::take(&mut open) {
                requests += 1;
                let at = ranges.at(range).to_owned();
                let from = keys.partition_point(|key| *key <= at);
                let to = (from + page).min(keys.len());
                let own: Vec<&str> = keys[from..to]
                    .iter()
                    .map(String::as_str)
                    .filter(|key| ranges.holds(range, key))
                    .collect();
                seen.extend(own.iter().map(|key| (*key).to_owned()));
                let done = own.len() < to - from || to == keys.len();
                ranges.came(range, own.into_iter(), done);
                if !done {
                    still.push(range);
                }
            }
            open = still;
            let fresh = ranges.divide(parallel - open.len(), page);
            open.extend(fresh);
        }
        seen.sort();
        assert_eq!(seen, keys, "every key once");
        (rounds, requests)
    }

    fn numbered(count: usize, name: impl Fn(usize) -> String) -> Vec<String> {
        let mut keys: Vec<String> = (0..count).map(name).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    #[test]
    fn a_folder_of_one_page_is_asked_for_once() {
        assert_eq!(
            list(&numbered(900, |number| format!("{number:07}")), 1000, 16),
            (1, 1)
        );
    }

    #[test]
    fn a_hundred_pages_take_a_seventh_of_the_rounds_whatever_the_names_look_like() {
        let spread = |number: usize| (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let kinds: [(&str, Vec<String>); 5] = [
            ("numbers", numbered(100_000, |number| format!("{number:07}"))),
            (
                "pictures",
                numbered(100_000, |number| format!("img_{number:06}.jpg")),
            ),
            (
                "hex",
                numbered(100_000, |number| format!("{:016x}", spread(number))),
            ),
            (
                "plain numbers",
                numbered(100_000, |number| format!("{number}.json")),
            ),
            (
                "days",
                numbered(100_000, |number| {
                    format!(
                        "2026-{:02}-{:02}-{:05}.parquet",
                        number % 12 + 1,
                        number % 28 + 1,
                        number
                    )
                }),
            ),
        ];
        for (name, keys) in kinds {
            let (rounds, requests) = list(&keys, 1000, 16);
            println!("{name}: {rounds} rounds, {requests} requests");
            assert!(rounds <= 14, "{name}: {rounds} rounds");
            assert!(requests <= 180, "{name}: {requests} requests");
        }
    }

    #[test]
    fn names_that_nobody_can_foresee_come_once_each() {
        let spread = |number: usize| (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let letters: Vec<char> = "aäzÅ日 -._~09AZ".chars().collect();
        let keys = numbered(20_000, |number| {
            let mut rest = spread(number);
            let length = 1 + rest as usize % 9;
            (0..length)
                .map(|_| {
                    rest = rest.rotate_left(7).wrapping_mul(31);
                    letters[rest as usize % letters.len()]
                })
                .collect()
        });
        list(&keys, 100, 16);
        let same = numbered(5000, |number| format!("{}{number}", "x".repeat(100)));
        list(&same, 100, 16);
    }
}
