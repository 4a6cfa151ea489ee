//! Columns aligned by spaces, as Go's tabwriter prints istioctl's tables: the last cell of a row is not padded, all
//! others are.

/// Spaces between columns of most tables.
pub(crate) const WIDE: usize = 5;

/// Rows with so many spaces between columns.
pub(crate) fn columns(rows: &[Vec<String>], padding: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    // The last cell of a row is no part of its column.
    let cells = |column: usize| rows.iter().filter(move |r| column + 1 < r.len()).filter_map(move |r| r.get(column));
    let width = |column: usize| cells(column).map(|c| c.chars().count()).max().unwrap_or(0) + padding;
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let last = row.len().saturating_sub(1);
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if at == last {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{cell:width$}"));
            }
        }
        out.push('\n');
    }
    out
}

/// A row of texts.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cell_is_not_padded() {
        let rows = [row(["A", "BB"]), row(["aaa", ""])];
        assert_eq!(columns(&rows, 2), "A    BB\naaa  \n");
    }
}
