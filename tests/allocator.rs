//! A large block that was freed is taken again without page faults.

use gsil::device::keep_freed_memory;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn main() {
    assert!(keep_freed_memory());
    let take = || std::hint::black_box(vec![1u8; 100 << 20]).len();
    take();
    let before = page_faults();
    take();
    let new = page_faults() - before;
    assert!(new < 1000, "{new} page faults; 100 MiB are 25,600 pages");
    println!("a large block was taken twice with {new} page faults the second time");
}

/// Page faults of this process so far.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn page_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has /proc");
    let fields = stat.rsplit(')').next().expect("the program's name stands in parentheses");
    fields.split_whitespace().nth(7).expect("the eighth field after the name").parse().expect("a count")
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {
    assert!(!keep_freed_memory(), "only glibc's allocator is told anything");
}
