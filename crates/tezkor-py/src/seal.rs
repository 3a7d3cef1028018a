//! Signatures and encryption of bytes that leave the machine, bound to the key that they are stored under.
//!
//! Never decodes anything, never panics on any bytes, and never says more of bytes that it refuses than why. It knows no Python. It
//! does not tell an old value of a key from a newer one: who can write to the store can put back what was there before.
//!
//! ```text
//! signed       payload             | tag (16 bytes)              | key id (1 byte)
//! encrypted    encrypted payload   | tag (16) | nonce (12)       | key id (1)
//! bound to     length of the full key (u32) | full key | codec byte | length of the header (u32) | header
//! ```
//!
//! The tag of what is signed is the first half of HMAC-SHA256 over what it is bound to and the payload. What is encrypted is encrypted
//! by AES-256-GCM-SIV, with what it is bound to as associated data: its random nonces may collide without harm, and a busy cache
//! writes so much with one key that those of AES-GCM would. All numbers are little endian. The seal stands behind the payload, so
//! that neither sealing nor reading what is signed moves it.
//!
//! The keys of a text (SECRET_KEY) are drawn by HKDF-SHA256, one for signing and one for encryption. The key id is drawn by it as well:
//! it says by which key to read without trying all, it stays when keys change places, and bytes of no known key cost no hashing.
//! It decides nothing: all keys of that id are tried.

use std::fmt;

use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Changes whenever sealed bytes look otherwise, so that neither reads what the other wrote.
const FORMAT: &[u8] = b"tezkor far values 1";
/// Half of the hash: to guess one takes 2^128 tries at the store.
const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

/// What a value is bound to: it is refused anywhere else.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'b> {
    /// Prefix, version and key, as the entry is named.
    pub full_key: &'b [u8],
    /// How the payload is to be read.
    pub codec: u8,
    /// What else is stored with the value and must not be changed; empty where there is nothing.
    pub header: &'b [u8],
}

/// Seals by the first of its keys, and reads by all of them.
pub struct Seal {
    first: Keys,
    others: Vec<Keys>,
}

/// What is drawn from one text.
struct Keys {
    id: u8,
    signing: Hmac<Sha256>,
    encryption: Aes256GcmSiv,
}

/// Why sealed bytes are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No key of ours made them.
    UnknownKey,
    /// They were changed, cut or moved.
    Changed,
}

/// Why there can be no seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is no text to draw keys from.
    NoText,
    /// The text at this place is empty, so everybody knows it.
    EmptyText(usize),
}

/// Why a value was not encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unencrypted {
    /// The operating system gives no random bytes.
    NoRandomness,
    /// It has more than the 64 GiB that the cipher takes, a thousand times what a store takes.
    TooLong,
}

impl Seal {
    /// A seal that writes by the first text and reads by all.
    pub fn new<T: AsRef<[u8]>>(texts: &[T]) -> Result<Self, Unusable> {
        if let Some(index) = texts.iter().position(|text| text.as_ref().is_empty()) {
            return Err(Unusable::EmptyText(index));
        }
        let mut keys = texts.iter().map(|text| Keys::drawn_from(text.as_ref()));
        let first = keys.next().ok_or(Unusable::NoText)?;
        Ok(Self { first, others: keys.collect() })
    }

    /// Signs a payload: appends the tag.
    pub fn sign(&self, binding: &Binding<'_>, payload: &mut Vec<u8>) {
        let tag = self.first.signature(binding, payload).finalize().into_bytes();
        payload.extend_from_slice(&tag[..TAG_BYTES]);
        payload.push(self.first.id);
    }

    /// The payload of bytes that were signed for the same binding.
    pub fn verify<'s>(&self, binding: &Binding<'_>, sealed: &'s [u8]) -> Result<&'s [u8], Refused> {
        let (id, sealed) = sealed.split_last().ok_or(Refused::Changed)?;
        let (payload, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(Refused::Changed)?;
        // The comparison takes the same time wherever the tags differ.
        let fits = |keys: &Keys| keys.signature(binding, payload).verify_truncated_left(tag).is_ok();
        self.try_keys(*id, |keys| fits(keys).then_some(payload))
    }

    /// Encrypts a payload where it lies, and appends tag and nonce.
    pub fn encrypt(&self, binding: &Binding<'_>, payload: &mut Vec<u8>) -> Result<(), Unencrypted> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| Unencrypted::NoRandomness)?;
        let bound = binding.bytes();
        let cipher = &self.first.encryption;
        let tag = cipher.encrypt_inout_detached(&Nonce::from(nonce), &bound, payload.as_mut_slice().into());
        let tag = tag.map_err(|_| Unencrypted::TooLong)?;
        payload.extend_from_slice(&tag);
        payload.extend_from_slice(&nonce);
        payload.push(self.first.id);
        Ok(())
    }

    /// The payload of bytes that were encrypted for the same binding.
    pub fn decrypt(&self, binding: &Binding<'_>, sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        let (id, sealed) = sealed.split_last().ok_or(Refused::Changed)?;
        let (sealed, nonce) = sealed.split_last_chunk::<NONCE_BYTES>().ok_or(Refused::Changed)?;
        let (encrypted, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(Refused::Changed)?;
        let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag));
        let bound = binding.bytes();
        self.try_keys(*id, |keys| {
            let mut payload = encrypted.to_vec();
            let opened = keys.encryption.decrypt_inout_detached(&nonce, &bound, payload.as_mut_slice().into(), &tag);
            opened.is_ok().then_some(payload)
        })
    }

    /// What the first key of the id gives that gives something.
    fn try_keys<T>(&self, id: u8, mut open: impl FnMut(&Keys) -> Option<T>) -> Result<T, Refused> {
        let mut refused = Refused::UnknownKey;
        for keys in std::iter::once(&self.first).chain(&self.others).filter(|keys| keys.id == id) {
            match open(keys) {
                Some(opened) => return Ok(opened),
                None => refused = Refused::Changed,
            }
        }
        Err(refused)
    }
}

impl Keys {
    /// HKDF-SHA256 with [`FORMAT`] as its salt: each key is the first block that it draws for a label.
    fn drawn_from(text: &[u8]) -> Self {
        let extracted = hash(hmac(FORMAT), &[text]);
        let draw = |label: &[u8]| hash(hmac(&extracted), &[label, &[1]]);
        Self {
            id: draw(b"key id")[0],
            signing: hmac(&draw(b"sign")),
            encryption: Aes256GcmSiv::new(&draw(b"encrypt").into()),
        }
    }

    fn signature(&self, binding: &Binding<'_>, payload: &[u8]) -> Hmac<Sha256> {
        let mut signature = self.signing.clone();
        binding.each_part(|part| signature.update(part));
        signature.update(payload);
        signature
    }
}

/// HMAC under a key of at most 64 bytes, which is filled up with zeros.
fn hmac(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    Hmac::new(&block.into())
}

fn hash(mut hmac: Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().for_each(|part| hmac.update(part));
    hmac.finalize().into_bytes().into()
}

impl Binding<'_> {
    /// What the seal covers besides the payload: lengths go before, so that no two bindings give the same bytes.
    fn each_part(&self, mut each: impl FnMut(&[u8])) {
        each(&(self.full_key.len() as u32).to_le_bytes());
        each(self.full_key);
        each(&[self.codec]);
        each(&(self.header.len() as u32).to_le_bytes());
        each(self.header);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(9 + self.full_key.len() + self.header.len());
        self.each_part(|part| bytes.extend_from_slice(part));
        bytes
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::UnknownKey => "it was sealed by a key that is not ours",
            Self::Changed => "it was changed, cut, or moved from another key",
        })
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoText => formatter.write_str("there is no key to seal with; give at least one"),
            Self::EmptyText(index) => {
                write!(formatter, "key {index} is empty, so everybody could seal with it; remove it or give it a text")
            }
        }
    }
}

impl std::error::Error for Unusable {}

impl fmt::Display for Unencrypted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NoRandomness => "the operating system gives no random bytes, without which nothing is encrypted",
            Self::TooLong => "the value is too long to be encrypted",
        })
    }
}

impl std::error::Error for Unencrypted {}
