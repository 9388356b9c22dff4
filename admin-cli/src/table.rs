//! Tables for people: columns aligned by the width that a terminal gives each character.
//!
//! Promises that titles with wide characters (Chinese) line up, and that no cell can move the
//! cursor or colour the screen: texts come from other units.

use unicode_width::UnicodeWidthStr;

/// Which side a column is pushed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without columns.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a column of words.
    pub(crate) fn text(mut self, heading: impl AsRef<str>) -> Self {
        self.columns.push((printable(heading.as_ref()), Align::Left));
        self
    }

    /// Adds a column of numbers.
    pub(crate) fn number(mut self, heading: impl AsRef<str>) -> Self {
        self.columns.push((printable(heading.as_ref()), Align::Right));
        self
    }

    /// Adds a row; cells beyond the columns are dropped, missing ones stay empty.
    pub(crate) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut row: Vec<String> = cells
            .into_iter()
            .map(|cell| printable(cell.as_ref()))
            .take(self.columns.len())
            .collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// True if there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines with headings and a rule under them; no line ends in a blank.
    pub(crate) fn render(&self) -> String {
        let widths = self.widths();
        let headings: Vec<String> = self.columns.iter().map(|column| column.0.clone()).collect();
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let mut text = String::new();
        for row in [&headings, &rule].into_iter().chain(&self.rows) {
            text.push_str(self.line(row, &widths).trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.0.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        widths
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(widths).zip(&self.columns) {
            let gap = " ".repeat(width.saturating_sub(cell.width()));
            match align {
                Align::Left => line.extend([cell, gap.as_str(), "  "]),
                Align::Right => line.extend([gap.as_str(), cell, "  "]),
            }
        }
        line
    }
}

/// `text` with every control character replaced, so that it stays in its cell.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|character| if is_unsafe(character) { '\u{FFFD}' } else { character })
        .collect()
}

/// Control characters, line separators and marks that turn the direction of writing.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}')
}

/// `number` with a comma between groups of three digits.
pub(crate) fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_titles_line_up_with_narrow_ones() {
        let mut table = Table::new().text("unit").text("单位").number("n");
        table.row(["310101", "外滩街道", "7"]);
        table.row(["BOS", "City", "12"]);
        let rendered = table.render();
        let ends: Vec<usize> = rendered.lines().map(UnicodeWidthStr::width).collect();
        assert_eq!(ends, [20, 20, 20, 20]);
        assert_eq!(rendered.lines().nth(2), Some("310101  外滩街道   7"));
        assert_eq!(rendered.lines().nth(3), Some("BOS     City      12"));
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        let mut table = Table::new().text("title");
        table.row(["red\u{1b}[31m\nnext\u{202E}back"]);
        assert_eq!(table.render().lines().count(), 3);
        assert!(!table.render().contains('\u{1b}'));
        assert!(!table.render().contains('\u{202E}'));
    }

    #[test]
    fn short_and_long_rows_keep_the_columns() {
        let mut table = Table::new().text("a").text("b");
        table.row(["1"]);
        table.row(["1", "2", "3"]);
        assert_eq!(table.render(), "a  b\n─  ─\n1\n1  2\n");
    }

    #[test]
    fn digits_come_in_threes() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(-114_524_938_975), "-114,524,938,975");
    }
}
