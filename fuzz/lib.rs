//! What the fuzz targets call: the same doors as the seeded mutation tests of `tests/hostile_*.rs`.

#[path = "../tests/support/doors.rs"]
pub mod doors;

/// The tokenizers library and the template engine may panic; gsil catches that. libFuzzer's own hook would end the process
/// before it can, so a target that calls them takes the hook away. Panics that nobody catches still end it.
pub fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|_| {}));
}
