//! What a person sees: progress while work goes on, tables when it is done. Everything here goes to stderr except what a
//! caller prints itself.

pub mod console;
pub mod table;
