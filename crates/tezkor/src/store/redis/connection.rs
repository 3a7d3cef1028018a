//! A connection: entered once, then exchanges of commands and answers. Each exchange ends with an ECHO of letters that were
//! never used before; an answer that is not these means that the answers are not ours.
//!
//! A connection never heals: whoever gets a fault from it drops it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::command::Command;
use super::fault::{Cause, Fault, Reach, refusal};
use super::reply::{Inbox, Reply};
use super::settings::{Address, Cover, Endpoint};
use super::socket::{Rest, Socket};
use crate::error::Error;
use crate::store::segment::os;

/// A batch that is longer is written in pieces.
const LARGEST_PIECE_BYTES: usize = 64 << 10;
/// A buffer for commands that grew beyond this is given back.
const LARGEST_KEPT_BYTES: usize = 256 << 10;

/// What a server has to be for a connection to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Anything: the settings name it.
    Any,
    /// A primary; a replica is not believed.
    Primary,
    /// A sentinel, which knows no ECHO.
    Sentinel,
    /// A replica in a cluster, which has to be told that reads are meant.
    ClusterReplica,
}

pub(super) struct Connection {
    line: Line,
    inbox: Inbox,
    out: Vec<u8>,
    number: u64,
    probe: &'static [u8],
    title: Arc<str>,
    used: Instant,
}

enum Line {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Connection {
    /// Connects and enters, all within the time allowed.
    pub(super) fn open(
        endpoint: &Endpoint,
        title: &Arc<str>,
        part: Part,
        tls: Option<&Arc<ClientConfig>>,
        allowed: Duration,
    ) -> Result<Connection, Fault> {
        let start = Instant::now();
        let ms = allowed.as_millis();
        let failed = |error: io::Error| Fault::while_connecting(title, &error, ms);
        let socket = Socket::connect(&endpoint.address, allowed).map_err(failed)?;
        let line = match (endpoint.entry.cover, tls, &endpoint.address) {
            (Cover::Tls, Some(config), Address::Tcp { host, .. }) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| {
                    Fault::unsent(Error::setting(format!("{title}: a certificate cannot be made for this host")))
                })?;
                let client =
                    ClientConnection::new(Arc::clone(config), name).map_err(|error| failed(io::Error::other(error)))?;
                let mut stream = Box::new(StreamOwned::new(client, socket));
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock).map_err(|error| match error.kind() {
                        io::ErrorKind::TimedOut => Fault::unsent(Error::outage(format!(
                            "{title} did not answer TLS within {ms} ms; check the url, and whether it speaks TLS"
                        ))),
                        _ => failed(error),
                    })?;
                }
                Line::Tls(stream)
            }
            _ => Line::Plain(socket),
        };
        let number = os::random().map_err(failed)?;
        let title = Arc::clone(title);
        let probe: &[u8] = match part {
            Part::Sentinel => b"*2\r\n$4\r\nPING\r\n$16\r\n",
            _ => b"*2\r\n$4\r\nECHO\r\n$16\r\n",
        };
        let (inbox, out) = (Inbox::new(), Vec::new());
        let mut connection = Connection { line, inbox, out, number, probe, title, used: start };
        connection.enter(endpoint, part, allowed.saturating_sub(start.elapsed()))?;
        Ok(connection)
    }

    fn enter(&mut self, endpoint: &Endpoint, part: Part, allowed: Duration) -> Result<(), Fault> {
        let entry = &endpoint.entry;
        let database = entry.database.to_string();
        let login: Vec<&[u8]> = match (&entry.username, &entry.password) {
            (Some(user), password) => {
                let password = password.as_ref().map_or("", |password| password.text());
                vec![b"AUTH", user.as_bytes(), password.as_bytes()]
            }
            (None, Some(password)) => vec![b"AUTH", password.text().as_bytes()],
            (None, None) => vec![],
        };
        let select: &[&[u8]] = &[b"SELECT", database.as_bytes()];
        let steps = [
            (!login.is_empty()).then_some(&login[..]),
            (entry.database != 0).then_some(select),
            match part {
                Part::Any | Part::Sentinel => None,
                Part::Primary => Some(&[b"ROLE"]),
                Part::ClusterReplica => Some(&[b"READONLY"]),
            },
        ];
        let commands: Vec<Command<'_>> = steps.into_iter().flatten().map(Command::Words).collect();
        if commands.is_empty() {
            return Ok(());
        }
        let unsent = |fault: Fault| Fault { reach: Reach::Unsent, ..fault };
        let replies = self.exchange(&commands, allowed).map_err(unsent)?;
        if let Some(Reply::Refusal(text)) = replies.iter().find(|reply| matches!(reply, Reply::Refusal(_))) {
            return Err(Fault::unsent(refusal(&self.title, text)));
        }
        match (part, replies.last()) {
            (Part::Primary, Some(role)) if role.parts().first().is_none_or(|word| word.text() != "master") => {
                let error = Error::outage(format!("{} is no primary any more", self.title));
                Err(Fault { error, reach: Reach::Unsent, cause: Cause::Closed })
            }
            _ => Ok(()),
        }
    }

    /// Asks and reads the answers, one for each command.
    pub(super) fn exchange(&mut self, commands: &[Command<'_>], allowed: Duration) -> Result<Vec<Reply>, Fault> {
        self.send(commands, allowed)?;
        self.receive(commands.len(), allowed)
    }

    /// Sends commands, so that other connections can be sent theirs before the answers are read.
    pub(super) fn send(&mut self, commands: &[Command<'_>], allowed: Duration) -> Result<(), Fault> {
        self.socket().begin(allowed);
        self.out.clear();
        let mut reach = Reach::Unsent;
        for command in commands {
            command.pack(&mut self.out);
            // A batch of large values is not copied as a whole.
            if self.out.len() > LARGEST_PIECE_BYTES {
                reach = self.write_out(reach, allowed)?;
            }
        }
        self.number = self.number.wrapping_add(1);
        self.out.extend_from_slice(self.probe);
        self.out.extend_from_slice(&nonce(self.number));
        self.out.extend_from_slice(b"\r\n");
        self.write_out(reach, allowed)?;
        let flushed = self.line.flush();
        flushed.map_err(|error| Fault::during(&self.title, &error, Reach::Perhaps, allowed.as_millis()))
    }

    /// Writes what was packed.
    fn write_out(&mut self, mut reach: Reach, allowed: Duration) -> Result<Reach, Fault> {
        let mut sent = 0;
        while sent < self.out.len() {
            let written = self.line.write(&self.out[sent..]).and_then(|count| match count {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                count => Ok(count),
            });
            // TLS keeps what it takes, so what of it left is not known.
            if written.is_ok() || matches!(self.line, Line::Tls(_)) {
                reach = Reach::Perhaps;
            }
            let failed = |error: io::Error| Fault::during(&self.title, &error, reach, allowed.as_millis());
            sent += written.map_err(failed)?;
        }
        self.out.clear();
        Ok(reach)
    }

    /// Reads so many answers and the echo behind them.
    pub(super) fn receive(&mut self, count: usize, allowed: Duration) -> Result<Vec<Reply>, Fault> {
        let mut replies = Vec::with_capacity(count + 1);
        while replies.len() <= count {
            match self.inbox.reply(&mut self.line) {
                Ok(reply) => replies.push(reply),
                Err(error) => {
                    let fault = Fault::during(&self.title, &error, Reach::Perhaps, allowed.as_millis());
                    // A server that takes no more clients says so, unasked, and closes.
                    return Err(self.told(fault, &replies));
                }
            }
        }
        let echo = replies.pop();
        match echo {
            Some(Reply::Bytes(bytes)) if bytes == nonce(self.number) && self.inbox.is_empty() => {}
            // Who may not even ask for an echo was refused before.
            Some(Reply::Refusal(text)) => {
                replies.push(Reply::Refusal(text));
                return Err(self.told(Fault::foreign(&self.title), &replies));
            }
            _ => return Err(Fault::foreign(&self.title)),
        }
        if self.out.capacity() > LARGEST_KEPT_BYTES {
            self.out = Vec::new();
        }
        Ok(replies)
    }

    /// The fault, in the words of the first refusal if there is one.
    fn told(&self, fault: Fault, replies: &[Reply]) -> Fault {
        let refused = replies.iter().find_map(|reply| match reply {
            Reply::Refusal(text) => Some(text),
            _ => None,
        });
        match refused {
            Some(text) => Fault { error: refusal(&self.title, text), ..fault },
            None => fault,
        }
    }

    /// Whether an idle connection still looks as it should.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.inbox.is_empty() && self.socket().rest() == Rest::Quiet
    }

    /// When it was last given back.
    pub(super) fn used(&self) -> Instant {
        self.used
    }

    /// Notes that it is given back.
    pub(super) fn rests_from(&mut self, now: Instant) {
        self.used = now;
    }

    fn socket(&mut self) -> &mut Socket {
        match &mut self.line {
            Line::Plain(socket) => socket,
            Line::Tls(stream) => &mut stream.sock,
        }
    }
}

/// Sixteen letters that differ for each number.
fn nonce(number: u64) -> [u8; 16] {
    // The step of splitmix64: neighbours share nothing, so an answer that is off by one is not nearly right.
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    std::array::from_fn(|place| b"0123456789abcdef"[(mixed >> (place * 4)) as usize & 15])
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Line::Plain(socket) => socket.read(buffer),
            Line::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Line::Plain(socket) => socket.write(buffer),
            Line::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Line::Plain(_) => Ok(()),
            Line::Tls(stream) => stream.flush(),
        }
    }
}
