//! Which value goes to which place, for each byte of a mask.

/// For 8 bits, byte `place` says which of the bytes that follow goes there: as many as bits before it are set. 128 where
/// its own is not set, which lookups by shuffles turn into zero.
pub(super) static BYTES: [u64; 256] = bytes();

/// The same for values of two bytes.
pub(super) static HALVES: [[u8; 16]; 256] = halves();

const fn bytes() -> [u64; 256] {
    let mut table = [0; 256];
    let mut bits: usize = 0;
    while bits < 256 {
        let mut place = 0;
        while place < 8 {
            let before = (bits & ((1 << place) - 1)).count_ones() as u64;
            let byte = if bits >> place & 1 == 1 { before } else { 128 };
            table[bits] |= byte << (8 * place);
            place += 1;
        }
        bits += 1;
    }
    table
}

const fn halves() -> [[u8; 16]; 256] {
    let mut table = [[128; 16]; 256];
    let mut bits: usize = 0;
    while bits < 256 {
        let mut place = 0;
        while place < 8 {
            let byte = BYTES[bits].to_le_bytes()[place];
            if byte < 128 {
                table[bits][2 * place] = 2 * byte;
                table[bits][2 * place + 1] = 2 * byte + 1;
            }
            place += 1;
        }
        bits += 1;
    }
    table
}

/// Bits that are set before each byte of a mask: byte `index`, at most 56.
#[inline]
pub(super) fn before(mask: u64) -> [u8; 8] {
    let pairs = mask - (mask >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let each = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    // Each byte of the product is the sum of the bytes up to it.
    (each.wrapping_mul(0x0101_0101_0101_0101) << 8).to_le_bytes()
}

/// The places of 16 values whose bits are two bytes of a mask, the second `after` so many values.
#[inline]
pub(super) fn sixteen(bits: [u8; 2], after: u8) -> [u64; 2] {
    [BYTES[usize::from(bits[0])], BYTES[usize::from(bits[1])] + u64::from(after) * 0x0101_0101_0101_0101]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_the_bits_before() {
        for mask in [0, 1, u64::MAX, 0x8000_0000_0000_0001, 0x0123_4567_89ab_cdef, 0xaaaa_5555_ffff_0000] {
            let before = before(mask);
            for (index, found) in before.into_iter().enumerate() {
                assert_eq!(u32::from(found), (mask & ((1 << (8 * index)) - 1)).count_ones());
            }
            for (index, bits) in mask.to_le_bytes().as_chunks::<2>().0.iter().enumerate() {
                let places = sixteen(*bits, before[2 * index + 1] - before[2 * index]);
                for (place, found) in places.map(u64::to_le_bytes).as_flattened().iter().enumerate() {
                    let bits = u16::from_le_bytes(*bits);
                    let expected = (bits & ((1 << place) - 1)).count_ones();
                    assert!(if bits >> place & 1 == 1 { u32::from(*found) == expected } else { *found >= 128 });
                }
            }
        }
    }
}
