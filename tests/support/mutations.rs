//! Seeded damage to files: to their bytes, and to JSON that stays JSON.

use serde_json::{Value, json};

use super::binary::Random;

/// Up to four damages: bytes changed, cut, repeated or replaced by extreme numbers.
pub fn damaged(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(damaged.len().max(1)).min(damaged.len().saturating_sub(1));
        match random.below(5) {
            0 if random.below(4) == 0 => damaged.truncate(at),
            0 | 1 if !damaged.is_empty() => damaged[at] = random.next() as u8,
            2 if !damaged.is_empty() => damaged[at] ^= 1 << random.below(8),
            3 => {
                let extreme = [0, 1, u64::MAX, i64::MAX as u64, 1 << 32, random.next()][random.below(6)];
                for (byte, new) in damaged[at..].iter_mut().zip(extreme.to_le_bytes()) {
                    *byte = new;
                }
            }
            _ => {
                let piece = damaged[at..].iter().take(40).copied().collect::<Vec<_>>();
                damaged.splice(at..at, piece);
            }
        }
    }
    damaged
}

/// A text in which characters that a parser looks at were put over others, as many bytes as before.
pub fn damaged_text(random: &mut Random, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        bytes[at] = b"\"{}[],:09-e\\n\x00\xffa '"[random.below(18)];
    }
    bytes
}

/// A text in which letters and digits became other ones: JSON stays JSON, and what it says changes.
pub fn with_letters_changed(random: &mut Random, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        if bytes[at].is_ascii_alphanumeric() {
            bytes[at] = b"0179aetu"[random.below(8)];
        }
    }
    bytes
}

/// JSON with one or two damages somewhere inside: a value replaced, taken out, repeated or put elsewhere.
pub fn damaged_json(random: &mut Random, value: &Value) -> Value {
    let mut damaged = value.clone();
    for _ in 0..=random.below(2) {
        damage_somewhere(random, &mut damaged);
    }
    damaged
}

fn damage_somewhere(random: &mut Random, value: &mut Value) {
    let goes_deeper = random.below(6) > 0;
    match value {
        Value::Object(fields) if goes_deeper && !fields.is_empty() => {
            let at = random.below(fields.len());
            damage_somewhere(random, fields.values_mut().nth(at).unwrap());
        }
        Value::Array(items) if goes_deeper && !items.is_empty() => {
            let at = random.below(items.len());
            damage_somewhere(random, &mut items[at]);
        }
        Value::Object(fields) if !fields.is_empty() && random.below(2) == 0 => {
            let key = fields.keys().nth(random.below(fields.len())).unwrap().clone();
            let taken = fields.shift_remove(&key).unwrap();
            if random.below(2) == 0 {
                fields.insert(format!("{key}s"), taken);
            }
        }
        Value::Array(items) if !items.is_empty() && random.below(2) == 0 => {
            let at = random.below(items.len());
            match random.below(3) {
                0 => drop(items.remove(at)),
                1 => items.truncate(at),
                _ => items.extend(std::iter::repeat_n(items[at].clone(), 40)),
            }
        }
        Value::Number(number) if random.below(2) == 0 => {
            let near = number.as_f64().unwrap_or(0.0) as i64;
            *value = json!(near.wrapping_add([-1, 1, 7, 1000][random.below(4)]));
        }
        other => *other = hostile_value(random),
    }
}

/// A value that a careless reader trips over.
fn hostile_value(random: &mut Random) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(0.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(4_294_967_296_u64),
        json!(""),
        json!(" "),
        json!("\u{1b}[2J\u{0}é日"),
        json!("x".repeat(2000)),
        json!([]),
        json!([[], {}]),
        json!({}),
        (0..100).fold(json!(1), |inside, _| json!([inside])),
    ];
    values[random.below(values.len())].clone()
}
