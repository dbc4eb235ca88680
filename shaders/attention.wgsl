// softmax(q kᵀ scale) v over the keys that a query sees, and the logarithm of each softmax's sum. Reference: `attention` in
// src/ops/composite_attention.rs. Tiles and info: attention_tiles.wgsl.
//
// A query at row r of its span sees the rows of the prefix and rows 0 to r of its span. Keys pass by with a running maximum and
// sum, so no scores are kept. Explained words of a span: first row and number of rows of its prefix.
//
// Bindings: q [N, H d], k [N, K d], v [N, K d], result [N, H d] written, log_sums [N, H] written; info.
// Workgroup: ROWS query slots of one key-value head.
// Numerics: f32; every exponential's argument is never positive; keys in order.

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> k: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;
@group(0) @binding(4) var<storage, read_write> log_sums: array<f32>;
@group(0) @binding(5) var<storage, read> info: array<u32>;

var<workgroup> k_tile: array<vec4<f32>, OTHER_SIDE>;
var<workgroup> v_tile: array<vec4<f32>, OTHER_SIDE>;
var<workgroup> parts: array<f32, PARTS>;

fn quad_of_q(base: u32, c: u32) -> vec4<f32> {
    let i = base + columns(c);
    return select(vec4<f32>(0.0), vec4<f32>(q[i.x], q[i.y], q[i.z], q[i.w]), are_columns(c));
}

fn quad_of_k(base: u32, c: u32) -> vec4<f32> {
    let i = base + columns(c);
    return select(vec4<f32>(0.0), vec4<f32>(k[i.x], k[i.y], k[i.z], k[i.w]), are_columns(c));
}

fn quad_of_v(base: u32, c: u32) -> vec4<f32> {
    let i = base + columns(c);
    return select(vec4<f32>(0.0), vec4<f32>(v[i.x], v[i.y], v[i.z], v[i.w]), are_columns(c));
}

fn write_result(base: u32, c: u32, quad: vec4<f32>) {
    let are_real = are_columns(c);
    if (are_real.x) { result[base + c] = quad.x; }
    if (are_real.y) { result[base + c + 1u] = quad.y; }
    if (are_real.z) { result[base + c + 2u] = quad.z; }
    if (are_real.w) { result[base + c + 3u] = quad.w; }
}

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let tile = tile_of(group.x + group.y * info[0]);
    let prefix_start = tile.explained.x;
    let prefix_len = tile.explained.y;
    let num_slots = tile.num_rows * tile.group_size;
    let last_slot = min(tile.first + ROWS, num_slots) - 1u;
    let num_keys = select(0u, prefix_len + last_slot / tile.group_size + 1u, tile.exists);

    let lane = t % LANES;
    let slot = min(tile.first + t / LANES, last_slot);
    let is_query = tile.exists && slot == tile.first + t / LANES;
    let query = row_of_slot(tile, tile.first_row, slot);
    let num_visible = select(0u, prefix_len + slot / tile.group_size + 1u, is_query);
    var own: array<vec4<f32>, QUADS>;
    var sum: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        own[i] = quad_of_q(query * HEAD_DIM, (i * LANES + lane) * 4u) * bitcast<f32>(info[3]);
        sum[i] = vec4<f32>(0.0);
    }
    var largest = LOWEST;
    var weights = 0.0;
    for (var start = 0u; start < num_keys; start += STEP) {
        for (var i = t; i < OTHER_SIDE; i += WORKGROUP) {
            let j = min(start + i / WIDTH, num_keys - 1u);
            let row = select(tile.first_row + j - prefix_len, prefix_start + j, j < prefix_len);
            let base = (row * info[2] + tile.kv_head) * HEAD_DIM;
            k_tile[i] = quad_of_k(base, (i % WIDTH) * 4u);
            v_tile[i] = quad_of_v(base, (i % WIDTH) * 4u);
        }
        workgroupBarrier();
        for (var j = 0u; j < STEP; j++) {
            var products = vec4<f32>(0.0);
            for (var i = 0u; i < QUADS; i++) {
                products += own[i] * k_tile[j * WIDTH + i * LANES + lane];
            }
            parts[j * WORKGROUP + t] = total(products);
        }
        workgroupBarrier();
        for (var j = 0u; j < STEP; j++) {
            if (start + j < num_visible) {
                let score = sum_of_parts(j * WORKGROUP + t - lane);
                if (score > largest) {
                    let shrink = exp(largest - score);
                    weights *= shrink;
                    for (var i = 0u; i < QUADS; i++) {
                        sum[i] *= shrink;
                    }
                    largest = score;
                }
                let weight = exp(score - largest);
                weights += weight;
                for (var i = 0u; i < QUADS; i++) {
                    sum[i] += weight * v_tile[j * WIDTH + i * LANES + lane];
                }
            }
        }
        workgroupBarrier();
    }
    if (is_query) {
        for (var i = 0u; i < QUADS; i++) {
            write_result(query * HEAD_DIM, (i * LANES + lane) * 4u, sum[i] / weights);
        }
        if (lane == 0u) {
            log_sums[query] = largest + log(weights);
        }
    }
}

fn sum_of_parts(first: u32) -> f32 {
    return (parts[first] + parts[first + 1u]) + (parts[first + 2u] + parts[first + 3u]);
}
