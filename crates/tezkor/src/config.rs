//! Settings: where a cache lives and how large it is. Parsed once; what is wrong is an error that names the fix.

use std::path::PathBuf;

use crate::clock::Clock;
use crate::error::Error;
use crate::store::segment::attach::Place;
use crate::store::segment::layout::{DEFAULT_REGION_BYTES, LARGEST_REGION_BYTES, SMALLEST_REGION_BYTES};

/// Overrides the directory in which shared regions get their directory; tmpfs is expected there.
pub const SHARED_DIRECTORY_VARIABLE: &str = "TEZKOR_SHARED_DIRECTORY";
const SHARED_DIRECTORY: &str = "/dev/shm";
/// The name of the project's own region when the settings give none.
const UNNAMED_REGION: &str = "default";

/// Where a cache lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `memory://name`: private to the process.
    Memory {
        /// Tells private caches of one process apart.
        name: String,
    },
    /// `shared://name`: a file on tmpfs, for all processes of the user. Without a name: the project's own region.
    Shared {
        /// The name of the region.
        name: Option<String>,
    },
    /// `file:///directory`: a file on disk.
    File {
        /// The directory; the region keeps to a folder of its own in it.
        directory: PathBuf,
    },
}

/// What a cache is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it lives. Choose `shared://` unless there is a reason not to.
    pub location: Location,
    /// What tells this location from others in the same region: the text of the setting.
    pub namespace: Vec<u8>,
    /// The size of the region; `None` for 128 MiB. Choose what the working set takes, half as much again for good measure.
    pub size_bytes: Option<u64>,
    /// The clock of private memory; regions in files follow the boot or wall clock whatever this says.
    pub clock: Clock,
    /// The name of the project's own region, which `shared://` without a name means.
    pub region: Option<String>,
}

impl Location {
    /// Reads a LOCATION, and the size that it may ask for: `scheme://name?size=64MiB`.
    ///
    /// ```
    /// # use tezkor::Location;
    /// let (location, size_bytes) = Location::parse("shared://shop?size=64MiB")?;
    /// assert_eq!(location, Location::Shared { name: Some("shop".into()) });
    /// assert_eq!(size_bytes, Some(64 << 20));
    /// # Ok::<(), tezkor::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<(Location, Option<u64>), Error> {
        let (place, query) = text.split_once('?').map_or((text, None), |(place, query)| (place, Some(query)));
        let size_bytes = query.map(|query| parse_query(text, query)).transpose()?.flatten();
        let location = match place.split_once("://") {
            Some(("memory", name)) => Location::Memory { name: name.into() },
            Some(("shared", "")) => Location::Shared { name: None },
            Some(("shared", name)) => Location::Shared { name: Some(check_name(name)?.into()) },
            Some(("file", path)) if path.starts_with('/') && path.len() > 1 && !path.contains('\0') => {
                Location::File { directory: PathBuf::from(path) }
            }
            Some(("file", path)) => {
                return Err(Error::setting(format!(
                    "LOCATION {text:?}: file:// takes an absolute directory, such as file:///var/cache/shop, not {path:?}"
                )));
            }
            Some((scheme, _)) => {
                return Err(Error::setting(format!(
                    "LOCATION {:?}: unknown scheme {scheme:?}; use shared://, memory:// or file:///directory",
                    shown(text)
                )));
            }
            None if place.is_empty() => Location::Shared { name: None },
            None => {
                return Err(Error::setting(format!(
                    "LOCATION {:?} has no scheme; use shared://, memory:// or file:///directory",
                    shown(text)
                )));
            }
        };
        Ok((location, size_bytes))
    }
}

/// A url without what nobody should see: everything before its last `@`, which a password may well reach over a `/` or a `?`, and
/// the values of parameters, whose names may be misspelled.
pub(crate) fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let (hidden, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("***@", rest));
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let colon = if scheme.is_empty() { "" } else { "://" };
    let query = query.map(|query| {
        let hidden = |part: &str| part.split_once('=').map_or("***".into(), |(name, _)| format!("{name}=***"));
        let parts = query.split('&').map(|part| if part.starts_with("db=") { part.into() } else { hidden(part) });
        format!("?{}", parts.collect::<Vec<_>>().join("&"))
    });
    [scheme, colon, hidden, place, query.as_deref().unwrap_or_default()].concat()
}

fn check_name(name: &str) -> Result<&str, Error> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if name.len() > 64 || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(Error::setting(format!(
            "region name {name:?}: use 1 to 64 letters, digits, '-', '_' and '.', not beginning with '.'"
        )));
    }
    Ok(name)
}

fn parse_query(text: &str, query: &str) -> Result<Option<u64>, Error> {
    let mut size_bytes = None;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("size", size)) => size_bytes = Some(parse_size(size)?),
            _ => {
                let shown = shown(text);
                return Err(Error::setting(format!("LOCATION {shown:?} has a parameter other than ?size=128MiB")));
            }
        }
    }
    Ok(size_bytes)
}

/// Reads a size: a number of bytes, or one with B, KiB, MiB or GiB.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        _ => None,
    };
    let number = digits.trim().parse::<u64>().ok();
    match (number, shift) {
        (Some(number), Some(shift)) if number > 0 && number.leading_zeros() > shift => Ok(number << shift),
        _ => Err(Error::setting(format!("size {text:?}: use a number with B, KiB, MiB or GiB, such as 128MiB"))),
    }
}

impl Config {
    /// The configuration of a LOCATION.
    pub fn new(location: &str) -> Result<Config, Error> {
        let (parsed, size_bytes) = Location::parse(location)?;
        let namespace = location.split('?').next().unwrap_or_default();
        Ok(Config {
            location: parsed,
            namespace: namespace.as_bytes().to_vec(),
            size_bytes,
            clock: Clock::Boot,
            region: None,
        })
    }

    pub(crate) fn size_bytes(&self) -> Result<u64, Error> {
        let size_bytes = self.size_bytes.unwrap_or(DEFAULT_REGION_BYTES);
        if !(SMALLEST_REGION_BYTES..=LARGEST_REGION_BYTES).contains(&size_bytes) {
            return Err(Error::setting(format!(
                "size {size_bytes} B: a region has from 1 MiB to 128 GiB; set SIZE, or ?size= in the LOCATION"
            )));
        }
        Ok(size_bytes)
    }

    pub(crate) fn place(&self) -> Result<Place, Error> {
        Ok(match &self.location {
            Location::Memory { .. } => Place::Private,
            Location::Shared { name } => {
                let own = self.region.as_deref().unwrap_or(UNNAMED_REGION);
                let parent = std::env::var_os(SHARED_DIRECTORY_VARIABLE)
                    .filter(|directory| !directory.is_empty())
                    .map_or(SHARED_DIRECTORY.into(), PathBuf::from);
                if !parent.is_absolute() {
                    return Err(Error::setting(format!(
                        "{SHARED_DIRECTORY_VARIABLE}={}: processes that start elsewhere would use another one; set an \
                         absolute directory",
                        parent.display()
                    )));
                }
                Place::File {
                    parent,
                    directory: None,
                    name: check_name(name.as_deref().unwrap_or(own))?.to_string(),
                    survives_boot: false,
                }
            }
            Location::File { directory } => Place::File {
                parent: directory.clone(),
                directory: Some("tezkor".into()),
                name: "region".into(),
                survives_boot: true,
            },
        })
    }

    pub(crate) fn clock(&self) -> Clock {
        // The contract of a store turns its clock.
        #[cfg(feature = "crash-points")]
        if self.clock == Clock::Manual {
            return Clock::Manual;
        }
        match self.location {
            Location::Memory { .. } => self.clock,
            Location::Shared { .. } => Clock::Boot,
            Location::File { .. } => Clock::Wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_mistakes_name_the_fix() {
        let cases = [
            ("", Location::Shared { name: None }, None),
            ("shared://", Location::Shared { name: None }, None),
            ("shared://a-b.c_1?size=8MiB", Location::Shared { name: Some("a-b.c_1".into()) }, Some(8 << 20)),
            ("memory://x", Location::Memory { name: "x".into() }, None),
            ("file:///var/cache", Location::File { directory: "/var/cache".into() }, None),
        ];
        for (text, location, size) in cases {
            assert_eq!(Location::parse(text).expect(text), (location, size), "{text}");
        }
        for (text, fix) in [
            ("redi://x", "unknown scheme"),
            ("shop", "no scheme"),
            ("file://relative", "absolute directory"),
            ("shared://../up", "region name"),
            ("shared://.hidden", "region name"),
            ("shared://x?size=huge", "such as 128MiB"),
            ("shared://x?sise=1MiB", "a parameter other than"),
        ] {
            let error = Location::parse(text).expect_err(text);
            assert!(error.is_setting() && error.to_string().contains(fix), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("1", 1), ("7B", 7), ("2KiB", 2048), ("128MiB", 128 << 20), ("3GiB", 3 << 30)] {
            assert_eq!(parse_size(text).expect(text), bytes);
        }
        for text in ["", "MiB", "1MB", "-1", "1.5GiB", "99999999999GiB", "0"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
