//! Makes small GGUF files for tests, those of this folder and those in `tests`.

/// A GGUF file (version 3, alignment 32) in the making.
#[derive(Clone, Default)]
pub struct GgufBuilder {
    num_entries: u64,
    entries: Vec<u8>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn string_bytes(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl GgufBuilder {
    /// Adds an entry whose value is `bytes`, of the type numbered `kind`.
    pub fn raw(mut self, key: &str, kind: u32, bytes: &[u8]) -> Self {
        self.num_entries += 1;
        self.entries.extend([&string_bytes(key), &kind.to_le_bytes()[..], bytes].concat());
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[value.into()])
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &string_bytes(value))
    }

    pub fn strings(self, key: &str, values: &[&str]) -> Self {
        self.array(key, 8, &values.iter().map(|value| string_bytes(value)).collect::<Vec<_>>())
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.array(key, 5, &values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>())
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.array(key, 6, &values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>())
    }

    fn array(self, key: &str, kind: u32, values: &[Vec<u8>]) -> Self {
        let head = [&kind.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.raw(key, 9, &[head, values.concat()].concat())
    }

    /// Adds a tensor of the type numbered `kind`; `dimensions` fastest first.
    pub fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.into(), dimensions.into(), kind, bytes));
        self
    }

    /// Adds an F32 tensor; `dimensions` fastest first.
    pub fn f32_tensor(self, name: &str, dimensions: &[u64], values: &[f32]) -> Self {
        self.tensor(name, dimensions, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// The bytes of the file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = [&b"GGUF"[..], &3u32.to_le_bytes(), &(self.tensors.len() as u64).to_le_bytes()].concat();
        file.extend(self.num_entries.to_le_bytes());
        file.extend(&self.entries);
        let mut offset = 0u64;
        for (name, dimensions, kind, bytes) in &self.tensors {
            file.extend(string_bytes(name));
            file.extend((dimensions.len() as u32).to_le_bytes());
            file.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
            offset += (bytes.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, bytes) in &self.tensors {
            file.resize(file.len().next_multiple_of(32), 0);
            file.extend(bytes);
        }
        file
    }
}

/// A complete model of architecture `llama`, `qwen2` or `qwen3` with one layer: hidden 8, 2 heads of 4, 1 KV head, vocabulary 6,
/// no two neighbouring weights alike, tied embeddings, no tokenizer.
pub fn tiny_model(architecture: &str) -> GgufBuilder {
    let key = |name: &str| format!("{architecture}.{name}");
    let mut builder = GgufBuilder::default()
        .string("general.architecture", architecture)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 8)
        .u32(&key("feed_forward_length"), 12)
        .u32(&key("attention.head_count"), 2)
        .u32(&key("attention.head_count_kv"), 1)
        .f32(&key("rope.freq_base"), 10_000.0)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    let mut tensors: Vec<(&str, &[u64])> = vec![
        ("token_embd.weight", &[8, 6]),
        ("output_norm.weight", &[8]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[8, 4]),
        ("blk.0.attn_v.weight", &[8, 4]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[8, 12]),
        ("blk.0.ffn_up.weight", &[8, 12]),
        ("blk.0.ffn_down.weight", &[12, 8]),
    ];
    if architecture == "qwen3" {
        tensors.extend([("blk.0.attn_q_norm.weight", &[4u64][..]), ("blk.0.attn_k_norm.weight", &[4])]);
    }
    if architecture == "qwen2" {
        tensors.extend([("blk.0.attn_q.bias", &[8u64][..]), ("blk.0.attn_k.bias", &[4]), ("blk.0.attn_v.bias", &[4])]);
    }
    for (seed, (name, dimensions)) in tensors.into_iter().enumerate() {
        // Steps of a prime over a thousand values between -1 and 1.
        let value = |i: u64| ((i + seed as u64) * 7919 % 1000) as f32 / 500.0 - 1.0;
        let values: Vec<f32> = (0..dimensions.iter().product()).map(value).collect();
        builder = builder.f32_tensor(name, dimensions, &values);
    }
    builder
}
