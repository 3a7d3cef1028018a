//! Child processes: a closure in a fork of the test, which ends with it. A child that panics fails the test that waits for it.
//! A child never returns into the test harness, and never outlives the test process.
#![allow(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PANICKED: i32 = 101;
/// How long a test waits for a child.
const LONGEST: Duration = Duration::from_secs(200);
const LONGEST_SOAK: Duration = Duration::from_secs(1200);

/// A child process. Dropping it kills it.
pub struct Child {
    pid: libc::pid_t,
    ended: Option<Ended>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signalled(i32),
}

impl Child {
    /// Runs the closure in a child process.
    pub fn start(run: impl FnOnce()) -> Child {
        // SAFETY: only the calling thread goes on in the child. What the C library and the allocator lock is released by
        // their own fork handlers; the child prints through its panic hook alone, without Rust's locks.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid > 0 {
            return Child { pid, ended: None };
        }
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        std::panic::set_hook(Box::new(|panic| say(&format!("child {}: {panic}\n", std::process::id()))));
        let result = catch_unwind(AssertUnwindSafe(run));
        exit(if result.is_ok() { 0 } else { PANICKED })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it as the kernel does when memory runs out, and waits until it is gone.
    pub fn kill(&mut self) {
        self.send(libc::SIGKILL);
        self.wait();
    }

    pub fn send(&self, signal: i32) {
        // SAFETY: takes numbers only; the child has not been waited for, so its number is its own.
        unsafe { libc::kill(self.pid, signal) };
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Ended {
        let start = Instant::now();
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            assert!(start.elapsed() < super::quick_or_soak(LONGEST, LONGEST_SOAK), "child {} does not end", self.pid);
            std::thread::sleep(Duration::from_micros(if start.elapsed().as_millis() < 20 { 50 } else { 1000 }));
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Ended> {
        if self.ended.is_none() {
            let mut status = 0;
            // SAFETY: the pointer is to a number that lives through the call.
            let found = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
            if found == self.pid {
                self.ended = Some(match libc::WIFSIGNALED(status) {
                    true => Ended::Signalled(libc::WTERMSIG(status)),
                    false => Ended::Exited(libc::WEXITSTATUS(status)),
                });
            }
        }
        self.ended
    }

    /// Waits for its end, which has to be an orderly one.
    pub fn finish(mut self) {
        let ended = self.wait();
        assert_eq!(ended, Ended::Exited(0), "child {} (what it said is above)", self.pid);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

/// Runs the closure in a child process and waits for its orderly end.
pub fn apart(run: impl FnOnce()) {
    Child::start(run).finish();
}

/// Starts so many children; each gets its number.
pub fn start_all(count: u64, run: impl Fn(u64)) -> Vec<Child> {
    (0..count).map(|number| Child::start(|| run(number))).collect()
}

/// Waits for the orderly end of all.
pub fn finish_all(children: Vec<Child>) {
    children.into_iter().for_each(Child::finish);
}

/// Ends this process at once, without running what the test harness would run.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Kills this process as a crash would.
pub fn kill_self() -> ! {
    // SAFETY: takes a number only.
    unsafe { libc::raise(libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

/// Lets this child live on when its parent dies; it has to end by itself.
pub fn outlive_parent() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
}

/// Writes to standard error without any lock of Rust's.
pub fn say(text: &str) {
    // SAFETY: the pointer and the length are those of `text`.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

static NOTED: AtomicU64 = AtomicU64::new(0);

/// Takes note of a signal instead of dying of it.
pub fn note_signals(signal: i32) {
    extern "C" fn note(_: libc::c_int) {
        NOTED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler is a function of the right type that only adds to an atomic.
    unsafe { libc::signal(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t) };
}

/// How many signals were noted in this process.
pub fn noted_signals() -> u64 {
    NOTED.load(Ordering::Relaxed)
}
