//! What a file of rows is, by its ending. [`crate::data`] reads them; the hub fetches them.

use std::path::Path;

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// One JSON object a line: `.jsonl`, `.ndjson`, and whatever has no ending that is known.
    JsonLines,
    /// `.json`: a list of objects, or one a line.
    Json,
    /// Columns separated by commas.
    Csv,
    /// Columns separated by tabs.
    Tsv,
    /// A table in columns, as the hub's data sets are stored.
    Parquet,
}

impl FileKind {
    /// The endings that are known, each with its kind.
    pub const ENDINGS: [(&'static str, FileKind); 6] = [
        ("jsonl", FileKind::JsonLines),
        ("ndjson", FileKind::JsonLines),
        ("json", FileKind::Json),
        ("csv", FileKind::Csv),
        ("tsv", FileKind::Tsv),
        ("parquet", FileKind::Parquet),
    ];

    /// The kind of a file, by the ending of its name.
    pub fn of(path: &Path) -> Self {
        Self::by_ending(path).unwrap_or(FileKind::JsonLines)
    }

    /// None for an ending that is not known.
    pub fn by_ending(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::ENDINGS.iter().find(|(known, _)| *known == ending).map(|(_, kind)| *kind)
    }

    /// What a number of [`crate::data::Row::line`] counts: lines, or rows where those are not lines.
    pub fn unit(self) -> &'static str {
        match self {
            FileKind::JsonLines | FileKind::Csv | FileKind::Tsv => "line",
            FileKind::Json | FileKind::Parquet => "row",
        }
    }

    /// Whether columns are named once for all rows.
    pub fn is_table(self) -> bool {
        matches!(self, FileKind::Csv | FileKind::Tsv | FileKind::Parquet)
    }

    /// `line 7` or `row 7`.
    pub fn place(self, number: usize) -> String {
        format!("{} {number}", self.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_known_ending_holds_json_lines() {
        for (name, kind) in
            [("a.jsonl", FileKind::JsonLines), ("a", FileKind::JsonLines), ("a.txt", FileKind::JsonLines)]
        {
            assert_eq!(FileKind::of(Path::new(name)), kind, "{name}");
        }
        assert_eq!(FileKind::of(Path::new("x.y/A.PARQUET")).place(3), "row 3");
        assert_eq!(FileKind::of(Path::new("a.tsv")), FileKind::Tsv);
        assert_eq!(FileKind::by_ending(Path::new("README.md")), None);
    }
}
