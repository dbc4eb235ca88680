//! The course is programs to read; here they run, and what each of them teaches is checked.

#![allow(dead_code)] // `main` of an example reads arguments that are not ours here

use std::fs;

use tempfile::tempdir;

#[path = "../examples/01_density_ratios.rs"]
mod density_ratios;

// 8,000 samples a side leave standard errors of about 0.03 on each coefficient; the bound is five of them.
#[test]
fn example_01_finds_the_log_density_ratio_with_every_loss_but_hinge() {
    let folder = tempdir().unwrap();
    let svg = folder.path().join("ratios.svg");
    let fits = density_ratios::run(&svg).unwrap();
    for fit in &fits {
        assert_eq!(fit.largest_error < 0.15, fit.name != "hinge", "{}: {}", fit.name, fit.largest_error);
    }
    assert_eq!(fits.len(), 6);
    assert!(fs::read_to_string(svg).unwrap().contains("bregman_power</text>"));
}
