//! The few calls to the operating system that the standard library does not offer: record locks, reservation, boot time.
//! It never keeps state, and never touches the mapped memory.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// How many forks lie between the first process that asked and this one.
#[inline(always)]
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Counts forks from now on; called before the first worker slot is taken.
pub(crate) fn watch_forks() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handler is a function of the right type that lives as long as the program and only adds to an atomic,
        // which is allowed between fork and exec.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // The only failure is a lack of memory for the handler's list entry, at start.
        debug_assert_eq!(failed, 0);
    });
}

/// Milliseconds since boot, suspend included.
#[inline]
pub(crate) fn boot_ms() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to memory for a timespec, which the call fills in.
    let failed = unsafe { libc::clock_gettime(CLOCK, time.as_mut_ptr()) };
    if failed != 0 {
        return 0;
    }
    // SAFETY: the call succeeded, so it has filled the timespec in.
    let time = unsafe { time.assume_init() };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Sleeps until somebody wakes those who wait for the word, at most this long; at once if its low half is another by now.
/// May also return early, for a signal for example.
#[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
pub(crate) fn wait_for_change(word: &super::words::Word, value: u64, most: std::time::Duration) {
    let timeout =
        libc::timespec { tv_sec: most.as_secs() as libc::time_t, tv_nsec: most.subsec_nanos() as libc::c_long };
    // SAFETY: the word is borrowed, so its address is mapped; the kernel only reads it. The timeout lives through the call.
    unsafe { libc::syscall(libc::SYS_futex, word.low_half(), libc::FUTEX_WAIT, value as u32, &raw const timeout) };
}

/// Wakes all who wait for the word, in all processes.
#[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
pub(crate) fn wake_all(word: &super::words::Word) {
    // SAFETY: the word is borrowed, so its address is mapped; the kernel only looks up who waits there.
    unsafe { libc::syscall(libc::SYS_futex, word.low_half(), libc::FUTEX_WAKE, libc::c_int::MAX) };
}

/// Where the kernel offers nothing portable, a short sleep stands in for a wake-up.
#[cfg(not(all(target_os = "linux", not(any(loom, shuttle)))))]
pub(crate) fn wait_for_change(_: &super::words::Word, _: u64, most: std::time::Duration) {
    std::thread::sleep(most.min(std::time::Duration::from_millis(2)));
}

/// Nobody sleeps longer than a moment.
#[cfg(all(not(target_os = "linux"), not(any(loom, shuttle))))]
pub(crate) fn wake_all(_: &super::words::Word) {}

/// The user that this process acts for.
pub(crate) fn user_id() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Tells namespaces of process ids apart; 0 where that is not known.
pub(crate) fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino())
}

/// Whether a process of this namespace has this id, be it only for its parent to hear of its end.
pub(crate) fn is_running(pid: u64) -> bool {
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0) else { return true };
    // SAFETY: takes numbers; signal 0 is sent to nobody.
    let failed = unsafe { libc::kill(pid, 0) } == -1;
    !failed || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Takes the record lock on one byte of a file if no other process holds it. The lock belongs to the process and goes with it.
pub(crate) fn lock_byte(file: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    match record_lock(file, byte, libc::F_WRLCK as libc::c_short, libc::F_SETLK) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EAGAIN)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives the record lock on one byte back.
pub(crate) fn unlock_byte(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    record_lock(file, byte, libc::F_UNLCK as libc::c_short, libc::F_SETLK).map(|_| ())
}

/// Whether *another* process holds the record lock on one byte; one's own locks are never reported.
pub(crate) fn is_byte_locked(file: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    let found = record_lock(file, byte, libc::F_WRLCK as libc::c_short, libc::F_GETLK)?;
    Ok(found.l_type != libc::F_UNLCK as libc::c_short)
}

fn record_lock(file: BorrowedFd<'_>, byte: u64, kind: libc::c_short, command: libc::c_int) -> io::Result<libc::flock> {
    let mut request = libc::flock {
        l_type: kind,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is borrowed, so it is open; the pointer is to a flock that lives through the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut request) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(request) }
}

/// Reserves memory or disk for a part of a file that was never written, so that touching it cannot fail.
#[cfg(not(target_os = "linux"))]
pub(crate) fn reserve(file: &File, from: u64, length: u64) -> io::Result<()> {
    let page = [0; 4096];
    (from..from + length)
        .step_by(page.len())
        .try_for_each(|at| std::os::unix::fs::FileExt::write_all_at(file, &page, at))
}

/// Reserves memory or disk for a part of a file that was never written, so that touching it cannot fail.
#[cfg(target_os = "linux")]
pub(crate) fn reserve(file: &File, from: u64, length: u64) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed.
        let error = unsafe { libc::posix_fallocate(file.as_raw_fd(), from as libc::off_t, length as libc::off_t) };
        match error {
            0 => return Ok(()),
            // On tmpfs any signal interrupts it; what was reserved stays so.
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Bytes that are free for this user on the file system of a path.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a NUL and the pointer is to memory for a statvfs.
    let failed = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled the structure in.
    let found = unsafe { found.assume_init() };
    // Their types differ from system to system.
    #[allow(clippy::unnecessary_cast)]
    Ok(found.f_bavail as u64 * found.f_frsize as u64)
}

/// Opens a name within an open directory without following a symbolic link; close-on-exec.
pub(crate) fn open_at(directory: &File, name: &str, flags: libc::c_int) -> io::Result<File> {
    let name = CString::new(name)?;
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let mode: libc::c_uint = 0o600;
    // SAFETY: the directory is open while borrowed, the name ends in a NUL, and the mode is passed as open expects it.
    let raw = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags, mode) };
    if raw == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, which nothing else owns.
    let owned = unsafe { OwnedFd::from_raw_fd(raw) };
    Ok(File::from(owned))
}

/// Renames within an open directory.
pub(crate) fn rename_at(directory: &File, from: &str, to: &str) -> io::Result<()> {
    let (from, to) = (CString::new(from)?, CString::new(to)?);
    let raw = directory.as_raw_fd();
    // SAFETY: the directory is open while borrowed and both names end in a NUL.
    let failed = unsafe { libc::renameat(raw, from.as_ptr(), raw, to.as_ptr()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes a name within an open directory; a name that is not there is fine.
pub(crate) fn remove_at(directory: &File, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the directory is open while borrowed and the name ends in a NUL.
    let failed = unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) };
    match failed {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(()),
            error => Err(error),
        },
    }
}

/// Random bits from the operating system.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
