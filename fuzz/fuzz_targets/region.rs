//! Any operations on a region whose words are damaged meanwhile: never a panic, never a hang, never a value that was not set for
//! the key that is asked for. The input is a program: a byte for what to do, bytes for what to do it with.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tezkor::store::segment::SegmentStore;
use tezkor::store::segment::fuzzing::Part;
use tezkor::{Begin, Buffer, Everything, Key, Locking, Looked, Stamp, Terms, Timeout, Value, When, Written};

const STEPS: usize = 100;
const KEYS: [&[u8]; 6] = [b"", b"a", b"b", b"key number three", b"\0\xff", &[b'k'; 3000]];
const LENGTHS: [usize; 8] = [0, 1, 8, 50, 1000, 16_000, 17_000, 100_000];

struct Program<'i>(&'i [u8]);

impl Program<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        Some(from[usize::from(self.byte()?) % from.len()])
    }

    fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    /// A small number mostly: records stand at the beginning of a segment.
    fn near(&mut self) -> Option<usize> {
        let (low, high) = (self.byte()?, self.byte()?);
        Some(usize::from(low) | usize::from(high.saturating_sub(200)) << 8)
    }

    fn place(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) | usize::from(self.byte()?) << 8)
    }
}

/// The value of a key, which tells the key, the salt and its own length; it begins with the salt.
fn value(key: usize, salt: u8, length: usize) -> Vec<u8> {
    let mut state = 1 + key as u64 * 0x1_0001 + u64::from(salt) * 0x101 + length as u64 * 0x100_0001;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    if let Some(first) = bytes.first_mut() {
        *first = salt;
    }
    bytes
}

struct Run {
    store: SegmentStore,
    buffer: Buffer,
    /// What was ever set: key, salt, length.
    set: Vec<(usize, u8, usize)>,
    stamp: Option<(usize, Stamp)>,
    register: u64,
    now_ms: u64,
}

impl Run {
    fn key(&self, index: usize) -> Key<'static> {
        let space = self.store.space(b"fuzz", b"");
        self.store.key(space, KEYS[index])
    }

    fn write(&mut self, index: usize, salt: u8, length: usize, when: When<'_>) {
        let bytes = value(index, salt, length);
        let entry = Value::Bytes { codec: 1, bytes: &bytes };
        self.set.push((index, salt, length));
        if let Written::Stored(stamp) = self.store.write(&self.key(index), entry, Timeout::Never.into(), when) {
            self.stamp = Some((index, stamp));
        }
    }

    fn read(&mut self, index: usize) {
        let Some(found) = self.store.read(&self.key(index), &mut self.buffer) else { return };
        self.stamp = Some((index, found.stamp));
        if found.codec == 0 {
            return;
        }
        let bytes = self.buffer.bytes();
        let known = self
            .set
            .iter()
            .any(|(key, salt, length)| *key == index && *length == bytes.len() && value(*key, *salt, *length) == bytes);
        assert!(known && found.codec == 1, "a value of {} bytes that was never set for key {index}", bytes.len());
    }

    fn step(&mut self, program: &mut Program<'_>) -> Option<()> {
        let what = program.byte()?;
        let index = usize::from(program.byte()?) % KEYS.len();
        let key = self.key(index);
        match what % 24 {
            0 | 1 => self.write(index, program.byte()?, program.choose(&LENGTHS)?, When::Always),
            2 => self.write(index, program.byte()?, program.choose(&LENGTHS)?, When::Absent),
            3 => {
                if let Some((index, stamp)) = self.stamp.take() {
                    self.write(index, program.byte()?, program.choose(&LENGTHS)?, When::Unchanged(&stamp));
                }
            }
            4 => drop(self.store.remove(&key)),
            5 => drop(self.store.touch(&key, Timeout::After(Duration::from_millis(program.place()? as u64)))),
            6 => drop(self.store.count(&key, program.number()? as i64)),
            7 => {
                let count = Value::Count(program.number()? as i64);
                self.store.write(&key, count, Timeout::After(Duration::from_secs(60)).into(), When::Always);
            }
            8 => {
                // Fills segments, so that others are evicted.
                for step in 0..program.byte()? % 80 {
                    self.write(index, step, 15_000, When::Always);
                    let other = format!("filler {step}");
                    let key = self.store.key(key.space(), other.as_bytes());
                    let entry = Value::Bytes { codec: 1, bytes: &[step; 9_000] };
                    self.store.write(&key, entry, Timeout::Never.into(), When::Always);
                }
            }
            9 => {
                let mut seen = 0;
                self.store.scan(key.space(), &mut |_| {
                    seen += 1;
                    seen < 1000
                });
            }
            10 => drop(self.store.stats()),
            11 => drop(self.store.explain(&key)),
            12 => drop(self.store.validate()),
            13 => self.store.clear(key.space()),
            14 => {
                if let Some((index, mut stamp)) = self.stamp {
                    self.store.is_current(&self.key(index), &mut stamp);
                }
            }
            15 => {
                self.now_ms += program.place()? as u64;
                self.store.set_time(self.now_ms);
            }
            16..20 => {
                let part = match program.byte()? % 8 {
                    0 => Part::Header,
                    1 => Part::Workers,
                    2 => Part::Rows,
                    3 => Part::Ledger,
                    4 => Part::Table,
                    5 => Part::Bucket(key.hash() as u64),
                    // Those that are used first, mostly.
                    _ => Part::Segment(usize::from(program.byte()?.saturating_sub(180))),
                };
                let place = program.near()?;
                let (how, register) = (program.byte()?, self.register);
                let number = if how % 4 == 0 { program.number()? } else { 0 };
                let mut read = 0;
                self.store.damage(part, place, |word| {
                    read = word;
                    match how % 4 {
                        0 => number,
                        1 => word ^ 1 << (how >> 2),
                        2 => register,
                        // Only looked at, to be put elsewhere.
                        _ => word,
                    }
                });
                self.register = read;
            }
            20 => self.register ^= 1 << (program.byte()? % 64),
            21 => {
                let begin =
                    Begin { birth: None, beta: 1.0, dice: 0.5, alone: program.byte()? % 4 == 0, refresh: false };
                if let Looked::Load(mut load) = self.store.load(&key, &mut self.buffer, begin) {
                    self.store.count_waiter(&load, true);
                    let (salt, length) = (program.byte()?, program.choose(&LENGTHS)?);
                    let bytes = value(index, salt, length);
                    self.set.push((index, salt, length));
                    let tag: &[u8] = if salt % 2 == 0 { b"even" } else { b"odd" };
                    let terms = Terms { stale: Duration::from_secs(1), tags: &[tag], ..Timeout::Never.into() };
                    match salt % 5 {
                        0 => self.store.fail(&mut load),
                        1 => drop(self.store.is_over(&load)),
                        _ => drop(self.store.fill(&key, &mut load, Value::Bytes { codec: 1, bytes: &bytes }, terms)),
                    }
                    self.store.end(&mut load);
                }
                self.store.invalidate_tags(key.space(), &[b"odd"]);
            }
            22 => {
                let most = Some(Duration::from_millis(program.place()? as u64));
                if let Ok(Locking::Held(token)) = self.store.lock(&key, most) {
                    self.store.extend_lock(&key, token, None);
                    self.store.unlock(&key, token);
                }
                let _ = self.store.use_rate(&key, 1 + u64::from(program.byte()?), Duration::from_secs(1));
                let intents = self.store.intend(key.space(), &[key.bytes()], &[b"even"], Some(Everything::OfPrefix));
                self.store.delete_pattern(key.space(), &|full| full.len() % 2 == 0);
                self.store.forget(intents);
            }
            _ => self.read(index),
        }
        Some(())
    }
}

fuzz_target!(|input: &[u8]| {
    let mut run = Run {
        store: SegmentStore::for_fuzzing(),
        buffer: Buffer::new(),
        set: Vec::new(),
        stamp: None,
        register: 0,
        now_ms: 1 << 40,
    };
    let mut program = Program(input);
    for _ in 0..STEPS {
        if run.step(&mut program).is_none() {
            break;
        }
    }
    (0..KEYS.len()).for_each(|index| run.read(index));
});
