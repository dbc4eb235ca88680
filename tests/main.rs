//! The integration tests: one binary, so that the crate is linked once. The first group sees the library on every device,
//! the second the program from outside.

mod support;

mod decoding;
mod examples;
mod golden;
mod gradients;
mod training;

mod bad_input;
mod bench;
mod command_line;
mod export;
mod export_readers;
mod house;
mod real_model;
mod resume;
