//! The examples are programs to read; here they run.

#[path = "../examples/01_losses.rs"]
mod losses;
#[path = "../examples/02_own_loss.rs"]
mod own_loss;

#[test]
fn the_examples_run_to_their_end() {
    losses::main().unwrap();
    own_loss::main().unwrap();
}
