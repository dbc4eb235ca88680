//! The norms of [`super::decoder`]: weights on the host, rows in blocks.

use super::config::NormKind;
use super::decoder::padded;
use super::layers::Norm;
use super::weights::to_host;
use crate::error::Result;
use crate::ops::blocks::{Blocks, rms_norm};
use crate::ops::lanes::InstructionSet;

/// What normalises rows while decoding: [`Norm`] on the host.
pub(super) struct DecoderNorm {
    set: InstructionSet,
    kind: NormKind,
    size: usize,
    /// Padded with zeros to whole blocks.
    factors: Vec<f32>,
    /// Of LayerNorm; else empty.
    bias: Vec<f32>,
    eps: f32,
}

impl DecoderNorm {
    /// # Errors
    /// If the device fails.
    pub fn new(norm: &Norm, set: InstructionSet) -> Result<Self> {
        let factors = to_host(norm.factors())?;
        let bias = match &norm.bias {
            Some(bias) => to_host(bias.val())?,
            None => Vec::new(),
        };
        let size = factors.len();
        Ok(DecoderNorm { set, kind: norm.kind, size, factors: padded(factors, set), bias, eps: norm.eps as f32 })
    }

    /// Every row of `x`.
    pub fn apply(&self, x: &Blocks, out: &mut Blocks) {
        if self.kind != NormKind::Layer {
            return rms_norm(self.set, x, &self.factors, self.eps, out);
        }
        out.set_rows(x.num_rows());
        let mut row = vec![0.0; self.size];
        for i in 0..x.num_rows() {
            x.read_row(i, &mut row);
            let mean = row.iter().sum::<f32>() / self.size as f32;
            row.iter_mut().for_each(|value| *value -= mean);
            self.apply_to_heads(&mut row);
            row.iter_mut().zip(&self.bias).for_each(|(value, bias)| *value += bias);
            out.write_row(i, &row);
        }
    }

    /// `x / sqrt(mean(x²) + eps) * factors` of every head of one row, `[heads * d]`, in place.
    pub fn apply_to_heads(&self, row: &mut [f32]) {
        for head in row.chunks_exact_mut(self.size) {
            let mean_square = head.iter().map(|value| value * value).sum::<f32>() / self.size as f32;
            let scale = (mean_square + self.eps).sqrt().recip();
            head.iter_mut().zip(&self.factors).for_each(|(value, factor)| *value *= scale * factor);
        }
    }
}
