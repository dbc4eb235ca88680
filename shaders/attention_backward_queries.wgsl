// dq of attention. With weights p = exp(score - log_sum): dq = sum over keys of p (g vᵀ - along) scale k. Reference:
// `attention_backward` in src/ops/composite_attention.rs. Tiles and info: attention_tiles.wgsl; spans are explained as in
// attention.wgsl.
//
// Bindings: q [N, H d], k [N, K d], v [N, K d], g [N, H d], stats [N, H, 2] of attention_along.wgsl, dq [N, H d] written; info.
// Workgroup: ROWS query slots of one key-value head.
// Numerics: f32; weights are computed again, not kept; keys in order.

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> k: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> dq: array<f32>;
@group(0) @binding(6) var<storage, read> info: array<u32>;

var<workgroup> k_tile: array<vec4<f32>, OTHER_SIDE>;
var<workgroup> v_tile: array<vec4<f32>, OTHER_SIDE>;
var<workgroup> parts: array<vec2<f32>, PARTS>; // of q k and of g v

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

fn quad_of_g(base: u32, c: u32) -> vec4<f32> {
    let i = base + columns(c);
    return select(vec4<f32>(0.0), vec4<f32>(g[i.x], g[i.y], g[i.z], g[i.w]), are_columns(c));
}

fn write_dq(base: u32, c: u32, quad: vec4<f32>) {
    let are_real = are_columns(c);
    if (are_real.x) { dq[base + c] = quad.x; }
    if (are_real.y) { dq[base + c + 1u] = quad.y; }
    if (are_real.z) { dq[base + c + 2u] = quad.z; }
    if (are_real.w) { dq[base + c + 3u] = quad.w; }
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
    let scale = bitcast<f32>(info[3]);
    var own_q: array<vec4<f32>, QUADS>;
    var own_g: array<vec4<f32>, QUADS>;
    var sum: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        own_q[i] = quad_of_q(query * HEAD_DIM, (i * LANES + lane) * 4u) * scale;
        own_g[i] = quad_of_g(query * HEAD_DIM, (i * LANES + lane) * 4u);
        sum[i] = vec4<f32>(0.0);
    }
    let log_sum = stats[query * 2u];
    let along = stats[query * 2u + 1u];
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
            var scores = vec4<f32>(0.0);
            var slopes = vec4<f32>(0.0);
            for (var i = 0u; i < QUADS; i++) {
                scores += own_q[i] * k_tile[j * WIDTH + i * LANES + lane];
                slopes += own_g[i] * v_tile[j * WIDTH + i * LANES + lane];
            }
            parts[j * WORKGROUP + t] = vec2<f32>(total(scores), total(slopes));
        }
        workgroupBarrier();
        for (var j = 0u; j < STEP; j++) {
            if (start + j < num_visible) {
                let both = sum_of_parts(j * WORKGROUP + t - lane);
                let slope = exp(both.x - log_sum) * (both.y - along) * scale;
                for (var i = 0u; i < QUADS; i++) {
                    sum[i] += slope * k_tile[j * WIDTH + i * LANES + lane];
                }
            }
        }
        workgroupBarrier();
    }
    if (is_query) {
        for (var i = 0u; i < QUADS; i++) {
            write_dq(query * HEAD_DIM, (i * LANES + lane) * 4u, sum[i]);
        }
    }
}

fn sum_of_parts(first: u32) -> vec2<f32> {
    return (parts[first] + parts[first + 1u]) + (parts[first + 2u] + parts[first + 3u]);
}
