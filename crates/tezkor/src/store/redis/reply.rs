//! What servers answer, and reading it: the second version of Redis's protocol, which every server since 1.2 speaks.
//! It never trusts a length further than bytes have come, and anything odd is an error that ends the connection.

use std::io::{self, Read};

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// There is nothing.
    Nil,
    /// `OK`, `PONG`.
    Status(Vec<u8>),
    /// A whole number.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Several.
    Many(Vec<Reply>),
    /// The command was refused, for this reason.
    Refusal(String),
}

impl Reply {
    /// Whether it is a refusal that begins with this word.
    pub(super) fn refuses(&self, word: &str) -> bool {
        matches!(self, Reply::Refusal(text) if text.starts_with(word))
    }

    /// The bytes as a text, or an empty one.
    pub(super) fn text(&self) -> &str {
        match self {
            Reply::Bytes(bytes) | Reply::Status(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            _ => "",
        }
    }

    /// Its parts, or none.
    pub(super) fn parts(&self) -> &[Reply] {
        match self {
            Reply::Many(parts) => parts,
            _ => &[],
        }
    }

    /// The number, if it is one.
    pub(super) fn number(&self) -> Option<i64> {
        match self {
            Reply::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// Holds a value of 20 KB and what comes with it: one call to the kernel for most exchanges.
const BUFFER_BYTES: usize = 32 << 10;
/// How far the buffer grows while more comes than it holds.
const LARGEST_BUFFER_BYTES: usize = 256 << 10;
/// The largest value of a server.
pub(super) const LARGEST_VALUE_BYTES: usize = 512 << 20;
/// Space for a value is made in steps of this, so that a length that is a lie costs no more.
const STEP_BYTES: usize = 8 << 20;
const LONGEST_LINE_BYTES: usize = 64 << 10;
const MOST_PARTS: i64 = 4 << 20;
/// Slots of a cluster are arrays in arrays in arrays.
const DEEPEST: usize = 8;

/// Bytes that came and were not read yet.
pub(super) struct Inbox {
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox { buffer: vec![0; BUFFER_BYTES], at: 0, end: 0 }
    }

    /// Whether everything that came was read.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Reads one answer.
    pub(super) fn reply(&mut self, line: &mut impl Read) -> io::Result<Reply> {
        self.reply_within(line, DEEPEST)
    }

    fn reply_within(&mut self, line: &mut impl Read, depth: usize) -> io::Result<Reply> {
        let text = self.line(line)?;
        let (kind, text) = (self.buffer[text.start], text.start + 1..text.end);
        let rest = &self.buffer[text];
        Ok(match kind {
            b'+' => Reply::Status(rest.to_vec()),
            b'-' => Reply::Refusal(String::from_utf8_lossy(rest).into_owned()),
            b':' => Reply::Number(number(rest)?),
            b'$' => match number(rest)? {
                -1 => Reply::Nil,
                length => Reply::Bytes(self.bytes(line, length)?),
            },
            b'*' => match number(rest)? {
                -1 => Reply::Nil,
                length if (0..=MOST_PARTS).contains(&length) && depth > 0 => {
                    let mut parts = Vec::with_capacity(length.min(1024) as usize);
                    for _ in 0..length {
                        parts.push(self.reply_within(line, depth - 1)?);
                    }
                    Reply::Many(parts)
                }
                _ => return Err(garbage()),
            },
            _ => return Err(garbage()),
        })
    }

    /// A line without its end, at least a byte long.
    fn line(&mut self, line: &mut impl Read) -> io::Result<std::ops::Range<usize>> {
        let mut seen = 0;
        loop {
            let unread = &self.buffer[self.at + seen..self.end];
            if let Some(place) = unread.iter().position(|byte| *byte == b'\n') {
                let (start, end) = (self.at, self.at + seen + place);
                if end < start + 2 || self.buffer[end - 1] != b'\r' {
                    return Err(garbage());
                }
                self.at = end + 1;
                return Ok(start..end - 1);
            }
            seen = self.end - self.at;
            if seen > LONGEST_LINE_BYTES {
                return Err(garbage());
            }
            self.fill(line)?;
        }
    }

    fn bytes(&mut self, line: &mut impl Read, length: i64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST_VALUE_BYTES);
        let length = length.ok_or_else(garbage)?;
        // A value that fits is taken out of the buffer, whose next filling brings those behind it too.
        while length <= self.buffer.len() / 2 && self.end - self.at < length {
            self.fill(line)?;
        }
        let have = (self.end - self.at).min(length);
        let mut bytes = Vec::with_capacity(length.min(STEP_BYTES));
        bytes.extend_from_slice(&self.buffer[self.at..self.at + have]);
        self.at += have;
        while bytes.len() < length {
            let from = bytes.len();
            bytes.resize(length.min(from + STEP_BYTES), 0);
            line.read_exact(&mut bytes[from..])?;
        }
        while self.end - self.at < 2 {
            self.fill(line)?;
        }
        if self.buffer[self.at..self.at + 2] != *b"\r\n" {
            return Err(garbage());
        }
        self.at += 2;
        Ok(bytes)
    }

    /// Reads what has come, at least a byte.
    fn fill(&mut self, line: &mut impl Read) -> io::Result<()> {
        if self.at == self.end {
            if self.end == self.buffer.len() && self.end < LARGEST_BUFFER_BYTES {
                self.buffer = vec![0; self.end * 2];
            }
            (self.at, self.end) = (0, 0);
        }
        if self.end == self.buffer.len() {
            match self.at {
                0 => self.buffer.resize(self.buffer.len() * 2, 0),
                at => self.buffer.copy_within(at.., 0),
            }
            self.end -= self.at;
            self.at = 0;
        }
        match line.read(&mut self.buffer[self.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }
}

fn number(text: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(garbage)
}

fn garbage() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time.
    struct Drip<'d>(&'d [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let large = [b"$70000\r\n", &[b'x'; 70_000][..], b"\r\n"].concat();
        let cases: [(&[u8], Reply); 9] = [
            (b"+OK\r\n", Reply::Status(b"OK".to_vec())),
            (b":-7\r\n", Reply::Number(-7)),
            (b"$-1\r\n", Reply::Nil),
            (b"*-1\r\n", Reply::Nil),
            (b"$0\r\n\r\n", Reply::Bytes(vec![])),
            (b"$4\r\na\r\nb\r\n", Reply::Bytes(b"a\r\nb".to_vec())),
            (b"-ERR no\r\n", Reply::Refusal("ERR no".into())),
            (b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", {
                Reply::Many(vec![Reply::Number(1), Reply::Many(vec![Reply::Bytes(b"x".to_vec())])])
            }),
            (&large, Reply::Bytes(vec![b'x'; 70_000])),
        ];
        for step in [1, 3, 100, 50_000, 100_000] {
            let mut inbox = Inbox::new();
            let all: Vec<u8> = cases.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
            let mut drip = Drip(&all, step);
            for (bytes, reply) in &cases {
                let read = inbox.reply(&mut drip).expect("it is right");
                assert!(read == *reply, "{step}: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(20)]));
            }
            assert!(inbox.is_empty() && drip.0.is_empty());
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let deep = b"*1\r\n".repeat(100);
        let long = [b"+", &[b'x'; 200_000][..]].concat();
        let cases: [&[u8]; 14] = [
            b"\r\n",
            b"\n",
            b"?\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b":\r\n",
            b":1x\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"$3\r\nabcde\r\n",
            b"$3\r\nab",
            b"*99999999999\r\n",
            b"",
            &deep,
            &long,
        ];
        for bytes in cases {
            let failed = Inbox::new().reply(&mut Drip(bytes, 4096));
            assert!(failed.is_err(), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(30)]));
        }
    }
}
