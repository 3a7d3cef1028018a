//! Operations that an event loop awaits: the exchange with the server is left to a few threads of the process, which never take
//! Python's lock, and its end is told to the loop by a byte on a socket. What comes before and after is done by the loop's own
//! thread. Reads that wait at the same time go to the server together.
//!
//! A task that is cancelled leaves its exchange alone: nobody is told, and no connection is cut. Threads are begun when they are
//! needed, and begun anew in a child of the process.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tezkor::Error;

use super::FarCache;
use super::values::Fetched;

/// Threads of a process; a server that does not answer holds up as many operations for as long as its timeout.
const MOST_THREADS: usize = 4;
/// Reads that go to the server together.
const MOST_TOGETHER: usize = 64;

/// What is done when it has come back, with Python's lock.
type Finish = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// A future, and how it is ended.
type Done = (Py<PyAny>, Finish);

/// What is done with what a read has found.
type Show = Box<dyn FnOnce(Python<'_>, Result<Fetched, Error>) -> PyResult<Py<PyAny>> + Send>;

/// What a thread does, without Python's lock.
enum Work {
    /// It reads keys of a cache.
    Read(Py<FarCache>, Vec<Reading>),
    /// It does this, and tells what came of it.
    Other(Box<dyn FnOnce() + Send>),
}

/// The read of one key.
struct Reading {
    full: Vec<u8>,
    post: Post,
    show: Show,
}

impl Work {
    /// Takes what may be done along with this; gives back what may not.
    fn join(&mut self, other: Work) -> Option<Work> {
        match (self, other) {
            (Work::Read(cache, readings), Work::Read(theirs, more))
                if cache.as_ptr() == theirs.as_ptr() && readings.len() < MOST_TOGETHER =>
            {
                readings.extend(more);
                None
            }
            (_, other) => Some(other),
        }
    }

    fn run(self) {
        let (cache, readings) = match self {
            Work::Other(run) => return run(),
            Work::Read(cache, readings) => (cache, readings),
        };
        let fulls: Vec<&[u8]> = readings.iter().map(|reading| reading.full.as_slice()).collect();
        let mut read = cache.get().read_all(&fulls);
        for (place, reading) in readings.into_iter().enumerate() {
            let found = match &mut read {
                Ok(found) => Ok(found[place].take()),
                Err(error) => Err(error.again()),
            };
            let show = reading.show;
            reading.post.send(Box::new(move |py| show(py, found)));
        }
    }
}

/// Where the end of an operation is told: to the future of the method that was called for a loop.
pub struct Post {
    mail: Arc<Mail>,
    future: Option<Py<PyAny>>,
    /// Whether it was left to a thread; a method may also answer at once.
    is_left: bool,
}

impl Post {
    fn left(mut self) -> Post {
        self.is_left = true;
        self
    }

    /// Tells the loop.
    fn send(mut self, finish: Finish) {
        self.deliver(finish);
    }

    fn deliver(&mut self, finish: Finish) {
        let Some(future) = self.future.take() else { return };
        match &mut *lock(&self.mail.done) {
            Some(done) => done.push((future, finish)),
            None => return,
        }
        if !self.mail.is_told.swap(true, Ordering::SeqCst) {
            // A loop that is gone has closed its end.
            let _ = (&self.mail.bell).write(&[1]);
        }
    }
}

impl Drop for Post {
    /// Nobody waits for ever for work that broke off.
    fn drop(&mut self) {
        if !self.is_left {
            return;
        }
        self.deliver(Box::new(|_| {
            Err(PyRuntimeError::new_err("an operation on a server broke off; please report it"))
        }));
    }
}

struct Mail {
    bell: UnixStream,
    is_told: AtomicBool,
    /// `None`: the loop is gone. Else what is here would keep the loop, and the loop what is here, for ever.
    done: Mutex<Option<Vec<Done>>>,
}

/// The operations of one event loop.
#[pyclass(frozen, module = "tezkor._native")]
pub struct Later {
    mail: Arc<Mail>,
    ear: UnixStream,
    forks: u64,
}

thread_local! {
    /// The future of a method that was called for a loop.
    static OFFERED: RefCell<Option<Post>> = const { RefCell::new(None) };
    /// Whether the method has left its work to a thread.
    static LEFT: Cell<bool> = const { Cell::new(false) };
}

/// Where to tell a loop the end of the running method, if it was by [`Later::call`]. To be asked before anything else, so that what
/// the method calls is not taken for it.
#[inline]
pub fn offered() -> Option<Post> {
    OFFERED.take()
}

#[pymethods]
impl Later {
    #[new]
    #[pyo3(signature = (/))]
    fn new() -> PyResult<Self> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let mail = Arc::new(Mail { bell, is_told: AtomicBool::new(false), done: Mutex::new(Some(Vec::new())) });
        Ok(Self { mail, ear, forks: tezkor::forks() })
    }

    /// What the loop has to watch for reading; then it calls `drain`.
    #[pyo3(signature = (/))]
    fn fileno(&self) -> i32 {
        self.ear.as_raw_fd()
    }

    /// Whether it was made by this process, not by one that it was forked from.
    #[pyo3(signature = (/))]
    fn is_own(&self) -> bool {
        self.forks == tezkor::forks()
    }

    /// The loop is gone: what comes back for it is nobody's.
    #[pyo3(signature = (/))]
    fn close(&self) {
        let done = lock(&self.mail.done).take();
        drop(done);
    }

    /// Ends the futures of the operations that have come back.
    #[pyo3(signature = (/))]
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let mut bytes = [0; 64];
        loop {
            match (&self.ear).read(&mut bytes) {
                Ok(read) if read == bytes.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        // Before what is done is taken: who comes later rings again.
        self.mail.is_told.store(false, Ordering::SeqCst);
        let done = lock(&self.mail.done).as_mut().map(std::mem::take);
        for (future, finish) in done.into_iter().flatten() {
            let future = future.bind(py);
            if future.call_method0(intern!(py, "done"))?.is_truthy()? {
                continue; // cancelled
            }
            match finish(py) {
                Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
                Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
            };
        }
        Ok(())
    }

    /// Calls a method of a cache on a server without waiting for what it does there; a future of what it returns. The loop is
    /// the running one, and this its own.
    #[pyo3(signature = (r#loop, method, /, *args))]
    fn call<'py>(
        slf: &Bound<'py, Self>,
        r#loop: &Bound<'py, PyAny>,
        method: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        LEFT.set(false);
        let future = r#loop.call_method0(intern!(slf.py(), "create_future"))?;
        OFFERED.set(Some(Post { mail: slf.get().mail.clone(), future: Some(future.clone().unbind()), is_left: false }));
        let answer = method.call1(args);
        OFFERED.take();
        let answer = answer?;
        if LEFT.replace(false) {
            return Ok(future);
        }
        future.call_method1(intern!(slf.py(), "set_result"), (answer,))?;
        Ok(future)
    }
}

/// Leaves work to the threads. What the method returns then is of no account.
fn leave(py: Python<'_>, work: Work) -> Bound<'_, PyAny> {
    Pool::of_this_process().push(work);
    LEFT.set(true);
    py.NotImplemented().into_bound(py)
}

/// Reads one key, for the caller or for a loop, and does what is to be done with what was found.
pub(super) fn read<'py>(
    slf: &Bound<'py, FarCache>,
    post: Option<Post>,
    full: Vec<u8>,
    show: impl FnOnce(Python<'_>, &FarCache, &[u8], Result<Fetched, Error>) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, this) = (slf.py(), slf.get());
    let Some(post) = post else {
        let read = py.detach(|| this.read_all(&[&full]));
        return Ok(show(py, this, &full, read.map(|mut found| found.pop().flatten()))?.into_bound(py));
    };
    let cache = slf.clone().unbind();
    let (kept, name) = (cache.clone_ref(py), full.clone());
    let show: Show = Box::new(move |py, found| show(py, cache.get(), &name, found));
    let post = post.left();
    Ok(leave(py, Work::Read(kept, vec![Reading { full, post, show }])))
}

/// Does something with the server, for the caller or for a loop, and then what is to be done with what came of it.
pub(super) fn perform<'py, R: Send + 'static>(
    slf: &Bound<'py, FarCache>,
    post: Option<Post>,
    run: impl FnOnce(&FarCache) -> R + Send + 'static,
    finish: impl FnOnce(Python<'_>, &FarCache, R) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, this) = (slf.py(), slf.get());
    let Some(post) = post else {
        let done = py.detach(|| run(this));
        return Ok(finish(py, this, done)?.into_bound(py));
    };
    let cache = slf.clone().unbind();
    let post = post.left();
    let work = move || {
        let done = run(cache.get());
        post.send(Box::new(move |py| finish(py, cache.get(), done)));
    };
    Ok(leave(py, Work::Other(Box::new(work))))
}

struct Pool {
    forks: u64,
    queue: Mutex<Queue>,
    come: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

static POOL: ArcSwapOption<Pool> = ArcSwapOption::const_empty();

impl Pool {
    fn of_this_process() -> Arc<Pool> {
        loop {
            let found = POOL.load_full();
            let forks = tezkor::forks();
            match found {
                Some(pool) if pool.forks == forks => return pool,
                // The threads of the parent are not here, and its queue may be locked for ever.
                stale => {
                    let fresh = Arc::new(Pool { forks, queue: Mutex::default(), come: Condvar::new() });
                    let before = POOL.compare_and_swap(&stale, Some(fresh));
                    if let Some(stale) = before.as_ref().filter(|pool| pool.forks != forks) {
                        std::mem::forget(Arc::clone(stale));
                    }
                }
            }
        }
    }

    fn push(self: Arc<Self>, work: Work) {
        let mut queue = lock(&self.queue);
        queue.work.push_back(work);
        if queue.idle > 0 {
            drop(queue);
            self.come.notify_one();
        } else if queue.threads < MOST_THREADS {
            queue.threads += 1;
            drop(queue);
            let pool = self.clone();
            let begun = std::thread::Builder::new().name("tezkor".into()).spawn(move || pool.work());
            if begun.is_err() {
                let mut queue = lock(&self.queue);
                queue.threads -= 1;
                let alone = if queue.threads == 0 { queue.work.pop_back() } else { None };
                drop(queue);
                // No memory for a thread: better late than never.
                if let Some(work) = alone {
                    work.run();
                }
            }
        }
    }

    fn work(&self) {
        let mut queue = lock(&self.queue);
        loop {
            let Some(mut work) = queue.work.pop_front() else {
                queue.idle += 1;
                queue = self.come.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
                continue;
            };
            while let Some(next) = queue.work.pop_front() {
                if let Some(refused) = work.join(next) {
                    queue.work.push_front(refused);
                    break;
                }
            }
            drop(queue);
            // One that panics has said so, and its futures are told as it is dropped; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| work.run()));
            queue = lock(&self.queue);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
