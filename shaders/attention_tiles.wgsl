// What the attention shaders share; appended to each of them. A workgroup owns a tile: ROWS rows (queries or keys) of one
// key-value head. LANES lanes share a row: each holds every fourth quad of its columns in registers, so the product of a row
// with a row of the other side is a sum of LANES parts. The other side passes by in steps of STEP rows. Columns beyond the
// head's are zeros.
//
// Query heads of a group are rows too: slot s of a span is its row s / group_size and head s % group_size of the group. So keys
// and values are read once for all heads that share them.
//
// info: grid width, H, K, scale, number of tiles, number of spans, then a record for each span: its first tile, first row,
// number of rows, and two words that the shader explains.

const HEAD_DIM: u32 = {{ head_dim }}u;
const QUADS: u32 = {{ quads }}u; // of a lane
const STEP: u32 = {{ step }}u;
const ROWS: u32 = {{ rows }}u;
const LANES: u32 = {{ lanes }}u;
const WORKGROUP: u32 = {{ workgroup }}u; // ROWS * LANES
const WIDTH: u32 = QUADS * LANES; // quads of a padded row
const OTHER_SIDE: u32 = STEP * WIDTH;
const PARTS: u32 = STEP * WORKGROUP;
const RECORDS: u32 = 6u;
const RECORD_LEN: u32 = 5u;
const LOWEST: f32 = -3.0e38;

struct Tile {
    exists: bool, // the grid may be larger than the tiles; barriers allow no early return
    kv_head: u32,
    group_size: u32,
    first_row: u32, // of the span
    num_rows: u32,
    first: u32, // row or slot of the tile, counted from the span's beginning
    explained: vec2<u32>,
}

fn tile_of(index: u32) -> Tile {
    let exists = index < info[4] * info[2];
    let number = select(0u, index / info[2], exists);
    var low = 0u; // the tile's span is the last one whose first tile is not after it
    var high = info[5];
    while (high - low > 1u) {
        let middle = (low + high) / 2u;
        if (info[RECORDS + RECORD_LEN * middle] <= number) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let record = RECORDS + RECORD_LEN * low;
    return Tile(
        exists,
        index % info[2],
        info[1] / info[2],
        info[record + 1u],
        info[record + 2u],
        (number - info[record]) * ROWS,
        vec2<u32>(info[record + 3u], info[record + 4u]),
    );
}

// Row of [N * H] of a slot that counts from row `first_row`.
fn row_of_slot(tile: Tile, first_row: u32, slot: u32) -> u32 {
    return (first_row + slot / tile.group_size) * info[1] + tile.kv_head * tile.group_size + slot % tile.group_size;
}

// Columns c to c + 3, or the head's last one instead of those beyond it.
fn columns(c: u32) -> vec4<u32> {
    return min(vec4<u32>(c, c + 1u, c + 2u, c + 3u), vec4<u32>(HEAD_DIM - 1u));
}

fn are_columns(c: u32) -> vec4<bool> {
    return vec4<u32>(c, c + 1u, c + 2u, c + 3u) < vec4<u32>(HEAD_DIM);
}

fn total(quad: vec4<f32>) -> f32 {
    return (quad.x + quad.y) + (quad.z + quad.w);
}
