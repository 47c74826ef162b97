//! Tables as patronictl draws them: a frame of `+`, `-` and `|`, the title written over the top
//! border, cells of several lines.

/// What to draw. Every row has as many cells as there are columns.
pub struct Table<'a> {
    /// Written over the top border, cut where the border ends.
    pub title: Option<&'a str>,
    /// Column heads and whether the column is aligned to the right; `None`: no head at all.
    pub heads: Option<&'a [(String, bool)]>,
    pub rows: &'a [Vec<String>],
}

impl Table<'_> {
    /// The table, one line break after each line.
    pub fn render(&self) -> String {
        let widths = self.widths();
        let right: Vec<bool> = match self.heads {
            Some(heads) => heads.iter().map(|(_, right)| *right).collect(),
            None => vec![false; widths.len()],
        };
        let border = border(&widths);
        let mut out = self.top(&border);
        out.push('\n');
        if let Some(heads) = self.heads {
            let cells: Vec<String> = heads.iter().map(|(head, _)| head.clone()).collect();
            push_row(&mut out, &cells, &widths, &right);
            push_line(&mut out, &border);
        }
        let ruled = self.rows.iter().flatten().any(|cell| cell.contains('\n'));
        for (i, row) in self.rows.iter().enumerate() {
            push_row(&mut out, row, &widths, &right);
            if ruled && i + 1 < self.rows.len() {
                push_line(&mut out, &border);
            }
        }
        push_line(&mut out, &border);
        out
    }

    fn widths(&self) -> Vec<usize> {
        let columns = match self.heads {
            Some(heads) => heads.len(),
            None => self.rows.first().map_or(0, Vec::len),
        };
        (0..columns)
            .map(|column| {
                let head = self.heads.map_or(0, |heads| heads[column].0.chars().count());
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells
                    .flat_map(|cell| cell.lines())
                    .map(|l| l.chars().count())
                    .fold(head, usize::max)
            })
            .collect()
    }

    fn top(&self, border: &str) -> String {
        let Some(title) = self.title else {
            return border.to_owned();
        };
        let title: String = title.chars().take(border.len().saturating_sub(2)).collect();
        let rest = &border[(1 + title.chars().count()).min(border.len())..];
        format!("+{title}{rest}")
    }
}

fn border(widths: &[usize]) -> String {
    let mut line = String::from("+");
    for width in widths {
        line.push_str(&"-".repeat(width + 2));
        line.push('+');
    }
    line
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn push_row(out: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    let cells: Vec<Vec<&str>> = cells.iter().map(|cell| cell.lines().collect()).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
    for line in 0..height {
        out.push('|');
        for ((cell, width), right) in cells.iter().zip(widths).zip(right) {
            let text = cell.get(line).copied().unwrap_or("");
            let padding = " ".repeat(width.saturating_sub(text.chars().count()));
            out.push(' ');
            if *right {
                out.push_str(&padding);
                out.push_str(text);
            } else {
                out.push_str(text);
                out.push_str(&padding);
            }
            out.push_str(" |");
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(title: Option<&str>, heads: Option<&[(&str, bool)]>, rows: &[&[&str]]) -> String {
        let heads: Option<Vec<(String, bool)>> = heads
            .map(|heads| heads.iter().map(|(head, right)| (head.to_string(), *right)).collect());
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| cell.to_string()).collect()).collect();
        Table { title, heads: heads.as_deref(), rows: &rows }.render()
    }

    #[test]
    fn draws_captured_frames() {
        let heads: &[(&str, bool)] = &[("a", false), ("b", false), ("c", false)];
        assert_eq!(
            table(None, Some(heads), &[&["1", "None", "True"]]),
            "+---+------+------+\n| a | b    | c    |\n+---+------+------+\n\
             | 1 | None | True |\n+---+------+------+\n"
        );
    }

    #[test]
    fn cells_of_several_lines_rule_every_row() {
        assert_eq!(
            table(Some(" t "), Some(&[("x", true), ("y", false)]), &[&["1", "a\nbc"], &["10", ""]]),
            "+ t -+----+\n|  x | y  |\n+----+----+\n|  1 | a  |\n|    | bc |\n+----+----+\n\
             | 10 |    |\n+----+----+\n"
        );
    }

    #[test]
    fn a_long_title_is_cut_and_a_table_may_lack_heads_and_rows() {
        assert_eq!(table(Some(" long title "), None, &[&["1"]]), "+ lo+\n| 1 |\n+---+\n");
        assert_eq!(table(None, Some(&[("x", false)]), &[]), "+---+\n| x |\n+---+\n+---+\n");
    }
}
