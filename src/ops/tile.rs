//! A small matrix product that stays in registers: the heart of the products that are not worth a call of the general one.
//!
//! The right-hand matrix is packed into panels of `COLUMNS` columns, so that it is read once and in order; every number of
//! the left-hand rows is broadcast. Sums run over k in order, for each row by itself: a row's result does not depend on the
//! rows beside it.

use super::lanes::{InstructionSet, LaneKernel, Lanes};

/// Columns of the widest panel.
pub const MAX_COLUMNS: usize = 32;
/// Numbers of the largest tile: 8 rows.
pub const MAX_TILE: usize = 8 * MAX_COLUMNS;

/// Columns of a panel: two registers.
pub const fn columns<L: Lanes>() -> usize {
    2 * L::LEN
}

/// Work built on [`tile`], `R` rows at a time.
pub trait TiledKernel {
    fn run<L: Lanes, const R: usize>(self);
}

/// Runs a tiled kernel with the given instruction set and as many rows as its registers hold.
pub fn run_tiled(set: InstructionSet, kernel: impl TiledKernel) {
    struct Tiled<K>(K);
    impl<K: TiledKernel> LaneKernel for Tiled<K> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            match L::TILE_ROWS {
                8.. => self.0.run::<L, 8>(),
                _ => self.0.run::<L, 4>(),
            }
        }
    }
    set.run(Tiled(kernel));
}

/// A strided matrix inside a row-major one: `len` columns from `column` on.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub column: usize,
    pub len: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.stride + self.column..][..self.len]
    }
}

/// `rows · panel` in registers: `R` rows of k numbers by a panel `[k, columns]`.
#[inline(always)]
pub fn tile_sums<L: Lanes, const R: usize>(rows: [&[f32]; R], panel: &[f32]) -> [[L; 2]; R] {
    let columns = columns::<L>();
    let num_terms = panel.len() / columns;
    let rows = rows.map(|row| &row[..num_terms]);
    let mut sums = [[L::splat(0.0); 2]; R];
    for (k, panel) in panel.chunks_exact(columns).enumerate() {
        let panel = [L::load(panel), L::load(&panel[L::LEN..])];
        for i in 0..R {
            let x = L::splat(rows[i][k]);
            sums[i] = [x.mul_add(panel[0], sums[i][0]), x.mul_add(panel[1], sums[i][1])];
        }
    }
    sums
}

/// [`tile_sums`] as a matrix `[R, columns]`.
#[inline(always)]
pub fn tile<L: Lanes, const R: usize>(rows: [&[f32]; R], panel: &[f32], out: &mut [f32; MAX_TILE]) {
    let sums = tile_sums::<L, R>(rows, panel);
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(columns::<L>())) {
        sums[0].store(out);
        sums[1].store(&mut out[L::LEN..]);
    }
}

/// Panels of the matrix whose rows are given: `[ceil(len / columns), num_rows, columns]`, zeros where it ends.
#[inline(always)]
pub fn panels<'a, L: Lanes>(rows: impl Iterator<Item = &'a [f32]>, num_rows: usize, len: usize) -> Vec<f32> {
    let columns = columns::<L>();
    let mut packed = vec![0.0; len.div_ceil(columns) * num_rows * columns];
    for (i, row) in rows.enumerate() {
        for (panel, part) in row.chunks(columns).enumerate() {
            packed[(panel * num_rows + i) * columns..][..part.len()].copy_from_slice(part);
        }
    }
    packed
}

/// Panels of the transposed matrix: `[ceil(num_rows / columns), len, columns]`.
#[inline(always)]
pub fn transposed_panels<'a, L: Lanes>(rows: impl Iterator<Item = &'a [f32]>, num_rows: usize, len: usize) -> Vec<f32> {
    let columns = columns::<L>();
    let mut packed = vec![0.0; num_rows.div_ceil(columns) * len * columns];
    for (i, row) in rows.enumerate() {
        let panel = &mut packed[i / columns * len * columns..][..len * columns];
        for (value, slot) in row.iter().zip(panel[i % columns..].iter_mut().step_by(columns)) {
            *slot = *value;
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Product<'a> {
        a: &'a [f32],
        b: &'a [f32],
        b_transposed: &'a [f32],
    }

    const ROWS: usize = 3;
    const TERMS: usize = 5;
    const COLUMNS: usize = 37;

    impl TiledKernel for Product<'_> {
        fn run<L: Lanes, const R: usize>(self) {
            let rows = Rows { values: self.a, stride: TERMS, column: 0, len: TERMS };
            let of_tile = std::array::from_fn::<_, R, _>(|i| rows.row(i.min(ROWS - 1)));
            let columns = columns::<L>();
            for packed in [
                panels::<L>(self.b.chunks(COLUMNS), TERMS, COLUMNS),
                transposed_panels::<L>(self.b_transposed.chunks(TERMS), COLUMNS, TERMS),
            ] {
                for (number, panel) in packed.chunks(TERMS * columns).enumerate() {
                    let mut product = [0.0; MAX_TILE];
                    tile::<L, R>(of_tile, panel, &mut product);
                    for (i, j) in (0..ROWS).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                        let column = number * columns + j;
                        let expected: f32 = match column < COLUMNS {
                            true => (0..TERMS).map(|k| self.a[i * TERMS + k] * self.b[k * COLUMNS + column]).sum(),
                            false => 0.0,
                        };
                        assert_eq!(product[i * columns + j], expected, "row {i}, column {column}"); // whole numbers: exact
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_is_a_matrix_product_from_either_kind_of_panels_with_every_instruction_set() {
        let a: Vec<f32> = (0..ROWS * TERMS).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..TERMS * COLUMNS).map(|i| (i % 11) as f32 - 5.0).collect();
        let b_transposed: Vec<f32> = (0..COLUMNS * TERMS).map(|i| b[i % TERMS * COLUMNS + i / TERMS]).collect();
        for set in InstructionSet::available() {
            run_tiled(set, Product { a: &a, b: &b, b_transposed: &b_transposed });
        }
    }
}
