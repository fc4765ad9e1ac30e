//! Tells sequential from random reads, per handle. Pure: offsets in, a verdict out.
//!
//! A handle may be read at several places in turn (columns of a table, tensors of a checkpoint), so up to
//! four cursors are followed. A read that continues a cursor is sequential and may read ahead; what one
//! cursor may read ahead is a multiple of what was read in sequence there, so that a wrong guess never
//! costs more than a multiple of the bytes that were wanted.

/// Readers of one handle that are told apart; more would let random reads pass for sequential ones.
pub(super) const CURSORS_MAX: usize = 4;

/// The first window of a stream: about what a connection carries in the latency of S3 (90 MB/s × 11 ms).
pub(super) const WINDOW_BYTES_MIN: u64 = 1 << 20;

/// Bytes ahead per byte read in sequence. With 2 a fast reader waits too often before the window is as
/// large as the network needs; 4 has 64 MiB ahead after 16 MiB read.
const WINDOW_PER_BYTE: u64 = 4;

/// So far behind a cursor a read still belongs to it: requests of up to 1 MiB overtake each other.
const LOOK_BACK_BYTES: u64 = 2 << 20;

/// Skipped forwards without ending a sequence: one request of the usual read-ahead.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// The cursors of one handle.
#[derive(Debug, Default)]
pub(super) struct Streams {
    cursors: Vec<Cursor>,
    clock: u64,
}

/// What a read is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// Which cursor it belongs to, below [`CURSORS_MAX`].
    pub(super) slot: usize,
    /// The slot had another cursor before: what was read ahead for that one is of no use now.
    pub(super) replaced: bool,
    /// How far to read ahead, counted from the read's offset; none for a random read.
    pub(super) window_bytes: Option<u64>,
    /// The end of the furthest read of the cursor.
    pub(super) next: u64,
}

#[derive(Debug)]
struct Cursor {
    next: u64,
    /// Bytes read in sequence; zero before the second read.
    run_bytes: u64,
    used_at: u64,
}

impl Streams {
    /// Notes a read of `len` > 0 bytes.
    pub(super) fn observe(&mut self, offset: u64, len: u64) -> Seen {
        self.clock += 1;
        let end = offset + len;
        if let Some(slot) = self.continued_by(offset) {
            let cursor = &mut self.cursors[slot];
            cursor.run_bytes += end.saturating_sub(cursor.next.max(offset)).max(1);
            cursor.next = cursor.next.max(end);
            cursor.used_at = self.clock;
            let window_bytes = Some(window(cursor.run_bytes));
            return Seen {
                slot,
                replaced: false,
                window_bytes,
                next: cursor.next,
            };
        }
        // Reading from the start is a promise: nearly every program that does so reads on.
        let run_bytes = if offset == 0 { len } else { 0 };
        let cursor = Cursor {
            next: end,
            run_bytes,
            used_at: self.clock,
        };
        let slot = self.claim_slot(cursor);
        let window_bytes = (offset == 0).then(|| window(run_bytes));
        Seen {
            slot,
            replaced: true,
            window_bytes,
            next: end,
        }
    }

    /// The cursor that this offset continues, the nearest if there are several.
    fn continued_by(&self, offset: u64) -> Option<usize> {
        let continues = |cursor: &Cursor| match cursor.run_bytes {
            0 => (cursor.next..=cursor.next + GAP_BYTES_MAX).contains(&offset),
            run => {
                let from = cursor.next.saturating_sub(LOOK_BACK_BYTES);
                (from..=cursor.next + window(run)).contains(&offset)
            }
        };
        let near = self
            .cursors
            .iter()
            .enumerate()
            .filter(|(_, cursor)| continues(cursor));
        near.min_by_key(|(_, cursor)| cursor.next.abs_diff(offset))
            .map(|(slot, _)| slot)
    }

    /// A free slot, or that of the cursor which was not used for longest.
    fn claim_slot(&mut self, cursor: Cursor) -> usize {
        if self.cursors.len() < CURSORS_MAX {
            self.cursors.push(cursor);
            return self.cursors.len() - 1;
        }
        let oldest = self
            .cursors
            .iter()
            .enumerate()
            .min_by_key(|(_, cursor)| cursor.used_at);
        let slot = oldest.map_or(0, |(slot, _)| slot);
        self.cursors[slot] = cursor;
        slot
    }
}

/// Where what was read ahead may be forgotten: a quarter of the window behind the cursor, which grows to
/// what overtaking requests need and stays small where memory is scarce.
pub(super) fn low(seen: &Seen, offset: u64, window_bytes: u64) -> u64 {
    seen.next
        .saturating_sub((window_bytes / 4).min(LOOK_BACK_BYTES))
        .min(offset)
}

fn window(run_bytes: u64) -> u64 {
    run_bytes.saturating_mul(WINDOW_PER_BYTE).max(WINDOW_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn reading_from_the_start_is_sequential_at_once_and_its_window_grows_with_the_run() {
        let mut streams = Streams::default();
        let windows: Vec<u64> = (0..40)
            .map(|n| streams.observe(n * 128 * KIB, 128 * KIB).window_bytes.unwrap() / MIB)
            .collect();
        assert_eq!((windows[0], windows[3], windows[15], windows[39]), (1, 2, 8, 20));
    }

    #[test]
    fn random_reads_never_read_ahead() {
        let mut streams = Streams::default();
        for n in 1..1000_u64 {
            let offset = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 30) & !0xfff;
            let seen = streams.observe(offset + 4096, 4096);
            assert_eq!((seen.window_bytes, seen.replaced), (None, true), "read {n}");
        }
    }

    #[test]
    fn the_second_read_in_a_row_makes_a_sequence() {
        let mut streams = Streams::default();
        assert_eq!(streams.observe(50 * MIB, 4 * KIB).window_bytes, None);
        let second = streams.observe(50 * MIB + 4 * KIB, 4 * KIB);
        assert_eq!((second.window_bytes, second.replaced), (Some(MIB), false));
    }

    #[test]
    fn four_interleaved_readers_are_told_apart() {
        let mut streams = Streams::default();
        for step in 0..10 {
            let slots: Vec<usize> = (1..=4)
                .map(|reader| {
                    streams
                        .observe(reader * 1000 * MIB + step * 64 * KIB, 64 * KIB)
                        .slot
                })
                .collect();
            assert_eq!(slots, [0, 1, 2, 3], "step {step}");
        }
    }

    #[test]
    fn requests_that_overtake_each_other_stay_in_their_stream() {
        let mut streams = Streams::default();
        streams.observe(0, MIB);
        let ahead = streams.observe(2 * MIB, MIB);
        let behind = streams.observe(MIB, MIB);
        assert_eq!((ahead.slot, behind.slot), (0, 0));
        assert_eq!(
            low(&ahead, 2 * MIB, ahead.window_bytes.unwrap()),
            MIB,
            "the one behind finds its bytes"
        );
    }

    #[test]
    fn going_back_to_the_start_begins_anew() {
        let mut streams = Streams::default();
        for n in 0..64 {
            streams.observe(n * MIB, MIB);
        }
        let again = streams.observe(0, 128 * KIB);
        assert_eq!((again.replaced, again.window_bytes), (true, Some(MIB)));
    }
}
