//! Where scales and codes lie inside a block: the layouts of `ggml-common.h` in llama.cpp.
#![expect(clippy::inline_always, reason = "the instructions of the caller are used only where it is inlined")]

/// The low four bits of the first half of `codes` in the low nibbles, of the second in the high ones.
#[inline(always)]
pub(super) fn put_nibbles(bytes: &mut [u8], codes: &[u8]) {
    let (first, second) = codes.split_at(codes.len() / 2);
    for ((byte, low), high) in bytes.iter_mut().zip(first).zip(second) {
        *byte = low & 15 | high << 4;
    }
}

/// The low two bits of codes: of 128 of them the four quarters in one byte, from the low bits up.
#[inline(always)]
pub(super) fn put_crumbs(bytes: &mut [u8; 64], codes: &[u8; 256]) {
    for (bytes, codes) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
        for (place, byte) in bytes.iter_mut().enumerate() {
            let [a, b, c, d] = [0, 32, 64, 96].map(|quarter| codes[quarter + place] & 3);
            *byte = a | b << 2 | c << 4 | d << 6;
        }
    }
}

/// Bit `BIT` of codes: of each 32 codes one bit in each of 32 bytes, from the low bits up.
#[inline(always)]
pub(super) fn put_bits<const BIT: u32>(bytes: &mut [u8; 32], codes: &[u8; 256]) {
    *bytes = [0; 32];
    for (place, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        for (byte, code) in bytes.iter_mut().zip(codes) {
            *byte |= (code >> BIT & 1) << place;
        }
    }
}

/// The codes of `q6_k`: low nibbles, then the two high bits.
#[inline(always)]
pub(super) fn put_six_bits(low: &mut [u8; 128], high: &mut [u8; 64], codes: &[u8; 256]) {
    let halves = low.as_chunks_mut::<64>().0.iter_mut().zip(high.as_chunks_mut::<32>().0);
    for ((low, high), codes) in halves.zip(codes.as_chunks::<128>().0) {
        for place in 0..32 {
            let [a, b, c, d] = [0, 32, 64, 96].map(|quarter| codes[quarter + place]);
            low[place] = a & 15 | c << 4;
            low[place + 32] = b & 15 | d << 4;
            high[place] = a >> 4 & 3 | (b >> 4 & 3) << 2 | (c >> 4 & 3) << 4 | (d >> 4 & 3) << 6;
        }
    }
}

/// Eight six-bit scales and minimums in twelve bytes (`q4_k`, `q5_k`); more are left out.
pub(super) fn put_pairs(bytes: &mut [u8; 12], scales: &[u8], mins: &[u8]) {
    for run in 0..4 {
        bytes[run] = scales[run] | scales[run + 4] >> 4 << 6;
        bytes[run + 4] = mins[run] | mins[run + 4] >> 4 << 6;
        bytes[run + 8] = scales[run + 4] & 15 | mins[run + 4] << 4;
    }
}

/// Scales and minimums that [`put_pairs`] wrote.
#[inline(always)]
pub(super) fn pairs(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for run in 0..4 {
        scales[run] = bytes[run] & 63;
        mins[run] = bytes[run + 4] & 63;
        scales[run + 4] = bytes[run + 8] & 15 | bytes[run] >> 6 << 4;
        mins[run + 4] = bytes[run + 8] >> 4 | bytes[run + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// Sixteen six-bit scales in twelve bytes (`q3_k`), from 0 to 63.
pub(super) fn put_sixths(bytes: &mut [u8; 12], scales: &[u8; 16]) {
    *bytes = [0; 12];
    for (run, scale) in scales.iter().enumerate() {
        bytes[run % 8] |= (scale & 15) << (run / 8 * 4);
        bytes[8 + run % 4] |= (scale >> 4 & 3) << (run / 4 * 2);
    }
}

/// Scales that [`put_sixths`] wrote.
#[inline(always)]
pub(super) fn sixths(bytes: &[u8; 12]) -> [u8; 16] {
    let mut scales = [0; 16];
    for (run, scale) in scales.iter_mut().enumerate() {
        *scale = bytes[run % 8] >> (run / 8 * 4) & 15 | (bytes[8 + run % 4] >> (run / 4 * 2) & 3) << 4;
    }
    scales
}
