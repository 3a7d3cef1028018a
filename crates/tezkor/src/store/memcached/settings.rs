//! Where memcached is and how it is spoken to: LOCATION as Django takes it, and what goes with it.
//! It never looks anything up, and never shows a password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::shown;
use crate::error::Error;

/// The port of memcached where none is named.
pub const DEFAULT_PORT: u16 = 11211;

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host, without the brackets of IPv6, and a port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(out, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(out, "{host}:{port}"),
            Address::Unix(path) => write!(out, "{}", path.display()),
        }
    }
}

/// One server and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it listens.
    pub address: Address,
    /// Its share of the keys, which [`Placement::KetamaWeighted`] alone looks at: `host:port:weight`.
    pub weight: u32,
}

/// Which server a key lives on. All clients of the same servers have to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// As pymemcache's `HashClient`, so Django's `PyMemcacheCache`: rendezvous hashing with murmur3. Least moves when servers come or go.
    #[default]
    Rendezvous,
    /// As libmemcached's `MEMCACHED_BEHAVIOR_KETAMA`, so pylibmc's `behaviors={"ketama": True}`: a ring of one-at-a-time hashes.
    Ketama,
    /// As libmemcached's `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`, so pylibmc's `behaviors={"ketama_weighted": True}`: a ring of MD5.
    KetamaWeighted,
    /// As libmemcached without behaviours, so Django's `PyLibMCCache` as it comes: hash modulo servers. Almost all keys move when
    /// servers come or go.
    Modula,
}

impl Placement {
    /// The placement of this name: `rendezvous`, `ketama`, `ketama-weighted`, `modula`.
    pub fn named(name: &str) -> Result<Placement, Error> {
        Ok(match name {
            "rendezvous" => Placement::Rendezvous,
            "ketama" => Placement::Ketama,
            "ketama-weighted" => Placement::KetamaWeighted,
            "modula" => Placement::Modula,
            _ => {
                let known = "rendezvous (as pymemcache), ketama, ketama-weighted or modula (as pylibmc)";
                return Err(Error::setting(format!("PLACEMENT {name:?} is not known; use {known}")));
            }
        })
    }
}

/// TLS to the servers. Needs the cargo feature `memcached-tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// A PEM file of the authorities that servers' certificates are checked against; none takes those of the system.
    pub authorities: Option<PathBuf>,
    /// PEM files of a certificate and its key that show who we are, for servers that ask.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the servers' certificates are for, where it is not the host that is connected to.
    pub server_name: Option<String>,
}

/// How memcached is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct MemcachedSettings {
    /// The servers, in the order of the setting: some placements depend on it.
    pub places: Vec<Place>,
    /// Which server a key lives on.
    pub placement: Placement,
    /// Username and password of the ASCII protocol, for servers started with `-Y`.
    pub login: Option<(String, String)>,
    /// TLS, on TCP alone.
    pub tls: Option<TlsSettings>,
    /// How long it may take to connect, name look-up included.
    pub connect_timeout: Duration,
    /// How long a server may be silent. Large answers get a millisecond more for each KiB.
    pub reply_timeout: Duration,
    /// How long a server that failed is left out for the first time; each further failure doubles it.
    pub shortest_rest: Duration,
    /// How long a server that failed is left out at most. What a site waits for at most until a server that is back is used again.
    pub longest_rest: Duration,
}

impl MemcachedSettings {
    /// Settings for LOCATION: one text or many, each with one server or several between `,` or `;`. A server is `host`, `host:port`,
    /// `host:port:weight`, `[ipv6]:port`, `unix:/path` or `/path`; the text may begin with `memcached://` or
    /// `memcached://user:password@`.
    pub fn new(locations: &[&str]) -> Result<MemcachedSettings, Error> {
        let mut settings = MemcachedSettings {
            places: Vec::new(),
            placement: Placement::default(),
            login: None,
            tls: None,
            connect_timeout: Duration::from_millis(100),
            reply_timeout: Duration::from_millis(100),
            shortest_rest: Duration::from_millis(100),
            longest_rest: Duration::from_secs(1),
        };
        for location in locations {
            let mut text = location.trim();
            if let Some(rest) = text.strip_prefix("memcached://") {
                text = rest.trim_end_matches('/');
                if let Some((login, servers)) = text.rsplit_once('@') {
                    settings.login = Some(read_login(login)?);
                    text = servers;
                }
            }
            for server in text.split([',', ';']).map(str::trim).filter(|server| !server.is_empty()) {
                let place = read_place(server)?;
                // A server that is named twice is one, as in pymemcache.
                if !settings.places.iter().any(|other| other.address == place.address) {
                    settings.places.push(place);
                }
            }
        }
        if settings.places.is_empty() {
            return Err(Error::setting("LOCATION names no memcached; set it to \"host:port\" or \"unix:/path\""));
        }
        Ok(settings)
    }

    /// The servers in words, without any secret.
    pub fn title(&self) -> String {
        let places: Vec<String> = self.places.iter().map(|place| place.address.to_string()).collect();
        format!("memcached at {}", places.join(", "))
    }

    /// Checks what has been set by hand.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.places.is_empty() {
            return Err(Error::setting("LOCATION names no memcached; set it to \"host:port\" or \"unix:/path\""));
        }
        if self.connect_timeout.is_zero() || self.reply_timeout.is_zero() {
            return Err(Error::setting("a timeout of zero leaves memcached no time to answer; 100 ms is the default"));
        }
        let is_socket = |place: &Place| matches!(place.address, Address::Unix(_));
        if self.tls.is_some() && self.places.iter().any(is_socket) {
            return Err(Error::setting(
                "memcached speaks no TLS on unix sockets; take TLS out of OPTIONS, or name host:port",
            ));
        }
        let is_unsendable = |text: &str| text.is_empty() || text.contains([' ', '\r', '\n', '\0']);
        if let Some((name, password)) = &self.login
            && (is_unsendable(name) || is_unsendable(password))
        {
            return Err(Error::setting(
                "memcached takes no spaces or line ends in USERNAME and PASSWORD, and no empty ones; set others",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for MemcachedSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MemcachedSettings")
            .field("places", &self.places)
            .field("placement", &self.placement)
            .field("login", &self.login.as_ref().map(|_| "***"))
            .field("tls", &self.tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("reply_timeout", &self.reply_timeout)
            .field("shortest_rest", &self.shortest_rest)
            .field("longest_rest", &self.longest_rest)
            .finish()
    }
}

fn read_login(text: &str) -> Result<(String, String), Error> {
    let unreadable = || {
        Error::setting(
            "the username and password in LOCATION are not readable; write memcached://user:password@host, with %40 for an @",
        )
    };
    let (name, password) = text.split_once(':').ok_or_else(unreadable)?;
    Ok((without_percents(name).ok_or_else(unreadable)?, without_percents(password).ok_or_else(unreadable)?))
}

fn without_percents(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

fn read_place(text: &str) -> Result<Place, Error> {
    let path = text.strip_prefix("unix:").map(|path| if path.starts_with("///") { &path[2..] } else { path });
    if let Some(path) = path.or_else(|| text.starts_with('/').then_some(text)) {
        if !path.starts_with('/') {
            return Err(Error::setting(format!(
                "{:?} in LOCATION is no path of a socket; write unix:/path/to.sock",
                shown(text)
            )));
        }
        return Ok(Place { address: Address::Unix(PathBuf::from(path)), weight: 1 });
    }
    let wrong = |fix: &str| Error::setting(format!("{:?} in LOCATION is no memcached server; {fix}", shown(text)));
    if text.contains(['/', ' ', '@']) {
        return Err(wrong("write host:port, unix:/path, or memcached://host:port"));
    }
    let (host, rest) = match text.strip_prefix('[') {
        Some(text) => text.split_once(']').ok_or_else(|| wrong("the ] of an IPv6 address is missing"))?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let mut parts = rest.split(':').skip(1);
    let port = match parts.next() {
        Some(port) => {
            port.parse().map_err(|_| wrong("the port has to be a number; write IPv6 addresses in brackets"))?
        }
        None if rest.is_empty() => DEFAULT_PORT,
        None => return Err(wrong("write [address]:port")),
    };
    let weight = match parts.next() {
        Some(weight) => weight.parse().map_err(|_| wrong("the weight behind the port has to be a number"))?,
        None => 1,
    };
    if host.is_empty() || parts.next().is_some() || weight == 0 || port == 0 {
        return Err(wrong("write host:port, with IPv6 addresses in brackets"));
    }
    Ok(Place { address: Address::Tcp { host: host.to_owned(), port }, weight })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(locations: &[&str]) -> String {
        match MemcachedSettings::new(locations) {
            Ok(settings) => {
                let places = settings.places.iter().map(|place| match place.weight {
                    1 => place.address.to_string(),
                    weight => format!("{}*{weight}", place.address),
                });
                places.collect::<Vec<_>>().join(" ")
            }
            Err(error) => format!("{error}"),
        }
    }

    #[test]
    fn locations_are_read_as_django_takes_them() {
        let cases: &[(&[&str], &str)] = &[
            (&["127.0.0.1:11211"], "127.0.0.1:11211"),
            (&["localhost"], "localhost:11211"),
            (&["unix:/tmp/m.sock"], "/tmp/m.sock"),
            (&["unix:///tmp/m.sock"], "/tmp/m.sock"),
            (&["/tmp/m.sock"], "/tmp/m.sock"),
            (&["a:1;b:2,c"], "a:1 b:2 c:11211"),
            (&["a:1", "b:2"], "a:1 b:2"),
            (&["a:1", "a:1, b:3 "], "a:1 b:3"),
            (&["memcached://a:1,b:2/"], "a:1 b:2"),
            (&["[::1]:5", "[fe80::2]"], "[::1]:5 [fe80::2]:11211"),
            (&["a:1:3"], "a:1*3"),
        ];
        for (locations, expected) in cases {
            assert_eq!(read(locations), *expected, "{locations:?}");
        }
    }

    #[test]
    fn a_location_that_cannot_be_read_is_named_with_the_fix() {
        for location in
            ["", ";", "::1", "a:b", "a:1:x", "a:1:2:3", "a:99999", "unix:m.sock", "redis://a", "[::1", "a b:1", "a:1:0"]
        {
            let error = MemcachedSettings::new(&[location]).expect_err(location);
            assert!(error.is_setting() && error.to_string().contains("LOCATION"), "{location}: {error}");
        }
        assert!(Placement::named("magic").is_err_and(|error| error.to_string().contains("rendezvous")));
    }

    #[test]
    fn a_password_is_read_and_never_shown() {
        let settings = MemcachedSettings::new(&["memcached://me:se%40cret%3A@a:1,b"]).expect("a good location");
        assert_eq!(settings.login, Some(("me".into(), "se@cret:".into())));
        assert_eq!(settings.places.len(), 2);
        for shown in [format!("{settings:?}"), settings.title()] {
            assert!(!shown.contains("cret"), "{shown}");
        }
        let error = MemcachedSettings::new(&["memcached://me%4:topsecret@a"]).expect_err("a percent that is cut");
        assert!(!error.to_string().contains("topsecret"));
        let spaced = MemcachedSettings { login: Some(("a b".into(), "c".into())), ..settings };
        assert!(spaced.check().is_err_and(|error| error.is_setting()));
    }
}
