//! Tables for terminals. Rows are printed as they come, so the width of a column is fixed before.

use std::borrow::Cow;

/// Columns between two cells.
const GAP: &str = "  ";

/// Least width of the last column.
const MIN_REST: usize = 10;

/// A column, except for the last one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: usize,
    /// Numbers are aligned at their end.
    pub(super) is_number: bool,
}

/// The widths of a table.
pub(super) struct Table {
    columns: &'static [Column],
    last: &'static str,
    /// Width of the last column; none for no limit.
    rest: Option<usize>,
}

impl Table {
    /// Lays out a table whose last column takes what is left of the terminal's width.
    pub(super) fn new(columns: &'static [Column], last: &'static str, width: Option<usize>) -> Self {
        let used: usize = columns.iter().map(|column| column.width + GAP.len()).sum();
        let rest = width.map(|width| width.saturating_sub(used).max(MIN_REST));
        Self { columns, last, rest }
    }

    /// Returns the line of titles.
    pub(super) fn head(&self) -> String {
        let titles = self.columns.iter().map(|column| column.title.to_owned());
        self.row(&titles.chain([self.last.to_owned()]).collect::<Vec<_>>())
    }

    /// Returns the line of a row. A text that does not fit is cut.
    pub(super) fn row(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (cell, column) in cells.iter().zip(self.columns) {
            let text = cut(cell, column.width);
            let blanks = " ".repeat(column.width - text.chars().count());
            let (before, after) = if column.is_number { (&*blanks, "") } else { ("", &*blanks) };
            line.extend([before, &text, after, GAP]);
        }
        let last = cells.get(self.columns.len()).map_or("", String::as_str);
        line.push_str(&cut(last, self.rest.unwrap_or(usize::MAX)));
        line.truncate(line.trim_end().len());
        line
    }
}

/// Returns a text without control characters, of so many characters at most.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width && !text.chars().any(char::is_control) {
        return text.into();
    }
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    if text.chars().count() <= width {
        return clean.collect();
    }
    clean.take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column { title: "NAME", width: 6, is_number: false },
        Column { title: "COUNT", width: 6, is_number: true },
    ];

    #[test]
    fn cells_are_aligned_and_cut_to_the_terminal() {
        let cells = ["jörg".to_owned(), "7".to_owned(), "a long\u{1b} facility".to_owned()];
        let table = Table::new(COLUMNS, "WHERE", Some(26));
        assert_eq!(table.head(), "NAME     COUNT  WHERE");
        assert_eq!(table.row(&cells), "jörg         7  a long  f…");
        assert_eq!(Table::new(COLUMNS, "WHERE", None).row(&cells), "jörg         7  a long  facility");
        assert_eq!(Table::new(COLUMNS, "WHERE", Some(1)).row(&cells).chars().count(), 26);
        let long = ["longer than".to_owned(), String::new(), String::new()];
        assert_eq!(table.row(&long), "longe…");
    }
}
