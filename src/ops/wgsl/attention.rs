//! Attention over packed rows: what the shaders need to know about spans, and the launches.
//!
//! Scores are never stored: memory beside the results is two numbers a row and query head in the backward pass, none in the
//! forward pass.

use burn_cubecl::tensor::CubeTensor;

use super::launch::{Buffer, Shader, empty};
use crate::ops::{AttentionLayout, AttentionPlan, Heads};

/// Rows of a tile, and lanes that share a row.
const ROWS: usize = 16;
const LANES: usize = 4;

/// Rows of the other side that pass by at a time, and the quads of them that fit into a workgroup's memory: 8 KiB for two
/// matrices, beside at most 4 KiB of partial products, of the 16 KiB that every adapter has.
const MAX_STEP: usize = 8;
const MAX_QUADS: usize = 256;

/// The largest head of which one row fits.
const MAX_HEAD_DIM: usize = 4 * MAX_QUADS;

/// What the shaders can compute: heads that fit, no window.
pub fn has_kernel(layout: &AttentionLayout) -> bool {
    layout.heads.head_dim <= MAX_HEAD_DIM && layout.window.is_none()
}

const TILES: &str = include_str!("../../../shaders/attention_tiles.wgsl");

const fn tiled(name: &'static str, text: &'static str) -> Shader {
    Shader { name, text, shared_text: TILES, workgroup: ROWS * LANES }
}

static FORWARD: Shader = tiled("attention", include_str!("../../../shaders/attention.wgsl"));
static ALONG: Shader = Shader::new("attention_along", include_str!("../../../shaders/attention_along.wgsl"));
static BACKWARD_QUERIES: Shader =
    tiled("attention_backward_queries", include_str!("../../../shaders/attention_backward_queries.wgsl"));
static BACKWARD_KEYS: Shader =
    tiled("attention_backward_keys", include_str!("../../../shaders/attention_backward_keys.wgsl"));

/// The result `[N, H * d]` and log_sum `[N, H]`.
pub fn forward([q, k, v]: [&CubeTensor; 3], layout: &AttentionLayout) -> (CubeTensor, CubeTensor) {
    let heads = layout.heads;
    let result = empty(q, q.meta.shape().clone());
    let log_sum = empty(q, [layout.plan.num_rows(), heads.num_heads]);
    let tiles = Tiles::of_queries(&layout.plan, heads);
    let buffers = [Buffer::Read(q), Buffer::Read(k), Buffer::Read(v), Buffer::Write(&result), Buffer::Write(&log_sum)];
    tiles.launch(&FORWARD, &buffers);
    (result, log_sum)
}

/// What the backward pass is given beside the inputs of the forward pass.
pub struct Outcome<'a> {
    pub result: &'a CubeTensor,
    pub log_sum: &'a CubeTensor,
    /// The gradient of the result.
    pub g: &'a CubeTensor,
}

/// Gradients of q, k and v.
pub fn backward(
    [q, k, v]: [&CubeTensor; 3],
    outcome: Outcome<'_>,
    layout: &AttentionLayout,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let Outcome { result, log_sum, g } = outcome;
    let heads = layout.heads;
    let num_queries = layout.plan.num_rows() * heads.num_heads;
    let stats = empty(q, [num_queries, 2]);
    ALONG.launch(
        &[],
        ALONG.num_workgroups(num_queries),
        &[Buffer::Read(result), Buffer::Read(g), Buffer::Read(log_sum), Buffer::Write(&stats)],
        &[num_queries as u32, heads.head_dim as u32],
    );
    let [dq, dk, dv] = [q, k, v].map(|like| empty(like, like.meta.shape().clone()));
    let inputs = [q, k, v, g, &stats].map(Buffer::Read);
    Tiles::of_queries(&layout.plan, heads).launch(&BACKWARD_QUERIES, &[&inputs[..], &[Buffer::Write(&dq)]].concat());
    let buffers = [&inputs[..], &[Buffer::Write(&dk), Buffer::Write(&dv)]].concat();
    Tiles::of_keys(&layout.plan, heads).launch(&BACKWARD_KEYS, &buffers);
    (dq, dk, dv)
}

/// The tiles of a plan, as `shaders/attention_tiles.wgsl` explains them.
struct Tiles {
    heads: Heads,
    /// Of one key-value head.
    num_tiles: usize,
    num_spans: usize,
    /// The spans' records, then what they point to.
    words: Vec<usize>,
}

/// Words in front of the records, the grid's width among them.
const HEAD_WORDS: usize = 6;
const RECORD_WORDS: usize = 5;

impl Tiles {
    fn of_queries(plan: &AttentionPlan, heads: Heads) -> Self {
        let (mut num_tiles, mut words) = (0, Vec::new());
        for span in plan.spans() {
            words.extend([num_tiles, span.rows.start, span.num_queries(), span.prefix.start, span.prefix.len()]);
            num_tiles += (span.num_queries() * heads.group_size()).div_ceil(ROWS);
        }
        Tiles { heads, num_tiles, num_spans: plan.spans().len(), words }
    }

    fn of_keys(plan: &AttentionPlan, heads: Heads) -> Self {
        let spans = plan.spans();
        let mut ranges: Vec<Vec<usize>> = Vec::with_capacity(spans.len()); // three words for each group of queries
        for span in spans {
            ranges.push(vec![span.rows.start, span.rows.end, span.rows.end]);
            if let Some(owner) = plan.prefix_owner(span) {
                ranges[owner].extend([span.rows.start, span.rows.end, span.prefix.end]);
            }
        }
        let (mut num_tiles, mut words) = (0, Vec::new());
        let mut place = HEAD_WORDS + RECORD_WORDS * spans.len();
        for (span, ranges) in spans.iter().zip(&ranges) {
            words.extend([num_tiles, span.rows.start, span.num_queries(), place, ranges.len() / 3]);
            num_tiles += span.num_queries().div_ceil(ROWS);
            place += ranges.len();
        }
        words.extend(ranges.into_iter().flatten());
        Tiles { heads, num_tiles, num_spans: spans.len(), words }
    }

    fn launch(&self, shader: &'static Shader, buffers: &[Buffer<'_>]) {
        let Heads { num_heads, num_key_value_heads, head_dim } = self.heads;
        let quads = head_dim.div_ceil(4 * LANES); // of a lane
        let step = (MAX_QUADS / (quads * LANES)).clamp(1, MAX_STEP);
        let constants = [("head_dim", head_dim), ("quads", quads), ("step", step), ("rows", ROWS), ("lanes", LANES)]
            .map(|(name, value)| (name, value.to_string()));
        let head = [num_heads as u32, num_key_value_heads as u32, self.heads.scale().to_bits()];
        let sizes = [self.num_tiles as u32, self.num_spans as u32];
        let words: Vec<u32> = self.words.iter().map(|word| *word as u32).collect();
        let numbers = [&head[..], &sizes, &words].concat();
        shader.launch(&constants, self.num_tiles * num_key_value_heads, buffers, &numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Span;

    #[test]
    fn keys_of_a_prompt_are_seen_by_its_own_queries_and_by_those_of_its_responses() {
        let span = |rows, prefix| Span { rows, prefix };
        let plan = AttentionPlan::new(vec![span(0..20, 0..0), span(20..25, 0..18), span(25..26, 0..0)]);
        let heads = Heads { num_heads: 4, num_key_value_heads: 2, head_dim: 8 };
        let tiles = Tiles::of_keys(&plan, heads);
        assert_eq!(tiles.num_tiles, 2 + 1 + 1);
        let records = [[0, 0, 20, 21, 2], [2, 20, 5, 27, 1], [3, 25, 1, 30, 1]];
        let ranges = [[0, 20, 20], [20, 25, 18], [20, 25, 25], [25, 26, 26]];
        assert_eq!(tiles.words, [records.concat(), ranges.concat()].concat());
        let tiles = Tiles::of_queries(&plan, heads);
        assert_eq!(tiles.num_tiles, 3 + 1 + 1, "two query heads a key-value head: 40, 10 and 2 slots");
        assert_eq!(tiles.words, [[0, 0, 20, 0, 0], [3, 20, 5, 0, 18], [4, 25, 1, 0, 0]].concat());
    }
}
