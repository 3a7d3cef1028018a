//! Connects within a time. What the system offers without a limit (looking a name up, connecting to a unix socket whose server is
//! stopped) is done on a thread that is left behind when the time is over; while one hangs, no other is started for that server.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// Dials one server.
#[derive(Debug, Default)]
pub(super) struct Dial {
    hanging: Arc<AtomicBool>,
}

impl Dial {
    /// A connection to the first address of the host that answers.
    pub(super) fn tcp(&self, host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
        let deadline = Instant::now() + timeout;
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let host = host.to_owned();
                self.apart(timeout, move || Ok((host.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>()))?
            }
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(&address, left) {
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

    /// A connection to a unix socket.
    pub(super) fn unix(&self, path: PathBuf, timeout: Duration) -> io::Result<UnixStream> {
        self.apart(timeout, move || UnixStream::connect(path))
    }

    fn apart<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.hanging.load(Ordering::Acquire) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (done, result) = mpsc::channel();
        let hanging = Arc::clone(&self.hanging);
        std::thread::Builder::new().name("tezkor-dial".into()).stack_size(256 << 10).spawn(move || {
            // Nobody listens any more where the time was over.
            let _ = done.send(work());
            hanging.store(false, Ordering::Release);
        })?;
        result.recv_timeout(timeout).unwrap_or_else(|_| {
            self.hanging.store(true, Ordering::Release);
            // Where it has ended between the two, nobody else takes this back.
            if result.try_recv().is_ok() {
                self.hanging.store(false, Ordering::Release);
            }
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_left_behind_once_and_not_joined_by_others() {
        let dial = Dial::default();
        let (end, wait) = mpsc::channel::<()>();
        let hung = dial.apart(Duration::from_millis(20), move || {
            let _ = wait.recv();
            Ok(1)
        });
        assert_eq!(hung.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        let refused = dial.apart(Duration::from_secs(60), || Ok(2)).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::TimedOut), "a second thread was started while the first hangs");
        end.send(()).expect("the thread waits");
        let start = Instant::now();
        while dial.apart(Duration::from_secs(60), || Ok(3)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "it has ended, and others may try");
            std::thread::yield_now();
        }
    }
}
