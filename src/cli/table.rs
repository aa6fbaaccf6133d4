//! Tables for people on a terminal: a line under the header, nothing else.

use comfy_table::{CellAlignment, ContentLineStyle, LineStyle, Table, TableStyle};

const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none().junction(' '))
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .content_lines(ContentLineStyle::none().junction(' '));

/// One column: its name, and the side that its cells stand on.
pub(super) type Column = (&'static str, CellAlignment);

/// Words stand on the left.
pub(super) const fn words(name: &'static str) -> Column {
    (name, CellAlignment::Left)
}

/// Numbers stand on the right.
pub(super) const fn numbers(name: &'static str) -> Column {
    (name, CellAlignment::Right)
}

/// The rows under their columns. A row may end early.
pub(super) fn table(columns: &[Column], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(columns.iter().map(|(name, _)| *name));
    table.add_rows(rows);
    for (position, (_, side)) in columns.iter().enumerate() {
        table.column_mut(position).expect("the header has every column").set_cell_alignment(*side);
    }
    table.trim_fmt()
}
