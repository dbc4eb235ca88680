//! Keys and values of the sequences that are being decoded, each in a place of its own, and attention over them.
//!
//! A sequence has its own length, so that a finished one's slot can be given to the next at once. Keys lie in panels of C
//! positions, `[positions / C][d][C]`, values in panels of C dimensions, `[d / C][positions][C]`: the scores of C positions
//! and the mix of C dimensions are then the same product as that of packed weights ([`super::panels`]), with the query
//! heads of a group as its rows.

use super::MOST_PANEL_COLUMNS;
use super::attention_plan::Heads;
use super::lanes::{InstructionSet, LaneKernel, Lanes};
use super::panels::{Store, panel_product};
use super::simd::exp;

/// The cache of all layers and slots.
#[derive(Debug)]
pub struct SlotCache {
    set: InstructionSet,
    heads: Heads,
    num_slots: usize,
    /// Positions of a slot, a multiple of C.
    capacity: usize,
    /// `[layers][slots][K]` heads of `capacity * padded_dim` numbers.
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Where a token's keys and values are.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub layer: usize,
    pub slot: usize,
    pub position: usize,
}

/// The first position that a token sees: with a window itself and the `window - 1` tokens before it.
pub fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

impl SlotCache {
    /// Room for `num_slots` sequences of up to `capacity` tokens. Memory is taken when it is first written.
    pub fn new(set: InstructionSet, heads: Heads, num_layers: usize, num_slots: usize, capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(set.panel_columns());
        let head_len = capacity * heads.head_dim.next_multiple_of(set.panel_columns());
        let len = num_layers * num_slots * heads.num_key_value_heads * head_len;
        SlotCache { set, heads, num_slots, capacity, keys: vec![0.0; len], values: vec![0.0; len] }
    }

    /// d, rounded up to whole blocks.
    fn padded_dim(&self) -> usize {
        self.heads.head_dim.next_multiple_of(self.set.panel_columns())
    }

    /// Numbers that [`Self::attend`] wants as the queries of one group.
    pub fn group_len(&self) -> usize {
        self.heads.group_size() * self.padded_dim()
    }

    fn head_start(&self, place: Place, head: usize) -> usize {
        let index = (place.layer * self.num_slots + place.slot) * self.heads.num_key_value_heads + head;
        index * self.capacity * self.padded_dim()
    }

    /// Writes the key and value of one token, `[K * d]` each.
    pub fn write(&mut self, place: Place, keys: &[f32], values: &[f32]) {
        assert!(place.position < self.capacity, "a slot of {} tokens has no place {}", self.capacity, place.position);
        let (columns, padded) = (self.set.panel_columns(), self.padded_dim());
        let (panel, column) = (place.position / columns, place.position % columns);
        let per_head = keys.chunks_exact(self.heads.head_dim).zip(values.chunks_exact(self.heads.head_dim));
        for (head, (key, value)) in per_head.enumerate() {
            let start = self.head_start(place, head);
            let key_panel = &mut self.keys[start + panel * padded * columns..][..padded * columns];
            for (slot, number) in key_panel[column..].iter_mut().step_by(columns).zip(key) {
                *slot = *number;
            }
            let head_values = &mut self.values[start..][..self.capacity * padded];
            for (value, panel) in value.chunks(columns).zip(head_values.chunks_exact_mut(self.capacity * columns)) {
                if column == 0 {
                    // What an earlier sequence left further on is multiplied by zero: it must not be infinite.
                    panel[place.position * columns..][..columns * columns].fill(0.0);
                }
                panel[place.position * columns..][..value.len()].copy_from_slice(value);
            }
        }
    }

    /// Lays out the scaled queries of one group, `[G * d]`, as [`Self::attend`] reads them: `[d / C][G][C]`.
    pub fn lay_out_queries(&self, queries: &[f32], out: &mut [f32]) {
        let columns = self.set.panel_columns();
        let num_rows = self.heads.group_size();
        for (row, query) in queries.chunks_exact(self.heads.head_dim).enumerate() {
            for (block, part) in query.chunks(columns).enumerate() {
                out[(block * num_rows + row) * columns..][..part.len()].copy_from_slice(part);
            }
        }
    }

    /// `softmax(q kᵀ) v` of one group of query heads over the positions up to the place's own, all or those of a window.
    ///
    /// # Shapes
    /// `queries` as [`Self::lay_out_queries`] made them, already scaled; `out` `[G * d]`.
    pub fn attend(&self, place: Place, window: Option<usize>, head: usize, queries: &[f32], out: &mut [f32]) {
        let (start, len) = (self.head_start(place, head), self.capacity * self.padded_dim());
        self.set.run(Attend {
            queries,
            keys: &self.keys[start..][..len],
            values: &self.values[start..][..len],
            capacity: self.capacity,
            first_key: first_seen(place.position, window),
            num_keys: place.position + 1,
            heads: self.heads,
            out,
        });
    }
}

struct Attend<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    capacity: usize,
    first_key: usize,
    num_keys: usize,
    heads: Heads,
    out: &'a mut [f32],
}

impl LaneKernel for Attend<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (columns, num_rows, dim) = (2 * L::LEN, self.heads.group_size(), self.heads.head_dim);
        let block_len = num_rows * columns;
        let num_panels = self.num_keys.div_ceil(columns);
        let panel_len = self.queries.len() / num_rows * columns;
        let mut scores = vec![0.0; num_panels * block_len]; // [S / C][G][C]
        for (scores, panel) in scores.chunks_exact_mut(block_len).zip(self.keys.chunks_exact(panel_len)) {
            panel_product::<L, f32>(self.queries, num_rows, panel, Store::Replace, scores);
        }
        hide_before(&mut scores, block_len, columns, self.first_key);
        for row in 0..num_rows {
            softmax_row(&mut scores, block_len, &(row * columns..(row + 1) * columns), self.num_keys);
        }
        let mut mixed = vec![0.0; block_len];
        for (block, panel) in self.values.chunks_exact(self.capacity * columns).enumerate() {
            let panel = &panel[..num_panels * columns * columns];
            panel_product::<L, f32>(&scores, num_rows, panel, Store::Replace, &mut mixed);
            let from = block * columns;
            for (out, mixed) in self.out.chunks_exact_mut(dim).zip(mixed.chunks_exact(columns)) {
                let out = &mut out[from..dim.min(from + columns)];
                out.copy_from_slice(&mixed[..out.len()]);
            }
        }
    }
}

/// Takes the scores of positions before `first_key`, which a window leaves out, from the softmax.
fn hide_before(scores: &mut [f32], block_len: usize, columns: usize, first_key: usize) {
    for (i, block) in scores.chunks_exact_mut(block_len).take(first_key.div_ceil(columns)).enumerate() {
        let hidden = (first_key - i * columns).min(columns);
        block.chunks_exact_mut(columns).for_each(|row| row[..hidden].fill(f32::NEG_INFINITY));
    }
}

/// Softmax over the first `num_keys` scores of one row of the blocks; the rest becomes 0.
#[inline(always)]
fn softmax_row(scores: &mut [f32], block_len: usize, row: &std::ops::Range<usize>, num_keys: usize) {
    let columns = row.len();
    let mut lanes = [f32::NEG_INFINITY; MOST_PANEL_COLUMNS];
    for (i, block) in scores.chunks_exact_mut(block_len).enumerate() {
        let block = &mut block[row.clone()];
        let seen = (num_keys - i * columns).min(columns);
        block[seen..].fill(f32::NEG_INFINITY);
        for (max, score) in lanes.iter_mut().zip(block) {
            *max = if *score > *max { *score } else { *max };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0f32; MOST_PANEL_COLUMNS];
    for block in scores.chunks_exact_mut(block_len) {
        for (score, lane) in block[row.clone()].iter_mut().zip(&mut lanes) {
            *score = exp(*score - max); // 0 where masked
            *lane += *score;
        }
    }
    let factor = lanes[..columns].iter().sum::<f32>().recip();
    for block in scores.chunks_exact_mut(block_len) {
        block[row.clone()].iter_mut().for_each(|score| *score *= factor);
    }
}
