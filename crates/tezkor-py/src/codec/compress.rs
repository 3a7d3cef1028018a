//! Compressed payloads: four bytes, little endian, with the unpacked size, then an LZ4 block or a zstd frame. Never
//! unpacks more than that size says, and never more than the format allows.

use std::fmt;

use tezkor::codec::MAX_UNPACKED;

/// zstd's fastest ordinary level: on pages it packs twice as well as LZ4 at half the speed.
const ZSTD_LEVEL: i32 = 1;
const HEAD: usize = 4;

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// For memory: unpacks at the speed of reading.
    Lz4,
    /// For disk: packs better.
    Zstd,
}

/// The bytes do not unpack to what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the compressed value is damaged")
    }
}

impl std::error::Error for Damaged {}

/// Packs a payload, or returns `None` when that does not make it smaller.
pub fn pack(method: Method, payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() > MAX_UNPACKED {
        return None;
    }
    let mut out = u32::try_from(payload.len()).ok()?.to_le_bytes().to_vec();
    match method {
        Method::Lz4 => out.extend_from_slice(&lz4_flex::block::compress(payload)),
        Method::Zstd => out.extend_from_slice(&zstd::bulk::compress(payload, ZSTD_LEVEL).ok()?),
    }
    (out.len() < payload.len()).then_some(out)
}

/// Unpacks it.
pub fn unpack(method: Method, packed: &[u8]) -> Result<Vec<u8>, Damaged> {
    let (head, body) = packed.split_first_chunk::<HEAD>().ok_or(Damaged)?;
    let size = u32::from_le_bytes(*head) as usize;
    if size > MAX_UNPACKED {
        return Err(Damaged);
    }
    let payload = match method {
        // LZ4 packs 255 times at best: a larger claim is not worth its memory.
        Method::Lz4 if size / 256 > body.len() => return Err(Damaged),
        Method::Lz4 => lz4_flex::block::decompress(body, size).map_err(|_| Damaged)?,
        Method::Zstd => zstd::bulk::decompress(body, size).map_err(|_| Damaged)?,
    };
    if payload.len() == size { Ok(payload) } else { Err(Damaged) }
}
