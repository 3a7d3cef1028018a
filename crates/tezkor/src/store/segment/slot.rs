//! The slot word of the index: which entry a fingerprint leads to, in 64 bits.
//! A word of zero is an empty slot, and no entry ever has that word.
//!
//! ```text
//! bit 63        62-61      60-45        44-33       32-16    15-0
//! tentative     frequency  fingerprint  generation  segment  offset (16-byte units)
//! ```

const OFFSET_BITS: u32 = 16;
const SEGMENT_BITS: u32 = 17;
/// Low bits of the segment's generation.
const GENERATION_BITS: u32 = 12;
const GENERATION_AT: u32 = OFFSET_BITS + SEGMENT_BITS;
const FINGERPRINT_AT: u32 = 45;
const FREQUENCY_AT: u32 = 61;

/// Marks a slot that is being inserted; readers ignore it.
pub(crate) const TENTATIVE: u64 = 1 << 63;
/// The two bits of frequency.
pub(crate) const FREQUENCY: u64 = 3 << FREQUENCY_AT;
/// One step of frequency.
pub(crate) const FREQUENCY_STEP: u64 = 1 << FREQUENCY_AT;

/// The 16 bits by which a slot is found in its bucket; never zero.
pub(crate) fn fingerprint(hash: u64) -> u64 {
    (hash & 0xffff).max(1)
}

#[cfg(not(any(loom, shuttle)))]
const fn generation_mask() -> u64 {
    (1 << GENERATION_BITS) - 1
}

/// Fewer bits in a model, so that it meets a recycled segment soon.
#[cfg(any(loom, shuttle))]
fn generation_mask() -> u64 {
    (1 << super::schedules::generation_bits(GENERATION_BITS)) - 1
}

/// A committed slot word without frequency.
pub(crate) fn pack(fingerprint: u64, segment: usize, generation: u64, offset: usize) -> u64 {
    (fingerprint << FINGERPRINT_AT)
        | ((generation & generation_mask()) << GENERATION_AT)
        | ((segment as u64) << OFFSET_BITS)
        | offset as u64
}

pub(crate) fn has_fingerprint(word: u64, fingerprint: u64) -> bool {
    (word >> FINGERPRINT_AT) & 0xffff == fingerprint
}

pub(crate) fn segment(word: u64) -> usize {
    ((word >> OFFSET_BITS) & ((1 << SEGMENT_BITS) - 1)) as usize
}

pub(crate) fn offset(word: u64) -> usize {
    (word & 0xffff) as usize
}

/// Whether the word was made in this generation of its segment, as far as its low bits tell.
pub(crate) fn is_of_generation(word: u64, generation: u64) -> bool {
    ((word >> GENERATION_AT) ^ generation) & generation_mask() == 0
}

pub(crate) fn frequency(word: u64) -> u64 {
    (word & FREQUENCY) >> FREQUENCY_AT
}

pub(crate) fn with_frequency(word: u64, frequency: u64) -> u64 {
    (word & !FREQUENCY) | (frequency.min(3) << FREQUENCY_AT)
}

/// The word without frequency: what identifies the entry.
pub(crate) fn identity(word: u64) -> u64 {
    word & !FREQUENCY
}
