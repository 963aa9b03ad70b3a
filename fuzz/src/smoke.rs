//! The stable runner of a fuzz body: its seeds, whatever else lies beside them, and thousands of mutations of these
//! from a fixed start. Included by the tests `foreign_bytes` of the crates.
//!
//! Invariant: two runs do the same.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Set to write the seeds instead of comparing them.
const WRITE_SEEDS: &str = "FERRY_WRITE_SEEDS";
const MUTATIONS: u32 = 20_000;
const INPUT_BYTES_MAX: usize = 16 << 10;
const NUMBERS: &[u64] =
    &[0, 1, 7, 24, 127, 255, 4096, 0x7fff, 0xffff, u32::MAX as u64, 1 << 31, 1 << 62, u64::MAX];

/// Runs `body` over everything in `fuzz/seeds/TARGET`, which must hold `seeds` as they are made now, and over
/// mutations of it.
pub fn smoke(target: &str, seeds: &[(&str, Vec<u8>)], body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    if std::env::var_os(WRITE_SEEDS).is_some() {
        fs::create_dir_all(&folder).expect("the folder of seeds can be made");
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes).expect("a seed can be written");
        }
    }
    for (name, bytes) in seeds {
        let kept = fs::read(folder.join(name)).unwrap_or_default();
        assert!(
            kept == *bytes,
            "fuzz/seeds/{target}/{name} is not what the encoders make: run this with {WRITE_SEEDS}=1"
        );
    }
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("there is a folder of seeds")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect();
    corpus.iter().for_each(|input| try_one(input, body));
    let mut dice = Dice(0x0f0e_77e1_5eed_0001);
    for _ in 0..MUTATIONS {
        try_one(&dice.mutation(&corpus), body);
    }
}

/// A panic alone would not tell on which input.
fn try_one(input: &[u8], body: fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
        panic!("this input breaks it; keep the smallest such under fuzz/seeds: {}", input.escape_ascii());
    }
}

/// A small generator (xorshift64*), so that no test needs chance from outside.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.next() >> 16) as usize % limit }
    }

    fn mutation(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            self.mutate(&mut input, corpus);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let (at, other) = (self.below(input.len()), self.below(input.len()));
        let (first, end) = (at.min(other), at.max(other));
        match self.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.next() as u8,
            2 => input.insert(at, self.next() as u8),
            3 => drop(input.drain(first..end)),
            4 => input.truncate(at),
            5 => input.extend_from_within(first..end),
            6 => self.put_number(input, at),
            _ => {
                let donor = &corpus[self.below(corpus.len())];
                let from = self.below(donor.len());
                let to = from + self.below(donor.len() - from);
                input.splice(first..end, donor[from..to].iter().copied());
            }
        }
    }

    /// An interesting number, of any width, in either order of bytes.
    fn put_number(&mut self, input: &mut [u8], at: usize) {
        let width = [2, 4, 8][self.below(3)];
        let number = NUMBERS[self.below(NUMBERS.len())].wrapping_add(self.next() % 3).wrapping_sub(1);
        let bytes = if self.below(2) == 0 {
            number.to_le_bytes()
        } else {
            (number << (64 - 8 * width)).to_be_bytes()
        };
        for (place, byte) in input.iter_mut().skip(at).zip(bytes.into_iter().take(width)) {
            *place = byte;
        }
    }
}
