//! Reads the tokens of the format from a byte slice: bounds are checked here and nowhere else. Never allocates.

use super::MAX_DEPTH;

/// Why bytes are not a value. The cache takes each of them as a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input ends inside a value, or a length points behind its end.
    #[error("the value ends too early")]
    Truncated,
    /// A tag or an extension type that this version does not know.
    #[error("the value holds a type that this version does not know")]
    Unknown,
    /// A known type with an impossible content.
    #[error("the value is damaged")]
    Damaged,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("the value nests too deep")]
    Deep,
    /// Bytes are left behind the value.
    #[error("there is something behind the value")]
    Trailing,
}

/// One token. Text is not checked to be UTF-8 here: each reader has a way of its own that does it while it copies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    /// `nil`
    Nil,
    /// `bool`
    Bool(bool),
    /// An integer that fits in 64 bits with a sign.
    Int(i64),
    /// An integer above `i64::MAX`.
    Uint(u64),
    /// `float 32` or `float 64`
    Float(f64),
    /// `str`
    Str(&'a [u8]),
    /// `bin`
    Bin(&'a [u8]),
    /// The head of an `array`: so many values follow. Never more than there are bytes left.
    Array(usize),
    /// The head of a `map`: so many pairs follow. Never more than there are bytes left for.
    Map(usize),
    /// An extension: its type and its payload.
    Ext(i8, &'a [u8]),
}

/// A position in a payload.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Fails when something is left.
    pub fn finish(&self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Trailing) }
    }

    /// One level down, or an error at the limit.
    #[inline]
    pub fn deeper(depth: u32) -> Result<u32, Error> {
        if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Error::Deep) }
    }

    /// So many bytes.
    #[inline]
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A fixed number of bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// The next token.
    #[inline]
    pub fn token(&mut self) -> Result<Token<'a>, Error> {
        let [tag] = self.array()?;
        Ok(match tag {
            0x00..=0x7f => Token::Int(i64::from(tag)),
            0x80..=0x8f => self.map(usize::from(tag & 0x0f))?,
            0x90..=0x9f => self.list(usize::from(tag & 0x0f))?,
            0xa0..=0xbf => Token::Str(self.bytes(usize::from(tag & 0x1f))?),
            0xc0 => Token::Nil,
            0xc1 => return Err(Error::Unknown),
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xc4 => Token::Bin(self.length1().and_then(|length| self.bytes(length))?),
            0xc5 => Token::Bin(self.length2().and_then(|length| self.bytes(length))?),
            0xc6 => Token::Bin(self.length4().and_then(|length| self.bytes(length))?),
            0xc7 => self.length1().and_then(|length| self.ext(length))?,
            0xc8 => self.length2().and_then(|length| self.ext(length))?,
            0xc9 => self.length4().and_then(|length| self.ext(length))?,
            0xca => Token::Float(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => Token::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Token::Int(i64::from(u8::from_be_bytes(self.array()?))),
            0xcd => Token::Int(i64::from(u16::from_be_bytes(self.array()?))),
            0xce => Token::Int(i64::from(u32::from_be_bytes(self.array()?))),
            0xcf => {
                let value = u64::from_be_bytes(self.array()?);
                i64::try_from(value).map_or(Token::Uint(value), Token::Int)
            }
            0xd0 => Token::Int(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => Token::Int(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => Token::Int(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => Token::Int(i64::from_be_bytes(self.array()?)),
            0xd4 => self.ext(1)?,
            0xd5 => self.ext(2)?,
            0xd6 => self.ext(4)?,
            0xd7 => self.ext(8)?,
            0xd8 => self.ext(16)?,
            0xd9 => Token::Str(self.length1().and_then(|length| self.bytes(length))?),
            0xda => Token::Str(self.length2().and_then(|length| self.bytes(length))?),
            0xdb => Token::Str(self.length4().and_then(|length| self.bytes(length))?),
            0xdc => self.length2().and_then(|count| self.list(count))?,
            0xdd => self.length4().and_then(|count| self.list(count))?,
            0xde => self.length2().and_then(|count| self.map(count))?,
            0xdf => self.length4().and_then(|count| self.map(count))?,
            0xe0..=0xff => Token::Int(i64::from(tag as i8)),
        })
    }

    /// The head of an `array`.
    pub fn expect_array(&mut self) -> Result<usize, Error> {
        match self.token()? {
            Token::Array(count) => Ok(count),
            _ => Err(Error::Damaged),
        }
    }

    /// The head of a `map`.
    pub fn expect_map(&mut self) -> Result<usize, Error> {
        match self.token()? {
            Token::Map(count) => Ok(count),
            _ => Err(Error::Damaged),
        }
    }

    /// `str`, checked to be UTF-8.
    pub fn expect_str(&mut self) -> Result<&'a str, Error> {
        match self.token()? {
            Token::Str(bytes) => std::str::from_utf8(bytes).map_err(|_| Error::Damaged),
            _ => Err(Error::Damaged),
        }
    }

    /// A non-negative integer.
    pub fn expect_uint(&mut self) -> Result<u64, Error> {
        match self.token()? {
            Token::Int(value) => u64::try_from(value).map_err(|_| Error::Damaged),
            _ => Err(Error::Damaged),
        }
    }

    /// The number of rows of a table with so many cells in each. Every cell takes a byte at least; a row without cells
    /// would cost nothing to declare, so there may be none of those.
    pub fn expect_rows(&mut self, cells: usize) -> Result<usize, Error> {
        let rows = usize::try_from(self.expect_uint()?).map_err(|_| Error::Damaged)?;
        match rows.checked_mul(cells) {
            Some(needed) if needed <= self.rest.len() && (cells > 0 || rows == 0) => Ok(rows),
            _ => Err(Error::Truncated),
        }
    }

    #[inline]
    fn list(&mut self, count: usize) -> Result<Token<'a>, Error> {
        if count > self.rest.len() { Err(Error::Truncated) } else { Ok(Token::Array(count)) }
    }

    #[inline]
    fn map(&mut self, count: usize) -> Result<Token<'a>, Error> {
        if count > self.rest.len() / 2 { Err(Error::Truncated) } else { Ok(Token::Map(count)) }
    }

    #[inline]
    fn ext(&mut self, length: usize) -> Result<Token<'a>, Error> {
        let [kind] = self.array()?;
        Ok(Token::Ext(kind as i8, self.bytes(length)?))
    }

    #[inline]
    fn length1(&mut self) -> Result<usize, Error> {
        Ok(usize::from(u8::from_be_bytes(self.array()?)))
    }

    #[inline]
    fn length2(&mut self) -> Result<usize, Error> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    #[inline]
    fn length4(&mut self) -> Result<usize, Error> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }
}
