//! Log-probs of given tokens on the CPU: products of a few columns of the head at a time, each followed by one pass over rows.

use burn::backend::{TensorMetadata, flex::FlexTensor};
use rayon::prelude::*;

use super::flex::{matrix, multiply, values};
use super::flex_matmul::Matrix;
use super::{LogProbOptions, simd};

/// What the forward pass gives: `[R, 2]` log-prob and logarithm of the sum of exponentials, and the kept logits, chunk after
/// chunk `[R, columns of the chunk]`; `[1]` if none are kept.
pub struct Forward {
    pub log_probs: Vec<f32>,
    pub logits: Vec<f32>,
}

/// Hidden states `[R, D]`, the head's weight `[V, D]`, and one target a row. Both contiguous.
pub struct Operands<'a> {
    pub h: &'a FlexTensor,
    pub w: &'a FlexTensor,
    pub targets: &'a [usize],
}

impl<'a> Operands<'a> {
    fn num_rows(&self) -> usize {
        self.targets.len()
    }

    fn h(&self) -> Matrix<'a> {
        matrix(self.h).expect("the hidden states were made contiguous")
    }

    /// The first token of each chunk and its rows of the weight.
    fn chunks(&self, chunk: usize) -> impl Iterator<Item = (usize, Matrix<'a>)> {
        let (size, weights) = (self.w.shape()[1], values(self.w));
        weights.chunks(chunk * size).enumerate().map(move |(i, values)| {
            let num_rows = values.len() / size;
            (i * chunk, Matrix { values, num_rows, num_columns: size, stride: size, transposed: false })
        })
    }

    /// `h wᵀ` of one chunk.
    fn logits(&self, w: Matrix<'_>, out: &mut [f32]) {
        multiply(self.h(), w.transpose(), out);
    }
}

pub fn forward(operands: &Operands<'_>, options: LogProbOptions) -> Forward {
    let (num_rows, vocab_size) = (operands.num_rows(), operands.w.shape()[0]);
    let columns = if options.keep_logits { vocab_size } else { options.chunk.min(vocab_size) };
    let mut buffer = vec![0.0; num_rows * columns];
    let mut running = vec![(f32::NEG_INFINITY, 0.0); num_rows];
    let mut picked = vec![0.0; num_rows];
    for (first, w) in operands.chunks(options.chunk) {
        let len = w.num_rows;
        let place = if options.keep_logits { num_rows * first } else { 0 };
        let logits = &mut buffer[place..][..num_rows * len];
        operands.logits(w, logits);
        let rows = running.par_iter_mut().zip(&mut picked).zip(logits.par_chunks(len)).zip(operands.targets);
        rows.for_each(|(((running, picked), logits), target)| {
            simd::run(simd::LogSum { logits, running });
            if (first..first + len).contains(target) {
                *picked = logits[target - first];
            }
        });
    }
    let both = running.iter().zip(&picked).flat_map(|((max, sum), picked)| {
        let log_sum = max + sum.ln();
        [picked - log_sum, log_sum]
    });
    Forward { log_probs: both.collect(), logits: if options.keep_logits { buffer } else { vec![0.0] } }
}

/// Gradients of h and w. `g` `[R]` is the gradient of the log-probs; w's is `[1]` unless it is wanted.
pub fn backward(operands: &Operands<'_>, forward: Forward, g: &[f32], options: LogProbOptions) -> (Vec<f32>, Vec<f32>) {
    let (num_rows, vocab_size, size) = (operands.num_rows(), operands.w.shape()[0], operands.w.shape()[1]);
    let mut dh = vec![0.0; num_rows * size];
    let mut part = vec![0.0; num_rows * size];
    let mut dw = vec![0.0; if options.need_dw { vocab_size * size } else { 1 }];
    let mut buffer = match options.keep_logits {
        true => forward.logits,
        false => vec![0.0; num_rows * options.chunk.min(vocab_size)],
    };
    for (first, w) in operands.chunks(options.chunk) {
        let len = w.num_rows;
        let place = if options.keep_logits { num_rows * first } else { 0 };
        let dlogits = &mut buffer[place..][..num_rows * len];
        if !options.keep_logits {
            operands.logits(w, dlogits);
        }
        let rows = dlogits.par_chunks_mut(len).zip(forward.log_probs.par_chunks(2)).zip(g).zip(operands.targets);
        rows.for_each(|(((logits, log_probs), g), target)| {
            simd::run(simd::MinusProbability { logits, log_sum: log_probs[1], g: *g });
            if (first..first + len).contains(target) {
                logits[target - first] += g;
            }
        });
        let dlogits = Matrix { values: dlogits, num_rows, num_columns: len, stride: len, transposed: false };
        multiply(dlogits, w, &mut part);
        dh.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
        if options.need_dw {
            multiply(dlogits.transpose(), operands.h(), &mut dw[first * size..][..len * size]);
        }
    }
    (dh, dw)
}
