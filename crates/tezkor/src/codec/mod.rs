//! The format of cached values: MessagePack with extension types, one tag for each type that must come back exactly.
//!
//! Never runs code, never reads past its input, never allocates more than its input can describe: what is damaged
//! or foreign is an [`Error`], and the cache treats that as a miss.
//!
//! A stored value is a codec byte and a payload. The low four bits of the codec byte say what the payload is:
//!
//! | codec | payload |
//! |---|---|
//! | [`CODEC_COUNT`] 0 | none: the entry is a counter, kept by the store as one word |
//! | [`CODEC_TAGGED`] 1 | one value in the format below |
//! | [`CODEC_PICKLE`] 2 | a Python pickle, protocol 5; only Python reads it |
//! | [`CODEC_MODEL_PICKLE`] 3 | fingerprints of Django models, then a pickle that holds instances of them |
//!
//! [`FLAG_LZ4`] (0x40) and [`FLAG_ZSTD`] (0x80) say that the payload is compressed: four bytes, little endian, with the
//! size it unpacks to (at most [`MAX_UNPACKED`]), then one LZ4 block or one zstd frame.
//!
//! In stores outside of the machine [`FLAG_SIGNED`] (0x10) or [`FLAG_ENCRYPTED`] (0x20) says that all that, compressed or not, is
//! sealed: the payload ends in a seal that also covers the codec byte and the key. A reader that opens no seals refuses both.
//!
//! # Values
//!
//! `nil`, `bool`, integers of 64 bits, `float 64`, `str` (UTF-8), `bin`, `array` (a list) and `map` (a dict, keys of any
//! type, order kept) are MessagePack's own. The rest are MessagePack extensions. All numbers inside them are big endian,
//! as everywhere in MessagePack; `value` is any value of this format, nested.
//!
//! | type | name | payload |
//! |---|---|---|
//! | 1 | tuple | one `array` |
//! | 2 | set | one `array` |
//! | 3 | frozenset | one `array` |
//! | 4 | big integer | two's complement, **little** endian, at least one byte |
//! | 5 | str with lone surrogates | UTF-8 that also encodes surrogates (Python's `surrogatepass`) |
//! | 6 | date | year `u16`, month `u8`, day `u8` |
//! | 7 | time | hour `u8` (+ 0x80: fold), minute `u8`, second `u8`, microsecond `u24`, then a zone |
//! | 8 | datetime | year `u16`, month `u8` (+ 0x80: fold), day `u8`, hour, minute, second `u8`, microsecond `u24`, then a zone |
//! | 9 | timedelta | days `i32`, seconds `u32` (< 86 400), microseconds `u32` (< 10^6) |
//! | 10 | decimal | its text, ASCII, as Python's `str(Decimal)` writes it |
//! | 11 | UUID | 16 bytes |
//! | 12 | safe string | UTF-8 text that needs no HTML escaping |
//! | 13 | rows | `array` of column names, row count (an integer), then the cells, row by row |
//! | 14 | tuples | width (an integer, at least 1), row count (an integer), then the cells, row by row |
//! | 15 | models | see below |
//! | 16 | response | `array` of seven: kind, status, reason, charset, headers, cookies, body; then one `map` of other attributes |
//!
//! A *zone* is nothing (a naive time), or one byte: 0 = UTC; 1 = a fixed offset, followed by its microseconds, `i64`;
//! 2 = a named zone, followed by its name in the zone database.
//!
//! *Models* are Django model instances of one class with the same fields. First a shape number, an integer: the number
//! of shapes seen before in this value means a new shape, which follows as an `array` of six: app label, model name,
//! fingerprint of the model's fields (16 bytes), flags, database alias (`str` or `nil`), and an `array` of attribute
//! names. A smaller number refers back. Then a row count (an integer), or `nil` for a single instance that is not in
//! a list. Then the rows: when the shape's [`SHAPE_RELATED`] flag is set, first a `map` of related instances; then one
//! value for each attribute.
//!
//! In a *response* kind is 0 for `HttpResponse`, 1 for `SimpleTemplateResponse`, 2 for `TemplateResponse`; status is an
//! integer or `nil` (200); headers is an `array` of name, value, name, value, with the name's case kept; cookies is an
//! `array` with, for each cookie, its name, key, value, coded value and a `map` of its attributes; body is an `array`
//! of `bin` chunks.
//!
//! # Limits
//!
//! Values nest at most [`MAX_DEPTH`] deep. A declared count never exceeds the bytes that are left, so a short input cannot
//! ask for much memory.

mod moment;
mod reader;
mod value;
mod writer;

pub use moment::{Zone, check_date, is_zone_name, push_zone, split_datetime, split_time, split_timedelta};
pub use reader::{Error, Reader, Token};
pub use value::{DateTime, Moment, Response, Shape, Value};
pub use writer::{Mark, Writer};

pub use crate::entry::CODEC_COUNT;
/// A payload in the format of this module.
pub const CODEC_TAGGED: u8 = 1;
/// A payload that only Python can read.
pub const CODEC_PICKLE: u8 = 2;
/// The payload is a list of Django models, each with a fingerprint of its fields, and a pickle.
pub const CODEC_MODEL_PICKLE: u8 = 3;
/// The bits of the codec byte that say what the payload is.
pub const CODEC_MASK: u8 = 0x0f;
/// The payload ends in a signature.
pub const FLAG_SIGNED: u8 = 0x10;
/// The payload is encrypted.
pub const FLAG_ENCRYPTED: u8 = 0x20;
/// The payload is a size and an LZ4 block.
pub const FLAG_LZ4: u8 = 0x40;
/// The payload is a size and a zstd frame.
pub const FLAG_ZSTD: u8 = 0x80;

/// How deep values may nest. Pages, sessions and rows nest less than ten deep; 64 levels need a few KiB of stack.
pub const MAX_DEPTH: u32 = 64;
/// What a compressed payload may unpack to: the largest value that a store takes.
pub const MAX_UNPACKED: usize = 64 << 20;

/// Extension types; see the table above.
pub mod ext {
    #![allow(missing_docs)]
    pub const TUPLE: i8 = 1;
    pub const SET: i8 = 2;
    pub const FROZENSET: i8 = 3;
    pub const BIG_INT: i8 = 4;
    pub const SURROGATES: i8 = 5;
    pub const DATE: i8 = 6;
    pub const TIME: i8 = 7;
    pub const DATETIME: i8 = 8;
    pub const TIMEDELTA: i8 = 9;
    pub const DECIMAL: i8 = 10;
    pub const UUID: i8 = 11;
    pub const SAFE: i8 = 12;
    pub const ROWS: i8 = 13;
    pub const TUPLES: i8 = 14;
    pub const MODELS: i8 = 15;
    pub const RESPONSE: i8 = 16;
}

/// A zone: UTC.
pub const ZONE_UTC: u8 = 0;
/// A zone: a fixed offset in microseconds.
pub const ZONE_OFFSET: u8 = 1;
/// A zone: a name of the zone database.
pub const ZONE_NAMED: u8 = 2;
/// The bit in the hour of a time or the month of a datetime that says: the second of two equal wall-clock times.
pub const FOLD: u8 = 0x80;

/// The instance knows its database (`_state.db` is set).
pub const SHAPE_HAS_DB: u64 = 1;
/// The instance says whether it is being added (`_state.adding` is set).
pub const SHAPE_HAS_ADDING: u64 = 2;
/// The value of `_state.adding`.
pub const SHAPE_ADDING: u64 = 4;
/// Each row starts with a map of related instances.
pub const SHAPE_RELATED: u64 = 8;
/// How missing fields are fetched (`_state.fetch_mode`, Django 6.1): none said, one, peers, raise.
pub const SHAPE_FETCH: u64 = 0x30;
/// The lowest bit of [`SHAPE_FETCH`].
pub const SHAPE_FETCH_SHIFT: u32 = 4;
