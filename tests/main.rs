//! The integration tests: one binary, so that the crate is linked once.

mod decoding;
mod examples;
mod golden;
mod gradients;
mod support;
mod training;
