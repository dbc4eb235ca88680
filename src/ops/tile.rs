//! A small matrix product that stays in registers: the heart of the products that are not worth a call of the general one.
//!
//! The right-hand matrix is packed into panels of [`COLUMNS`] columns, so that it is read once and in order; every number of
//! the left-hand rows is broadcast. Sums run over k in order, for each row by itself: a row's result does not depend on the
//! rows beside it.

/// Columns of a panel.
pub const COLUMNS: usize = 32;

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

/// `rows · panel`: `R` rows of k numbers by a panel `[k, COLUMNS]`.
#[inline(always)]
pub fn tile<const R: usize>(rows: [&[f32]; R], panel: &[f32]) -> [[f32; COLUMNS]; R] {
    let mut sums = [[0f32; COLUMNS]; R];
    let num_terms = panel.len() / COLUMNS;
    let rows = rows.map(|row| &row[..num_terms]);
    for (k, panel) in panel.chunks_exact(COLUMNS).enumerate() {
        for i in 0..R {
            let x = rows[i][k];
            for j in 0..COLUMNS {
                sums[i][j] = x.mul_add(panel[j], sums[i][j]);
            }
        }
    }
    sums
}

/// Panels of the matrix whose rows are given: `[ceil(len / COLUMNS), num_rows, COLUMNS]`, zeros where it ends.
#[inline(always)]
pub fn panels<'a>(rows: impl Iterator<Item = &'a [f32]>, num_rows: usize, len: usize) -> Vec<f32> {
    let mut packed = vec![0.0; len.div_ceil(COLUMNS) * num_rows * COLUMNS];
    for (i, row) in rows.enumerate() {
        for (panel, part) in row.chunks(COLUMNS).enumerate() {
            packed[(panel * num_rows + i) * COLUMNS..][..part.len()].copy_from_slice(part);
        }
    }
    packed
}

/// Panels of the transposed matrix: `[ceil(num_rows / COLUMNS), len, COLUMNS]`.
#[inline(always)]
pub fn transposed_panels<'a>(rows: impl Iterator<Item = &'a [f32]>, num_rows: usize, len: usize) -> Vec<f32> {
    let mut packed = vec![0.0; num_rows.div_ceil(COLUMNS) * len * COLUMNS];
    for (i, row) in rows.enumerate() {
        let panel = &mut packed[i / COLUMNS * len * COLUMNS..][..len * COLUMNS];
        for (value, slot) in row.iter().zip(panel[i % COLUMNS..].iter_mut().step_by(COLUMNS)) {
            *slot = *value;
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_a_matrix_product_from_either_kind_of_panels() {
        let (num_rows, num_terms, num_columns) = (3, 5, 37);
        let a: Vec<f32> = (0..num_rows * num_terms).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..num_terms * num_columns).map(|i| (i % 11) as f32 - 5.0).collect();
        let transposed: Vec<f32> = (0..num_columns)
            .flat_map(|j| (0..num_terms).map(move |k| (j, k)))
            .map(|(j, k)| b[k * num_columns + j])
            .collect();
        let rows = Rows { values: &a, stride: num_terms, column: 0, len: num_terms };
        for packed in [
            panels(b.chunks(num_columns), num_terms, num_columns),
            transposed_panels(transposed.chunks(num_terms), num_columns, num_terms),
        ] {
            for (number, panel) in packed.chunks(num_terms * COLUMNS).enumerate() {
                let product = tile([rows.row(0), rows.row(1), rows.row(2)], panel);
                for (i, row) in product.iter().enumerate() {
                    for (j, value) in row.iter().enumerate() {
                        let column = number * COLUMNS + j;
                        let expected: f32 = match column < num_columns {
                            true => (0..num_terms).map(|k| a[i * num_terms + k] * b[k * num_columns + column]).sum(),
                            false => 0.0,
                        };
                        assert_eq!(*value, expected, "row {i}, column {column}"); // small whole numbers: exact
                    }
                }
            }
        }
    }
}
