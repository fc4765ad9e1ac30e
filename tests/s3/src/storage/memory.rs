//! Bytes in memory, in pieces that are allocated once.

use bytes::Bytes;

use super::{Content, Extent};

/// Longest piece. One allocation for a usual part, yet no object needs gigabytes in a row.
const PIECE_BYTES: usize = 64 << 20;

/// First piece of a body whose length is not announced.
const PIECE_BYTES_UNKNOWN: usize = 1 << 20;

/// Gathers a body. Its frames are copied once, since they are slices of the connection's read buffer and would
/// keep all of that alive.
pub(crate) struct MemoryWriter {
    content: Content,
    piece: Vec<u8>,
    /// What is still expected, to size the next piece.
    expected: usize,
}

impl MemoryWriter {
    pub(super) fn new(length: Option<u64>) -> Self {
        let expected = length.map_or(PIECE_BYTES_UNKNOWN, |length| length as usize);
        Self {
            content: Content::default(),
            piece: Vec::with_capacity(expected.min(PIECE_BYTES)),
            expected,
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.piece.capacity() - self.piece.len();
            if room == 0 {
                self.end_piece();
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
        }
    }

    pub(super) fn finish(mut self) -> Content {
        self.end_piece();
        self.content
    }

    fn end_piece(&mut self) {
        self.expected = self.expected.saturating_sub(self.piece.len());
        let next = self.expected.clamp(PIECE_BYTES_UNKNOWN, PIECE_BYTES);
        let piece = std::mem::take(&mut self.piece);
        self.content.push(Extent::Memory(Bytes::from(piece)));
        self.piece = Vec::with_capacity(next);
    }
}
