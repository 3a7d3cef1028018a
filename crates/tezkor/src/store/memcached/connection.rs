//! One connection to a server: questions go out, as many replies come in. It never takes a reply for that of another question, and
//! whoever gets a [`Fault`] from it drops it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::name::Name;
use super::wire::{self, Code, Decoded, Tone, Verb};

/// How much is read at once at least, and how far the buffer grows ahead of what has come.
const ROOM: [usize; 2] = [16 << 10, 256 << 10];
/// A batch that is longer is written in pieces.
const LARGEST_PIECE: usize = 64 << 10;
/// Buffers beyond this are not kept.
const LARGEST_KEPT: usize = 1 << 20;
/// A connection that rested for less is taken to be alive.
const FRESH: Duration = Duration::from_millis(10);

/// A question for one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) verb: Verb<'a>,
    pub(super) name: Name<'a>,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: Code,
    pub(super) value: Vec<u8>,
    pub(super) cas: u64,
    /// Seconds; -1 is for ever.
    pub(super) left: Option<i64>,
    pub(super) flags: u32,
    pub(super) won: bool,
    pub(super) stale: bool,
    pub(super) waiting: bool,
}

/// What carries the bytes.
pub(super) trait Stream: Read + Write + Send {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        TcpStream::set_nonblocking(self, nonblocking)
    }
}

impl Stream for UnixStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        UnixStream::set_nonblocking(self, nonblocking)
    }
}

/// Until when a server may take its time: what it sends or takes earns it a microsecond a byte, so that a large value may take long and
/// a slow drip may not.
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Deadline {
        Deadline(Instant::now() + timeout)
    }

    fn earn(&mut self, bytes: usize) {
        self.0 += Duration::from_micros(bytes as u64);
    }
}

/// A connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    title: String,
    timeout: Duration,
    /// What the socket was told last.
    armed: Duration,
    inbox: Vec<u8>,
    from: usize,
    to: usize,
    outbox: Vec<u8>,
    opaque: u32,
    rested_at: Instant,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>, title: &str, timeout: Duration) -> Result<Connection, Fault> {
        let set = stream.set_timeout(timeout);
        set.map_err(|error| Fault::outage(format!("{title} cannot be given a timeout: {error}")))?;
        Ok(Connection {
            stream,
            title: title.to_owned(),
            timeout,
            armed: timeout,
            inbox: Vec::new(),
            from: 0,
            to: 0,
            outbox: Vec::new(),
            opaque: first_opaque(),
            rested_at: Instant::now(),
        })
    }

    /// Names us to a server that asks for it.
    pub(super) fn log_in(&mut self, username: &str, password: &str) -> Result<(), Fault> {
        let size = username.len() + 1 + password.len();
        self.outbox = format!("set login 0 0 {size}\r\n{username} {password}\r\n").into_bytes();
        let mut deadline = Deadline::after(self.timeout);
        self.send(&mut deadline)?;
        match self.line(&mut deadline)? {
            line if line == b"STORED" => Ok(()),
            line => Err(Fault::of_error(&self.title, &line)),
        }
    }

    /// Removes everything.
    pub(super) fn empty(&mut self) -> Result<(), Fault> {
        self.outbox = b"flush_all\r\n".to_vec();
        let mut deadline = Deadline::after(self.timeout);
        self.send(&mut deadline)?;
        match self.line(&mut deadline)? {
            line if line == b"OK" => Ok(()),
            line => Err(Fault::of_error(&self.title, &line)),
        }
    }

    /// The largest item that the server takes, if it tells.
    pub(super) fn item_limit(&mut self) -> Result<Option<usize>, Fault> {
        self.outbox = b"stats settings\r\n".to_vec();
        let mut deadline = Deadline::after(self.timeout);
        self.send(&mut deadline)?;
        let mut limit = None;
        loop {
            let line = self.line(&mut deadline)?;
            if line == b"END" || line == b"RESET" {
                return Ok(limit);
            }
            if !line.starts_with(b"STAT ") {
                let fault = Fault::of_error(&self.title, &line);
                // Some that offer memcached as a service do not tell their settings.
                return if line.starts_with(b"SERVER_ERROR") || line == b"ERROR" { Ok(None) } else { Err(fault) };
            }
            if let Some(text) = line.strip_prefix(b"STAT item_size_max ") {
                limit = wire::number(text).and_then(|size| usize::try_from(size).ok());
            }
        }
    }

    /// Sends the questions. All but the last are asked quietly where a miss is to be left out: the last reply ends them all, and shows
    /// by its opaque that it does. Returns the opaque of the first.
    pub(super) fn ask<'a>(&mut self, asks: impl ExactSizeIterator<Item = &'a Ask<'a>>) -> Result<u32, Fault> {
        let (first, count) = (self.opaque, asks.len());
        let mut deadline = Deadline::after(self.timeout);
        self.outbox.clear();
        for (place, ask) in asks.enumerate() {
            let tone = if is_quiet(&ask.verb) && place + 1 < count { Tone::Quiet } else { Tone::Aloud };
            ask.verb.write(&ask.name, self.opaque, tone, &mut self.outbox);
            self.opaque = self.opaque.wrapping_add(1);
            if self.outbox.len() > LARGEST_PIECE && place + 1 < count {
                self.send(&mut deadline)?;
            }
        }
        self.send(&mut deadline)?;
        Ok(first)
    }

    /// Takes the answers to the questions that were sent, in order.
    pub(super) fn answers<'a>(
        &mut self,
        asks: impl ExactSizeIterator<Item = &'a Ask<'a>>,
        first: u32,
        deadline: &mut Deadline,
        mut each: impl FnMut(Answer),
    ) -> Result<(), Fault> {
        let count = asks.len();
        let mut early: Option<(usize, Answer)> = None;
        for (place, ask) in asks.enumerate() {
            let is_quiet = is_quiet(&ask.verb) && place + 1 < count;
            let (at, answer) = match early.take() {
                Some(early) => early,
                None => self.answer(first, place, deadline)?,
            };
            if at == place {
                if answer.code != Code::Error && !ask.verb.allows(answer.code) {
                    return Err(self.foreign());
                }
                each(answer);
            } else if is_quiet && at > place && at < count {
                early = Some((at, answer));
                each(missing());
            } else {
                return Err(self.foreign());
            }
        }
        if self.from < self.to {
            return Err(self.foreign());
        }
        Ok(())
    }

    /// The next answer, and the place of the question that it names; an error names none, and is that of the question at hand.
    fn answer(&mut self, first: u32, place: usize, deadline: &mut Deadline) -> Result<(usize, Answer), Fault> {
        loop {
            let needed = match wire::decode(&self.inbox[self.from..self.to]) {
                Decoded::More(needed) => needed,
                Decoded::Foreign => return Err(self.foreign()),
                Decoded::Reply(reply, whole) => {
                    let at = match reply.opaque {
                        Some(opaque) => opaque.wrapping_sub(first) as usize,
                        None if reply.code == Code::Error => place,
                        None => return Err(self.foreign()),
                    };
                    if reply.code == Code::Error && !is_of_one_question(reply.value) {
                        return Err(Fault::of_error(&self.title, reply.value));
                    }
                    let answer = Answer {
                        code: reply.code,
                        value: reply.value.to_vec(),
                        cas: reply.cas.unwrap_or(0),
                        left: reply.left,
                        flags: reply.flags,
                        won: reply.won,
                        stale: reply.stale,
                        waiting: reply.waiting,
                    };
                    self.from += whole;
                    return Ok((at, answer));
                }
            };
            self.receive(needed, deadline)?;
        }
    }

    /// Whether the server has neither closed it nor said anything unasked.
    pub(super) fn is_alive(&mut self) -> bool {
        if self.rested_at.elapsed() < FRESH {
            return true;
        }
        if self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let read = self.stream.read(&mut [0]);
        let is_silent = read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).is_ok() && is_silent
    }

    /// Gives back what a large exchange took, before the connection waits for the next.
    pub(super) fn rest(&mut self) {
        if self.inbox.len() > LARGEST_KEPT {
            self.inbox = Vec::new();
        }
        if self.outbox.capacity() > LARGEST_KEPT {
            self.outbox = Vec::new();
        }
        (self.from, self.to) = (0, 0);
        self.rested_at = Instant::now();
    }

    fn line(&mut self, deadline: &mut Deadline) -> Result<Vec<u8>, Fault> {
        loop {
            let have = &self.inbox[self.from..self.to];
            if let Some(end) = have.iter().position(|byte| *byte == b'\n') {
                let line = have[..end].strip_suffix(b"\r").unwrap_or(&have[..end]).to_vec();
                self.from += end + 1;
                return Ok(line);
            }
            if have.len() > ROOM[0] {
                return Err(self.foreign());
            }
            self.receive(have.len() + 1, deadline)?;
        }
    }

    fn send(&mut self, deadline: &mut Deadline) -> Result<(), Fault> {
        self.arm(self.timeout)?;
        let mut sent = 0;
        while sent < self.outbox.len() {
            match self.stream.write(&self.outbox[sent..]) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => {
                    sent += count;
                    deadline.earn(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
            if sent < self.outbox.len() && Instant::now() > deadline.0 {
                return Err(self.slow());
            }
        }
        self.outbox.clear();
        self.stream.flush().map_err(|error| self.failed(&error))
    }

    /// Reads on, towards so many bytes.
    fn receive(&mut self, needed: usize, deadline: &mut Deadline) -> Result<(), Fault> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
        let have = self.to - self.from;
        // A size is only a promise: the buffer grows with what has come.
        let room = needed.saturating_sub(have).clamp(ROOM[0], ROOM[1].max(have));
        if self.inbox.len() - self.to < room {
            self.inbox.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, have);
            if self.inbox.len() < have + room {
                self.inbox.resize(have + room, 0);
            }
        }
        loop {
            // Others may have used the time up; what has come meanwhile is still taken.
            let left = deadline.0.saturating_duration_since(Instant::now());
            self.arm(left.max(Duration::from_millis(1)))?;
            match self.stream.read(&mut self.inbox[self.to..]) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => {
                    self.to += count;
                    deadline.earn(count);
                    let is_over = self.to - self.from < needed && Instant::now() > deadline.0;
                    return if is_over { Err(self.slow()) } else { Ok(()) };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted && Instant::now() < deadline.0 => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    /// Tells the socket how long it may wait, unless that is about what it was told before.
    fn arm(&mut self, timeout: Duration) -> Result<(), Fault> {
        let timeout = timeout.min(self.timeout);
        if timeout.abs_diff(self.armed) > self.timeout / 8 {
            self.stream.set_timeout(timeout).map_err(|error| self.failed(&error))?;
            self.armed = timeout;
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.slow(),
            _ => Fault::outage(format!("the connection to {} failed: {error}", self.title)),
        }
    }

    fn slow(&self) -> Fault {
        Fault::outage(format!(
            "{} did not answer within {} ms; check that it runs and is not overloaded, or raise its timeout",
            self.title,
            self.timeout.as_millis()
        ))
    }

    fn closed(&self) -> Fault {
        Fault::outage(format!("{} closed the connection; check that it runs and takes more connections", self.title))
    }

    fn foreign(&self) -> Fault {
        Fault::outage(format!(
            "{} answered what was not asked; check that nothing but memcached listens there",
            self.title
        ))
    }
}

/// Errors that say something of one question; after others nothing is known.
fn is_of_one_question(line: &[u8]) -> bool {
    line.starts_with(b"SERVER_ERROR object too large")
        || line.starts_with(b"SERVER_ERROR out of memory storing")
        || line.starts_with(b"SERVER_ERROR Out of memory during read")
        || line.starts_with(b"CLIENT_ERROR cannot increment or decrement")
}

/// Misses are left out of batches of reads. All else is answered one by one: an error does not tell which question it is about, and
/// versions differ in what they leave out.
fn is_quiet(verb: &Verb<'_>) -> bool {
    matches!(verb, Verb::Get(flags) if flags.contains(" v"))
}

fn missing() -> Answer {
    let (value, cas, left) = (Vec::new(), 0, None);
    Answer { code: Code::Missing, value, cas, left, flags: 0, won: false, stale: false, waiting: false }
}

/// Another for each connection, so that what belongs to one is foreign to the others.
fn first_opaque() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}
