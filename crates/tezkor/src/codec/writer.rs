//! Writes the tokens of the format into a byte vector, each in its shortest form. Knows nothing of values or types.

use super::ext;

/// Payloads are copied in pieces of this many bytes. From some size on the C library copies with `rep movsb`, which some
/// processors run thirty times slower than other copies when the destination lies a few bytes above the source modulo
/// the page: just where the tag in front of a payload puts it.
const PIECE_BYTES: usize = 2048;

/// Where an extension was opened; [`Writer::end`] closes it.
#[derive(Debug)]
#[must_use = "an extension that is opened must be closed"]
pub struct Mark(usize);

/// A growing payload. After a length beyond what the format can say, [`Writer::overflowed`] is true and the bytes are
/// not to be used.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    overflowed: bool,
}

impl Writer {
    /// Starts with the given vector, which keeps its content: writers may be reused for their capacity.
    pub fn new(out: Vec<u8>) -> Self {
        Self { out, overflowed: false }
    }

    /// The bytes written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// How many bytes there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// True when something was longer than 4 GiB.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    fn length(&mut self, length: usize) -> u32 {
        u32::try_from(length).unwrap_or_else(|_| {
            self.overflowed = true;
            0
        })
    }

    /// `nil`
    #[inline]
    pub fn nil(&mut self) {
        self.out.push(0xc0);
    }

    /// `bool`
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.out.push(if value { 0xc3 } else { 0xc2 });
    }

    /// An integer, in the shortest form.
    #[inline]
    pub fn int(&mut self, value: i64) {
        if let Ok(value) = u64::try_from(value) {
            return self.uint(value);
        }
        if value >= -32 {
            self.out.push(value as u8);
        } else if let Ok(value) = i8::try_from(value) {
            self.out.extend_from_slice(&[0xd0, value as u8]);
        } else if let Ok(value) = i16::try_from(value) {
            self.tagged(0xd1, &value.to_be_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.tagged(0xd2, &value.to_be_bytes());
        } else {
            self.tagged(0xd3, &value.to_be_bytes());
        }
    }

    /// A non-negative integer, in the shortest form.
    #[inline]
    pub fn uint(&mut self, value: u64) {
        if value < 0x80 {
            self.out.push(value as u8);
        } else if let Ok(value) = u8::try_from(value) {
            self.out.extend_from_slice(&[0xcc, value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.tagged(0xcd, &value.to_be_bytes());
        } else if let Ok(value) = u32::try_from(value) {
            self.tagged(0xce, &value.to_be_bytes());
        } else {
            self.tagged(0xcf, &value.to_be_bytes());
        }
    }

    /// `float 64`; the bits are kept, those of a NaN too.
    #[inline]
    pub fn float(&mut self, value: f64) {
        self.tagged(0xcb, &value.to_be_bytes());
    }

    /// `str`
    #[inline]
    pub fn str(&mut self, value: &str) {
        let length = value.len();
        if length < 32 {
            self.out.push(0xa0 | length as u8);
        } else if let Ok(length) = u8::try_from(length) {
            self.out.extend_from_slice(&[0xd9, length]);
        } else if let Ok(length) = u16::try_from(length) {
            self.tagged(0xda, &length.to_be_bytes());
        } else {
            let length = self.length(length);
            self.tagged(0xdb, &length.to_be_bytes());
        }
        self.append(value.as_bytes());
    }

    /// `bin`
    #[inline]
    pub fn bin(&mut self, value: &[u8]) {
        if let Ok(length) = u8::try_from(value.len()) {
            self.out.extend_from_slice(&[0xc4, length]);
        } else if let Ok(length) = u16::try_from(value.len()) {
            self.tagged(0xc5, &length.to_be_bytes());
        } else {
            let length = self.length(value.len());
            self.tagged(0xc6, &length.to_be_bytes());
        }
        self.append(value);
    }

    /// The head of an `array`; its items follow.
    #[inline]
    pub fn array(&mut self, count: usize) {
        if count < 16 {
            self.out.push(0x90 | count as u8);
        } else if let Ok(count) = u16::try_from(count) {
            self.tagged(0xdc, &count.to_be_bytes());
        } else {
            let count = self.length(count);
            self.tagged(0xdd, &count.to_be_bytes());
        }
    }

    /// The head of a `map`; its keys and values follow in turn.
    #[inline]
    pub fn map(&mut self, count: usize) {
        if count < 16 {
            self.out.push(0x80 | count as u8);
        } else if let Ok(count) = u16::try_from(count) {
            self.tagged(0xde, &count.to_be_bytes());
        } else {
            let count = self.length(count);
            self.tagged(0xdf, &count.to_be_bytes());
        }
    }

    /// A whole extension.
    #[inline]
    pub fn extension(&mut self, kind: i8, payload: &[u8]) {
        match payload.len() {
            1 => self.out.push(0xd4),
            2 => self.out.push(0xd5),
            4 => self.out.push(0xd6),
            8 => self.out.push(0xd7),
            16 => self.out.push(0xd8),
            length => {
                if let Ok(length) = u8::try_from(length) {
                    self.out.extend_from_slice(&[0xc7, length]);
                } else if let Ok(length) = u16::try_from(length) {
                    self.tagged(0xc8, &length.to_be_bytes());
                } else {
                    let length = self.length(length);
                    self.tagged(0xc9, &length.to_be_bytes());
                }
            }
        }
        self.out.push(kind as u8);
        self.append(payload);
    }

    /// Opens an extension whose payload is written next; its length is filled in by [`Writer::end`].
    #[inline]
    pub fn begin(&mut self, kind: i8) -> Mark {
        self.out.extend_from_slice(&[0xc9, 0, 0, 0, 0, kind as u8]);
        Mark(self.out.len())
    }

    /// Closes the extension.
    #[inline]
    pub fn end(&mut self, mark: Mark) {
        let length = self.length(self.out.len() - mark.0).to_be_bytes();
        self.out[mark.0 - 5..mark.0 - 1].copy_from_slice(&length);
    }

    /// An integer of any size: two's complement, little endian.
    pub fn big_int(&mut self, two_complement: &[u8]) {
        self.extension(ext::BIG_INT, two_complement);
    }

    #[inline]
    fn append(&mut self, payload: &[u8]) {
        self.out.reserve(payload.len());
        payload.chunks(PIECE_BYTES).for_each(|piece| self.out.extend_from_slice(piece));
    }

    #[inline]
    fn tagged<const N: usize>(&mut self, tag: u8, bytes: &[u8; N]) {
        self.out.push(tag);
        self.out.extend_from_slice(bytes);
    }
}
