//! The commands that are sent, and their bytes on the wire: arrays of counted strings. It never looks at what comes back.

use std::time::Duration;

use super::scripts::Script;
use crate::store::far::server::{Item, Lifetime};

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command<'c> {
    /// The value under a name.
    Get(&'c [u8]),
    /// The values under many names, which one server has all.
    GetAll(&'c [&'c [u8]]),
    /// Writes, whatever is there.
    Set(Item<'c>),
    /// Writes where nothing is.
    Add(Item<'c>),
    /// Removes.
    Unlink(&'c [u8]),
    /// Whether it is there.
    Exists(&'c [u8]),
    /// Another lifetime in milliseconds.
    Expire(&'c [u8], u64),
    /// No lifetime.
    Persist(&'c [u8]),
    /// The milliseconds that are left.
    Left(&'c [u8]),
    /// A script by its digest.
    Run(Script, Arguments<'c>),
    /// A script by its text, which the server keeps from then on.
    Teach(Script, Arguments<'c>),
    /// Anything that has no name, such as what a connection begins with.
    Words(&'c [&'c [u8]]),
    /// A part of the names.
    Scan(&'c [u8], &'c [u8]),
}

/// What a script gets: a name, and up to two texts and a lifetime.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'c> {
    pub name: &'c [u8],
    pub texts: [Option<&'c [u8]>; 2],
    pub number: Option<i64>,
    pub lifetime: Option<Lifetime>,
}

impl<'c> Arguments<'c> {
    pub(super) fn of(name: &'c [u8]) -> Arguments<'c> {
        Arguments { name, texts: [None, None], number: None, lifetime: None }
    }
}

/// How many names one turn of a scan looks at: enough to make the turns few, and well below a millisecond of the server's time.
const SCAN_COUNT: &[u8] = b"1000";
/// Servers refuse what overflows their clock: 30 000 years are never.
const LONGEST_MS: u128 = 1_000_000_000_000_000;

/// A lifetime in milliseconds, at least one.
pub(super) fn milliseconds(time: Duration) -> u64 {
    time.as_micros().div_ceil(1000).clamp(1, LONGEST_MS) as u64
}

impl<'c> Command<'c> {
    /// The name that it is about, which says where in a cluster it goes.
    pub(super) fn name(&self) -> Option<&'c [u8]> {
        match self {
            Command::Get(name)
            | Command::Unlink(name)
            | Command::Exists(name)
            | Command::Expire(name, _)
            | Command::Persist(name)
            | Command::Left(name) => Some(name),
            Command::Set(item) | Command::Add(item) => Some(item.name),
            Command::Run(_, arguments) | Command::Teach(_, arguments) => Some(arguments.name),
            Command::GetAll(names) => names.first().copied(),
            Command::Words(_) | Command::Scan(..) => None,
        }
    }

    /// Appends its bytes.
    pub(super) fn pack(&self, out: &mut Vec<u8>) {
        match *self {
            Command::Get(name) => words(out, &[b"GET", name]),
            Command::GetAll(names) => {
                array(out, names.len() + 1);
                [&b"MGET"[..]].iter().chain(names).for_each(|word| string(out, word));
            }
            Command::Set(item) => {
                array(out, 3 + lifetime_words(item.lifetime));
                [b"SET", item.name, item.bytes].iter().for_each(|word| string(out, word));
                lifetime(out, item.lifetime);
            }
            Command::Add(item) => {
                // What is absent has no lifetime to keep.
                let kept = if item.lifetime == Lifetime::Keep { Lifetime::Never } else { item.lifetime };
                array(out, 4 + lifetime_words(kept));
                [b"SET", item.name, item.bytes, b"NX"].iter().for_each(|word| string(out, word));
                lifetime(out, kept);
            }
            Command::Unlink(name) => words(out, &[b"UNLINK", name]),
            Command::Exists(name) => words(out, &[b"EXISTS", name]),
            Command::Expire(name, ms) => words(out, &[b"PEXPIRE", name, Decimal::of(ms as i64).text()]),
            Command::Persist(name) => words(out, &[b"PERSIST", name]),
            Command::Left(name) => words(out, &[b"PTTL", name]),
            Command::Run(script, arguments) => {
                run(out, [b"EVALSHA", script.digest().as_bytes()], &arguments);
            }
            Command::Teach(script, arguments) => run(out, [b"EVAL", script.text().as_bytes()], &arguments),
            Command::Words(all) => words(out, all),
            Command::Scan(cursor, pattern) => {
                words(out, &[b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_COUNT]);
            }
        }
    }
}

fn run(out: &mut Vec<u8>, [verb, script]: [&[u8]; 2], arguments: &Arguments<'_>) {
    let texts = arguments.texts.iter().flatten();
    let lifetime_count = arguments.lifetime.map_or(0, lifetime_words);
    array(out, 4 + texts.clone().count() + usize::from(arguments.number.is_some()) + lifetime_count);
    [verb, script, b"1", arguments.name].iter().for_each(|word| string(out, word));
    texts.for_each(|text| string(out, text));
    if let Some(number) = arguments.number {
        string(out, Decimal::of(number).text());
    }
    if let Some(time) = arguments.lifetime {
        lifetime(out, time);
    }
}

fn lifetime_words(lifetime: Lifetime) -> usize {
    match lifetime {
        Lifetime::Never => 0,
        Lifetime::After(_) => 2,
        Lifetime::Keep => 1,
    }
}

fn lifetime(out: &mut Vec<u8>, lifetime: Lifetime) {
    match lifetime {
        Lifetime::Never => {}
        Lifetime::After(time) => {
            string(out, b"PX");
            string(out, Decimal::of(milliseconds(time) as i64).text());
        }
        Lifetime::Keep => string(out, b"KEEPTTL"),
    }
}

fn words(out: &mut Vec<u8>, all: &[&[u8]]) {
    array(out, all.len());
    all.iter().for_each(|word| string(out, word));
}

fn array(out: &mut Vec<u8>, length: usize) {
    head(out, b'*', length);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    // Once for what follows as well, so that a large value does not move when the end of its command is added.
    out.reserve(bytes.len() + 128);
    head(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn head(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(Decimal::of(length as i64).text());
    out.extend_from_slice(b"\r\n");
}

/// The decimal text of a number, without an allocation.
struct Decimal {
    digits: [u8; 20],
    from: usize,
}

impl Decimal {
    fn of(number: i64) -> Decimal {
        let mut decimal = Decimal { digits: [0; 20], from: 20 };
        let mut rest = number.unsigned_abs();
        loop {
            decimal.push(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            decimal.push(b'-');
        }
        decimal
    }

    fn push(&mut self, letter: u8) {
        self.from -= 1;
        self.digits[self.from] = letter;
    }

    fn text(&self) -> &[u8] {
        &self.digits[self.from..]
    }
}

/// The pattern of all names that begin so: what has a meaning in patterns gets a backslash.
pub(super) fn pattern_of(beginning: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(beginning.len() + 8);
    for byte in beginning {
        if b"*?[]\\^-".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(command: Command<'_>) -> String {
        let mut out = Vec::new();
        command.pack(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn commands_are_arrays_of_counted_strings() {
        let item = |lifetime| Item { name: b"n", bytes: b"v\r\n", lifetime };
        assert_eq!(packed(Command::Get(b"")), "*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
        assert_eq!(packed(Command::GetAll(&[b"a", b"bc"])), "*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$2\r\nbc\r\n");
        assert_eq!(packed(Command::Set(item(Lifetime::Never))), "*3\r\n$3\r\nSET\r\n$1\r\nn\r\n$3\r\nv\r\n\r\n");
        let nano = Lifetime::After(Duration::from_nanos(1));
        assert!(packed(Command::Set(item(nano))).ends_with("$2\r\nPX\r\n$1\r\n1\r\n"));
        assert!(packed(Command::Set(item(Lifetime::Keep))).ends_with("$7\r\nKEEPTTL\r\n"));
        assert!(packed(Command::Add(item(Lifetime::Keep))).ends_with("$2\r\nNX\r\n"));
        let arguments = Arguments { number: Some(i64::MIN), lifetime: Some(nano), ..Arguments::of(b"n") };
        assert!(packed(Command::Run(Script::Raise, arguments)).starts_with("*7\r\n$7\r\nEVALSHA\r\n$40\r\n"));
        assert!(
            packed(Command::Run(Script::Raise, arguments)).contains("\r\n$20\r\n-9223372036854775808\r\n$2\r\nPX\r\n")
        );
    }

    #[test]
    fn lifetimes_stay_within_what_servers_count() {
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert_eq!(milliseconds(Duration::from_micros(1001)), 2);
        assert_eq!(milliseconds(Duration::MAX), LONGEST_MS as u64);
    }

    #[test]
    fn a_beginning_means_itself_in_a_pattern() {
        assert_eq!(pattern_of(b"a*b[c]?\\^-"), b"a\\*b\\[c\\]\\?\\\\\\^\\-*");
    }
}
