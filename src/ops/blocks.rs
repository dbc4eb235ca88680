//! Activations of a few rows in the layout that packed weights read and write.

use super::lanes::{InstructionSet, LaneKernel, Lanes};

/// Rows of numbers as `[columns / C][rows][C]`, with zeros where the columns end: threads that compute different columns
/// write to separate memory, and a tile's rows lie together.
#[derive(Debug, Clone)]
pub struct Blocks {
    pub values: Vec<f32>,
    num_rows: usize,
    num_columns: usize,
    block_columns: usize,
}

impl Blocks {
    /// No rows yet.
    pub fn new(num_columns: usize, set: InstructionSet) -> Self {
        Blocks { values: Vec::new(), num_rows: 0, num_columns, block_columns: set.panel_columns() }
    }

    /// Makes room for so many rows. The old values are lost if their number changes.
    pub fn set_rows(&mut self, num_rows: usize) {
        if num_rows != self.num_rows {
            self.num_rows = num_rows;
            self.values.clear();
            self.values.resize(num_rows * self.num_columns.next_multiple_of(self.block_columns), 0.0);
        }
    }

    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Numbers in the block of C columns.
    pub fn block_len(&self) -> usize {
        self.num_rows * self.block_columns
    }

    /// Copies one row out.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.num_columns, "a row of other length");
        let blocks = self.values.chunks_exact(self.block_len());
        for (out, block) in out.chunks_mut(self.block_columns).zip(blocks) {
            out.copy_from_slice(&block[row * self.block_columns..][..out.len()]);
        }
    }

    /// Copies one row in.
    pub fn write_row(&mut self, row: usize, values: &[f32]) {
        assert_eq!(values.len(), self.num_columns, "a row of other length");
        let block_len = self.block_len();
        for (values, block) in values.chunks(self.block_columns).zip(self.values.chunks_exact_mut(block_len)) {
            block[row * self.block_columns..][..values.len()].copy_from_slice(values);
        }
    }
}

/// `y = x / sqrt(mean(x²) + eps) * weight` for every row; the weight is padded with zeros to whole blocks.
pub fn rms_norm(set: InstructionSet, x: &Blocks, weight: &[f32], eps: f32, out: &mut Blocks) {
    out.set_rows(x.num_rows);
    set.run(RmsNorm { x, weight, eps, out: &mut out.values });
}

struct RmsNorm<'a> {
    x: &'a Blocks,
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl LaneKernel for RmsNorm<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (columns, block_len) = (2 * L::LEN, self.x.block_len());
        let zero = L::splat(0.0);
        for row in 0..self.x.num_rows {
            let row = row * columns..(row + 1) * columns;
            let mut sums = [zero; 2];
            for block in self.x.values.chunks_exact(block_len) {
                for (sum, x) in sums.iter_mut().zip(block[row.clone()].chunks_exact(L::LEN)) {
                    let x = L::load(x);
                    *sum = x.mul_add(x, *sum);
                }
            }
            let sum = sums[0].sum() + sums[1].sum();
            let scale = L::splat((sum / self.x.num_columns as f32 + self.eps).sqrt().recip());
            let blocks = self.x.values.chunks_exact(block_len).zip(self.out.chunks_exact_mut(block_len));
            for ((x, out), weight) in blocks.zip(self.weight.chunks_exact(columns)) {
                let lanes = x[row.clone()].chunks_exact(L::LEN).zip(out[row.clone()].chunks_exact_mut(L::LEN));
                for ((x, out), weight) in lanes.zip(weight.chunks_exact(L::LEN)) {
                    L::load(x).mul_add(scale, zero).mul_add(L::load(weight), zero).store(out);
                }
            }
        }
    }
}
