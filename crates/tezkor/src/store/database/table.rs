//! The table: a row for each name. It is made by an administrator, never by the store.
//!
//! ```text
//! name     up to 250 bytes: the name itself. Longer: its first 219 bytes and its SHA-256, 251 bytes in all   primary key
//! rest     of a longer name what follows its first 219 bytes; otherwise empty
//! number   a value that is the decimal text of an i64, as a number
//! mark     another for each write
//! expires  milliseconds since 1970, by the database's clock                                                  index
//! value    any other value
//! ```
//!
//! The name itself is the key, not a digest of it, so that all names with one beginning lie side by side and are listed by the primary
//! key. A key longer than that would not fit the indexes of MySQL and PostgreSQL.

use std::borrow::Cow;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::dialect::{Dialect, Vendor};
use crate::store::far::server::Lifetime;

/// The longest name that is a key by itself.
const LONGEST_SHORT_BYTES: usize = 250;
/// How much of a longer name begins its key.
pub(super) const HEAD_BYTES: usize = 219;

/// Where a name is in the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address<'n> {
    pub(super) key: Cow<'n, [u8]>,
    pub(super) rest: &'n [u8],
}

impl<'n> Address<'n> {
    pub(super) fn of(name: &'n [u8]) -> Self {
        if name.len() <= LONGEST_SHORT_BYTES {
            return Self { key: Cow::Borrowed(name), rest: &[] };
        }
        let (head, rest) = name.split_at(HEAD_BYTES);
        Self { key: Cow::Owned([head, &Sha256::digest(name)].concat()), rest }
    }
}

/// The name of a row.
pub(super) fn name_of<'r>(key: &'r [u8], rest: &[u8]) -> Cow<'r, [u8]> {
    if key.len() <= LONGEST_SHORT_BYTES { Cow::Borrowed(key) } else { Cow::Owned([&key[..HEAD_BYTES], rest].concat()) }
}

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'v> {
    Number(i64),
    Bytes(&'v [u8]),
}

impl<'v> Content<'v> {
    /// A number where its decimal text is this value again.
    pub(super) fn of(value: &'v [u8]) -> Self {
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
        match number {
            Some(number) if number.to_string().as_bytes() == value => Content::Number(number),
            _ => Content::Bytes(value),
        }
    }

    pub(super) fn length(self) -> usize {
        match self {
            Content::Number(_) => 8,
            Content::Bytes(bytes) => bytes.len(),
        }
    }
}

/// A row to write.
#[derive(Clone, Debug)]
pub(super) struct Row<'r> {
    pub(super) address: &'r Address<'r>,
    pub(super) content: Content<'r>,
    pub(super) mark: i64,
    pub(super) lifetime_ms: i64,
}

/// A lifetime of this or more has no end.
pub(super) const FOREVER_MS: i64 = 1 << 60;
/// So does one that is to be kept; in `expires` both lie far from each other and from every date.
pub(super) const KEEP_MS: i64 = 1 << 61;

/// A lifetime as milliseconds from now.
pub(super) fn lifetime_ms(lifetime: Lifetime) -> i64 {
    match lifetime {
        Lifetime::Never => FOREVER_MS,
        Lifetime::Keep => KEEP_MS,
        Lifetime::After(time) => {
            let up = time.saturating_add(Duration::from_nanos(999_999)).as_millis();
            i64::try_from(up).unwrap_or(i64::MAX).clamp(1, FOREVER_MS - 1)
        }
    }
}

/// The statements that make the table and its index. Nothing in them is to be filled or doubled.
pub fn creation(dialect: &Dialect, name: &str) -> Vec<String> {
    let plain = Dialect { hole: "?", ..*dialect };
    let (short, rest, number, value) = match dialect.vendor {
        Vendor::Sqlite => ("blob", "blob", "integer", "blob"),
        Vendor::Postgresql => ("bytea", "bytea", "bigint", "bytea"),
        Vendor::Mysql | Vendor::Mariadb => ("varbinary(251)", "varbinary(8500)", "bigint", "longblob"),
    };
    let table = plain.quoted(name);
    let bare = name.rsplit(['.', '"', '`']).find(|part| !part.is_empty()).unwrap_or(name);
    let index = plain.quoted(&format!("{bare}_expires"));
    let mut statements = vec![
        format!(
            "CREATE TABLE {table} (\n    name {short} NOT NULL PRIMARY KEY,\n    rest {rest} NOT NULL,\n    \
             number {number} NULL,\n    mark {number} NOT NULL,\n    expires {number} NOT NULL,\n    value {value} NULL\n)"
        ),
        format!("CREATE INDEX {index} ON {table} (expires)"),
    ];
    if dialect.vendor == Vendor::Postgresql {
        // Values are compressed by the cache, where that is wanted; trying it again costs more than the write.
        statements.insert(1, format!("ALTER TABLE {table} ALTER COLUMN value SET STORAGE EXTERNAL"));
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_has_a_key_of_its_own_that_no_short_name_has() {
        let long = vec![b'k'; 8500];
        let mut other = long.clone();
        other[8499] = b'l';
        let (address, others) = (Address::of(&long), Address::of(&other));
        assert_ne!(address.key, others.key);
        assert_eq!(address.key.len(), 251);
        assert_eq!(name_of(&address.key, address.rest), long);
        let longest_short = &long[..250];
        assert_eq!(Address::of(longest_short), Address { key: Cow::Borrowed(longest_short), rest: &[] });
        assert_eq!(Address::of(&long[..251]).key.len(), 251);
    }

    #[test]
    fn only_a_decimal_text_that_comes_back_as_it_was_is_a_number() {
        for (value, number) in [
            ("0", Some(0)),
            ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("+5", None),
            ("007", None),
            ("-0", None),
            (" 1", None),
            ("", None),
            ("1.5", None),
        ] {
            let expected = number.map_or(Content::Bytes(value.as_bytes()), Content::Number);
            assert_eq!(Content::of(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn a_lifetime_is_rounded_up_and_never_taken_for_one_without_end() {
        assert_eq!(lifetime_ms(Lifetime::After(Duration::from_nanos(1))), 1);
        assert_eq!(lifetime_ms(Lifetime::After(Duration::from_micros(1001))), 2);
        assert_eq!(lifetime_ms(Lifetime::After(Duration::MAX)), FOREVER_MS - 1);
        assert!(lifetime_ms(Lifetime::Never) < lifetime_ms(Lifetime::Keep));
    }
}
