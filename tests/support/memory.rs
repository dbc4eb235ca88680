//! Counts the bytes that each thread asks for, so that a test can say how much memory a file of 1 KB takes.
//!
//! The only `unsafe` of the tests: a global allocator is the one place that sees what is asked for (the resident size of the
//! process does not show memory that was reserved and never touched). It hands everything to the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches two cells of the thread and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both blocks may exist while one is copied to the other.
        count(new_size as isize);
        count(-(layout.size() as isize));
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(block, layout) }
    }
}

/// What `work` returns, and the most bytes that this thread held at once for it.
pub fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
}

#[test]
fn memory_that_is_asked_for_is_counted_even_if_it_is_never_touched() {
    let (len, peak) = peak_bytes(|| Vec::<u8>::with_capacity(5 << 20).capacity());
    assert!((5 << 20..6 << 20).contains(&peak), "{peak} for {len}");
    let (_, peak) = peak_bytes(|| (0..8).map(|_| vec![1u8; 1 << 20].len()).sum::<usize>());
    assert!((1 << 20..2 << 20).contains(&peak), "{peak}: one after the other");
}
