//! Attention over packed rows on the CPU: one task for each head of each span, block by block of queries, so that memory
//! does not grow with the square of the length.

use rayon::prelude::*;

use super::attention_plan::{AttentionLayout, Heads, Span};
use super::simd::{self, TiledKernel, exp, max_of, sum_of};
use super::tile::{COLUMNS, Rows, panels, tile, transposed_panels};

/// The matrices of one attention, row-major: `q` and what has its shape `[N, H * d]`, `k` and `v` `[N, K * d]`.
#[derive(Clone, Copy)]
pub struct Matrices<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

/// One query head of one span.
#[derive(Clone, Copy)]
struct SpanHead<'a> {
    span: &'a Span,
    heads: Heads,
    head: usize,
}

impl<'a> SpanHead<'a> {
    fn all(layout: &AttentionLayout) -> Vec<SpanHead<'_>> {
        let of_span = |span| (0..layout.heads.num_heads).map(move |head| SpanHead { span, heads: layout.heads, head });
        layout.plan.spans().iter().flat_map(of_span).collect()
    }

    /// This head's columns of a matrix with the shape of the queries.
    fn of_queries(&self, values: &'a [f32]) -> Rows<'a> {
        let Heads { num_heads, head_dim, .. } = self.heads;
        Rows { values, stride: num_heads * head_dim, column: self.head * head_dim, len: head_dim }
    }

    /// Its key-value head's columns.
    fn of_keys(&self, values: &'a [f32]) -> Rows<'a> {
        let Heads { num_key_value_heads, head_dim, .. } = self.heads;
        let head = self.head / self.heads.group_size();
        Rows { values, stride: num_key_value_heads * head_dim, column: head * head_dim, len: head_dim }
    }

    fn transposed(&self, keys: Rows<'a>) -> Vec<f32> {
        transposed_panels(self.span.key_rows().map(|row| keys.row(row)), self.span.num_keys(), keys.len)
    }

    fn panels(&self, keys: Rows<'a>) -> Vec<f32> {
        panels(self.span.key_rows().map(|row| keys.row(row)), self.span.num_keys(), keys.len)
    }
}

/// `softmax(q kᵀ / sqrt(d)) v` `[N, H * d]`, and the logarithm of each softmax's sum `[N, H]`.
pub fn forward(matrices: Matrices<'_>, layout: &AttentionLayout) -> (Vec<f32>, Vec<f32>) {
    let head_dim = layout.heads.head_dim;
    let parts: Vec<(Vec<f32>, Vec<f32>)> = SpanHead::all(layout)
        .par_iter()
        .map(|head| {
            let num_queries = head.span.num_queries();
            let (mut out, mut log_sums) = (vec![0.0; num_queries * head_dim], vec![0.0; num_queries]);
            simd::run_tiled(Forward { matrices, head: *head, out: &mut out, log_sums: &mut log_sums });
            (out, log_sums)
        })
        .collect();
    let by_head = |part: usize| &parts[part];
    let out = join_queries(layout, head_dim, |part| &by_head(part).0);
    let log_sums = join_queries(layout, 1, |part| &by_head(part).1);
    (out, log_sums)
}

/// What the forward pass left for the backward pass.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    pub out: &'a [f32],
    pub log_sums: &'a [f32],
}

/// Gradients of q, k and v.
pub fn backward(
    matrices: Matrices<'_>,
    outcome: Outcome<'_>,
    g: &[f32],
    layout: &AttentionLayout,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let head_dim = layout.heads.head_dim;
    let parts: Vec<HeadGradients> = SpanHead::all(layout)
        .par_iter()
        .map(|head| {
            let mut gradients = HeadGradients::zeros(head.span, head_dim);
            simd::run_tiled(Backward { matrices, outcome, g, head: *head, gradients: &mut gradients });
            gradients
        })
        .collect();
    let dq = join_queries(layout, head_dim, |part| &parts[part].dq);
    let dk = sum_keys(layout, |part| &parts[part].dk);
    let dv = sum_keys(layout, |part| &parts[part].dv);
    (dq, dk, dv)
}

/// `[N, H * size]` from one `[T, size]` for each head of each span.
fn join_queries<'a>(layout: &AttentionLayout, size: usize, part: impl Fn(usize) -> &'a Vec<f32> + Sync) -> Vec<f32> {
    let num_heads = layout.heads.num_heads;
    let row_len = num_heads * size;
    let mut joined = vec![0.0; layout.plan.num_rows() * row_len];
    let mut rest = joined.as_mut_slice();
    for (i, span) in layout.plan.spans().iter().enumerate() {
        let (own, after) = rest.split_at_mut(span.num_queries() * row_len);
        rest = after;
        own.par_chunks_mut(row_len).with_min_len(64).enumerate().for_each(|(t, row)| {
            for (head, slot) in row.chunks_exact_mut(size).enumerate() {
                slot.copy_from_slice(&part(i * num_heads + head)[t * size..][..size]);
            }
        });
    }
    joined
}

/// `[N, K * d]`: sums, over the heads of a group and over the spans that see a row, of one `[S, d]` for each head of each
/// span; in the order of spans and heads.
fn sum_keys<'a>(layout: &AttentionLayout, part: impl Fn(usize) -> &'a Vec<f32> + Sync) -> Vec<f32> {
    let Heads { num_heads, num_key_value_heads, head_dim } = layout.heads;
    let group_size = layout.heads.group_size();
    let row_len = num_key_value_heads * head_dim;
    let mut summed = vec![0.0; layout.plan.num_rows() * row_len];
    for (i, span) in layout.plan.spans().iter().enumerate() {
        let num_prefix = span.prefix.len();
        for (rows, first_key) in [(span.prefix.clone(), 0), (span.rows.clone(), num_prefix)] {
            let own = &mut summed[rows.start * row_len..rows.end * row_len];
            own.par_chunks_mut(row_len).with_min_len(64).enumerate().for_each(|(t, row)| {
                for (head, sum) in (0..num_heads).map(|head| (head, head / group_size * head_dim)) {
                    let part = &part(i * num_heads + head)[(first_key + t) * head_dim..][..head_dim];
                    row[sum..sum + head_dim].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
            });
        }
    }
    summed
}

struct Forward<'a> {
    matrices: Matrices<'a>,
    head: SpanHead<'a>,
    out: &'a mut [f32],      // [T, d]
    log_sums: &'a mut [f32], // [T]
}

impl TiledKernel for Forward<'_> {
    #[inline(always)]
    fn run<const R: usize>(self) {
        let (span, head_dim, scale) = (self.head.span, self.head.heads.head_dim, self.head.heads.scale());
        let q = self.head.of_queries(self.matrices.q);
        let keys = self.head.transposed(self.head.of_keys(self.matrices.k));
        let values = self.head.panels(self.head.of_keys(self.matrices.v));
        let (num_queries, num_keys, num_prefix) = (span.num_queries(), span.num_keys(), span.prefix.len());
        let width = num_keys.next_multiple_of(COLUMNS);
        let mut scores = vec![0.0; R * width];
        for start in (0..num_queries).step_by(R) {
            let last = num_queries - 1;
            let seen = num_prefix + (start + R).min(num_queries);
            let mut rows = [[].as_slice(); R];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = q.row(span.rows.start + (start + i).min(last)); // the last block repeats its last query
            }
            block_times_panels(rows, &keys, head_dim, seen, &mut scores, width);
            for i in 0..R.min(num_queries - start) {
                let seen_by_query = num_prefix + start + i + 1;
                let row = &mut scores[i * width..][..seen];
                self.log_sums[start + i] = softmax(&mut row[..seen_by_query], scale);
                row[seen_by_query..].fill(0.0);
            }
            let mut weights = [[].as_slice(); R];
            for (i, row) in weights.iter_mut().enumerate() {
                *row = &scores[i * width..][..seen];
            }
            for (panel, column) in values.chunks_exact(num_keys * COLUMNS).zip((0..head_dim).step_by(COLUMNS)) {
                let mixed = tile(weights, &panel[..seen * COLUMNS]);
                let len = COLUMNS.min(head_dim - column);
                for i in 0..R.min(num_queries - start) {
                    self.out[(start + i) * head_dim + column..][..len].copy_from_slice(&mixed[i][..len]);
                }
            }
        }
    }
}

/// `rows · panels` for the first `seen` columns, into rows of `width` numbers.
#[inline(always)]
fn block_times_panels<const R: usize>(
    rows: [&[f32]; R],
    panels: &[f32],
    num_terms: usize,
    seen: usize,
    out: &mut [f32],
    width: usize,
) {
    for (panel, column) in panels.chunks_exact(num_terms * COLUMNS).zip((0..seen).step_by(COLUMNS)) {
        let product = tile(rows, panel);
        for i in 0..R {
            out[i * width + column..][..COLUMNS].copy_from_slice(&product[i]);
        }
    }
}

/// Softmax of `scale x` in place; returns the logarithm of the sum of exponentials.
#[inline(always)]
fn softmax(x: &mut [f32], scale: f32) -> f32 {
    let max = max_of(x);
    for value in x.iter_mut() {
        *value = exp((*value - max) * scale);
    }
    let sum = sum_of(x.len(), |i| x[i]);
    let factor = sum.recip();
    for value in x.iter_mut() {
        *value *= factor;
    }
    max * scale + sum.ln()
}

/// Gradients from one head of one span: `dq` `[T, d]`, `dk` and `dv` `[S, d]`.
struct HeadGradients {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl HeadGradients {
    fn zeros(span: &Span, head_dim: usize) -> Self {
        let zeros = |rows: usize| vec![0.0; rows * head_dim];
        HeadGradients { dq: zeros(span.num_queries()), dk: zeros(span.num_keys()), dv: zeros(span.num_keys()) }
    }
}

struct Backward<'a> {
    matrices: Matrices<'a>,
    outcome: Outcome<'a>,
    g: &'a [f32],
    head: SpanHead<'a>,
    gradients: &'a mut HeadGradients,
}

impl TiledKernel for Backward<'_> {
    #[inline(always)]
    fn run<const R: usize>(self) {
        let (span, head_dim, scale) = (self.head.span, self.head.heads.head_dim, self.head.heads.scale());
        let of_queries = |values| self.head.of_queries(values);
        let (q, out, g) = (of_queries(self.matrices.q), of_queries(self.outcome.out), of_queries(self.g));
        let (k, v) = (self.head.of_keys(self.matrices.k), self.head.of_keys(self.matrices.v));
        let (keys_transposed, values_transposed) = (self.head.transposed(k), self.head.transposed(v));
        let keys = self.head.panels(k);
        let (num_queries, num_keys, num_prefix) = (span.num_queries(), span.num_keys(), span.prefix.len());
        let width = num_keys.next_multiple_of(COLUMNS);
        let (mut p, mut ds) = (vec![0.0; R * width], vec![0.0; R * width]);
        for start in (0..num_queries).step_by(R) {
            let (count, seen) = (R.min(num_queries - start), num_prefix + (start + R).min(num_queries));
            let (mut q_rows, mut g_rows) = ([[].as_slice(); R], [[].as_slice(); R]);
            for i in 0..R {
                let row = span.rows.start + (start + i).min(num_queries - 1);
                (q_rows[i], g_rows[i]) = (q.row(row), g.row(row));
            }
            block_times_panels(q_rows, &keys_transposed, head_dim, seen, &mut p, width);
            block_times_panels(g_rows, &values_transposed, head_dim, seen, &mut ds, width);
            for i in 0..count {
                let row = span.rows.start + start + i;
                let log_sum = self.outcome.log_sums[row * self.head.heads.num_heads + self.head.head];
                let out = out.row(row);
                let along = sum_of(head_dim, |c| g_rows[i][c] * out[c]);
                let seen_by_query = num_prefix + start + i + 1;
                let (p, ds) = (&mut p[i * width..][..seen], &mut ds[i * width..][..seen]);
                for (p, ds) in p[..seen_by_query].iter_mut().zip(&mut ds[..seen_by_query]) {
                    *p = exp(*p * scale - log_sum);
                    *ds = *p * (*ds - along) * scale;
                }
                p[seen_by_query..].fill(0.0);
                ds[seen_by_query..].fill(0.0);
            }
            let mut ds_rows = [[].as_slice(); R];
            for (i, row) in ds_rows.iter_mut().enumerate() {
                *row = &ds[i.min(count - 1) * width..][..seen];
            }
            for (panel, column) in keys.chunks_exact(num_keys * COLUMNS).zip((0..head_dim).step_by(COLUMNS)) {
                let product = tile(ds_rows, &panel[..seen * COLUMNS]);
                let len = COLUMNS.min(head_dim - column);
                for i in 0..count {
                    self.gradients.dq[(start + i) * head_dim + column..][..len].copy_from_slice(&product[i][..len]);
                }
            }
            add_outer(&ds, width, &q_rows[..count], &mut self.gradients.dk[..seen * head_dim]);
            add_outer(&p, width, &g_rows[..count], &mut self.gradients.dv[..seen * head_dim]);
        }
    }
}

/// `sums[j] += sum_i weights[i, j] rows[i]`. Whole groups of columns are summed in a local array: in `sums` itself the compiler
/// would store after every term.
#[inline(always)]
fn add_outer(weights: &[f32], width: usize, rows: &[&[f32]], sums: &mut [f32]) {
    let len = rows[0].len();
    let whole = len - len % COLUMNS;
    for (j, sum) in sums.chunks_exact_mut(len).enumerate() {
        for start in (0..whole).step_by(COLUMNS) {
            let slot = &mut sum[start..start + COLUMNS];
            let mut local = [0f32; COLUMNS];
            local.copy_from_slice(slot);
            for (i, row) in rows.iter().enumerate() {
                let (weight, row) = (weights[i * width + j], &row[start..start + COLUMNS]);
                for c in 0..COLUMNS {
                    local[c] = weight.mul_add(row[c], local[c]);
                }
            }
            slot.copy_from_slice(&local);
        }
        for (i, row) in rows.iter().enumerate() {
            let weight = weights[i * width + j];
            sum[whole..].iter_mut().zip(&row[whole..]).for_each(|(sum, x)| *sum = weight.mul_add(*x, *sum));
        }
    }
}
