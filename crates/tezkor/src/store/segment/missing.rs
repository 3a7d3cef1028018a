//! Pages of a mapped file that are not there: the file was cut under us, or its disk failed. The kernel then sends SIGBUS,
//! which ends the process; here the page becomes an empty one of this process's own, which reads as misses, and the store
//! leaves the region at its next operation.
//! It handles faults in our own mappings only; all others go where they went before.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

/// Mappings that are watched; a process with more has the rest unwatched.
const MOST_MAPPINGS: usize = 64;
/// Pages are at least this large; on a machine with larger ones a neighbour is replaced as well.
const SMALLEST_PAGE: usize = 4096;

struct Watched {
    start: AtomicUsize,
    end: AtomicUsize,
}

static WATCHED: [Watched; MOST_MAPPINGS] =
    [const { Watched { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; MOST_MAPPINGS];
static FAULTS: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(SMALLEST_PAGE);
/// Whether the handler that came later has had a signal from us.
static PASSED_ON: AtomicBool = AtomicBool::new(false);
/// What was installed before us: the first one, and one that came later and was put behind us again.
static BEFORE: [OnceLock<libc::sigaction>; 2] = [const { OnceLock::new() }; 2];

/// How many pages of mapped files were missing so far.
#[inline(always)]
pub(crate) fn faults() -> usize {
    FAULTS.load(Ordering::Relaxed)
}

/// Watches a mapping, until [`forget`].
pub(crate) fn watch(start: usize, length: usize) {
    install();
    for watched in &WATCHED {
        if watched.start.compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            watched.end.store(start + length, Ordering::SeqCst);
            return;
        }
    }
}

/// Watches a mapping no longer: to be called before it is unmapped.
pub(crate) fn forget(start: usize) {
    if let Some(watched) = WATCHED.iter().find(|watched| watched.start.load(Ordering::SeqCst) == start) {
        watched.end.store(0, Ordering::SeqCst);
        watched.start.store(0, Ordering::SeqCst);
    }
}

fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // SAFETY: asks for a number and cannot fail for this one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(SMALLEST_PAGE).max(SMALLEST_PAGE), Ordering::Relaxed);
        come_first();
    });
}

/// Puts our handler in front again if another one was installed since (`faulthandler.enable()` does that). Twice at most: one
/// that is installed again and again has its reasons.
pub(crate) fn come_first() {
    let mut before = no_action();
    // SAFETY: the pointer is to a sigaction that lives through the call.
    let failed = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) };
    let ours = on_missing_page as *const () as usize;
    if failed != 0 || before.sa_sigaction == ours {
        return;
    }
    // Known before our handler may run.
    if BEFORE.iter().any(|known| known.set(before).is_ok()) {
        let mut action = no_action();
        action.sa_sigaction = ours;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        replace_action(libc::SIGBUS, &action);
    }
}

/// An action without flags, mask and handler: the default.
fn no_action() -> libc::sigaction {
    // SAFETY: all fields are numbers, sets of bits or optional functions, for which zeros are a value.
    unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() }
}

fn replace_action(signal: libc::c_int, action: &libc::sigaction) {
    // SAFETY: the pointer is to a sigaction that lives through the call, and its handler lives as long as the program.
    // Where this fails a missing page ends the process, as it does anywhere.
    unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
}

/// Puts an empty page in the place of one that is missing. Calls nothing but `mmap` and `sigaction`.
extern "C" fn on_missing_page(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let found = unsafe { &*info };
    // SAFETY: a SIGBUS that the kernel sent (its code is positive) has an address; of others it is looked at and not used.
    let address = unsafe { found.si_addr() }.addr();
    let is_fault = found.si_code > 0;
    let is_ours = is_fault
        && WATCHED.iter().any(|watched| {
            (watched.start.load(Ordering::SeqCst)..watched.end.load(Ordering::SeqCst)).contains(&address)
        });
    if is_ours && put_page(address) {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        return;
    }
    go_on(signal, info, context, is_fault);
}

fn put_page(address: usize) -> bool {
    let page = PAGE.load(Ordering::Relaxed);
    let at = ptr::without_provenance_mut(address & !(page - 1));
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
    // SAFETY: the page lies within a mapping of ours that lives (it is forgotten before it is unmapped, and somebody is just
    // reading it), is replaced as a whole, and holds atomic words only, for which any bytes are valid.
    let made = unsafe { libc::mmap(at, page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    made != libc::MAP_FAILED
}

/// The action that was there before ours.
///
/// One that came later has ours for the one before it, and may put it back and send the signal again (`faulthandler` does):
/// what is sent after it has had its turn goes to the first one, or the two would pass it to each other for ever.
fn action_before(is_fault: bool) -> Option<&'static libc::sigaction> {
    let [first, later] = &BEFORE;
    match later.get() {
        Some(later) if is_fault || !PASSED_ON.load(Ordering::SeqCst) => {
            PASSED_ON.store(true, Ordering::SeqCst);
            Some(later)
        }
        _ => first.get(),
    }
}

/// Does what the process had installed for this signal.
fn go_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void, is_fault: bool) {
    let before = action_before(is_fault).copied().unwrap_or_else(no_action);
    match before.sa_sigaction {
        // The default, and to ignore it (a fault would come again at once): it happens once more, and ends us.
        libc::SIG_DFL | libc::SIG_IGN => {
            replace_action(signal, &no_action());
            // SAFETY: takes a number only. The signal is blocked while its handler runs, and comes when it returns.
            unsafe { libc::raise(signal) };
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with SA_SIGINFO the number is the address of such a function.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO the number is the address of such a function.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            handler(signal);
        }
    }
}
