//! The reference bodies of attention over packed rows: span by span, from a backend's own primitives.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{Shape, TensorData};

use super::attention_plan::{AttentionLayout, Span};
use super::composite::rows;

/// Added to a score that a query may not look at; softmax turns it into exactly 0 in f32.
const MASKED: f32 = -1e9;

/// `[T, heads * d]` -> `[heads, T, d]`.
fn split_heads<B: Backend>(x: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let (len, size) = (x.shape()[0], x.shape()[1]);
    B::float_swap_dims(B::float_reshape(x, Shape::new([len, heads, size / heads])), 0, 1)
}

/// `[heads, T, d]` -> `[T, heads * d]`.
fn join_heads<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    B::float_reshape(B::float_swap_dims(x, 0, 1), Shape::new([shape[1], shape[0] * shape[2]]))
}

/// One span's view of the matrices. T queries, S keys, G query heads a key-value head.
struct SpanView<'a> {
    span: &'a Span,
    layout: &'a AttentionLayout,
    /// The rows in front of the span's own that its keys begin with: all rows of the span that its prefix begins, so that
    /// few lengths occur; a mask hides those after the prefix.
    owner: Option<usize>,
}

impl<'a> SpanView<'a> {
    fn all(layout: &'a AttentionLayout) -> impl Iterator<Item = SpanView<'a>> {
        let spans = layout.plan.spans().iter();
        spans.map(move |span| SpanView { span, layout, owner: layout.plan.prefix_owner(span) })
    }

    fn num_owner_rows(&self) -> usize {
        self.owner.map_or(0, |owner| self.layout.plan.spans()[owner].rows.len())
    }

    /// `[N, H * d]` -> `[K, G * T, d]`: the query heads of a group are stacked as rows, so that keys and values are used as
    /// they are instead of being repeated.
    fn queries<B: Backend>(&self, x: &FloatTensor<B>) -> FloatTensor<B> {
        let heads = self.layout.heads;
        let own = rows::<B>(x, self.span.rows.start, self.span.rows.end);
        self.grouped::<B>(split_heads::<B>(own, heads.num_heads), heads.head_dim)
    }

    /// `[H, T, size]` -> `[K, G * T, size]`.
    fn grouped<B: Backend>(&self, x: FloatTensor<B>, size: usize) -> FloatTensor<B> {
        let heads = self.layout.heads;
        let stacked = heads.group_size() * self.span.num_queries();
        B::float_reshape(x, Shape::new([heads.num_key_value_heads, stacked, size]))
    }

    /// `[K, G * T, size]` -> `[H, T, size]`.
    fn by_head<B: Backend>(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let size = x.shape()[2];
        B::float_reshape(x, Shape::new([self.layout.heads.num_heads, self.span.num_queries(), size]))
    }

    /// `[N, K * d]` -> `[K, S, d]`.
    fn keys<B: Backend>(&self, x: &FloatTensor<B>) -> FloatTensor<B> {
        let own = rows::<B>(x, self.span.rows.start, self.span.rows.end);
        let all = match self.owner {
            Some(owner) => {
                let owner = &self.layout.plan.spans()[owner].rows;
                B::float_cat(vec![rows::<B>(x, owner.start, owner.end), own], 0)
            }
            None => own,
        };
        split_heads::<B>(all, self.layout.heads.num_key_value_heads)
    }

    /// `[1, T, S]`: 0 where a query may look, else [`MASKED`]. Keys are counted from the prefix's first.
    fn mask<B: Backend>(&self, like: &FloatTensor<B>) -> FloatTensor<B> {
        let (num_queries, num_owner_rows) = (self.span.num_queries(), self.num_owner_rows());
        let num_keys = num_owner_rows + num_queries;
        let mut mask = vec![0f32; num_queries * num_keys];
        let num_prefix = self.span.prefix.len();
        for (query, row) in mask.chunks_mut(num_keys).enumerate() {
            row[num_prefix..num_owner_rows].fill(MASKED);
            row[num_owner_rows + query + 1..].fill(MASKED);
            let num_hidden = self.layout.window.map_or(0, |window| (num_prefix + query + 1).saturating_sub(window));
            row[..num_hidden.min(num_prefix)].fill(MASKED);
            row[num_owner_rows..][..num_hidden.saturating_sub(num_prefix)].fill(MASKED);
        }
        B::float_from_data(TensorData::new(mask, [1, num_queries, num_keys]), &like.device())
    }

    /// Scaled and masked scores, `[H, T, S]`.
    fn scores<B: Backend>(&self, q: &FloatTensor<B>, k: &FloatTensor<B>) -> FloatTensor<B> {
        let keys = B::float_swap_dims(self.keys::<B>(k), 1, 2);
        let scores = self.by_head::<B>(B::float_matmul(self.queries::<B>(q), keys));
        let scaled = B::float_mul_scalar(scores, self.layout.heads.scale().into());
        let mask = self.mask::<B>(&scaled);
        B::float_add(scaled, mask)
    }
}

/// `softmax(q kᵀ / sqrt(d)) v`, and the logarithm of each softmax's sum, `[N, H]`.
pub fn attention<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    layout: AttentionLayout,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (mut out, mut log_sums) = (Vec::new(), Vec::new());
    for view in SpanView::all(&layout) {
        let scores = view.scores::<B>(&q, &k);
        let max = B::float_max_dim(scores.clone(), 2);
        let e = B::float_exp(B::float_sub(scores, max.clone()));
        let sum = B::float_sum_dim(e.clone(), 2);
        let num_keys = e.shape()[2];
        let weights = view.grouped::<B>(B::float_div(e, sum.clone()), num_keys);
        out.push(join_heads::<B>(view.by_head::<B>(B::float_matmul(weights, view.keys::<B>(&v)))));
        log_sums.push(join_heads::<B>(B::float_add(max, B::float_log(sum))));
    }
    (B::float_cat(out, 0), B::float_cat(log_sums, 0))
}

/// With weights `p = exp(scores - log_sum)`: `dv = pᵀ g`, `dp = g vᵀ`, `dscores = p (dp - sum(g out)) / sqrt(d)`,
/// `dq = dscores k`, `dk = dscoresᵀ q`. Gradients of q, k and v.
pub fn attention_backward<B: Backend>(
    [q, k, v]: [FloatTensor<B>; 3],
    [out, log_sum]: [FloatTensor<B>; 2],
    g: FloatTensor<B>,
    layout: AttentionLayout,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let num_spans = layout.plan.spans().len();
    let mut dq = Vec::new();
    let mut dk = vec![None; num_spans];
    let mut dv = dk.clone();
    for (i, view) in SpanView::all(&layout).enumerate() {
        let (start, end) = (view.span.rows.start, view.span.rows.end);
        let log_sum = split_heads::<B>(rows::<B>(&log_sum, start, end), layout.heads.num_heads); // [H, T, 1]
        let p = B::float_exp(B::float_sub(view.scores::<B>(&q, &k), log_sum)); // [H, T, S]
        let num_keys = p.shape()[2];
        let g_rows = view.queries::<B>(&g); // [K, G * T, d]
        let along = B::float_sum_dim(B::float_mul(g_rows.clone(), view.queries::<B>(&out)), 2);
        let dp = B::float_matmul(g_rows.clone(), B::float_swap_dims(view.keys::<B>(&v), 1, 2)); // [K, G * T, S]
        let p = view.grouped::<B>(p, num_keys);
        let dscores = B::float_mul(p.clone(), B::float_sub(dp, along));
        let dscores = B::float_mul_scalar(dscores, layout.heads.scale().into());
        let of_queries = B::float_matmul(dscores.clone(), view.keys::<B>(&k));
        dq.push(join_heads::<B>(view.by_head::<B>(of_queries)));
        let of_keys = B::float_matmul(B::float_swap_dims(dscores, 1, 2), view.queries::<B>(&q)); // [K, S, d]
        let of_values = B::float_matmul(B::float_swap_dims(p, 1, 2), g_rows);
        for (sums, part) in [(&mut dk, of_keys), (&mut dv, of_values)] {
            let part = join_heads::<B>(part); // [S, K * d]
            let (num_owner_rows, num_keys) = (view.num_owner_rows(), part.shape()[0]);
            if let Some(owner) = view.owner {
                add::<B>(&mut sums[owner], rows::<B>(&part, 0, num_owner_rows));
            }
            add::<B>(&mut sums[i], rows::<B>(&part, num_owner_rows, num_keys));
        }
    }
    let joined = |parts: Vec<Option<FloatTensor<B>>>| B::float_cat(parts.into_iter().flatten().collect(), 0);
    (B::float_cat(dq, 0), joined(dk), joined(dv))
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, part: FloatTensor<B>) {
    *sum = Some(match sum.take() {
        Some(sum) => B::float_add(sum, part),
        None => part,
    });
}
