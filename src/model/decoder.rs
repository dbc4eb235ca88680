//! The model as the CPU decodes with it: weights packed once, then one pass after another over a few rows.
//!
//! A pass takes rows of any sequences: the next tokens of those that are being written and whole stretches of prompts side by
//! side. Every row brings its slot in the cache and its position. Numbers are those of [`CausalLm`]'s forward pass up to the
//! order of sums, and a row's numbers depend neither on the other rows of the pass nor on the number of threads.
//! Adapters are merged while packing. Next: [`crate::generate`].

use burn::tensor::{Int, Tensor, TensorData};

use super::causal_lm::{CausalLm, DecoderLayer};
use super::config::{Activation, LayerType, ModelConfig};
use super::decoder_norm::DecoderNorm;
use super::layers::{Linear, Norm, gelu_tanh_of};
use super::rotary::Angles;
use super::weights::to_host;
use crate::config::WeightFormat;
use crate::error::Result;
use crate::ops::blocks::Blocks;
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
    /// `[positions, D]` where positions are learned, else empty.
    position_vectors: Vec<f32>,
    layers: Vec<Layer>,
    norm: DecoderNorm,
    head: Projection,
    team: Team,
    buffers: Buffers,
}

struct Layer {
    layer_type: LayerType,
    input_norm: DecoderNorm,
    qkv: Projection,
    /// Of the heads of queries and of keys.
    head_norms: Option<(DecoderNorm, DecoderNorm)>,
    output: Projection,
    /// Of the outputs of attention and of the feed-forward block.
    output_norms: Option<(DecoderNorm, DecoderNorm)>,
    feed_forward_norm: DecoderNorm,
    gate: Option<Projection>,
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
    angles: Angles,     // of full layers
    sliding: Angles,    // of sliding layers
    hidden: Blocks,     // D
    normed: Blocks,     // D
    branch: Blocks,     // D, a block's output before its norm
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
        let norm = DecoderNorm::new(&model.norm, set)?;
        let position_vectors = match &model.embed_positions {
            Some(vectors) => to_host(vectors.weight.val())?,
            None => Vec::new(),
        };
        let blocks = |num_columns| Blocks::new(num_columns, set);
        let (d, q) = (config.hidden_size, config.query_size());
        let buffers = Buffers {
            angles: Angles::default(),
            sliding: Angles::default(),
            branch: blocks(d),
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
        Ok(Decoder { set, config, embedding, position_vectors, layers, norm, head, team, buffers })
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
        if !self.config.learned_positions {
            self.buffers.angles = Angles::new(&self.config, LayerType::Full, &positions);
            if self.config.layer_types.contains(&LayerType::Sliding) {
                self.buffers.sliding = Angles::new(&self.config, LayerType::Sliding, &positions);
            }
        }
        let ids: Vec<i32> = rows.iter().map(|row| row.token_id as i32).collect();
        let ids: Tensor<1, Int> = Tensor::from_data(TensorData::new(ids, [rows.len()]), &self.embedding.device());
        let mut embedded = to_host(self.embedding.clone().select(0, ids))?;
        self.buffers.hidden.set_rows(rows.len());
        let (size, factor) = (self.config.hidden_size, self.config.embedding_factor());
        for (row, values) in embedded.chunks_exact_mut(size).enumerate() {
            values.iter_mut().for_each(|value| *value *= factor);
            if let Some(vector) = self.position_vectors.chunks_exact(size).nth(positions[row]) {
                values.iter_mut().zip(vector).for_each(|(value, position)| *value += position);
            }
            self.buffers.hidden.write_row(row, values);
        }
        Ok(())
    }

    /// `x + attention(norm(x))`, the output normalised first where there are four norms.
    fn attention_block(&mut self, layer: usize, rows: &[Row], cache: &mut SlotCache) {
        let Decoder { team, buffers, .. } = self;
        let weights = &self.layers[layer];
        weights.input_norm.apply(&buffers.hidden, &mut buffers.normed);
        weights.qkv.multiply(team, &buffers.normed, Store::Replace, &mut buffers.qkv);

        self.read_queries(layer, rows, cache);
        let Decoder { team, buffers, .. } = self;
        let weights = &self.layers[layer];
        let heads = self.config.heads();
        let window = self.config.window(weights.layer_type);
        let (num_groups, group_size) = (heads.num_key_value_heads, heads.group_size() * heads.head_dim);
        buffers.attended.resize(rows.len() * num_groups * group_size, 0.0);
        let (cache, queries) = (&*cache, &buffers.queries);
        team.for_each_chunk(&mut buffers.attended, group_size, |i, out| {
            let queries = &queries[i * cache.group_len()..][..cache.group_len()];
            cache.attend(place(layer, &rows[i / num_groups]), window, i % num_groups, queries, out);
        });
        buffers.mixed.set_rows(rows.len());
        for (i, row) in buffers.attended.chunks_exact(num_groups * group_size).enumerate() {
            buffers.mixed.write_row(i, row);
        }
        let norm = weights.output_norms.as_ref().map(|norms| &norms.0);
        let room = [&mut buffers.branch, &mut buffers.normed];
        add_output(team, (&weights.output, norm), &buffers.mixed, &mut buffers.hidden, room);
    }

    /// Normalises and turns the heads of queries and keys where the model does, scales the queries and lays them out, and
    /// puts keys and values into the cache.
    fn read_queries(&mut self, layer: usize, rows: &[Row], cache: &mut SlotCache) {
        let (buffers, weights) = (&mut self.buffers, &self.layers[layer]);
        let heads = self.config.heads();
        let query_factor = heads.scale() * self.config.query_factor() as f32;
        let angles = match weights.layer_type {
            LayerType::Full => &buffers.angles,
            LayerType::Sliding => &buffers.sliding,
        };
        let (num_groups, group_size) = (heads.num_key_value_heads, heads.group_size() * heads.head_dim);
        buffers.queries.resize(rows.len() * num_groups * cache.group_len(), 0.0);
        let mut qkv = vec![0.0; (heads.num_heads + 2 * num_groups) * heads.head_dim];
        for (i, (row, queries)) in
            rows.iter().zip(buffers.queries.chunks_exact_mut(num_groups * cache.group_len())).enumerate()
        {
            buffers.qkv.read_row(i, &mut qkv);
            let (q, rest) = qkv.split_at_mut(heads.num_heads * heads.head_dim);
            let (k, v) = rest.split_at_mut(num_groups * heads.head_dim);
            if let Some((q_norm, k_norm)) = &weights.head_norms {
                q_norm.apply_to_heads(q);
                k_norm.apply_to_heads(k);
            }
            if !self.config.learned_positions {
                angles.turn(i, q, &self.config);
                angles.turn(i, k, &self.config);
            }
            q.iter_mut().for_each(|q| *q *= query_factor);
            cache.write(place(layer, row), k, v);
            for (group, out) in q.chunks_exact(group_size).zip(queries.chunks_exact_mut(cache.group_len())) {
                cache.lay_out_queries(group, out);
            }
        }
    }

    /// `x + down(act(gate(norm(x))) * up(norm(x)))`, the output normalised first where there are four norms.
    fn feed_forward_block(&mut self, layer: usize) {
        let Decoder { team, buffers, .. } = self;
        let weights = &self.layers[layer];
        weights.feed_forward_norm.apply(&buffers.hidden, &mut buffers.normed);
        let activation = self.config.activation;
        let x = &buffers.normed;
        buffers.activated.set_rows(x.num_rows());
        let block_len = x.block_len();
        team.for_each_chunk(&mut buffers.activated.values, block_len, |panel, out| {
            let mut both = vec![0.0; 2 * block_len];
            let (gate, up) = both.split_at_mut(block_len);
            weights.up.multiply_panel(panel, x, Store::Replace, up);
            match &weights.gate {
                Some(weights) => weights.multiply_panel(panel, x, Store::Replace, gate),
                None => {
                    gate.copy_from_slice(up);
                    up.fill(1.0);
                }
            }
            match activation {
                Activation::Silu => simd::run(simd::Swiglu { gate, up, out }),
                Activation::GeluTanh => {
                    out.iter_mut().zip(gate).zip(up).for_each(|((out, gate), up)| *out = gelu_tanh_of(*gate) * *up);
                }
            }
        });
        let norm = weights.output_norms.as_ref().map(|norms| &norms.1);
        let room = [&mut buffers.branch, &mut buffers.normed];
        add_output(team, (&weights.down, norm), &buffers.activated, &mut buffers.hidden, room);
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
        self.norm.apply(&chosen, &mut buffers.normed);
        self.head.multiply(team, &buffers.normed, Store::Replace, &mut buffers.logits);
    }
}

impl Layer {
    fn pack(layer: &DecoderLayer, set: InstructionSet, format: WeightFormat) -> Result<Self> {
        let (attention, mlp) = (&layer.self_attn, &layer.mlp);
        let pack = |linears: &[&Linear]| Projection::pack(linears, set, format);
        let norm = |norm: &Norm| DecoderNorm::new(norm, set);
        let pair = |first: Option<&Norm>, second: Option<&Norm>| match (first, second) {
            (Some(first), Some(second)) => Ok(Some((norm(first)?, norm(second)?))),
            _ => Ok(None),
        };
        Ok(Layer {
            layer_type: layer.layer_type,
            input_norm: norm(&layer.input_layernorm)?,
            head_norms: pair(attention.q_norm.as_ref(), attention.k_norm.as_ref())?,
            output_norms: pair(layer.attention_output_norm(), layer.post_feedforward_layernorm.as_ref())?,
            feed_forward_norm: norm(layer.feed_forward_norm())?,
            qkv: pack(&[&attention.q_proj, &attention.k_proj, &attention.v_proj])?,
            output: pack(&[&attention.o_proj])?,
            gate: mlp.gate_proj.as_ref().map(|gate| pack(&[gate])).transpose()?,
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

/// Where a row's keys and values are.
fn place(layer: usize, row: &Row) -> Place {
    Place { layer, slot: row.slot, position: row.position }
}

/// Adds a block's output to the hidden states; `room` is for an output that has a norm of its own.
fn add_output(
    team: &mut Team,
    (weights, norm): (&Projection, Option<&DecoderNorm>),
    x: &Blocks,
    hidden: &mut Blocks,
    room: [&mut Blocks; 2],
) {
    let Some(norm) = norm else { return weights.multiply(team, x, Store::Add, hidden) };
    let [output, normed] = room;
    weights.multiply(team, x, Store::Replace, output);
    norm.apply(output, normed);
    hidden.values.iter_mut().zip(&normed.values).for_each(|(hidden, value)| *hidden += value);
}

/// Zeros up to whole blocks.
pub(super) fn padded(mut values: Vec<f32>, set: InstructionSet) -> Vec<f32> {
    values.resize(values.len().next_multiple_of(set.panel_columns()), 0.0);
    values
}
