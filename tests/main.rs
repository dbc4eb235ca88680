//! The integration tests: one binary, so that the crate is linked once. The first group sees the library on every device,
//! the second the program from outside, the third what strangers' files can do to it.

mod support;

mod architectures;
mod decoding;
mod estimate;
mod examples;
mod faults;
mod golden;
mod gradients;
mod replicas;
mod training;
mod variance_reduction;

mod bad_input;
mod bench;
mod command_line;
mod compare;
mod compare_again;
mod evals;
mod export;
mod export_checkpoints;
mod export_readers;
mod help_examples;
mod house;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_faults;
mod humaneval;
mod inspect;
mod kills;
mod mt_bench;
mod real_model;
mod refusals;
mod report;
mod resume;
mod runs;
mod sandbox;
mod served_policy;
mod server;
mod tables;
mod terminal;

mod hostile_config;
mod hostile_folder;
mod hostile_gguf;
#[cfg(feature = "hub")]
mod hostile_hub;
mod hostile_paths;
mod hostile_rows;
mod hostile_safetensors;
#[cfg(feature = "tables")]
mod hostile_tables;
mod hostile_template;
mod hostile_tokenizer;
