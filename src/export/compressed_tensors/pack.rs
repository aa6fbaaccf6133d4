//! Codes packed into words of 32 bits: the first code in the lowest bits, words little-endian, the last one filled up with
//! zeros.

/// Packs each row of `row_len` codes on its own. `bits` divides 8.
pub(super) fn along_rows(codes: &[u8], row_len: usize, bits: u8) -> Vec<u8> {
    let per_byte = 8 / usize::from(bits);
    let row_bytes = row_len.div_ceil(per_byte).next_multiple_of(4);
    let mut packed = Vec::with_capacity(codes.len() / row_len.max(1) * row_bytes);
    for row in codes.chunks(row_len.max(1)) {
        let end = packed.len() + row_bytes;
        packed.extend(row.chunks(per_byte).map(|codes| {
            codes.iter().enumerate().fold(0, |byte, (position, code)| byte | code << (position * usize::from(bits)))
        }));
        packed.resize(end, 0);
    }
    packed
}

/// Packs each column of a matrix with rows of `row_len` codes; the words lie row by row.
pub(super) fn along_columns(codes: &[u8], row_len: usize, bits: u8) -> Vec<u8> {
    let per_word = 32 / usize::from(bits);
    let mut packed = Vec::new();
    for rows in codes.chunks(per_word * row_len.max(1)) {
        for column in 0..row_len {
            let codes = rows[column..].iter().step_by(row_len).enumerate();
            let word =
                codes.fold(0_u32, |word, (position, code)| word | u32::from(*code) << (position * usize::from(bits)));
            packed.extend(word.to_le_bytes());
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the layout is described.
    fn word(codes: &[u8], bits: u8) -> u32 {
        let bit = |at: usize| {
            u32::from(codes.get(at / usize::from(bits)).is_some_and(|code| code >> (at % usize::from(bits)) & 1 == 1))
        };
        (0..32).map(|at| bit(at) << at).sum()
    }

    #[test]
    fn the_first_code_is_in_the_lowest_bits() {
        assert_eq!(along_rows(&[1, 2, 3, 4, 5, 6, 7, 8], 8, 4), 0x8765_4321_u32.to_le_bytes());
        assert_eq!(along_rows(&[0x10, 0xff, 0, 7], 4, 8), 0x0700_ff10_u32.to_le_bytes());
        assert_eq!(along_rows(&[15, 1, 2], 3, 4), [0x1f, 0x02, 0, 0]);
        assert_eq!(along_columns(&[1, 2, 3, 4, 5, 6], 2, 4), [0x31, 0x05, 0, 0, 0x42, 0x06, 0, 0]);
    }

    #[test]
    fn rows_and_columns_are_packed_on_their_own() {
        let codes =
            |n: usize, bits: u8| -> Vec<u8> { (0..n).map(|at| ((at * 7919 + 13) % (1 << bits)) as u8).collect() };
        for bits in [4, 8] {
            let per_word = 32 / usize::from(bits);
            for (rows, row_len) in [(1, 1), (3, 8), (17, 5), (32, 40)] {
                let codes = codes(rows * row_len, bits);
                let along: Vec<u8> = codes
                    .chunks(row_len)
                    .flat_map(|row| row.chunks(per_word).map(|codes| word(codes, bits)).collect::<Vec<_>>())
                    .flat_map(u32::to_le_bytes)
                    .collect();
                assert_eq!(along_rows(&codes, row_len, bits), along, "{rows} × {row_len}, {bits} bits");
                let n_words = rows.div_ceil(per_word);
                let down = (0..n_words).flat_map(|at| {
                    let codes = &codes;
                    (0..row_len).map(move |column| {
                        let in_word: Vec<u8> = (at * per_word..rows.min((at + 1) * per_word))
                            .map(|row| codes[row * row_len + column])
                            .collect();
                        word(&in_word, bits)
                    })
                });
                let down: Vec<u8> = down.flat_map(u32::to_le_bytes).collect();
                assert_eq!(along_columns(&codes, row_len, bits), down, "{rows} × {row_len}, {bits} bits");
            }
        }
    }
}
