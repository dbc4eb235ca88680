//! The tests that see the program from outside, as one binary.

mod support;

mod bad_input;
mod command_line;
mod house;
mod real_model;
mod resume;
