//! Large matrix products on processors with AVX-512, out of [`super::tile`]; others use the general product of the backend.
//!
//! The right-hand matrix is packed once into panels; every task computes a block of rows of the result over all panels. A
//! number of the result is summed over k in blocks of fixed size and in order, whatever the number of threads. Measured on
//! Zen 4: 95% of what the processor can do, where the general product reaches 80%.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::lanes::{InstructionSet, Lanes};
use super::tile::{MAX_COLUMNS, TiledKernel, columns, run_tiled, tile_sums};

/// Terms of a sum that are added up in registers: a panel of that many rows stays in the second-level cache.
const TERMS: usize = 1024;

/// Rows of a block at most: as many as stay in the second-level cache beside a panel.
const BLOCK_ROWS: usize = 64;

/// Below this many multiplications packing does not pay.
const MIN_MULTIPLICATIONS: usize = 1 << 24;

/// Fewer rows than this leave a panel's packing unused.
const MIN_ROWS: usize = 64;

/// A matrix `[num_rows, num_columns]` as it lies in memory: row-major with the given distance between rows or, `transposed`,
/// column-major with that distance between columns.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub num_rows: usize,
    pub num_columns: usize,
    pub stride: usize,
    pub transposed: bool,
}

impl Matrix<'_> {
    /// The same numbers, rows and columns exchanged.
    pub fn transpose(self) -> Self {
        let Matrix { num_rows, num_columns, transposed, .. } = self;
        Matrix { num_rows: num_columns, num_columns: num_rows, transposed: !transposed, ..self }
    }
}

/// Whether [`product`] is the better choice here.
pub fn pays(left: &Matrix<'_>, right: &Matrix<'_>) -> bool {
    let multiplications = left.num_rows.saturating_mul(left.num_columns).saturating_mul(right.num_columns);
    InstructionSet::best().is_avx512() && left.num_rows >= MIN_ROWS && multiplications >= MIN_MULTIPLICATIONS
}

/// `left right`, row-major.
pub fn product(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
    let len = left.num_rows * right.num_columns;
    let mut out = Vec::with_capacity(len);
    let memory = &mut out.spare_capacity_mut()[..len];
    let product = Product::new(left, right);
    memory.par_chunks_mut(product.block_len()).enumerate().for_each(|(number, memory)| {
        // Zeros written here, in parallel and just before use, cost a third of what a zeroed vector does.
        memory.fill(MaybeUninit::new(0.0));
        // SAFETY: every number of the block was just written.
        product.block(number, unsafe { memory.assume_init_mut() });
    });
    // SAFETY: the blocks cover all `len` numbers.
    unsafe { out.set_len(len) };
    out
}

/// [`product`] into memory that is there; every number of `out` is replaced.
pub fn product_into(left: Matrix<'_>, right: Matrix<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), left.num_rows * right.num_columns, "the product's size");
    let product = Product::new(left, right);
    out.par_chunks_mut(product.block_len()).enumerate().for_each(|(number, out)| product.block(number, out));
}

thread_local! {
    /// The panels of the last product of this thread: memory that needs no zeros the next time.
    static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A product whose right-hand matrix is packed.
struct Product<'a> {
    left: Matrix<'a>,
    num_columns: usize,
    /// `[columns / C][terms][C]`, at least.
    panels: Vec<f32>,
    set: InstructionSet,
    block_rows: usize,
}

impl<'a> Product<'a> {
    fn new(left: Matrix<'a>, right: Matrix<'_>) -> Self {
        assert_eq!(left.num_columns, right.num_rows, "product of matrices that do not fit");
        let (num_terms, num_columns, set) = (right.num_rows, right.num_columns, InstructionSet::best());
        let columns = set.panel_columns();
        let mut panels = PANELS.take();
        let len = num_columns.div_ceil(columns) * num_terms * columns;
        panels.resize(len.max(panels.len()), 0.0);
        panels[..len].par_chunks_mut(num_terms * columns).enumerate().for_each(|(number, panel)| {
            run_tiled(set, PackPanel { matrix: right, first_column: number * columns, panel });
        });
        let share = left.num_rows.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(8);
        Product { left, num_columns, panels, set, block_rows: share.min(BLOCK_ROWS) }
    }

    /// Numbers of the result in a block.
    fn block_len(&self) -> usize {
        self.block_rows * self.num_columns
    }

    fn block(&self, number: usize, out: &mut [f32]) {
        let (left, num_columns, panels) = (self.left, self.num_columns, self.panels.as_slice());
        run_tiled(self.set, Block { left, first_row: number * self.block_rows, panels, num_columns, out });
    }
}

impl Drop for Product<'_> {
    fn drop(&mut self) {
        PANELS.set(std::mem::take(&mut self.panels));
    }
}

/// Fills one panel `[num_rows, columns]` with a matrix's columns from `first_column` on; what is beyond the last is of no
/// account.
struct PackPanel<'a> {
    matrix: Matrix<'a>,
    first_column: usize,
    panel: &'a mut [f32],
}

impl TiledKernel for PackPanel<'_> {
    #[inline(always)]
    fn run<L: Lanes, const R: usize>(self) {
        let columns = columns::<L>();
        let Matrix { values, num_rows, num_columns, stride, transposed } = self.matrix;
        let count = columns.min(num_columns - self.first_column);
        if !transposed {
            for (row, slot) in self.panel.chunks_exact_mut(columns).enumerate() {
                slot[..count].copy_from_slice(&values[row * stride + self.first_column..][..count]);
            }
            return;
        }
        let mut sources = [[].as_slice(); MAX_COLUMNS];
        for (i, column) in sources[..columns].iter_mut().enumerate() {
            *column = &values[(self.first_column + i.min(count - 1)) * stride..][..num_rows];
        }
        for (row, slot) in self.panel.chunks_exact_mut(columns).enumerate() {
            for (slot, source) in slot.iter_mut().zip(&sources) {
                *slot = source[row];
            }
        }
    }
}

/// Some rows of the product.
struct Block<'a> {
    left: Matrix<'a>,
    first_row: usize,
    panels: &'a [f32],
    num_columns: usize,
    out: &'a mut [f32],
}

impl TiledKernel for Block<'_> {
    #[inline(always)]
    fn run<L: Lanes, const R: usize>(self) {
        let columns = columns::<L>();
        let num_terms = self.left.num_columns;
        let num_rows = self.out.len() / self.num_columns;
        let mut turned = Vec::new();
        for first_term in (0..num_terms).step_by(TERMS) {
            let terms = TERMS.min(num_terms - first_term);
            let (rows, stride) = match self.left.transposed {
                false => (&self.left.values[self.first_row * self.left.stride + first_term..], self.left.stride),
                true => {
                    turn(
                        self.left,
                        self.first_row..self.first_row + num_rows,
                        first_term..first_term + terms,
                        &mut turned,
                    );
                    (turned.as_slice(), terms)
                }
            };
            for (panel, column) in
                self.panels.chunks_exact(num_terms * columns).zip((0..self.num_columns).step_by(columns))
            {
                let panel = &panel[first_term * columns..][..terms * columns];
                let len = columns.min(self.num_columns - column);
                for start in (0..num_rows).step_by(R) {
                    let mut of_tile = [[].as_slice(); R];
                    for (i, row) in of_tile.iter_mut().enumerate() {
                        *row = &rows[(start + i).min(num_rows - 1) * stride..][..terms]; // the last repeats
                    }
                    let sums = tile_sums::<L, R>(of_tile, panel);
                    for (i, sums) in sums.into_iter().enumerate().take(R.min(num_rows - start)) {
                        let slot = &mut self.out[(start + i) * self.num_columns + column..][..len];
                        store(sums, first_term > 0, slot);
                    }
                }
            }
        }
    }
}

/// Puts a row's sums into the result, or adds them to it; the last panel may have less room than two registers.
#[inline(always)]
fn store<L: Lanes>(sums: [L; 2], add: bool, slot: &mut [f32]) {
    let mut row = [0.0; MAX_COLUMNS];
    let columns = columns::<L>();
    let is_whole = slot.len() == columns;
    let out = if is_whole { &mut *slot } else { &mut row[..columns] };
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(L::LEN)) {
        match add && is_whole {
            true => sum.mul_add(L::splat(1.0), L::load(out)).store(out),
            false => sum.store(out),
        }
    }
    if !is_whole {
        let parts = slot.iter_mut().zip(row);
        parts.for_each(|(sum, part)| *sum = if add { *sum + part } else { part });
    }
}

/// Copies some rows of a column-major matrix so that they are row-major.
#[inline(always)]
fn turn(matrix: Matrix<'_>, rows: std::ops::Range<usize>, terms: std::ops::Range<usize>, turned: &mut Vec<f32>) {
    let len = terms.len();
    turned.clear();
    turned.resize(rows.len() * len, 0.0);
    for (term, k) in terms.enumerate() {
        let column = &matrix.values[k * matrix.stride..][rows.clone()];
        for (slot, value) in turned[term..].iter_mut().step_by(len).zip(column) {
            *slot = *value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers: every sum is exact in any order.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + i / 5 + seed) % 9) as f32 - 4.0).collect()
    }

    #[test]
    fn a_product_equals_the_sums_in_every_layout() {
        for (m, k, n) in [(1, 1, 1), (9, 33, 65), (70, 2500, 31), (130, 5, 40)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let turned = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| x[r * columns + c]).collect()
            };
            let (a_turned, b_turned) = (turned(&a, m, k), turned(&b, k, n));
            let left = Matrix { values: &a, num_rows: m, num_columns: k, stride: k, transposed: false };
            let right = Matrix { values: &b, num_rows: k, num_columns: n, stride: n, transposed: false };
            let expected: Vec<f32> =
                (0..m * n).map(|i| (0..k).map(|t| a[i / n * k + t] * b[t * n + i % n]).sum()).collect();
            for left in [left, Matrix { values: &a_turned, stride: m, transposed: true, ..left }] {
                for right in [right, Matrix { values: &b_turned, stride: k, transposed: true, ..right }] {
                    assert_eq!(product(left, right), expected, "{m}x{k}x{n}");
                }
            }
        }
    }
}
