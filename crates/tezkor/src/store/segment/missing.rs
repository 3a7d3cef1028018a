//! Pages of a mapped file that are not there: the file was cut under us, or its disk failed. The kernel then sends SIGBUS,
//! which ends the process; here the page becomes an empty one of this process's own, which reads as misses, and the store
//! leaves the region at its next operation.
//! It handles faults in our own mappings only; all others go where they went before.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

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
/// What was installed before: written once, before our handler can run.
static mut BEFORE: MaybeUninit<libc::sigaction> = MaybeUninit::zeroed();

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
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a zeroed sigaction is a valid one; its fields are set before it is used. BEFORE is written here alone, inside
        // of a Once and before the handler that reads it is installed by the same calls.
        unsafe {
            let set = &mut *action.as_mut_ptr();
            set.sa_sigaction = on_missing_page as *const () as usize;
            set.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&raw mut set.sa_mask);
            let before = (&raw mut BEFORE).cast::<libc::sigaction>();
            // Read first, so that BEFORE is complete when the handler may first run.
            if libc::sigaction(libc::SIGBUS, ptr::null(), before) == 0 {
                // Without it a missing page ends the process, as it does anywhere.
                let _ = libc::sigaction(libc::SIGBUS, action.as_ptr(), ptr::null_mut());
            }
        }
    });
}

/// Puts an empty page in the place of one that is missing. Calls nothing but `mmap` and `sigaction`, and keeps `errno`.
extern "C" fn on_missing_page(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    let page = PAGE.load(Ordering::Relaxed);
    let is_ours = code > 0
        && WATCHED.iter().any(|watched| {
            (watched.start.load(Ordering::SeqCst)..watched.end.load(Ordering::SeqCst)).contains(&address)
        });
    if is_ours {
        let at = (address & !(page - 1)) as *mut libc::c_void;
        // SAFETY: errno is this thread's own. The page lies within a mapping of ours that lives (it is forgotten before it is
        // unmapped, and somebody is just reading it), is replaced as a whole, and holds atomic words only, for which any
        // bytes are valid.
        let replaced = unsafe {
            let errno = errno();
            let kept = *errno;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
            let made = libc::mmap(at, page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            *errno = kept;
            made != libc::MAP_FAILED
        };
        if replaced {
            FAULTS.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    // SAFETY: BEFORE was filled in before this handler was installed, and is never written again. What is called is what the
    // process had installed for this signal, with the arguments that its flags ask for.
    unsafe {
        let before = (&raw const BEFORE).cast::<libc::sigaction>();
        match (*before).sa_sigaction {
            // The default and (for a fault, which would come again at once) to ignore: it happens once more, and ends us.
            libc::SIG_DFL | libc::SIG_IGN => {
                let mut action = MaybeUninit::<libc::sigaction>::zeroed();
                (*action.as_mut_ptr()).sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, action.as_ptr(), ptr::null_mut());
                if code <= 0 {
                    libc::raise(signal);
                }
            }
            handler if (*before).sa_flags & libc::SA_SIGINFO != 0 => {
                type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                std::mem::transmute::<usize, Handler>(handler)(signal, info, context);
            }
            handler => std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler)(signal),
        }
    }
}

/// Where this thread's `errno` is.
///
/// # Safety
///
/// None beyond the pointer's: it is valid for this thread as long as it runs.
unsafe fn errno() -> *mut libc::c_int {
    #[cfg(target_os = "linux")]
    // SAFETY: takes nothing; the result is valid for this thread.
    return unsafe { libc::__errno_location() };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above.
    return unsafe { libc::__error() };
}
