//! Lists of numbers as bytes, for small results that are kept.

/// Lists of 4-byte numbers, each of which may be absent, one after another.
pub(super) fn to_bytes(lists: &[Option<Vec<u32>>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for list in lists {
        let len = list.as_ref().map_or(u64::MAX, |list| list.len() as u64);
        bytes.extend_from_slice(&len.to_le_bytes());
        list.iter().flatten().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    }
    bytes
}

/// `N` lists from [`to_bytes`]; `None` when the bytes are not those.
pub(super) fn from_bytes<const N: usize>(mut bytes: &[u8]) -> Option<[Option<Vec<u32>>; N]> {
    let mut lists = [const { None }; N];
    for list in &mut lists {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let len = u64::from_le_bytes(*len);
        bytes = rest;
        if len != u64::MAX {
            let (numbers, rest) = bytes.split_at_checked(usize::try_from(len).ok()?.checked_mul(4)?)?;
            *list = Some(numbers.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect());
            bytes = rest;
        }
    }
    bytes.is_empty().then_some(lists)
}

/// Floats by their bits.
pub(super) fn of_floats(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Finite floats from their bits; `None` when one is not finite.
pub(super) fn floats(bits: &[u32]) -> Option<Vec<f32>> {
    bits.iter().map(|bits| Some(f32::from_bits(*bits)).filter(|value| value.is_finite())).collect()
}

/// Positions as they are stored.
pub(super) fn of_indices(values: &[usize]) -> Vec<u32> {
    values.iter().map(|&value| u32::try_from(value).expect("a width is below 2³²")).collect()
}

/// Rising positions below `len`; `None` when they are not.
pub(super) fn indices(values: &[u32], len: usize) -> Option<Vec<usize>> {
    let rises = values.windows(2).all(|pair| pair[0] < pair[1]);
    let fits = values.last().is_none_or(|last| (*last as usize) < len);
    (rises && fits).then(|| values.iter().map(|value| *value as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_or_not_at_all() {
        let lists = [Some(vec![1, u32::MAX]), None, Some(Vec::new())];
        let bytes = to_bytes(&lists);
        assert_eq!(from_bytes::<3>(&bytes), Some(lists));
        assert_eq!(from_bytes::<2>(&bytes), None);
        assert_eq!(from_bytes::<3>(&bytes[..bytes.len() - 1]), None);
        assert_eq!(from_bytes::<1>(&(u64::MAX - 1).to_le_bytes()), None);
        assert_eq!(floats(&of_floats(&[1.5, -0.0])), Some(vec![1.5, -0.0]));
        assert_eq!(floats(&of_floats(&[f32::NAN])), None);
        assert_eq!(indices(&of_indices(&[0, 4]), 5), Some(vec![0, 4]));
        assert!(indices(&[4, 4], 5).is_none() && indices(&[0, 5], 5).is_none());
    }
}
