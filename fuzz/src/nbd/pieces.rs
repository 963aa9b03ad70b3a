//! A stream that arrives whole or in pieces: the same bytes must mean the same, however they are cut.

/// Bytes under way, and those that have arrived.
pub struct Pieces<'a> {
    coming: &'a [u8],
    /// State of the small generator that cuts; none: everything arrives at once.
    cutting: Option<u32>,
    /// Arrived and not consumed.
    pub input: Vec<u8>,
}

impl<'a> Pieces<'a> {
    pub fn whole(stream: &'a [u8]) -> Self {
        Self { coming: stream, cutting: None, input: Vec::new() }
    }

    pub fn cut(stream: &'a [u8], how: u8) -> Self {
        Self { coming: stream, cutting: Some(u32::from(how)), input: Vec::new() }
    }

    /// Lets the next piece arrive; false if there is none.
    pub fn more(&mut self) -> bool {
        let bytes = match &mut self.cutting {
            None => self.coming.len(),
            Some(state) => {
                *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Most cuts fall inside a header, some leave several headers in a piece.
                let longest = if *state >> 31 == 0 { 5 } else { 97 };
                ((*state >> 16) % longest + 1) as usize
            }
        };
        let (piece, coming) = self.coming.split_at(bytes.min(self.coming.len()));
        self.input.extend_from_slice(piece);
        self.coming = coming;
        !piece.is_empty()
    }

    pub fn consume(&mut self, bytes: usize) {
        self.input.drain(..bytes);
    }

    /// Skips a payload; false if the stream ends within it.
    pub fn skip(&mut self, payload_bytes: u64) -> bool {
        let mut left = payload_bytes;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
            self.consume(here);
            left -= here as u64;
            if left == 0 {
                return true;
            }
            if !self.more() {
                return false;
            }
        }
    }
}
