//! Weights packed for products with few rows: `y = x Wᵀ`, the work of decoding.
//!
//! With few rows a product is bound by reading the weights, so they are packed in the order in which they are read: panels
//! `[out / C][in][C]` of C output columns, two registers wide. Every number of x is broadcast against a row of the panel,
//! and a tile of rows stays in registers until the panel ends: no sums across a register, one stream of memory. bf16
//! weights halve that stream; they are widened in registers, and all sums are f32.
//!
//! Sums run over the input in order, for each row by itself: a row's result depends neither on the rows beside it nor on
//! the thread. Rows of x and y are [`super::blocks::Blocks`].

use rayon::prelude::*;

use super::lanes::{InstructionSet, LaneKernel, Lanes};
use crate::config::WeightFormat;

/// How far ahead of the product weights are asked for, bytes. One page: the processor's own prefetching stops at the end
/// of a page. Measured on a Zen 4, 8 rows: 14 GB/s without, 18 with 4 KiB, 16 with 1 KiB.
const PREFETCH_BYTES: usize = 4096;
const CACHE_LINE_BYTES: usize = 64;

#[derive(Debug)]
enum Values {
    F32(Vec<f32>),
    /// A word holds columns j (low half) and j + C / 2 (high half) of a row.
    Bf16(Vec<u32>),
}

/// A weight matrix `[out, in]` in panels.
#[derive(Debug)]
pub struct Panels {
    set: InstructionSet,
    num_panels: usize,
    values: Values,
}

impl Panels {
    /// Packs matrices `[out, num_terms]`, one below the other.
    pub fn pack(set: InstructionSet, format: WeightFormat, num_terms: usize, matrices: &[&[f32]]) -> Self {
        let columns = set.panel_columns();
        let rows: Vec<&[f32]> = matrices.iter().flat_map(|matrix| matrix.chunks_exact(num_terms)).collect();
        let num_panels = rows.len().div_ceil(columns);
        let panel_len = num_terms.next_multiple_of(columns) * columns;
        let values = match format {
            WeightFormat::F32 => {
                let mut values = vec![0.0; num_panels * panel_len];
                let panels = values.par_chunks_mut(panel_len).zip(rows.par_chunks(columns));
                panels.for_each(|(panel, rows)| pack_panel(panel, rows, columns));
                Values::F32(values)
            }
            WeightFormat::Bf16 => {
                let mut values = vec![0; num_panels * panel_len / 2];
                let panels = values.par_chunks_mut(panel_len / 2).zip(rows.par_chunks(columns));
                panels.for_each(|(words, rows)| {
                    let mut panel = vec![0.0; panel_len];
                    pack_panel(&mut panel, rows, columns);
                    for (words, row) in words.chunks_exact_mut(columns / 2).zip(panel.chunks_exact(columns)) {
                        let (low, high) = row.split_at(columns / 2);
                        for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                            *word = u32::from(to_bf16(*low)) | u32::from(to_bf16(*high)) << 16;
                        }
                    }
                });
                Values::Bf16(values)
            }
        };
        Panels { set, num_panels, values }
    }

    pub fn num_panels(&self) -> usize {
        self.num_panels
    }

    /// The C columns of `x Wᵀ` that one panel gives, for all rows: stored in `out` or added to it.
    ///
    /// # Shapes
    /// x as [`super::blocks::Blocks`] of `num_rows` rows and all inputs, out `[num_rows][C]`.
    pub fn multiply(&self, panel: usize, x: &[f32], num_rows: usize, store: Store, out: &mut [f32]) {
        fn of<T>(values: &[T], panel: usize, num_panels: usize) -> &[T] {
            let len = values.len() / num_panels;
            &values[panel * len..][..len]
        }
        match &self.values {
            Values::F32(values) => {
                let panel = of(values, panel, self.num_panels);
                self.set.run(PanelProduct { x, num_rows, panel, store, out });
            }
            Values::Bf16(values) => {
                let panel = of(values, panel, self.num_panels);
                self.set.run(PanelProduct { x, num_rows, panel, store, out });
            }
        }
    }
}

/// What becomes of the numbers that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Replace,
    Add,
}

/// Transposes up to C rows `[in]` into a panel `[in][C]`.
fn pack_panel(panel: &mut [f32], rows: &[&[f32]], columns: usize) {
    for (j, row) in rows.iter().enumerate() {
        for (slot, value) in panel[j..].iter_mut().step_by(columns).zip(*row) {
            *slot = *value;
        }
    }
}

fn to_bf16(value: f32) -> u16 {
    half::bf16::from_f32(value).to_bits()
}

/// An element of a panel.
pub(super) trait Weight: Copy {
    /// Numbers in an element.
    const NUMBERS: usize;
    /// One row of a panel, two registers.
    fn load<L: Lanes>(row: &[Self]) -> [L; 2];
}

impl Weight for f32 {
    const NUMBERS: usize = 1;

    #[inline(always)]
    fn load<L: Lanes>(row: &[f32]) -> [L; 2] {
        [L::load(row), L::load(&row[L::LEN..])]
    }
}

/// Two bf16 numbers.
impl Weight for u32 {
    const NUMBERS: usize = 2;

    #[inline(always)]
    fn load<L: Lanes>(row: &[u32]) -> [L; 2] {
        L::widen_bf16(row)
    }
}

struct PanelProduct<'a, W> {
    x: &'a [f32],
    num_rows: usize,
    panel: &'a [W],
    store: Store,
    out: &'a mut [f32],
}

impl<W: Weight> LaneKernel for PanelProduct<'_, W> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        panel_product::<L, W>(self.x, self.num_rows, self.panel, self.store, self.out);
    }
}

/// All rows of x by one panel `[in][C]`, a register tile of rows at a time.
#[inline(always)]
pub(super) fn panel_product<L: Lanes, W: Weight>(
    x: &[f32],
    num_rows: usize,
    panel: &[W],
    store: Store,
    out: &mut [f32],
) {
    let mut row = 0;
    while row < num_rows {
        let operands = Operands { x, num_rows, row, panel };
        let out = &mut out[row * 2 * L::LEN..];
        let num = (num_rows - row).min(L::TILE_ROWS);
        match num {
            1 => operands.tile::<L, 1>(store, out),
            2 => operands.tile::<L, 2>(store, out),
            3 => operands.tile::<L, 3>(store, out),
            4 => operands.tile::<L, 4>(store, out),
            5 => operands.tile::<L, 5>(store, out),
            6 => operands.tile::<L, 6>(store, out),
            7 => operands.tile::<L, 7>(store, out),
            8 => operands.tile::<L, 8>(store, out),
            9 => operands.tile::<L, 9>(store, out),
            10 => operands.tile::<L, 10>(store, out),
            11 => operands.tile::<L, 11>(store, out),
            _ => operands.tile::<L, 12>(store, out),
        }
        row += num;
    }
}

struct Operands<'a, W> {
    x: &'a [f32],
    num_rows: usize,
    /// The first row of the tile.
    row: usize,
    panel: &'a [W],
}

impl<W: Weight> Operands<'_, W> {
    /// R rows by the panel, in registers from the first to the last term.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize>(&self, store: Store, out: &mut [f32]) {
        let columns = 2 * L::LEN;
        let row_len = columns / W::NUMBERS; // elements of the panel in a row
        let mut sums = [[L::splat(0.0); 2]; R];
        let x_blocks = self.x.chunks_exact(self.num_rows * columns);
        for (x, panel) in x_blocks.zip(self.panel.chunks_exact(columns * row_len)) {
            let x = &x[self.row * columns..][..R * columns];
            for (k, weights) in panel.chunks_exact(row_len).enumerate() {
                prefetch::<L, W>(weights);
                let weights: [L; 2] = W::load(weights);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = L::splat(x[i * columns + k]);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = x.mul_add(weights, *sum);
                    }
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out.chunks_exact_mut(columns)) {
            for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(L::LEN)) {
                match store {
                    Store::Replace => sum.store(out),
                    Store::Add => L::splat(1.0).mul_add(sum, L::load(out)).store(out),
                }
            }
        }
    }
}

#[inline(always)]
fn prefetch<L: Lanes, W>(row: &[W]) {
    let address = row.as_ptr().cast::<u8>().wrapping_add(PREFETCH_BYTES);
    for offset in (0..size_of_val(row)).step_by(CACHE_LINE_BYTES) {
        L::prefetch(address.wrapping_add(offset));
    }
}
