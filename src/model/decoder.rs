//! The model as the CPU decodes with it: weights packed once, then one pass after another over a few rows.
//!
//! A pass takes rows of any sequences: the next tokens of those that are being written and whole stretches of prompts side by
//! side. Every row brings its slot in the cache and its position. Numbers are those of [`CausalLm`]'s forward pass up to the
//! order of sums, and a row's numbers depend neither on the other rows of the pass nor on the number of threads.
//! Adapters are merged while packing. Next: [`crate::generate`].

use burn::tensor::{Int, Tensor, TensorData};

use super::causal_lm::{CausalLm, DecoderLayer};
use super::config::ModelConfig;
use super::layers::Linear;
use super::rotary::Angles;
use super::weights::to_host;
use crate::config::WeightFormat;
use crate::error::Result;
use crate::ops::blocks::{Blocks, rms_norm};
use crate::ops::lanes::InstructionSet;
use crate::ops::panels::{Panels, Store};
use crate::ops::simd;
use crate::ops::slot_cache::{Place, SlotCache};
use crate::ops::team::Team;

/// One token of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub token_id: u32,
    pub slot: usize,
    /// In its sequence: the tokens before it have been in this or an earlier pass.
    pub position: usize,
    /// Its next-token logits are wanted.
    pub wants_logits: bool,
}

/// Packed weights, the threads, and the buffers of a pass.
pub struct Decoder {
    set: InstructionSet,
    config: ModelConfig,
    /// `[V, D]`, f32 whatever the format of the packed weights.
    embedding: Tensor<2>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Projection,
    team: Team,
    buffers: Buffers,
}

struct Layer {
    input_norm: Vec<f32>,
    qkv: Projection,
    output: Projection,
    post_attention_norm: Vec<f32>,
    gate: Projection,
    up: Projection,
    down: Projection,
}

/// `y = x Wᵀ + bias`.
struct Projection {
    panels: Panels,
    /// `[panels][C]`.
    bias: Option<Vec<f32>>,
}

/// What passes between the steps of a layer, one row a token.
struct Buffers {
    angles: Angles,
    hidden: Blocks,     // D
    normed: Blocks,     // D
    qkv: Blocks,        // (H + 2 K) d
    queries: Vec<f32>,  // [N][K] groups as the cache reads them
    attended: Vec<f32>, // [N][H * d]
    mixed: Blocks,      // H d
    activated: Blocks,  // the feed-forward block's inner size
    logits: Blocks,     // V, only rows whose logits are wanted
}

impl Decoder {
    /// Packs a model's weights.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(model: &CausalLm, format: WeightFormat) -> Result<Self> {
        let (set, config) = (InstructionSet::best(), model.config().clone());
        let layers = model.layers.iter().map(|layer| Layer::pack(layer, set, format)).collect::<Result<_>>()?;
        let embedding = model.embed_tokens.weight.val().inner();
        let head = match &model.lm_head {
            Some(head) => Projection::pack(&[head], set, format)?,
            None => {
                let panels = Panels::pack(set, format, config.hidden_size, &[&to_host(embedding.clone())?]);
                Projection { panels, bias: None }
            }
        };
        let norm = padded(to_host(model.norm.weight.val())?, set);
        let blocks = |num_columns| Blocks::new(num_columns, set);
        let (d, q) = (config.hidden_size, config.query_size());
        let buffers = Buffers {
            angles: Angles::default(),
            hidden: blocks(d),
            normed: blocks(d),
            qkv: blocks(q + 2 * config.key_value_size()),
            queries: Vec::new(),
            attended: Vec::new(),
            mixed: blocks(q),
            activated: blocks(config.intermediate_size),
            logits: blocks(config.vocab_size),
        };
        let team = Team::new(rayon::current_num_threads());
        Ok(Decoder { set, config, embedding, layers, norm, head, team, buffers })
    }

    /// A cache for `num_slots` sequences of up to `capacity` tokens.
    pub fn cache(&self, num_slots: usize, capacity: usize) -> SlotCache {
        SlotCache::new(self.set, self.config.heads(), self.config.num_hidden_layers, num_slots, capacity)
    }

    /// Reads tokens into the cache; `take_logits` gets the next-token logits, `[V]`, of every row that wants them, with the
    /// element of `outputs` that belongs to it, in order. It is called on several threads.
    ///
    /// # Errors
    /// If the device fails.
    pub fn pass<T: Send>(
        &mut self,
        rows: &[Row],
        cache: &mut SlotCache,
        outputs: &mut [T],
        take_logits: impl Fn(&mut T, &[f32]) + Sync,
    ) -> Result<()> {
        self.embed(rows)?;
        for layer in 0..self.layers.len() {
            self.attention_block(layer, rows, cache);
            self.feed_forward_block(layer);
        }
        self.head(rows);
        let (logits, vocab_size) = (&self.buffers.logits, self.config.vocab_size);
        assert_eq!(logits.num_rows(), outputs.len(), "one output for each row that wants logits");
        self.team.for_each_chunk(outputs, 1, |row, output| {
            let mut values = vec![0.0; vocab_size];
            logits.read_row(row, &mut values);
            take_logits(&mut output[0], &values);
        });
        Ok(())
    }

    fn embed(&mut self, rows: &[Row]) -> Result<()> {
        let positions: Vec<usize> = rows.iter().map(|row| row.position).collect();
        self.buffers.angles = Angles::new(&self.config, &positions);
        let ids: Vec<i32> = rows.iter().map(|row| row.token_id as i32).collect();
        let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids, [rows.len()]), &self.embedding.device());
        let embedded = to_host(self.embedding.clone().select(0, ids))?;
        self.buffers.hidden.set_rows(rows.len());
        for (row, values) in embedded.chunks_exact(self.config.hidden_size).enumerate() {
            self.buffers.hidden.write_row(row, values);
        }
        Ok(())
    }

    /// `x + attention(norm(x))`.
    fn attention_block(&mut self, layer: usize, rows: &[Row], cache: &mut SlotCache) {
        let Decoder { team, buffers, .. } = self;
        let weights = &self.layers[layer];
        let eps = self.config.rms_norm_eps as f32;
        rms_norm(self.set, &buffers.hidden, &weights.input_norm, eps, &mut buffers.normed);
        weights.qkv.multiply(team, &buffers.normed, Store::Replace, &mut buffers.qkv);

        let place = |row: &Row| Place { layer, slot: row.slot, position: row.position };
        let heads = self.config.heads();
        let (num_groups, group_size) = (heads.num_key_value_heads, heads.group_size() * heads.head_dim);
        buffers.queries.resize(rows.len() * num_groups * cache.group_len(), 0.0);
        let mut qkv = vec![0.0; (heads.num_heads + 2 * num_groups) * heads.head_dim];
        for (i, (row, queries)) in
            rows.iter().zip(buffers.queries.chunks_exact_mut(num_groups * cache.group_len())).enumerate()
        {
            buffers.qkv.read_row(i, &mut qkv);
            let (q, rest) = qkv.split_at_mut(heads.num_heads * heads.head_dim);
            let (k, v) = rest.split_at_mut(num_groups * heads.head_dim);
            buffers.angles.turn(i, q, heads.head_dim);
            buffers.angles.turn(i, k, heads.head_dim);
            q.iter_mut().for_each(|q| *q *= heads.scale());
            cache.write(place(row), k, v);
            for (group, out) in q.chunks_exact(group_size).zip(queries.chunks_exact_mut(cache.group_len())) {
                cache.lay_out_queries(group, out);
            }
        }

        buffers.attended.resize(rows.len() * num_groups * group_size, 0.0);
        let (cache, queries) = (&*cache, &buffers.queries);
        team.for_each_chunk(&mut buffers.attended, group_size, |i, out| {
            let queries = &queries[i * cache.group_len()..][..cache.group_len()];
            cache.attend(place(&rows[i / num_groups]), i % num_groups, queries, out);
        });
        buffers.mixed.set_rows(rows.len());
        for (i, row) in buffers.attended.chunks_exact(num_groups * group_size).enumerate() {
            buffers.mixed.write_row(i, row);
        }
        weights.output.multiply(team, &buffers.mixed, Store::Add, &mut buffers.hidden);
    }

    /// `x + down(silu(gate(norm(x))) * up(norm(x)))`.
    fn feed_forward_block(&mut self, layer: usize) {
        let Decoder { team, buffers, .. } = self;
        let weights = &self.layers[layer];
        let eps = self.config.rms_norm_eps as f32;
        rms_norm(self.set, &buffers.hidden, &weights.post_attention_norm, eps, &mut buffers.normed);
        let x = &buffers.normed;
        buffers.activated.set_rows(x.num_rows());
        let block_len = x.block_len();
        team.for_each_chunk(&mut buffers.activated.values, block_len, |panel, out| {
            let mut both = vec![0.0; 2 * block_len];
            let (gate, up) = both.split_at_mut(block_len);
            weights.gate.multiply_panel(panel, x, Store::Replace, gate);
            weights.up.multiply_panel(panel, x, Store::Replace, up);
            simd::run(simd::Swiglu { gate, up, out });
        });
        weights.down.multiply(team, &buffers.activated, Store::Add, &mut buffers.hidden);
    }

    /// Final norm and head of the rows whose logits are wanted.
    fn head(&mut self, rows: &[Row]) {
        let Decoder { team, buffers, .. } = self;
        let size = self.config.hidden_size;
        let wanted: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].wants_logits).collect();
        if wanted.is_empty() {
            return buffers.logits.set_rows(0);
        }
        let mut chosen = Blocks::new(size, self.set);
        chosen.set_rows(wanted.len());
        let mut values = vec![0.0; size];
        for (i, row) in wanted.into_iter().enumerate() {
            buffers.hidden.read_row(row, &mut values);
            chosen.write_row(i, &values);
        }
        rms_norm(self.set, &chosen, &self.norm, self.config.rms_norm_eps as f32, &mut buffers.normed);
        self.head.multiply(team, &buffers.normed, Store::Replace, &mut buffers.logits);
    }
}

impl Layer {
    fn pack(layer: &DecoderLayer, set: InstructionSet, format: WeightFormat) -> Result<Self> {
        let (attention, mlp) = (&layer.self_attn, &layer.mlp);
        let pack = |linears: &[&Linear]| Projection::pack(linears, set, format);
        Ok(Layer {
            input_norm: padded(to_host(layer.input_layernorm.weight.val())?, set),
            qkv: pack(&[&attention.q_proj, &attention.k_proj, &attention.v_proj])?,
            output: pack(&[&attention.o_proj])?,
            post_attention_norm: padded(to_host(layer.post_attention_layernorm.weight.val())?, set),
            gate: pack(&[&mlp.gate_proj])?,
            up: pack(&[&mlp.up_proj])?,
            down: pack(&[&mlp.down_proj])?,
        })
    }
}

impl Projection {
    /// Several projections of the same input as one, their outputs one after the other.
    fn pack(linears: &[&Linear], set: InstructionSet, format: WeightFormat) -> Result<Self> {
        let [_, num_terms] = linears[0].weight.val().dims();
        let matrices = linears.iter().map(|linear| to_host(linear.merged_weight())).collect::<Result<Vec<_>>>()?;
        let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        let panels = Panels::pack(set, format, num_terms, &matrices);
        let biases: Option<Vec<_>> = linears.iter().map(|linear| linear.bias.as_ref()).collect();
        let biases = biases.map(|all| all.iter().map(|bias| to_host(bias.val())).collect::<Result<Vec<_>>>());
        Ok(Projection { panels, bias: biases.transpose()?.map(|all| padded(all.concat(), set)) })
    }

    /// All columns, shared among the threads.
    fn multiply(&self, team: &mut Team, x: &Blocks, store: Store, out: &mut Blocks) {
        out.set_rows(x.num_rows());
        let block_len = out.block_len();
        team.for_each_chunk(&mut out.values, block_len, |panel, out| self.multiply_panel(panel, x, store, out));
    }

    fn multiply_panel(&self, panel: usize, x: &Blocks, store: Store, out: &mut [f32]) {
        self.panels.multiply(panel, &x.values, x.num_rows(), store, out);
        if let Some(bias) = &self.bias {
            let columns = out.len() / x.num_rows();
            for row in out.chunks_exact_mut(columns) {
                row.iter_mut().zip(&bias[panel * columns..]).for_each(|(value, bias)| *value += bias);
            }
        }
    }
}

/// Zeros up to whole blocks.
fn padded(mut values: Vec<f32>, set: InstructionSet) -> Vec<f32> {
    values.resize(values.len().next_multiple_of(set.panel_columns()), 0.0);
    values
}
