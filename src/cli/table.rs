//! Tables without borders: a line of headings, text to the left, numbers to the right.

use comfy_table::{Cell, CellAlignment, ContentArrangement, presets};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Aligned to the left.
    Text(&'static str),
    /// Aligned to the right.
    Number(&'static str),
}
pub(super) use Column::{Number, Text};

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table {
    table: comfy_table::Table,
    columns: Vec<CellAlignment>,
}

impl Table {
    /// An empty table.
    pub(super) fn new(columns: &[Column]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let (names, columns): (Vec<&str>, Vec<CellAlignment>) = columns
            .iter()
            .map(|column| match *column {
                Text(name) => (name, CellAlignment::Left),
                Number(name) => (name, CellAlignment::Right),
            })
            .unzip();
        let mut table = Table { table, columns };
        let header = table.cells(names.iter().map(ToString::to_string));
        table.table.set_header(header);
        for column in table.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
    }

    /// Appends a row; a cell may have several lines.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = self.cells(cells);
        self.table.add_row(cells);
    }

    /// The table, each line ended by `\n` and without blanks before it.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for line in self.table.to_string().lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn cells(&self, cells: impl IntoIterator<Item = String>) -> Vec<Cell> {
        let cells = cells.into_iter().zip(&self.columns);
        cells.map(|(text, &alignment)| Cell::new(text).set_alignment(alignment)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_left_numbers_right_and_no_blanks_at_the_end() {
        let mut t = Table::new(&[Text("NAME"), Number("PACKETS"), Text("NOTE")]);
        t.row(["front".into(), "12".into(), "first\nsecond".into()]);
        t.row(["b".into(), "123456789".into(), String::new()]);
        assert_eq!(
            t.text(),
            "NAME     PACKETS  NOTE\n\
             front         12  first\n\
             \x20                 second\n\
             b      123456789\n"
        );
    }

    #[test]
    fn an_empty_table_has_its_headings() {
        assert_eq!(Table::new(&[Text("A"), Number("B")]).text(), "A  B\n");
    }
}
