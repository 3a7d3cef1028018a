//! Death at a chosen step: a thread stops for ever before its n-th store to shared memory, as a killed process would.
//! What it holds is never given back: it unwinds only when the model is over.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(loom)]
use loom::thread;
#[cfg(shuttle)]
use shuttle::thread;

use crate::store::segment::words::crash;

/// Thrown through a dead thread at the end of its model.
struct Died;

/// The state of a mortal, known to itself, to the hook and to whoever buries it.
#[derive(Default)]
struct Fate {
    /// Who waits for its end.
    parent: Option<thread::Thread>,
    /// Stores before the one that it does not live to see.
    left: AtomicUsize,
    is_dead: AtomicBool,
    has_ended: AtomicBool,
    is_over: AtomicBool,
}

impl Fate {
    fn wake(&self) {
        if let Some(parent) = &self.parent {
            parent.unpark();
        }
    }
}

thread_local! {
    // An explorer runs all threads of a model on one thread of the system.
    static MORTALS: RefCell<Vec<(thread::ThreadId, Arc<Fate>)>> = const { RefCell::new(Vec::new()) };
}

/// A thread that is dead, or has ended before its time came.
pub(super) struct Mortal {
    fate: Arc<Fate>,
    thread: thread::JoinHandle<()>,
}

/// Runs `work` on a thread of its own, which dies before store number `step`.
pub(super) fn mortal(step: usize, work: impl FnOnce() + Send + 'static) -> Mortal {
    crash::HOOK.get_or_init(|| pass);
    let fate = Arc::new(Fate { parent: Some(thread::current()), left: AtomicUsize::new(step), ..Fate::default() });
    let own = fate.clone();
    let thread = thread::spawn(move || {
        MORTALS.with_borrow_mut(|mortals| mortals.push((thread::current().id(), own.clone())));
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        MORTALS.with_borrow_mut(|mortals| mortals.retain(|(_, fate)| !Arc::ptr_eq(fate, &own)));
        own.has_ended.store(true, Ordering::Relaxed);
        if !own.is_over.load(Ordering::Relaxed) {
            // Else nobody is parked: a parent that joins is not to be woken by this.
            own.wake();
        }
        if let Err(payload) = result
            && !payload.is::<Died>()
        {
            panic::resume_unwind(payload);
        }
    });
    Mortal { fate, thread }
}

impl Mortal {
    /// Waits until it is dead or has ended; whether it is dead.
    pub(super) fn wait(&self) -> bool {
        while !self.fate.is_dead.load(Ordering::Relaxed) && !self.fate.has_ended.load(Ordering::Relaxed) {
            thread::park();
        }
        self.fate.is_dead.load(Ordering::Relaxed)
    }

    /// Ends the model's business with it.
    pub(super) fn bury(self) {
        self.fate.is_over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().expect("the mortal");
    }
}

/// What is called before each store.
fn pass() {
    let own = MORTALS.with_borrow(|mortals| {
        (!mortals.is_empty()).then(|| {
            let id = thread::current().id();
            mortals.iter().find(|(thread, _)| *thread == id).map(|(_, fate)| fate.clone())
        })
    });
    let Some(fate) = own.flatten() else { return };
    if fate.is_dead.load(Ordering::Relaxed) {
        // On its way out.
        return;
    }
    if fate.left.load(Ordering::Relaxed) > 0 {
        fate.left.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    fate.is_dead.store(true, Ordering::Relaxed);
    fate.wake();
    while !fate.is_over.load(Ordering::Relaxed) {
        thread::park();
    }
    panic::resume_unwind(Box::new(Died));
}
