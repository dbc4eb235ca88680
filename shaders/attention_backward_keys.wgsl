// dk and dv of attention. With weights p = exp(score - log_sum): dv = sum over queries of p g,
// dk = sum over queries of p (g vᵀ - along) scale q. Reference: `attention_backward` in src/ops/composite_attention.rs. Tiles and
// info: attention_tiles.wgsl.
//
// Explained words of a span: where its ranges of queries begin in info, and how many there are. A range is three words: its
// first row, its end, and the end of the keys that it sees: the span's own rows, then those of spans whose prefix the span
// begins. A query sees no key after its own row.
//
// Bindings: q [N, H d], k [N, K d], v [N, K d], g [N, H d], stats [N, H, 2] of attention_along.wgsl, dk, dv [N, K d] written; info.
// Workgroup: ROWS keys of one key-value head.
// Numerics: f32; weights are computed again, not kept; queries in order, so no sum depends on the order of workgroups.

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> k: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> dk: array<f32>;
@group(0) @binding(6) var<storage, read_write> dv: array<f32>;
@group(0) @binding(7) var<storage, read> info: array<u32>;

var<workgroup> q_tile: array<vec4<f32>, OTHER_SIDE>;
var<workgroup> g_tile: array<vec4<f32>, OTHER_SIDE>;
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

fn write_dk(base: u32, c: u32, quad: vec4<f32>) {
    let are_real = are_columns(c);
    if (are_real.x) { dk[base + c] = quad.x; }
    if (are_real.y) { dk[base + c + 1u] = quad.y; }
    if (are_real.z) { dk[base + c + 2u] = quad.z; }
    if (are_real.w) { dk[base + c + 3u] = quad.w; }
}

fn write_dv(base: u32, c: u32, quad: vec4<f32>) {
    let are_real = are_columns(c);
    if (are_real.x) { dv[base + c] = quad.x; }
    if (are_real.y) { dv[base + c + 1u] = quad.y; }
    if (are_real.z) { dv[base + c + 2u] = quad.z; }
    if (are_real.w) { dv[base + c + 3u] = quad.w; }
}

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let tile = tile_of(group.x + group.y * info[0]);
    let num_ranges = select(0u, tile.explained.y, tile.exists);
    let first_key = tile.first_row + tile.first;

    let lane = t % LANES;
    let key = min(first_key + t / LANES, tile.first_row + tile.num_rows - 1u);
    let is_key = tile.exists && key == first_key + t / LANES;
    let base = (key * info[2] + tile.kv_head) * HEAD_DIM;
    let scale = bitcast<f32>(info[3]);
    var own_k: array<vec4<f32>, QUADS>;
    var own_v: array<vec4<f32>, QUADS>;
    var sum_k: array<vec4<f32>, QUADS>;
    var sum_v: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        own_k[i] = quad_of_k(base, (i * LANES + lane) * 4u) * scale;
        own_v[i] = quad_of_v(base, (i * LANES + lane) * 4u);
        sum_k[i] = vec4<f32>(0.0);
        sum_v[i] = vec4<f32>(0.0);
    }
    for (var r = 0u; r < num_ranges; r++) {
        let range = tile.explained.x + 3u * r;
        let first_query = max(info[range], first_key);
        let end_of_keys = info[range + 2u];
        let num_slots = select(0u, (info[range + 1u] - first_query) * tile.group_size, first_key < end_of_keys);
        for (var start = 0u; start < num_slots; start += STEP) {
            for (var i = t; i < OTHER_SIDE; i += WORKGROUP) {
                let slot = min(start + i / WIDTH, num_slots - 1u);
                let query = row_of_slot(tile, first_query, slot);
                q_tile[i] = quad_of_q(query * HEAD_DIM, (i % WIDTH) * 4u);
                g_tile[i] = quad_of_g(query * HEAD_DIM, (i % WIDTH) * 4u);
            }
            workgroupBarrier();
            for (var j = 0u; j < STEP; j++) {
                var scores = vec4<f32>(0.0);
                var slopes = vec4<f32>(0.0);
                for (var i = 0u; i < QUADS; i++) {
                    scores += own_k[i] * q_tile[j * WIDTH + i * LANES + lane];
                    slopes += own_v[i] * g_tile[j * WIDTH + i * LANES + lane];
                }
                parts[j * WORKGROUP + t] = vec2<f32>(total(scores), total(slopes));
            }
            workgroupBarrier();
            for (var j = 0u; j < STEP; j++) {
                let slot = start + j;
                let row = first_query + slot / tile.group_size;
                if (is_key && slot < num_slots && key <= row && key < end_of_keys) {
                    let query = row_of_slot(tile, first_query, slot);
                    let both = sum_of_parts(j * WORKGROUP + t - lane);
                    let weight = exp(both.x - stats[query * 2u]);
                    let slope = weight * (both.y - stats[query * 2u + 1u]) * scale;
                    for (var i = 0u; i < QUADS; i++) {
                        sum_v[i] += weight * g_tile[j * WIDTH + i * LANES + lane];
                        sum_k[i] += slope * q_tile[j * WIDTH + i * LANES + lane];
                    }
                }
            }
            workgroupBarrier();
        }
    }
    if (is_key) {
        for (var i = 0u; i < QUADS; i++) {
            write_dk(base, (i * LANES + lane) * 4u, sum_k[i]);
            write_dv(base, (i * LANES + lane) * 4u, sum_v[i]);
        }
    }
}

fn sum_of_parts(first: u32) -> vec2<f32> {
    return (parts[first] + parts[first + 1u]) + (parts[first + 2u] + parts[first + 3u]);
}
