//! TensorBoard's event files, read by the formats' own descriptions: nothing here is shared with the writer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// `tag -> step -> value` of a run's events file. Every CRC is checked, times do not go back, and no step may come twice for
/// a tag.
pub fn read_scalars(run: &Path) -> BTreeMap<String, BTreeMap<u64, f32>> {
    let bytes = fs::read(run.join("tb/events.out.tfevents.gsil")).unwrap();
    let mut scalars: BTreeMap<String, BTreeMap<u64, f32>> = BTreeMap::new();
    let (mut rest, mut num_records, mut last_time) = (bytes.as_slice(), 0, 0.0);
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        assert_eq!(after[..4], masked(crc32c_by_table(length)).to_le_bytes());
        let (data, after) = after[4..].split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        assert_eq!(after[..4], masked(crc32c_by_table(data)).to_le_bytes());
        rest = &after[4..];
        let event = fields(data);
        let time = f64::from_le_bytes(event[&1][0].clone().try_into().unwrap());
        assert!(time >= last_time && time > 1.7e9, "seconds since 1970: {time}");
        last_time = time;
        if num_records == 0 {
            assert_eq!(event[&3], [b"brain.Event:2"]);
        } else {
            let step = u64::from_le_bytes(event[&2][0].clone().try_into().unwrap());
            for value in &fields(&event[&5][0])[&1] {
                let value = fields(value);
                let tag = String::from_utf8(value[&1][0].clone()).unwrap();
                let scalar = f32::from_le_bytes(value[&2][0].clone().try_into().unwrap());
                let earlier = scalars.entry(tag.clone()).or_default().insert(step, scalar);
                assert_eq!(earlier, None, "{tag} has step {step} twice");
            }
        }
        num_records += 1;
    }
    scalars
}

/// The fields of a protobuf message by number; varints as 8 bytes.
fn fields(mut bytes: &[u8]) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let mut fields: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            wire_type => {
                let length = match wire_type {
                    1 => 8,
                    2 => varint(&mut bytes) as usize,
                    5 => 4,
                    other => panic!("wire type {other}"),
                };
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                value.to_vec()
            }
        };
        fields.entry(key >> 3).or_default().push(value);
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn masked(crc: u32) -> u32 {
    crc.rotate_left(17).wrapping_add(0xa282_ead8)
}

/// The usual way with a table, unlike the writer's.
fn crc32c_by_table(bytes: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (i, entry) in table.iter_mut().enumerate() {
        *entry = i as u32;
        for _ in 0..8 {
            *entry = if *entry & 1 == 1 { 0x82f6_3b78 ^ (*entry >> 1) } else { *entry >> 1 };
        }
    }
    !bytes.iter().fold(!0, |crc, byte| table[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}
