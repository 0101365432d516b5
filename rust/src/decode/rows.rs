//! Which tokens a step appends, and to which rows of the cache.

use std::ops::Range;

use crate::error::Error;

/// A token that a step appends.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The new token.
    pub id: usize,
    /// The row of the cache.
    pub row: usize,
    /// The position of the new token: how many tokens the row has before it.
    pub position: usize,
}

/// Return where the tokens of each row of the cache are.
///
/// # Errors
/// Fails if the tokens of a row are apart or not at consecutive positions.
pub fn texts(rows: &[Row]) -> Result<Vec<Range<usize>>, Error> {
    let mut texts: Vec<Range<usize>> = Vec::new();
    for text in rows.chunk_by(|a, b| a.row == b.row) {
        let row = text[0].row;
        if texts.iter().any(|other| rows[other.start].row == row) {
            return Err(Error::Shape(format!("the tokens of row {row} are apart")));
        }
        if (text.iter().enumerate()).any(|(i, token)| token.position != text[0].position + i) {
            return Err(Error::Shape(format!("row {row} has a gap between tokens")));
        }
        let start = texts.last().map_or(0, |other| other.end);
        texts.push(start..start + text.len());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_a_row_stand_together_in_order() {
        let texts_of = |places: &[(usize, usize)]| {
            let token = |&(row, position)| Row {
                id: 0,
                row,
                position,
            };
            texts(&places.iter().map(token).collect::<Vec<Row>>())
        };
        let expected = vec![0..1, 1..4, 4..5];
        let places = [(2, 9), (0, 3), (0, 4), (0, 5), (1, 0)];
        assert_eq!(texts_of(&places).ok(), Some(expected));
        for wrong in [
            [(0, 1), (1, 1), (0, 2)], // apart
            [(0, 1), (0, 1), (1, 1)], // twice
            [(0, 1), (0, 3), (1, 1)], // a gap
            [(0, 2), (0, 1), (1, 1)], // backwards
        ] {
            assert!(texts_of(&wrong).is_err());
        }
    }
}
