//! Coming to a region: private memory, or a file that all processes of the user map. Nothing that is found is trusted before
//! its owner, mode, layout and checksum have been checked; no symbolic link is followed; no foreign file is changed.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering as Std};
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh3::xxh3_64;

use super::Attached;
use super::layout::{Geometry, MAGIC, MOST_WORKERS, SMALLEST_REGION_BYTES, header, segment};
use super::lock::{Held, Liveness, LockFile};
use super::map::Mapping;
use super::os;
use super::region::{Region, Reserve, Room};
use super::state;
use super::words::{Ordering, Words};
use crate::clock::{Clock, wall_ms};
use crate::key::name_hash;

/// A region that no worker has used for this long is removed at the next start of another.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Of a file system with less room than asked for, a region takes at most this share.
const LARGEST_SHARE: u64 = 2;

/// Where a region lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Memory of this process alone.
    Private,
    /// A file in a directory of its own.
    File {
        /// The directory that has to exist.
        parent: PathBuf,
        /// The directory in it that is made with mode 0700 and checked; `None` for one that is named after the user.
        directory: Option<String>,
        /// The name of the file, without extension.
        name: String,
        /// Whether it outlives the boot of the machine.
        survives_boot: bool,
    },
}

impl Place {
    /// The directory of the region's files; empty for private memory. A process that changes its user changes the directory.
    pub(crate) fn directory(&self) -> PathBuf {
        match self {
            Place::Private => PathBuf::new(),
            Place::File { parent, directory: Some(directory), .. } => parent.join(directory),
            Place::File { parent, directory: None, .. } => parent.join(format!("tezkor-{}", os::user_id())),
        }
    }
}

/// Private memory of this process.
pub(crate) fn open_private(size_bytes: u64, clock: Clock) -> io::Result<Attached> {
    open_private_with(size_bytes, clock, [os::random()?, os::random()?, os::random()?])
}

/// The same with these numbers as seed, id and epoch.
pub(crate) fn open_private_with(size_bytes: u64, clock: Clock, random: [u64; 3]) -> io::Result<Attached> {
    let geometry = Geometry::of_size(size_bytes);
    let words = Words::new(Mapping::private(geometry.size_bytes)?);
    write_header(&words, &geometry, clock, random)?;
    let liveness = Liveness::Private(Held::new(geometry.workers));
    let region = Region::new(words, geometry, Box::new(|_, _| Room::Reserved));
    Ok(Attached::new(region, liveness, None, None))
}

/// The file of a region, attached to or made, and what the user should know; waits this long for another process that is making
/// it. This process has its row when it returns: from then on nobody who asks for another size replaces the file.
#[allow(clippy::too_many_arguments)]
pub(crate) fn open_file(
    place: &Place,
    name: &str,
    size_bytes: u64,
    clock: Clock,
    survives_boot: bool,
    wait: Duration,
) -> io::Result<(Attached, Vec<String>)> {
    let path = place.directory();
    let handle = open_directory(path.parent().unwrap_or(&path), &path)?;
    remove_unused(&handle, &path, name);
    let lock_name = format!("{name}.lock");
    let rows = Geometry::of_size(size_bytes).workers;
    let locks = LockFile::open(&handle, &path.join(&lock_name), &lock_name, rows)?;
    locks.refresh();
    let (attached, notes) = locks.while_creating(wait, || {
        let file_name = format!("{name}.region");
        let mut notes = Vec::new();
        let wanted = Wanted { size_bytes, clock, survives_boot };
        let found = match attach(&handle, &file_name, &wanted, &locks) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                notes.push(format!("{} was started empty: {error}", path.join(&file_name).display()));
                None
            }
        };
        let (file, geometry, mapping) = match found {
            Some(found) => found,
            None => create(&handle, &path, &file_name, &wanted, &mut notes)?,
        };
        if geometry.size_bytes != Geometry::of_size(size_bytes).size_bytes && notes.is_empty() {
            let had_no_room = mapping[header::ASKED_BYTES].load(Ordering::Acquire) == size_bytes;
            notes.push(format!(
                "{} has {} MiB, not the {} MiB asked for: {}",
                path.join(&file_name).display(),
                geometry.size_bytes >> 20,
                size_bytes >> 20,
                if had_no_room {
                    "its file system had no room for more; delete it to have it made anew"
                } else {
                    "the size changes when no process uses it any more"
                },
            ));
        }
        let found = file.metadata()?;
        let reserve = reserve_in(path.join(&file_name), found.dev(), found.ino());
        let region = Region::new(mapping, geometry, reserve);
        let disk = survives_boot.then(|| path.join(&file_name));
        let attached = Attached::new(region, Liveness::Locks(locks.clone()), Some((found.dev(), found.ino())), disk);
        attached.come();
        Ok((attached, notes))
    })?;
    // Writing to the disk may take long, and others may be waiting for their turn to come.
    attached.mark_in_use();
    Ok((attached, notes))
}

struct Wanted {
    size_bytes: u64,
    clock: Clock,
    survives_boot: bool,
}

/// Opens the directory of the regions: ours alone, mode 0700, no symbolic link.
fn open_directory(parent: &Path, path: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Others may be doing the same.
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let handle = File::options().read(true).custom_flags(flags).open(path)?;
    let found = handle.metadata()?;
    let named = path.display();
    if found.uid() != os::user_id() {
        return Err(refused(format!("{named} belongs to user {}, not to {}", found.uid(), os::user_id())));
    }
    if found.mode() & 0o077 != 0 {
        return Err(refused(format!("{named} is open to others (mode {:o}); chmod 700 it", found.mode() & 0o777)));
    }
    Ok(handle)
}

/// A regular file of this user with one name, which nobody else may open.
pub(crate) fn check_owned(found: &Metadata, name: &str) -> io::Result<()> {
    if !found.is_file() {
        return Err(refused(format!("{name} is not a regular file")));
    }
    if found.uid() != os::user_id() || found.nlink() != 1 || found.mode() & 0o077 != 0 {
        return Err(refused(format!(
            "{name} has owner {}, {} names, mode {:o}; expected owner {}, one name, mode 600",
            found.uid(),
            found.nlink(),
            found.mode() & 0o777,
            os::user_id(),
        )));
    }
    Ok(())
}

/// Attaches to a region that is there, if everything about it is right.
fn attach(directory: &File, name: &str, wanted: &Wanted, locks: &LockFile) -> io::Result<(File, Geometry, Words)> {
    let file = os::open_at(directory, name, libc::O_RDWR)?;
    let found = file.metadata()?;
    check_owned(&found, name)?;
    if found.len() < SMALLEST_REGION_BYTES {
        return Err(refused(format!("it has {} bytes only", found.len())));
    }
    let words = Words::new(Mapping::shared(&file, found.len())?);
    let fixed = |index: usize| words[index].load(Ordering::Acquire);
    if fixed(header::MAGIC) != MAGIC {
        return Err(refused("it is of another layout".into()));
    }
    if fixed(header::CHECKSUM) != header_checksum(&words) {
        return Err(refused("its header is damaged".into()));
    }
    let geometry = Geometry::of_size(fixed(header::SIZE_BYTES));
    let recorded = [
        fixed(header::SEGMENT_WORDS) as usize,
        fixed(header::SEGMENTS) as usize,
        fixed(header::BUCKETS) as usize,
        fixed(header::WORKERS) as usize,
    ];
    let expected = [geometry.segment_words, geometry.segments, geometry.buckets, geometry.workers];
    if recorded != expected || found.len() != geometry.size_bytes || fixed(header::CLOCK) != wanted.clock as u64 {
        return Err(refused("its sizes do not fit its layout".into()));
    }
    let in_use = (0..geometry.workers).any(|row| Liveness::is_taken(locks, row));
    if !in_use {
        let state_word =
            |index: usize| words[geometry.table_at + index * segment::WORDS + segment::STATE].load(Ordering::Acquire);
        if (0..geometry.segments).any(|index| !state::is_possible(state_word(index))) {
            // Segments in no known state are left alone for ever: of those there may be many.
            return Err(refused("its segment table is damaged".into()));
        }
        // One that got less than was asked for has the size that it can have: it is warm, and a new one would get no more.
        let asked = match words[header::ASKED_BYTES].load(Ordering::Acquire) {
            0 => geometry.size_bytes,
            asked => asked,
        };
        if Geometry::of_size(asked).size_bytes != Geometry::of_size(wanted.size_bytes).size_bytes {
            return Err(refused("its size was changed in the settings".into()));
        }
        let another_boot = fixed(header::BOOT_ID) != boot_id();
        if another_boot && !(wanted.survives_boot && fixed(header::ATTACHED) == 0) {
            // After a power loss an intact but old index would bring deleted entries back.
            return Err(refused("the machine stopped while it was in use".into()));
        }
        if another_boot {
            words[header::BOOT_ID].store(boot_id(), Ordering::SeqCst);
            words[header::CHECKSUM].store(header_checksum(&words), Ordering::SeqCst);
        }
    }
    Ok((file, geometry, words))
}

/// Makes a region under another name and puts it in place when it is complete.
fn create(
    directory: &File,
    path: &Path,
    name: &str,
    wanted: &Wanted,
    notes: &mut Vec<String>,
) -> io::Result<(File, Geometry, Words)> {
    let free = os::free_bytes(path)? + reclaimed_bytes(&path.join(name));
    let mut size_bytes = wanted.size_bytes;
    if free / LARGEST_SHARE < size_bytes {
        size_bytes = free / LARGEST_SHARE;
        if size_bytes < SMALLEST_REGION_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{} has {} KiB free", path.display(), free >> 10),
            ));
        }
        notes.push(format!(
            "{} has {} MiB free: the cache gets {} MiB instead of {} MiB",
            path.display(),
            free >> 20,
            size_bytes >> 20,
            wanted.size_bytes >> 20,
        ));
    }
    remove_unfinished(directory, path, name)?;
    if reclaimed_bytes(&path.join(name)) > 0 {
        // Its room may be what the new one needs. Whoever still has it open comes to the new one.
        os::remove_at(directory, name)?;
    }
    let geometry = Geometry::of_size(size_bytes);
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let temporary = format!("{name}.new.{}.{}", std::process::id(), NUMBER.fetch_add(1, Std::Relaxed));
    let file = os::open_at(directory, &temporary, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)?;
    let made = fill(&file, &geometry, wanted).and_then(|words| {
        os::rename_at(directory, &temporary, name)?;
        Ok(words)
    });
    if made.is_err() {
        os::remove_at(directory, &temporary)?;
    }
    Ok((file, geometry, made?))
}

/// What the file system gets back when the old region goes: a file of ours alone.
fn reclaimed_bytes(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(found) if check_owned(&found, "").is_ok() => found.blocks() * 512,
        _ => 0,
    }
}

/// Removes what processes left that were killed while they made the region; the caller holds the creation lock.
fn remove_unfinished(directory: &File, path: &Path, name: &str) -> io::Result<()> {
    let unfinished = format!("{name}.new.");
    for entry in std::fs::read_dir(path)?.flatten() {
        if let Some(found) = entry.file_name().to_str().filter(|found| found.starts_with(&unfinished)) {
            os::remove_at(directory, found)?;
        }
    }
    Ok(())
}

fn fill(file: &File, geometry: &Geometry, wanted: &Wanted) -> io::Result<Words> {
    file.set_len(geometry.size_bytes)?;
    // All but the segments is reserved at once; each segment before it is first touched.
    os::reserve(file, 0, geometry.segments_at as u64 * 8)?;
    let words = Words::new(Mapping::shared(file, geometry.size_bytes)?);
    write_header(&words, geometry, wanted.clock, [os::random()?, os::random()?, os::random()?])?;
    if geometry.size_bytes != Geometry::of_size(wanted.size_bytes).size_bytes {
        words[header::ASKED_BYTES].store(wanted.size_bytes, Ordering::SeqCst);
    }
    Ok(words)
}

fn write_header(words: &Words, geometry: &Geometry, clock: Clock, random: [u64; 3]) -> io::Result<()> {
    let put = |index: usize, value: u64| words[index].store(value, Ordering::SeqCst);
    put(header::SIZE_BYTES, geometry.size_bytes);
    put(header::SEGMENT_WORDS, geometry.segment_words as u64);
    put(header::SEGMENTS, geometry.segments as u64);
    put(header::BUCKETS, geometry.buckets as u64);
    put(header::WORKERS, geometry.workers as u64);
    put(header::SEED, random[0]);
    put(header::REGION_ID, random[1]);
    put(header::EPOCH, random[2] >> 32);
    put(header::BOOT_ID, boot_id());
    put(header::CLOCK, clock as u64);
    put(header::CREATED_WALL_MS, wall_ms());
    put(header::MAGIC, MAGIC);
    put(header::CHECKSUM, header_checksum(words));
    Ok(())
}

fn header_checksum(words: &Words) -> u64 {
    let fixed: Vec<u8> =
        (0..header::FIXED).flat_map(|index| words[index].load(Ordering::Acquire).to_le_bytes()).collect();
    xxh3_64(&fixed)
}

/// Reserves parts of the region's file. It is opened by name for that: a descriptor kept open could be closed by a
/// daemoniser and be another file's by then.
fn reserve_in(path: PathBuf, device: u64, inode: u64) -> Reserve {
    Box::new(move |from, length| {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let Ok(file) = File::options().read(true).write(true).custom_flags(flags).open(&path) else {
            return Room::Unknown;
        };
        if !file.metadata().is_ok_and(|found| (found.dev(), found.ino()) == (device, inode)) {
            return Room::Unknown;
        }
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        match os::reserve(&file, from, length) {
            Ok(()) => Room::Reserved,
            Err(error) if full.contains(&error.kind()) => Room::Full,
            Err(_) => Room::Unknown,
        }
    })
}

/// Removes regions of this directory that no worker has used for a week.
fn remove_unused(directory: &File, path: &Path, own: &str) {
    let Ok(names) = std::fs::read_dir(path) else { return };
    for entry in names.flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(".lock")) else { continue };
        let age =
            entry.metadata().and_then(|found| found.modified()).map(|time| SystemTime::now().duration_since(time));
        if name == own || !age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT)) {
            continue;
        }
        // A worker refreshes its lock file every hour; one that has slept for a week still holds its lock.
        let lock_name = format!("{name}.lock");
        let Ok(locks) = LockFile::open(directory, &path.join(&lock_name), &lock_name, 0) else { continue };
        if (0..MOST_WORKERS).any(|row| Liveness::is_taken(&locks, row)) {
            continue;
        }
        // Files that cannot be removed stay.
        let _ = os::remove_at(directory, &format!("{name}.region"));
        let _ = os::remove_at(directory, &format!("{name}.lock"));
    }
}

/// A hash that differs from boot to boot.
fn boot_id() -> u64 {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    name_hash(b'b', &id) as u64
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}
