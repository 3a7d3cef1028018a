//! Dates, times and zones: checks that what was read is a moment that exists. Does no arithmetic on them.

use super::reader::{Error, Reader};
use super::{FOLD, ZONE_NAMED, ZONE_OFFSET, ZONE_UTC};

const DAY_MICROSECONDS: i64 = 86_400_000_000;
/// The longest name in the zone database has 32 bytes.
const ZONE_NAME_MAX: usize = 64;

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Zone<Name> {
    /// No zone: a naive time.
    Naive,
    /// UTC.
    Utc,
    /// A fixed offset, in microseconds, less than a day.
    Offset(i64),
    /// A name of the zone database, for example `Asia/Tashkent`.
    Named(Name),
}

fn leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Checks a date's four bytes.
pub fn check_date(bytes: [u8; 4]) -> Result<(u16, u8, u8), Error> {
    let [high, low, month, day] = bytes;
    let year = u16::from_be_bytes([high, low]);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap(year) => 29,
        2 => 28,
        1..=12 => 31,
        _ => return Err(Error::Damaged),
    };
    if (1..=9999).contains(&year) && (1..=days).contains(&day) { Ok((year, month, day)) } else { Err(Error::Damaged) }
}

fn check_clock(bytes: [u8; 6]) -> Result<(), Error> {
    let [hour, minute, second, high, middle, low] = bytes;
    let microsecond = u32::from_be_bytes([0, high, middle, low]);
    if hour < 24 && minute < 60 && second < 60 && microsecond < 1_000_000 { Ok(()) } else { Err(Error::Damaged) }
}

/// Splits a time's payload into its six bytes (fold in the hour) and its zone, and checks both.
pub fn split_time(payload: &[u8]) -> Result<([u8; 6], Zone<&str>), Error> {
    let mut reader = Reader::new(payload);
    let bytes: [u8; 6] = reader.array()?;
    let mut clock = bytes;
    clock[0] &= !FOLD;
    check_clock(clock)?;
    Ok((bytes, split_zone(reader)?))
}

/// Splits a datetime's payload into its ten bytes (fold in the month) and its zone, and checks both.
pub fn split_datetime(payload: &[u8]) -> Result<([u8; 10], Zone<&str>), Error> {
    let mut reader = Reader::new(payload);
    let bytes: [u8; 10] = reader.array()?;
    let [high, low, month, day, hour, minute, second, micro_high, micro_middle, micro_low] = bytes;
    check_date([high, low, month & !FOLD, day])?;
    check_clock([hour, minute, second, micro_high, micro_middle, micro_low])?;
    Ok((bytes, split_zone(reader)?))
}

/// Splits a timedelta's payload into days, seconds and microseconds, and checks them.
pub fn split_timedelta(payload: &[u8]) -> Result<(i32, u32, u32), Error> {
    let mut reader = Reader::new(payload);
    let days = i32::from_be_bytes(reader.array()?);
    let seconds = u32::from_be_bytes(reader.array()?);
    let microseconds = u32::from_be_bytes(reader.array()?);
    reader.finish()?;
    let sane = days.unsigned_abs() < 1_000_000_000 && seconds < 86_400 && microseconds < 1_000_000;
    if sane { Ok((days, seconds, microseconds)) } else { Err(Error::Damaged) }
}

fn split_zone(mut reader: Reader<'_>) -> Result<Zone<&str>, Error> {
    if reader.rest().is_empty() {
        return Ok(Zone::Naive);
    }
    let [kind] = reader.array()?;
    let zone = match kind {
        ZONE_UTC => Zone::Utc,
        ZONE_OFFSET => {
            let offset = i64::from_be_bytes(reader.array()?);
            if offset.unsigned_abs() >= DAY_MICROSECONDS.unsigned_abs() {
                return Err(Error::Damaged);
            }
            Zone::Offset(offset)
        }
        ZONE_NAMED => {
            let name = reader.bytes(reader.rest().len())?;
            Zone::Named(zone_name(name).ok_or(Error::Damaged)?)
        }
        _ => return Err(Error::Unknown),
    };
    reader.finish()?;
    Ok(zone)
}

/// Names are looked up as files by others: nothing that could be a path out of the database gets through.
fn zone_name(bytes: &[u8]) -> Option<&str> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(byte);
    let sane = !bytes.is_empty() && bytes.len() <= ZONE_NAME_MAX && bytes[0] != b'/' && bytes.iter().all(plain);
    if sane { std::str::from_utf8(bytes).ok() } else { None }
}

/// True when a name can be written as a zone.
pub fn is_zone_name(name: &str) -> bool {
    zone_name(name.as_bytes()).is_some()
}

/// Appends a zone as it follows a time or a datetime.
pub fn push_zone(payload: &mut Vec<u8>, zone: &Zone<impl AsRef<str>>) {
    match zone {
        Zone::Naive => {}
        Zone::Utc => payload.push(ZONE_UTC),
        Zone::Offset(microseconds) => {
            payload.push(ZONE_OFFSET);
            payload.extend_from_slice(&microseconds.to_be_bytes());
        }
        Zone::Named(name) => {
            payload.push(ZONE_NAMED);
            payload.extend_from_slice(name.as_ref().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_days_that_exist_are_dates() {
        for (bytes, sane) in [
            ([0x07, 0xe8, 2, 29], true),
            ([0x07, 0xe7, 2, 29], false),
            ([0x07, 0xd0, 2, 29], true),
            ([0x07, 0x6c, 2, 29], false),
            ([0, 0, 1, 1], false),
            ([0x27, 0x0f, 12, 31], true),
            ([0x27, 0x10, 1, 1], false),
            ([0x07, 0xe8, 13, 1], false),
            ([0x07, 0xe8, 0, 1], false),
            ([0x07, 0xe8, 4, 31], false),
        ] {
            assert_eq!(check_date(bytes).is_ok(), sane, "{bytes:?}");
        }
    }

    #[test]
    fn zone_names_cannot_leave_the_database() {
        for (name, sane) in
            [("Asia/Tashkent", true), ("Etc/GMT+5", true), ("../etc/passwd", false), ("/etc", false), ("", false)]
        {
            assert_eq!(is_zone_name(name), sane, "{name}");
        }
    }
}
