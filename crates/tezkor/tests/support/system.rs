//! What tests ask of the operating system beyond processes: descriptors, mounts, limits. For child processes of their own only.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Closes every descriptor from 3 on, as daemonisers do.
pub fn close_all() {
    for descriptor in 3..1024 {
        // SAFETY: takes a number. What it closes is not used again: that is what is tested.
        unsafe { libc::close(descriptor) };
    }
}

/// Mounts a tmpfs of this size at a directory, seen by this process and its children alone.
pub fn mount_tmpfs(directory: &Path, size_bytes: u64) -> io::Result<()> {
    own_mounts()?;
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let options = CString::new(format!("size={size_bytes},mode=700"))?;
    // SAFETY: all strings end in a NUL and live through the call.
    let failed = unsafe {
        libc::mount(c"tmpfs".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast::<libc::c_void>())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A mount namespace of this process's own; for ordinary users within a user namespace, where the system allows it.
fn own_mounts() -> io::Result<()> {
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    let flags = if user == 0 { libc::CLONE_NEWNS } else { libc::CLONE_NEWNS | libc::CLONE_NEWUSER };
    // SAFETY: takes a number; the process has one thread.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if user != 0 {
        std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    }
    // SAFETY: the path ends in a NUL; the other arguments may be null for a change of propagation.
    let failed = unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets this process open no further descriptor.
pub fn allow_no_more_descriptors() {
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// Takes the record lock on one byte of a file, until this process ends.
pub fn lock_byte(file: &File, byte: i64) {
    let request = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the pointer is to a flock that lives through the call.
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const request) };
    assert_eq!(failed, 0, "byte {byte} is locked by another process");
}

/// Acts for an ordinary user from now on, if this process is root's: root may write anywhere.
pub fn stop_being_root() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: takes a number (nobody's).
        unsafe { libc::setgid(65_534) };
        // SAFETY: takes a number (nobody's).
        unsafe { libc::setuid(65_534) };
    }
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
