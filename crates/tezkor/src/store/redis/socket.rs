//! A socket with a deadline over a whole exchange: however slowly bytes drip in, it ends. It never waits without a bound, and a
//! signal never cuts an exchange short.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Type};

use super::settings::Address;

/// What a byte adds to the time that an exchange may take: a line of less than 1 MB/s counts as broken.
const PER_BYTE: Duration = Duration::from_micros(1);

/// A connected socket.
pub(super) struct Socket {
    stream: Stream,
    /// The timeout that the kernel has for one call.
    armed: Duration,
    start: Instant,
    allowed: Duration,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What an idle socket shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing, as it should be.
    Quiet,
    /// It is closed, or bytes came that nobody asked for.
    Broken,
}

impl Socket {
    /// Connects, names looked up included.
    pub(super) fn connect(address: &Address, allowed: Duration) -> io::Result<Socket> {
        let start = Instant::now();
        let stream = match address {
            Address::Tcp { host, port } => Stream::Tcp(connect_tcp(host, *port, start + allowed)?),
            Address::Unix(path) => Stream::Unix(connect_unix(path, allowed)?),
        };
        let mut socket = Socket { stream, armed: Duration::ZERO, start, allowed };
        socket.begin(allowed);
        Ok(socket)
    }

    /// Begins an exchange: from now on it has this long, and a little more for each byte.
    pub(super) fn begin(&mut self, allowed: Duration) {
        self.start = Instant::now();
        self.allowed = allowed.max(Duration::from_millis(1));
    }

    /// Gives the exchange the time that these bytes take on a slow line.
    pub(super) fn expect_bytes(&mut self, bytes: usize) {
        self.allowed += PER_BYTE.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Looks at an idle socket without waiting.
    pub(super) fn rest(&self) -> Rest {
        let mut byte = [MaybeUninit::uninit()];
        let socket = match &self.stream {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::Unix(stream) => SockRef::from(stream),
        };
        match socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Rest::Quiet,
            _ => Rest::Broken,
        }
    }

    /// Sees to it that the next call ends in time. The kernel's timeout is left alone while it is not far from what is left, which
    /// spares two calls for each exchange and lets one end by a quarter late.
    fn arm(&mut self) -> io::Result<()> {
        let left = self.allowed.saturating_sub(self.start.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.armed > left + left / 4 || self.armed < left / 2 {
            let timeout = Some(left.max(Duration::from_millis(1)));
            match &self.stream {
                Stream::Tcp(stream) => stream.set_read_timeout(timeout).and(stream.set_write_timeout(timeout))?,
                Stream::Unix(stream) => stream.set_read_timeout(timeout).and(stream.set_write_timeout(timeout))?,
            }
            self.armed = left;
        }
        Ok(())
    }

    /// Calls until there is a result: after a signal, and after a timeout of the kernel that came before ours.
    fn insist(&mut self, mut call: impl FnMut(&mut Stream) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            self.arm()?;
            match call(&mut self.stream) {
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                result => return result,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.insist(|stream| match stream {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        })?;
        self.expect_bytes(count);
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.insist(|stream| match stream {
            Stream::Tcp(stream) => stream.write(buffer),
            Stream::Unix(stream) => stream.write(buffer),
        })?;
        self.expect_bytes(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let addresses = resolve(host, port, until)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (place, address) in addresses.iter().enumerate() {
        // Each address gets its share, so that one that swallows packets does not hide the next.
        let share = until.saturating_duration_since(Instant::now()) / (addresses.len() - place) as u32;
        if share.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                // What was not delivered when it is given up shall not be delivered later.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The addresses of a host. A name is looked up by a thread of its own, since the system's resolver cannot be told how long it may take.
fn resolve(host: &str, port: u16, until: Instant) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (answer, answered) = mpsc::channel();
    let name = host.to_string();
    std::thread::Builder::new().name("tezkor-resolver".into()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody listens when the time was up.
        let _ = answer.send(found);
    })?;
    answered
        .recv_timeout(until.saturating_duration_since(Instant::now()))
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "its name was not looked up in time")))
}

/// The kernel bounds the wait for a place in the backlog by the write timeout, which has to be set before.
fn connect_unix(path: &Path, allowed: Duration) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(allowed.max(Duration::from_millis(1))))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
        connected => connected?,
    }
    Ok(UnixStream::from(OwnedFd::from(socket)))
}
