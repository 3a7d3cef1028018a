//! The meta protocol of memcached as bytes: questions are written, replies are read. It never does I/O and never waits; what is not
//! whole yet is [`Decoded::More`], what no memcached says is [`Decoded::Foreign`].
//!
//! ```text
//! mg <key> [b] [v] [c] [t] [q] O<opaque>          VA <size> c<cas> t<left> O<opaque> [W] [X] [Z] \r\n <size bytes>   EN O<opaque>
//! ms <key> <size> [b] T<ttl> [C<cas>] O<opaque>   HD O<opaque>      NS: there already     EX: another cas     NF: gone
//! md <key> [b] [C<cas>] [I T<ttl>] O<opaque>      HD                NF                    EX
//! ma <key> [b] M<mode> D<delta> v [C<cas>] O<opaque>   VA <size> ...   NF   EX
//! ```
//!
//! Each question has an opaque, a number that its reply echoes. Only errors (`ERROR`, `CLIENT_ERROR`, `SERVER_ERROR`) echo nothing.

use std::io::Write as _;

use super::name::Name;

/// The longest line of a reply: flags of 250 bytes of key and texts of errors stay far below it.
const LONGEST_LINE: usize = 2048;
/// The largest value that any memcached can be set to hold (`-I 1024m`).
const LARGEST_VALUE: usize = 1 << 30;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb<'v> {
    /// `mg` with these flags, each after a space.
    Get(&'static str),
    /// `mg` that gives the value another lifetime.
    Touch(u32),
    /// `mg` that makes an empty value of this lifetime where nothing is, and lets one caller win when less than so much is left.
    Lease(u32, Option<u32>),
    /// `ms`.
    Set { value: &'v [u8], ttl: u32, when: When },
    /// `md`, of whatever is there or of the value with this cas.
    Delete(Option<u64>),
    /// `md` that marks the value stale and lets it live for so long.
    Invalidate(u32),
    /// `ma`, of whatever is there or of the number with this cas.
    Count { mode: u8, delta: u64, cas: Option<u64> },
}

/// Under which condition a value is set.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Always,
    Absent,
    /// Over the value with this cas.
    Cas(u64),
    /// Over the value with this cas; over a value that was marked stale since then too, and then it is stale itself.
    CasOrStale(u64),
}

/// Whether a reply is asked for that says "nothing here".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Aloud,
    Quiet,
}

impl Verb<'_> {
    /// Writes the question.
    pub(super) fn write(&self, name: &Name<'_>, opaque: u32, tone: Tone, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Verb::Get(_) | Verb::Touch(_) | Verb::Lease(..) => b"mg ",
            Verb::Set { .. } => b"ms ",
            Verb::Delete(_) | Verb::Invalidate(_) => b"md ",
            Verb::Count { .. } => b"ma ",
        });
        let flag = name.write(out);
        if let Verb::Set { value, .. } = self {
            push(out, format_args!(" {}", value.len()));
        }
        out.extend_from_slice(flag);
        match self {
            Verb::Get(flags) => out.extend_from_slice(flags.as_bytes()),
            Verb::Touch(ttl) => push(out, format_args!(" T{ttl}")),
            Verb::Lease(ttl, None) => push(out, format_args!(" v c N{ttl}")),
            Verb::Lease(ttl, Some(early)) => push(out, format_args!(" v c N{ttl} R{early}")),
            Verb::Set { ttl, when, .. } => {
                push(out, format_args!(" T{ttl}"));
                match when {
                    When::Always => {}
                    When::Absent => out.extend_from_slice(b" ME"),
                    When::Cas(cas) => push(out, format_args!(" C{cas}")),
                    When::CasOrStale(cas) => push(out, format_args!(" C{cas} I")),
                }
            }
            Verb::Delete(None) => {}
            Verb::Delete(Some(cas)) => push(out, format_args!(" C{cas}")),
            Verb::Invalidate(ttl) => push(out, format_args!(" I T{ttl}")),
            Verb::Count { mode, delta, cas } => {
                push(out, format_args!(" M{} D{delta} v", char::from(*mode)));
                if let Some(cas) = cas {
                    push(out, format_args!(" C{cas}"));
                }
            }
        }
        if tone == Tone::Quiet {
            out.extend_from_slice(b" q");
        }
        push(out, format_args!(" O{opaque:08x}\r\n"));
        if let Verb::Set { value, .. } = self {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Whether this code can be the reply.
    pub(super) fn allows(&self, code: Code) -> bool {
        match self {
            Verb::Get(flags) if flags.contains(" v") => matches!(code, Code::Value | Code::Missing),
            Verb::Get(_) | Verb::Touch(_) => matches!(code, Code::Done | Code::Missing),
            Verb::Lease(..) => code == Code::Value,
            Verb::Set { when, .. } => match when {
                When::Always => code == Code::Done,
                When::Absent => matches!(code, Code::Done | Code::NotStored),
                When::Cas(_) | When::CasOrStale(_) => matches!(code, Code::Done | Code::Exists | Code::NotFound),
            },
            Verb::Delete(None) | Verb::Invalidate(_) => matches!(code, Code::Done | Code::NotFound),
            Verb::Delete(Some(_)) => matches!(code, Code::Done | Code::Exists | Code::NotFound),
            Verb::Count { cas: None, .. } => matches!(code, Code::Value | Code::NotFound),
            Verb::Count { cas: Some(_), .. } => matches!(code, Code::Value | Code::NotFound | Code::Exists),
        }
    }
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a vector cannot fail.
    let _ = out.write_fmt(text);
}

/// The first word of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `VA`
    Value,
    /// `HD`
    Done,
    /// `EN`
    Missing,
    /// `NS`
    NotStored,
    /// `EX`
    Exists,
    /// `NF`
    NotFound,
    /// `ERROR`, `CLIENT_ERROR`, `SERVER_ERROR`: the value is the whole line.
    Error,
}

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'b> {
    /// What came of it.
    pub code: Code,
    /// The value, of `VA` alone, and the line of an error.
    pub value: &'b [u8],
    /// Which question it answers.
    pub opaque: Option<u32>,
    /// The number of this write of the value.
    pub cas: Option<u64>,
    /// Seconds that the value lives on; -1 is for ever.
    pub left: Option<i64>,
    /// What its writer says of the value.
    pub flags: u32,
    /// `W`: the caller is the one who is to make the value.
    pub won: bool,
    /// `X`: the value was marked stale.
    pub stale: bool,
    /// `Z`: somebody else has won.
    pub waiting: bool,
}

/// What the bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'b> {
    /// A reply, and how many bytes it takes.
    Reply(Reply<'b>, usize),
    /// The bytes end too early; so many are needed at least.
    More(usize),
    /// memcached does not speak so.
    Foreign,
}

/// Reads the reply at the beginning of the bytes.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some(end) = line_end(bytes) else {
        return if bytes.len() >= LONGEST_LINE { Decoded::Foreign } else { Decoded::More(bytes.len() + 1) };
    };
    let Some(line) = bytes[..end].strip_suffix(b"\r") else { return Decoded::Foreign };
    if let Some(reply) = error(line) {
        return Decoded::Reply(reply, end + 1);
    }
    let Some((reply, size)) = read_line(line) else { return Decoded::Foreign };
    let Some(size) = size else { return Decoded::Reply(reply, end + 1) };
    let (start, whole) = (end + 1, end + 1 + size + 2);
    if bytes.len() < whole {
        return Decoded::More(whole);
    }
    if &bytes[start + size..whole] != b"\r\n" {
        return Decoded::Foreign;
    }
    Decoded::Reply(Reply { value: &bytes[start..start + size], ..reply }, whole)
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes[..bytes.len().min(LONGEST_LINE)].iter().position(|byte| *byte == b'\n')
}

fn error(line: &[u8]) -> Option<Reply<'_>> {
    let is_error = line == b"ERROR" || line.starts_with(b"CLIENT_ERROR ") || line.starts_with(b"SERVER_ERROR ");
    is_error.then_some(Reply { value: line, ..empty(Code::Error) })
}

fn empty(code: Code) -> Reply<'static> {
    Reply { code, value: b"", opaque: None, cas: None, left: None, flags: 0, won: false, stale: false, waiting: false }
}

/// The reply in a line, and the size of the value that follows.
fn read_line(line: &[u8]) -> Option<(Reply<'_>, Option<usize>)> {
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let mut reply = empty(match words.next()? {
        b"VA" => Code::Value,
        b"HD" => Code::Done,
        b"EN" => Code::Missing,
        b"NS" => Code::NotStored,
        b"EX" => Code::Exists,
        b"NF" => Code::NotFound,
        _ => return None,
    });
    let mut size = None;
    if reply.code == Code::Value {
        size = Some(number(words.next()?).filter(|size| *size <= LARGEST_VALUE as u64)? as usize);
    }
    for word in words {
        let (flag, token) = word.split_first()?;
        match flag {
            b'O' => reply.opaque = Some(opaque(token)?),
            b'c' => reply.cas = Some(number(token)?),
            b'f' => reply.flags = number(token).and_then(|flags| u32::try_from(flags).ok()).unwrap_or(u32::MAX),
            b't' if token == b"-1" => reply.left = Some(-1),
            b't' => reply.left = Some(i64::try_from(number(token)?).ok()?),
            b'W' => reply.won = true,
            b'X' => reply.stale = true,
            b'Z' => reply.waiting = true,
            // What later versions may add.
            _ => {}
        }
    }
    Some((reply, size))
}

/// A number in plain decimal, without a sign.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn opaque(text: &[u8]) -> Option<u32> {
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if text.len() > 8 || !text.iter().all(is_hex) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(verb: Verb<'_>, name: &[u8], tone: Tone) -> String {
        let mut out = Vec::new();
        verb.write(&Name::of(name), 0xAB, tone, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn questions_are_written_as_the_protocol_says() {
        for (verb, expected) in [
            (Verb::Get(" v c"), "mg k v c O000000ab\r\n"),
            (Verb::Touch(60), "mg k T60 O000000ab\r\n"),
            (Verb::Lease(30, None), "mg k v c N30 O000000ab\r\n"),
            (Verb::Lease(30, Some(5)), "mg k v c N30 R5 O000000ab\r\n"),
            (Verb::Set { value: b"x\r\n", ttl: 0, when: When::Always }, "ms k 3 T0 O000000ab\r\nx\r\n\r\n"),
            (Verb::Set { value: b"", ttl: 9, when: When::Absent }, "ms k 0 T9 ME O000000ab\r\n\r\n"),
            (Verb::Set { value: b"1", ttl: 9, when: When::Cas(7) }, "ms k 1 T9 C7 O000000ab\r\n1\r\n"),
            (Verb::Set { value: b"1", ttl: 9, when: When::CasOrStale(7) }, "ms k 1 T9 C7 I O000000ab\r\n1\r\n"),
            (Verb::Delete(None), "md k O000000ab\r\n"),
            (Verb::Delete(Some(7)), "md k C7 O000000ab\r\n"),
            (Verb::Invalidate(30), "md k I T30 O000000ab\r\n"),
            (Verb::Count { mode: b'I', delta: 3, cas: None }, "ma k MI D3 v O000000ab\r\n"),
            (Verb::Count { mode: b'D', delta: 3, cas: Some(9) }, "ma k MD D3 v C9 O000000ab\r\n"),
        ] {
            assert_eq!(written(verb, b"k", Tone::Aloud), expected);
        }
        assert_eq!(written(Verb::Get(" v"), b"a b", Tone::Quiet), "mg YSBi b v q O000000ab\r\n");
        assert_eq!(
            written(Verb::Set { value: b"1", ttl: 0, when: When::Always }, b" ", Tone::Aloud),
            "ms IA== 1 b T0 O000000ab\r\n1\r\n"
        );
    }

    #[test]
    fn replies_are_read_at_whatever_byte_they_are_cut() {
        let stream = b"VA 4 c18446744073709551615 t-1 O0 W X Z \r\n\r\n\r\n\r\nHD O12 kname fnew\r\n\
            EN Off\r\nNS\r\nEX Oa\r\nNF Ob\r\nERROR\r\nCLIENT_ERROR no\r\nSERVER_ERROR out of memory\r\nVA 0 t7\r\n\r\n";
        let mut codes = Vec::new();
        let mut at = 0;
        while at < stream.len() {
            let whole = match decode(&stream[at..]) {
                Decoded::Reply(reply, whole) => {
                    codes.push(reply.code);
                    whole
                }
                other => panic!("{other:?} at {at}"),
            };
            for cut in 0..whole {
                let Decoded::More(needed) = decode(&stream[at..at + cut]) else { panic!("cut at {cut}") };
                assert!(needed > cut && needed <= whole);
            }
            at += whole;
        }
        use Code::{Done, Error, Exists, Missing, NotFound, NotStored, Value};
        assert_eq!(codes, [Value, Done, Missing, NotStored, Exists, NotFound, Error, Error, Error, Value]);
        let Decoded::Reply(first, _) = decode(stream) else { panic!("it was read above") };
        let marks = (first.won, first.stale, first.waiting);
        assert_eq!(
            (first.value, first.opaque, first.cas, first.left),
            (&b"\r\n\r\n"[..], Some(0), Some(u64::MAX), Some(-1))
        );
        assert_eq!(marks, (true, true, true));
    }

    #[test]
    fn what_memcached_does_not_say_is_foreign() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"HD\n",
            b"\r\n",
            b"VA\r\n",
            b"VA x\r\n",
            b"VA -1\r\n",
            b"VA 99999999999\r\n",
            b"VA 2\r\nabcd",
            b"HD Oxyz\r\n",
            b"HD O123456789\r\n",
            b"HD c\r\n",
            b"HD t-2\r\n",
            b"+OK\r\n",
            b"MN\r\n",
            &[b'a'; LONGEST_LINE],
        ] {
            assert_eq!(decode(bytes), Decoded::Foreign, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
