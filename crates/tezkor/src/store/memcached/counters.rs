//! Numbers in memcached: sums and maxima of signed numbers, exact whoever else counts. Its own arithmetic is unsigned, stops at zero and
//! wraps at 2^64, so it is used only where that makes no difference; all else reads, and writes over what it has read.
//!
//! It never shortens a lifetime. A number that is counted by reading and writing may live a second longer each time its server's clock
//! ticks in between.

use super::connection::Answer;
use super::lifetime::Seconds;
use super::wire::{self, Code, Verb, When};
use super::{MOST_ROUNDS, Memcached};
use crate::entry::Incr;
use crate::error::Error;
use crate::store::far::server::Lifetime;

/// Numbers below it are so far from the end of `i64` that whatever is added to them meanwhile does not lead there.
const FAR_FROM_THE_END: i64 = 1 << 61;

impl Memcached {
    /// Adds to a number; see [`super::Server::incr`].
    pub(super) fn add_to(&self, name: &[u8], delta: i64) -> Result<Incr, Error> {
        for _ in 0..MOST_ROUNDS {
            let before = self.ask_one(name, Verb::Get(" v c t"))?;
            if !before.is_held() {
                return Ok(Incr::Missing);
            }
            let Some(number) = number(&before.value) else { return Ok(Incr::NotACount) };
            let Some(sum) = number.checked_add(delta) else { return Ok(Incr::NotACount) };
            let is_plain = number >= 0 && delta > 0 && number.max(delta) < FAR_FROM_THE_END;
            let done = if is_plain { self.count(name, delta)? } else { self.replace(name, &before, sum)? };
            if let Some(done) = done {
                return Ok(done);
            }
        }
        Err(self.unsettled())
    }

    /// Adds by memcached's own arithmetic; nothing where the value is no longer one that it can count.
    fn count(&self, name: &[u8], delta: i64) -> Result<Option<Incr>, Error> {
        let delta = delta.unsigned_abs();
        let answer = self.ask_one(name, Verb::Count { mode: b'I', delta, cas: None })?;
        match answer.code {
            Code::Value => {}
            Code::NotFound => return Ok(Some(Incr::Missing)),
            _ => return Ok(None),
        }
        if let Some(sum) = number(&answer.value) {
            return Ok(Some(Incr::Value(sum)));
        }
        self.take_back(name, delta)?;
        Ok(Some(Incr::NotACount))
    }

    /// Takes back what was added to a number that somebody has set near the end since it was read, so that the sum lies beyond. All who
    /// led it there do so, until it is a number again; what was written over it meanwhile stays.
    fn take_back(&self, name: &[u8], delta: u64) -> Result<(), Error> {
        for _ in 0..MOST_ROUNDS {
            let beyond = self.ask_one(name, Verb::Get(" v c"))?;
            let is_beyond = wire::number(beyond.value.trim_ascii_end()).is_some_and(|sum| sum > i64::MAX as u64);
            if !is_beyond {
                return Ok(());
            }
            let cas = Some(self.cas(&beyond)?);
            if self.ask_one(name, Verb::Count { mode: b'D', delta, cas })?.code != Code::Exists {
                return Ok(());
            }
        }
        Err(self.unsettled())
    }

    /// Writes the sum over the number that was read; nothing where that is there no longer.
    fn replace(&self, name: &[u8], before: &Answer, sum: i64) -> Result<Option<Incr>, Error> {
        let (text, when) = (sum.to_string(), When::Cas(self.cas(before)?));
        let verb = Verb::Set { value: text.as_bytes(), ttl: before.lives_on().token(), when };
        Ok((self.ask_one(name, verb)?.code == Code::Done).then_some(Incr::Value(sum)))
    }

    /// Raises each number to at least this; see [`super::Server::raise`].
    pub(super) fn raise_all(&self, items: &[(&[u8], i64, Lifetime)]) -> Result<(), Error> {
        let mut waiting: Vec<usize> = (0..items.len()).collect();
        for _ in 0..MOST_ROUNDS {
            let found = self.ask_all(waiting.iter().map(|at| (items[*at].0, Verb::Get(" v c t"))))?;
            let mut raises: Vec<(usize, Raise)> = Vec::new();
            for (at, before) in waiting.iter().zip(&found) {
                let (_, number, lifetime) = items[*at];
                if let Some(raise) = self.raise_of(before, number, lifetime)? {
                    raises.push((*at, raise));
                }
            }
            let answers = self.ask_all(raises.iter().map(|(at, raise)| {
                let verb = Verb::Set { value: raise.text.as_bytes(), ttl: raise.ttl.token(), when: raise.when };
                (items[*at].0, verb)
            }))?;
            waiting = (raises.iter().zip(&answers))
                .filter(|(_, answer)| answer.code != Code::Done)
                .map(|((at, _), _)| *at)
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
        }
        Err(self.unsettled())
    }

    /// What has to be written over what is there, if anything.
    fn raise_of(&self, before: &Answer, number: i64, lifetime: Lifetime) -> Result<Option<Raise>, Error> {
        let asked = Seconds::of(lifetime, Seconds::EVER);
        if before.code == Code::Missing {
            return Ok(Some(Raise { text: number.to_string(), ttl: asked, when: When::Absent }));
        }
        let when = When::Cas(self.cas(before)?);
        let held = before.is_held().then(|| self::number(&before.value)).flatten();
        let Some(held) = held else { return Ok(Some(Raise { text: number.to_string(), ttl: asked, when })) };
        let left = before.lives_on();
        let ttl = left.longest(Seconds::of(lifetime, left));
        if held >= number && ttl == left {
            return Ok(None);
        }
        Ok(Some(Raise { text: held.max(number).to_string(), ttl, when }))
    }
}

struct Raise {
    text: String,
    ttl: Seconds,
    when: When,
}

/// A number in plain decimal. memcached leaves spaces behind a number that it has made shorter.
fn number(value: &[u8]) -> Option<i64> {
    let text = value.trim_ascii_end();
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_number_is_plain_decimal() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0", Some(0)),
            (b"-7", Some(-7)),
            (b"9 ", Some(9)),
            (b"9223372036854775807", Some(i64::MAX)),
            (b"-9223372036854775808", Some(i64::MIN)),
            (b"9223372036854775808", None),
            (b"", None),
            (b"-", None),
            (b"+5", None),
            (b" 5", None),
            (b"5 x", None),
            (b"1.5", None),
            (b"\xd45", None),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), *expected, "{}", String::from_utf8_lossy(value));
        }
    }
}
