//! What a Parquet file claims, compared to its size before anything is made of it.
//!
//! The Parquet library allocates what headers ask for and follows a schema as deep as it goes. A failed allocation or an
//! overflow of the stack cannot be caught, so every count is checked here first. Next: `parquet_rows.rs`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::{Kind, Thrift};

/// Why a file is refused.
type Checked<T> = Result<T, String>;

const MAX_FOOTER_BYTES: u64 = 64 << 20;
/// Columns, those inside of others included.
const MAX_COLUMNS: usize = 4096;
/// Tables of texts have 3 to 6.
const MAX_SCHEMA_DEPTH: usize = 24;
/// Page headers with statistics of long texts are some KiB.
const MAX_PAGE_HEADER_BYTES: usize = 1 << 20;
/// A page may be so large after decompression, and ..
const FREE_PAGE_BYTES: i64 = 4 << 20;
/// .. larger if it is not smaller than that by this factor: text is compressed by 2 to 20.
const MAX_COMPRESSION: i64 = 1000;
/// Repeated values take next to no space: so many are allowed, and some for every byte of the file.
const FREE_VALUES: u64 = 200_000;
const VALUES_PER_BYTE: u64 = 4;
/// The same for the bytes of text.
const FREE_TEXT_BYTES: u64 = 32 << 20;
const TEXT_BYTES_PER_BYTE: u64 = 200;

/// What a file of this size may claim.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    file_bytes: u64,
}

impl Limits {
    pub(super) fn new(file_bytes: u64) -> Self {
        Limits { file_bytes }
    }

    /// Rows, or values of one column.
    pub(super) fn max_values(self) -> u64 {
        FREE_VALUES + VALUES_PER_BYTE.saturating_mul(self.file_bytes)
    }

    /// Bytes of text in all rows together.
    pub(super) fn max_text_bytes(self) -> u64 {
        FREE_TEXT_BYTES + TEXT_BYTES_PER_BYTE.saturating_mul(self.file_bytes)
    }

    /// Checks the schema in the footer.
    pub(super) fn check_footer(self, file: &mut File) -> Checked<()> {
        let mut tail = [0; 8];
        let read = file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut tail));
        read.map_err(|_| "it is too short".to_owned())?;
        if &tail[4..] == b"PARE" {
            return Err("it is encrypted".to_owned());
        }
        if &tail[4..] != b"PAR1" {
            return Err("its end is missing".to_owned());
        }
        let len = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        if len + 12 > self.file_bytes || len > MAX_FOOTER_BYTES {
            return Err(format!("it claims a footer of {len} bytes"));
        }
        let mut footer = vec![0; len as usize];
        let read = file.seek(SeekFrom::End(-8 - len as i64)).and_then(|_| file.read_exact(&mut footer));
        read.map_err(|error| error.to_string())?;
        check_schema(&footer)
    }

    /// Checks the pages of a column chunk one after another.
    pub(super) fn check_pages(self, file: &mut File, column: &ColumnChunkMetaData) -> Checked<()> {
        let (mut at, len) = column.byte_range();
        let end =
            at.checked_add(len).filter(|end| *end <= self.file_bytes).ok_or("a column lies outside of the file")?;
        let mut num_values = 0;
        while at < end {
            let page = read_page_header(file, at, end)?;
            if page.compressed < 0 || page.num_values < 0 || page.uncompressed < 0 {
                return Err("a page has a negative size".to_owned());
            }
            let most = FREE_PAGE_BYTES.max(MAX_COMPRESSION.saturating_mul(page.compressed));
            if page.uncompressed > most {
                return Err(format!("a page of {} bytes claims {}", page.compressed, page.uncompressed));
            }
            if page.is_dictionary && page.num_values.saturating_mul(column.min_value_bytes()) > page.uncompressed {
                return Err(format!("a dictionary of {} bytes claims {} values", page.uncompressed, page.num_values));
            }
            // Lists of lengths are believed by their own claims, which lie behind compression.
            if let Some(encoding) = page.encoding.filter(|encoding| ![0, 2, 3, 8].contains(encoding)) {
                return Err(format!("a page has encoding {encoding}; plain and dictionary are read"));
            }
            num_values += page.num_values as u64;
            if num_values > self.max_values() {
                return Err(format!("a column claims more than {} values", self.max_values()));
            }
            at = at.saturating_add(page.header_len as u64).saturating_add(page.compressed as u64);
        }
        Ok(())
    }
}

/// The smallest size of a value as a dictionary holds it.
trait MinValueBytes {
    fn min_value_bytes(&self) -> i64;
}

impl MinValueBytes for ColumnChunkMetaData {
    fn min_value_bytes(&self) -> i64 {
        use parquet::basic::Type;
        match self.column_type() {
            Type::BOOLEAN | Type::FIXED_LEN_BYTE_ARRAY => 1,
            Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
        }
    }
}

/// Counts columns and how deep they lie inside each other.
fn check_schema(footer: &[u8]) -> Checked<()> {
    // For each element the number of its children.
    let mut children = Vec::new();
    let walked = Thrift::new(footer).fields(|thrift, id, kind| match (id, kind) {
        (2, Kind::List) => {
            let (len, _) = thrift.list()?;
            (0..len.min(MAX_COLUMNS + 1)).try_for_each(|_| {
                let mut own = 0;
                thrift.fields(|thrift, id, kind| match (id, kind) {
                    (5, Kind::Int) => thrift.int().map(|count| own = count),
                    (_, kind) => thrift.skip(kind),
                })?;
                children.push(own);
                Some(())
            })?;
            // The rest of the footer is not looked at if there are too many.
            (len <= MAX_COLUMNS).then_some(())
        }
        (_, kind) => thrift.skip(kind),
    });
    if children.len() > MAX_COLUMNS {
        return Err(format!("more than {MAX_COLUMNS} columns"));
    }
    walked.ok_or("its footer is damaged")?;
    let mut open: Vec<i64> = Vec::new();
    for own in &children {
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if *own < 0 || *own > children.len() as i64 {
            return Err(format!("a column claims {own} columns inside it"));
        }
        open.push(*own);
        while open.last() == Some(&0) {
            open.pop();
        }
        if open.len() > MAX_SCHEMA_DEPTH {
            return Err("its columns lie too deep inside each other".to_owned());
        }
    }
    Ok(())
}

/// What a page says of itself.
#[derive(Default)]
struct PageHeader {
    header_len: usize,
    uncompressed: i64,
    compressed: i64,
    num_values: i64,
    encoding: Option<i64>,
    is_dictionary: bool,
}

fn read_page_header(file: &mut File, at: u64, end: u64) -> Checked<PageHeader> {
    let longest = usize::try_from(end - at).unwrap_or(usize::MAX).min(MAX_PAGE_HEADER_BYTES);
    // Most headers are short; a longer piece is read where that is not enough.
    for len in [256, 16 << 10, MAX_PAGE_HEADER_BYTES] {
        let mut bytes = vec![0; len.min(longest)];
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| error.to_string())?;
        if let Some(header) = parse_page_header(&bytes) {
            return Ok(header);
        }
        if len >= longest {
            break;
        }
    }
    Err("the header of a page is damaged".to_owned())
}

fn parse_page_header(bytes: &[u8]) -> Option<PageHeader> {
    let mut page = PageHeader::default();
    let mut thrift = Thrift::new(bytes);
    thrift.fields(|thrift, id, kind| match (id, kind) {
        (1, Kind::Int) => thrift.int().map(|kind| page.is_dictionary = kind == 2),
        (2, Kind::Int) => thrift.int().map(|size| page.uncompressed = size),
        (3, Kind::Int) => thrift.int().map(|size| page.compressed = size),
        (5 | 7 | 8, Kind::Struct) => thrift.fields(|thrift, inner, kind| match (id, inner, kind) {
            (_, 1, Kind::Int) => thrift.int().map(|count| page.num_values = count),
            (5 | 7, 2, Kind::Int) | (8, 4, Kind::Int) => thrift.int().map(|encoding| page.encoding = Some(encoding)),
            (_, _, kind) => thrift.skip(kind),
        }),
        (_, kind) => thrift.skip(kind),
    })?;
    page.header_len = thrift.position();
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer whose schema has elements with so many children each; bytes by hand, as in `thrift.rs`.
    fn footer(children: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x29, 0xfc];
        let mut len = children.len();
        while len > 127 {
            bytes.push(len as u8 | 128);
            len >>= 7;
        }
        bytes.push(len as u8);
        for own in children {
            bytes.extend([0x48, 1, b'a', 0x15, 2 * own, 0]);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_schema_is_checked_before_it_is_followed() {
        check_schema(&footer(&[2, 1, 0, 0])).unwrap();
        assert!(check_schema(&footer(&[1; 30])).unwrap_err().contains("too deep"));
        assert!(check_schema(&footer(&[9, 0])).unwrap_err().contains("claims 9 columns"));
        assert!(check_schema(&footer(&[0; 5000])).unwrap_err().contains("more than 4096 columns"));
        assert_eq!(check_schema(&[0x29, 0xfc, 0xff]).unwrap_err(), "its footer is damaged");
    }
}
