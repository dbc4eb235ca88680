//! Which rows see which: sequences packed one after another into one matrix of rows, without padding.
//!
//! A sequence is a span of rows in which every row sees itself and those before it. Responses to one prompt may share the
//! prompt's rows: the prompt is a span of its own, and each response is a span with the prompt as its prefix. One forward
//! pass over the prompt then serves them all, with the same numbers as separate sequences.

use std::ops::Range;
use std::sync::Arc;

/// Consecutive rows that attend causally among themselves and to all rows of an earlier prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub rows: Range<usize>,
    /// Empty, or the first rows of an earlier span that has no prefix itself.
    pub prefix: Range<usize>,
}

impl Span {
    /// T, queries.
    pub fn num_queries(&self) -> usize {
        self.rows.len()
    }

    /// S, keys: the prefix and the span itself.
    pub fn num_keys(&self) -> usize {
        self.prefix.len() + self.rows.len()
    }

    /// The row of the matrix that holds each key, in the order of keys.
    pub fn key_rows(&self) -> impl Iterator<Item = usize> {
        self.prefix.clone().chain(self.rows.clone())
    }
}

/// The spans of a matrix of rows, in order and without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttentionPlan {
    spans: Vec<Span>,
}

impl AttentionPlan {
    /// # Panics
    /// If the spans leave a gap or overlap, or a prefix is not the beginning of an earlier span without prefix.
    pub fn new(spans: Vec<Span>) -> Self {
        let mut end = 0;
        for (i, span) in spans.iter().enumerate() {
            assert!(span.rows.start == end && !span.rows.is_empty(), "spans must follow each other: {spans:?}");
            let begins_earlier_span = |earlier: &Span| {
                earlier.prefix.is_empty()
                    && earlier.rows.start == span.prefix.start
                    && earlier.rows.end >= span.prefix.end
            };
            assert!(
                span.prefix.is_empty() || spans[..i].iter().any(begins_earlier_span),
                "the prefix of span {i} does not begin an earlier one: {spans:?}"
            );
            end = span.rows.end;
        }
        AttentionPlan { spans }
    }

    /// One span of `len` rows for each sequence, no prefixes.
    pub fn separate(lens: &[usize]) -> Self {
        let mut start = 0;
        let spans = lens.iter().map(|len| {
            let rows = start..start + len;
            start += len;
            Span { rows, prefix: 0..0 }
        });
        AttentionPlan::new(spans.collect())
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// N, rows of the matrix.
    pub fn num_rows(&self) -> usize {
        self.spans.last().map_or(0, |span| span.rows.end)
    }

    /// The index of the span that a span's prefix begins.
    pub fn prefix_owner(&self, span: &Span) -> Option<usize> {
        (!span.prefix.is_empty()).then(|| {
            let owner = self.spans.iter().position(|owner| owner.rows.start == span.prefix.start);
            owner.expect("`new` has seen the owner")
        })
    }
}

/// How the columns of queries, keys and values are divided into heads: query head h reads key-value head
/// `h / (num_heads / num_key_value_heads)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// H.
    pub num_heads: usize,
    /// K.
    pub num_key_value_heads: usize,
    /// d.
    pub head_dim: usize,
}

impl Heads {
    /// Query heads that share one key-value head.
    pub fn group_size(&self) -> usize {
        self.num_heads / self.num_key_value_heads
    }

    /// What scores are multiplied by before the softmax: `1 / sqrt(d)`.
    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}

/// All that attention needs to know about its matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionLayout {
    pub plan: Arc<AttentionPlan>,
    pub heads: Heads,
    /// A query sees itself and the `window - 1` keys before it; `None`: all keys before it. Fused kernels know no window:
    /// where there is one, the composite bodies work.
    pub window: Option<usize>,
}

impl AttentionLayout {
    /// A window that no query of the plan looks beyond is left out, so that the fused kernels serve short sequences of any
    /// model.
    pub fn new(plan: Arc<AttentionPlan>, heads: Heads, window: Option<usize>) -> Self {
        let longest = plan.spans().iter().map(Span::num_keys).max().unwrap_or(0);
        AttentionLayout { plan, heads, window: window.filter(|window| *window < longest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_sequences_follow_each_other() {
        let plan = AttentionPlan::separate(&[3, 2]);
        assert_eq!(plan.spans(), [Span { rows: 0..3, prefix: 0..0 }, Span { rows: 3..5, prefix: 0..0 }]);
        assert_eq!((plan.num_rows(), plan.prefix_owner(&plan.spans()[1])), (5, None));
    }

    #[test]
    fn a_response_sees_its_prompt_and_itself() {
        let spans = vec![
            Span { rows: 0..4, prefix: 0..0 },
            Span { rows: 4..6, prefix: 0..3 },
            Span { rows: 6..9, prefix: 0..3 },
        ];
        let plan = AttentionPlan::new(spans);
        let last = &plan.spans()[2];
        assert_eq!((last.num_queries(), last.num_keys(), plan.prefix_owner(last)), (3, 6, Some(0)));
        assert_eq!(last.key_rows().collect::<Vec<_>>(), [0, 1, 2, 6, 7, 8]);
    }

    #[test]
    fn a_window_counts_only_where_some_query_looks_beyond_it() {
        let spans = vec![Span { rows: 0..4, prefix: 0..0 }, Span { rows: 4..6, prefix: 0..3 }];
        let plan = Arc::new(AttentionPlan::new(spans)); // five keys at most: a prefix of three and two rows
        let heads = Heads { num_heads: 1, num_key_value_heads: 1, head_dim: 2 };
        let window = |window| AttentionLayout::new(plan.clone(), heads, window).window;
        assert_eq!([window(None), window(Some(5)), window(Some(4))], [None, None, Some(4)]);
    }

    #[test]
    #[should_panic(expected = "does not begin an earlier one")]
    fn a_prefix_must_be_rows_that_come_before() {
        AttentionPlan::new(vec![Span { rows: 0..4, prefix: 0..0 }, Span { rows: 4..6, prefix: 1..3 }]);
    }

    #[test]
    #[should_panic(expected = "must follow each other")]
    fn spans_leave_no_gap() {
        AttentionPlan::new(vec![Span { rows: 0..4, prefix: 0..0 }, Span { rows: 5..6, prefix: 0..0 }]);
    }
}
