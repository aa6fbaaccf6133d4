//! The one place that computes sizes from numbers in files.

/// The smallest addressable part of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    pub(super) elements: u64,
    pub(super) bits: u64,
}

/// Bytes of a tensor with this shape at `offset`, checked to lie within `available` bytes.
///
/// `shape` is rows first; the last entry is the row's length. Computed in 128 bits, so nothing wraps.
pub(super) fn checked_len(shape: &[u64], unit: Unit, offset: u64, available: u64) -> Result<u64, String> {
    let too_large = || format!("shape {shape:?} is larger than any file");
    let mut elements: u128 = 1;
    for &dim in shape {
        elements = elements.checked_mul(u128::from(dim)).ok_or_else(too_large)?;
    }
    let row_len = shape.last().copied().unwrap_or(1);
    if !row_len.is_multiple_of(unit.elements) {
        return Err(format!("rows of {row_len} elements are not made of whole blocks of {}", unit.elements));
    }
    let bits = (elements / u128::from(unit.elements)).checked_mul(u128::from(unit.bits)).ok_or_else(too_large)?;
    if bits % 8 != 0 {
        return Err(format!("{elements} elements of {} bits do not end at a byte", unit.bits));
    }
    let end = (bits / 8).checked_add(u128::from(offset)).ok_or_else(too_large)?;
    if end > u128::from(available) {
        return Err(format!("ends at byte {end} of a data section of {available} bytes"));
    }
    u64::try_from(bits / 8).map_err(|_too_large| too_large())
}

/// Finds two extents `(offset, len)` that share a byte; gives their positions in `extents`. Empty extents share nothing.
pub(super) fn find_overlap(extents: &[(u64, u64)]) -> Option<(usize, usize)> {
    let order = sorted(extents);
    order.windows(2).find_map(|pair| {
        let (first, second) = (extents[pair[0]], extents[pair[1]]);
        (u128::from(first.0) + u128::from(first.1) > u128::from(second.0)).then_some((pair[0], pair[1]))
    })
}

/// Finds the first byte below `total` that no extent covers. The extents must not overlap.
pub(super) fn find_hole(extents: &[(u64, u64)], total: u64) -> Option<u64> {
    let mut covered = 0;
    for index in sorted(extents) {
        let (offset, len) = extents[index];
        if offset != covered {
            return Some(covered);
        }
        covered += len;
    }
    (covered != total).then_some(covered)
}

fn sorted(extents: &[(u64, u64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..extents.len()).filter(|&index| extents[index].1 > 0).collect();
    order.sort_by_key(|&index| extents[index]);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: Unit = Unit { elements: 1, bits: 32 };
    const Q4_0: Unit = Unit { elements: 32, bits: 144 };

    #[test]
    fn sizes_are_exact_and_never_wrap() {
        const INVERSE: u64 = 0xAAAA_AAAA_AAAA_AAAB; // 3 × inverse = 1 modulo 2^64
        type Case = (&'static [u64], Unit, u64, u64, Option<u64>);
        let cases: [Case; 12] = [
            (&[2, 3], F32, 0, 24, Some(24)),
            (&[2, 3], F32, 1, 24, None),
            (&[], F32, 0, 4, Some(4)),
            (&[0, 7], F32, 24, 24, Some(0)),
            (&[1 << 40, 1 << 40], F32, 0, u64::MAX, None),
            (&[2, INVERSE, 3, 32], F32, 0, 4096, None),
            (&[u64::MAX, u64::MAX, u64::MAX], F32, 0, u64::MAX, None),
            (&[4_194_305, 4_194_305, 211_106_198_978_564], F32, 0, 16, None),
            (&[1], F32, u64::MAX - 2, u64::MAX, None),
            (&[2, 64], Q4_0, 0, 72, Some(72)),
            (&[2, 48], Q4_0, 0, 4096, None),
            (&[3], Unit { elements: 1, bits: 4 }, 0, 4096, None),
        ];
        for (shape, unit, offset, available, expected) in cases {
            assert_eq!(checked_len(shape, unit, offset, available).ok(), expected, "{shape:?} at {offset}");
        }
    }

    #[test]
    fn overlaps_and_holes_are_found() {
        assert_eq!(find_overlap(&[(0, 4), (4, 4), (8, 0), (2, 0)]), None);
        assert_eq!(find_overlap(&[(4, 4), (0, 5)]), Some((1, 0)));
        assert_eq!(find_overlap(&[(0, 4), (0, 4)]), Some((0, 1)));
        assert_eq!(find_overlap(&[(u64::MAX - 1, u64::MAX), (u64::MAX, 1)]), Some((0, 1)));
        assert_eq!(find_hole(&[(4, 4), (0, 4), (1, 0)], 8), None);
        assert_eq!(find_hole(&[(4, 4)], 8), Some(0));
        assert_eq!(find_hole(&[(0, 4), (5, 3)], 8), Some(4));
        assert_eq!(find_hole(&[(0, 4)], 8), Some(4));
        assert_eq!(find_hole(&[], 0), None);
    }
}
