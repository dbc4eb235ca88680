//! Parquet files as JSON objects, one for each row.
//!
//! Only the columns that are wanted or looked at are decoded. The Parquet library panics on some damaged files: that,
//! too, is an error of the file; what cannot be caught is refused before (`parquet_limits.rs`).

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::Value;

use super::parquet_limits::Limits;
use super::problem::{Parsed, Problem, visible};
use super::rows::{MAX_ROW_BYTES, Object, Read, Take};
use crate::error::{Error, Result};

const CONVERT: &str = "write it again with Snappy: python -c \"import pyarrow.parquet as p; p.write_table(p.read_table('OLD.parquet'), 'NEW.parquet')\"";

/// Hands every row to `take`, counted from 1, until it answers false. A column that is neither wanted nor looked at
/// is there with its name alone. Memory is bounded by the file's size.
pub(super) fn for_each_row(path: &Path, read: &Read<'_>, take: &mut Take<'_>) -> Result<()> {
    let mut file = File::open(path).map_err(Error::reading(path))?;
    let limits = Limits::new(file.metadata().map_err(Error::reading(path))?.len());
    limits.check_footer(&mut file).map_err(|why| not_parquet(path, &why))?;
    let reader = guarded(path, || SerializedFileReader::new(file.try_clone()?))?;
    let metadata = reader.metadata();
    let names = guarded(path, || Ok(names(metadata)))?;
    if !names.iter().any(|name| read.is_wanted(name)) {
        take(1, Ok(Some(names.iter().map(|name| (name.clone(), Value::Null)).collect())))?;
        return Ok(());
    }
    let is_decoded = |name: &str| read.is_wanted(name) || read.is_looked_at(name);
    check_columns(&mut file, metadata, limits, &is_decoded, path)?;
    let mut rows = guarded(path, || RowIter::from_file(Some(projection(metadata, &is_decoded)?), &reader))?;
    let mut text_bytes = 0;
    for number in 1.. {
        let in_row = |error: Error| error.at(format!("row {number}"));
        let Some(row) = guarded(path, || rows.next().transpose()).map_err(in_row)? else { break };
        let mut num_bytes = 0;
        let object = object(&names, row.into_columns(), read, &mut num_bytes);
        text_bytes += num_bytes as u64;
        if text_bytes > limits.max_text_bytes() {
            let message = format!("the rows hold more than {} bytes of text: is it damaged?", limits.max_text_bytes());
            return Err(in_row(Error::input(path, message).with_hint("split the file, or convert it to JSON Lines")));
        }
        let too_long = || Problem::new(format!("the row is longer than {} MiB", MAX_ROW_BYTES >> 20));
        let object = object.and_then(|object| if num_bytes > MAX_ROW_BYTES { Err(too_long()) } else { Ok(object) });
        if !take(number, object.map(Some))? {
            break;
        }
    }
    Ok(())
}

fn not_parquet(path: &Path, why: &str) -> Error {
    Error::input(path, format!("this is no Parquet file that can be read: {why}")).with_hint(
        "check that it was copied or downloaded as a whole; files of JSON or commas end in .jsonl, .json or .csv",
    )
}

fn names(metadata: &ParquetMetaData) -> Vec<String> {
    metadata.file_metadata().schema().get_fields().iter().map(|field| field.name().to_owned()).collect()
}

/// The decoded columns alone, as a schema.
fn projection(metadata: &ParquetMetaData, is_decoded: &dyn Fn(&str) -> bool) -> parquet::errors::Result<Type> {
    let schema = metadata.file_metadata().schema();
    let fields = schema.get_fields().iter().filter(|field| is_decoded(field.name())).map(Arc::clone).collect();
    Type::group_type_builder(schema.name()).with_fields(fields).build()
}

/// Compression, counts and pages of every column that will be decoded.
fn check_columns(
    file: &mut File,
    metadata: &ParquetMetaData,
    limits: Limits,
    is_decoded: &dyn Fn(&str) -> bool,
    path: &Path,
) -> Result<()> {
    let num_rows = metadata
        .row_groups()
        .iter()
        .try_fold(0_u64, |sum, group| u64::try_from(group.num_rows()).ok().and_then(|rows| sum.checked_add(rows)));
    if num_rows.is_none_or(|num_rows| num_rows > limits.max_values()) {
        return Err(not_parquet(path, &format!("it claims more than {} rows", limits.max_values())));
    }
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let name = column.column_path().parts().first().map(String::as_str).unwrap_or_default();
        if !is_decoded(name) {
            continue;
        }
        let place = format!("column `{}`", visible(name));
        let kind = column.compression();
        if !matches!(kind, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)) {
            let message = format!("compressed with {kind}; Snappy, Zstandard and none are read");
            return Err(Error::input(path, message).at(place).with_hint(CONVERT));
        }
        let checked = guarded(path, || Ok(limits.check_pages(file, column)));
        checked
            .and_then(|checked| {
                checked.map_err(|why| match why.contains("has encoding") {
                    true => Error::input(path, why).with_hint(CONVERT),
                    false => not_parquet(path, &why),
                })
            })
            .map_err(|error| error.at(place))?;
    }
    Ok(())
}

/// The row, and how many bytes it takes as JSON, more or less.
fn object(names: &[String], columns: Vec<(String, Field)>, read: &Read<'_>, num_bytes: &mut usize) -> Parsed<Object> {
    let mut object: Object = names.iter().map(|name| (name.clone(), Value::Null)).collect();
    for (name, field) in columns {
        match value(field, num_bytes) {
            Ok(value) => object.insert(name, value),
            Err(_) if read.is_looked_at(&name) => continue,
            Err(kind) => {
                let message = format!("expected text, numbers, lists or structures, got {kind}");
                return Err(Problem::field(&name, message));
            }
        };
    }
    Ok(object)
}

/// A value as JSON; an error for what JSON has no word for.
fn value(field: Field, num_bytes: &mut usize) -> std::result::Result<Value, &'static str> {
    *num_bytes += 8;
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => f32::from(value).into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(text) => {
            *num_bytes += text.len();
            text.into()
        }
        // Some writers do not say that their bytes are text.
        Field::Bytes(bytes) => {
            *num_bytes += bytes.len();
            std::str::from_utf8(bytes.data()).map_err(|_| "bytes that are not UTF-8")?.into()
        }
        Field::Group(row) => {
            let mut object = Object::new();
            for (name, field) in row.into_columns() {
                *num_bytes += name.len();
                object.insert(name, value(field, num_bytes)?);
            }
            Value::Object(object)
        }
        Field::ListInternal(list) => {
            let items = list.elements().iter().map(|item| value(item.clone(), num_bytes));
            Value::Array(items.collect::<std::result::Result<_, _>>()?)
        }
        Field::MapInternal(_) => return Err("a map"),
        Field::Decimal(_) => return Err("a decimal number"),
        Field::Date(_) | Field::TimestampMillis(_) | Field::TimestampMicros(_) => return Err("a date"),
        Field::TimeMillis(_) | Field::TimeMicros(_) => return Err("a time"),
    })
}

/// Calls the Parquet library, whose errors and panics are errors of the file.
fn guarded<T>(path: &Path, call: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let message: String = error.to_string().chars().take(300).collect();
            Err(not_parquet(path, &message))
        }
        Err(_) => Err(not_parquet(path, "it is damaged")),
    }
}
