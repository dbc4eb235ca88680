//! What this process holds beside the weights of a run, and what it keeps of the runs before.
//!
//! Measured once: the allocator keeps what a run frees ([`crate::device::keep_freed_memory`]), and the next run of the same
//! process, a cell of a comparison for instance, takes that again.

use std::sync::OnceLock;

use crate::device::resident_bytes;

/// The program before it reads weights, where the system does not tell: its code, its threads. Measured with the smallest
/// model.
const PROGRAM: u64 = 12_500_000;
/// A tokenizer holds its vocabulary and its merges in tables. Measured: 40 MB for 49,152 ids.
const TOKENIZER_PER_ID: u64 = 800;

/// What this process held before its first weights; None inside where the system does not tell.
static BEFORE_WEIGHTS: OnceLock<Option<u64>> = OnceLock::new();

/// What this process held, in bytes, when its first run had model files, tokenizer and rows open and no weights read; where
/// the system does not tell, what it held when it was measured with a tokenizer of so many ids. The first call measures.
pub fn program_bytes(num_tokenizer_ids: usize) -> u64 {
    let measured = *BEFORE_WEIGHTS.get_or_init(resident_bytes);
    measured.unwrap_or(PROGRAM + TOKENIZER_PER_ID * num_tokenizer_ids as u64)
}

/// What this process holds now beyond [`program_bytes`], in bytes: what earlier runs left to the next one.
pub fn kept_bytes() -> u64 {
    beyond(BEFORE_WEIGHTS.get().copied().flatten(), resident_bytes())
}

fn beyond(before_weights: Option<u64>, now: Option<u64>) -> u64 {
    before_weights.zip(now).map_or(0, |(before, now)| now.saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_came_to_hold_later_is_not_the_programs() {
        let program = program_bytes(0);
        let later = std::hint::black_box(vec![1u8; 32 << 20]);
        assert_eq!(program_bytes(0), program);
        drop(later);
    }

    #[test]
    fn only_what_is_measured_twice_is_kept_of_earlier_runs() {
        assert_eq!(beyond(Some(10), Some(25)), 15);
        assert_eq!(beyond(Some(10), Some(8)), 0);
        assert_eq!(beyond(None, Some(25)), 0, "nothing has run");
        assert_eq!(beyond(Some(10), None), 0);
    }
}
