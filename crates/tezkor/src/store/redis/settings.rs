//! Where Redis or Valkey is, and how to enter: a plain struct, made from urls (`url.rs`) and then changed field by field.
//! No secret is ever in its `Debug` text.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long connecting, or a reply, may take when nothing else is said: a cache that answers later than this costs more than a miss.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// Most connections of a process when nothing else is said. A thread takes one at a time, so this is more than a process has threads.
pub const MOST_CONNECTIONS: usize = 100;

/// What a Redis or Valkey is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// The servers.
    pub fleet: Fleet,
    /// The files of TLS, for addresses that use it.
    pub tls: TlsFiles,
    /// How long it may take to reach the server and to enter, TLS and password included. Raise it for servers far away.
    pub connect_timeout: Duration,
    /// How long a reply may take; large values get a microsecond more for each byte. Raise it for servers that are slow at times.
    pub reply_timeout: Duration,
    /// Most connections of one process to one server; who finds none free waits for one, within the reply timeout.
    pub connections: usize,
    /// Where reads go. Choose replicas only where a read may return an older value than the one that was just written.
    pub reads: Reads,
}

/// The servers, by how they stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fleet {
    /// A primary, and perhaps replicas of it.
    Standalone {
        /// Takes all writes.
        primary: Endpoint,
        /// Take reads where [`RedisSettings::reads`] says so.
        replicas: Vec<Endpoint>,
    },
    /// Servers that Sentinel watches.
    Sentinel {
        /// The sentinels, any of which is asked; their logins are their own.
        sentinels: Vec<Endpoint>,
        /// The name under which they watch the primary.
        service: String,
        /// How to enter the servers that they name.
        entry: Entry,
    },
    /// A cluster.
    Cluster {
        /// Some of its nodes; the others are learned from them.
        seeds: Vec<Endpoint>,
    },
}

/// Where reads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// To the primary.
    Primary,
    /// To the replicas in turn, and to the primary where none answers.
    Replicas,
}

/// A server and how to enter it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// How to enter.
    pub entry: Entry,
}

/// How to enter a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The user; `None` for the default one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u32,
    /// Whether and how the connection is encrypted.
    pub cover: Cover,
    /// What messages call the server.
    pub product: Product,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cover {
    /// It is not.
    #[default]
    Plain,
    /// By TLS, and the server's certificate is checked.
    Tls,
}

/// What messages call a server: as its url did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Product {
    /// `redis://`, `rediss://`, `unix://`.
    #[default]
    Redis,
    /// `valkey://`, `valkeys://`.
    Valkey,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A host and a port.
    Tcp {
        /// A name or a number, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// The files of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of authorities in PEM; `None` for those of the system.
    pub authorities: Option<PathBuf>,
    /// Our certificate in PEM, for servers that ask for one; needs a key.
    pub certificate: Option<PathBuf>,
    /// The key of our certificate in PEM.
    pub key: Option<PathBuf>,
}

/// A password, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl RedisSettings {
    /// The settings for these servers, with everything else as it usually is.
    pub fn new(fleet: Fleet) -> RedisSettings {
        RedisSettings {
            fleet,
            tls: TlsFiles::default(),
            connect_timeout: PATIENCE,
            reply_timeout: PATIENCE,
            connections: MOST_CONNECTIONS,
            reads: Reads::Primary,
        }
    }
}

impl Fleet {
    /// All endpoints that are named, in order.
    pub(super) fn endpoints(&self) -> Vec<&Endpoint> {
        match self {
            Fleet::Standalone { primary, replicas } => std::iter::once(primary).chain(replicas).collect(),
            Fleet::Sentinel { sentinels, .. } => sentinels.iter().collect(),
            Fleet::Cluster { seeds } => seeds.iter().collect(),
        }
    }
}

impl Endpoint {
    /// Names it in messages.
    pub(super) fn title(&self) -> String {
        format!("{} at {}", self.entry.product, self.address)
    }
}

impl Secret {
    /// Keeps the text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl fmt::Display for Product {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Product::Redis => "redis",
            Product::Valkey => "valkey",
        })
    }
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
