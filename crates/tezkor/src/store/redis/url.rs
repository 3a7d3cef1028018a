//! Urls of servers, as Django, redis-py and django-redis spell them, read into settings.
//!
//! ```text
//! redis://[[user]:password@]host[:port][/database][?parameters]      rediss:// with TLS; valkey://, valkeys:// the same
//! unix://[[user]:password@]/path/of/socket[?db=1&parameters]          redis+socket://, valkey+socket:// the same
//! ```
//!
//! Parameters are those of redis-py. A message about a url never shows what stands before its `@` or in its `password`.

use std::path::PathBuf;
use std::time::Duration;

use super::settings::{Address, Cover, Endpoint, Entry, Fleet, Product, RedisSettings, Secret, TlsFiles};
use crate::config::shown;
use crate::error::Error;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const PARAMETERS: &str = "db, username, password, ssl_ca_certs, ssl_certfile, ssl_keyfile, socket_connect_timeout, \
                          socket_timeout, max_connections";

/// What one url says.
struct Url {
    endpoint: Endpoint,
    tls: TlsFiles,
    connect_timeout: Option<Duration>,
    reply_timeout: Option<Duration>,
    connections: Option<usize>,
}

impl RedisSettings {
    /// The settings of one server, or of a primary and its replicas.
    ///
    /// ```
    /// use tezkor::redis::RedisSettings;
    ///
    /// let settings = RedisSettings::from_urls(&["redis://:secret@10.0.0.5:6379/1"])?;
    /// assert!(!format!("{settings:?}").contains("secret"));
    /// # Ok::<(), tezkor::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When a url is not one, or has a parameter that is not known.
    pub fn from_urls(urls: &[&str]) -> Result<RedisSettings, Error> {
        let mut urls = read_all(urls, PORT)?;
        let replicas = urls.split_off(1);
        let primary = urls.remove(0);
        let fleet = Fleet::Standalone {
            primary: primary.endpoint.clone(),
            replicas: replicas.into_iter().map(|url| url.endpoint).collect(),
        };
        Ok(primary.settings(fleet))
    }

    /// The settings of servers that Sentinel watches: the url of the service, in which the name of the service stands where a
    /// host would (`redis://user:password@mymaster/0`), and the sentinels, as urls or as `host:port`.
    ///
    /// # Errors
    ///
    /// When a url is not one, or has a parameter that is not known.
    pub fn sentinel(service: &str, sentinels: &[&str]) -> Result<RedisSettings, Error> {
        let url = read(service, PORT)?;
        let Address::Tcp { host, .. } = &url.endpoint.address else {
            return Err(mistake(
                service,
                "Sentinel needs the name of a service where a host would stand: redis://mymaster/0",
            ));
        };
        let sentinels = read_all(sentinels, SENTINEL_PORT)?.into_iter().map(|url| url.endpoint).collect();
        let fleet = Fleet::Sentinel { sentinels, service: host.clone(), entry: url.endpoint.entry.clone() };
        Ok(url.settings(fleet))
    }

    /// The settings of a cluster, some nodes of which are named; the first says how to enter all.
    ///
    /// # Errors
    ///
    /// When a url is not one, has a parameter that is not known, or names a database: a cluster has only one.
    pub fn cluster(nodes: &[&str]) -> Result<RedisSettings, Error> {
        let mut urls = read_all(nodes, PORT)?;
        for (url, text) in urls.iter().zip(nodes) {
            if url.endpoint.entry.database != 0 {
                return Err(mistake(text, "a cluster has only database 0: leave the database out"));
            }
            if matches!(url.endpoint.address, Address::Unix(_)) {
                return Err(mistake(text, "nodes of a cluster name each other by host and port: give those"));
            }
        }
        let fleet = Fleet::Cluster { seeds: urls.iter().map(|url| url.endpoint.clone()).collect() };
        Ok(urls.remove(0).settings(fleet))
    }
}

impl Url {
    fn settings(self, fleet: Fleet) -> RedisSettings {
        let usual = RedisSettings::new(fleet);
        RedisSettings {
            tls: self.tls,
            connect_timeout: self.connect_timeout.unwrap_or(usual.connect_timeout),
            reply_timeout: self.reply_timeout.unwrap_or(usual.reply_timeout),
            connections: self.connections.unwrap_or(usual.connections),
            ..usual
        }
    }
}

fn read_all(texts: &[&str], port: u16) -> Result<Vec<Url>, Error> {
    if texts.is_empty() {
        return Err(Error::setting("no server is named: give a url, such as redis://127.0.0.1:6379/0"));
    }
    texts.iter().map(|text| read(text, port)).collect()
}

fn read(text: &str, usual_port: u16) -> Result<Url, Error> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("redis", text));
    let (product, cover, is_path) = match scheme {
        "redis" => (Product::Redis, Cover::Plain, false),
        "rediss" => (Product::Redis, Cover::Tls, false),
        "valkey" => (Product::Valkey, Cover::Plain, false),
        "valkeys" => (Product::Valkey, Cover::Tls, false),
        "unix" | "redis+socket" | "redis+unix" => (Product::Redis, Cover::Plain, true),
        "valkey+socket" | "valkey+unix" => (Product::Valkey, Cover::Plain, true),
        _ => {
            return Err(mistake(
                text,
                "its scheme is not known: use redis://, rediss://, unix://, valkey:// or valkeys://",
            ));
        }
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (login, place) = place.rsplit_once('@').map_or((None, place), |(login, place)| (Some(login), place));
    let mut entry = Entry { product, cover, ..Entry::default() };
    if let Some(login) = login {
        // As in redis-py: a password stands behind a colon, and a user may be left out.
        let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
        entry.username = Some(decoded(text, user)?).filter(|user| !user.is_empty());
        entry.password = password.map(|word| decoded(text, word)).transpose()?.map(Secret::new);
    }
    let address = match is_path {
        true => Address::Unix(PathBuf::from(socket_path(text, place)?)),
        false => {
            let (server, path) = place.split_once('/').unwrap_or((place, ""));
            if !path.is_empty() {
                entry.database = database(text, path.trim_end_matches('/'))?;
            }
            host_and_port(text, server, usual_port)?
        }
    };
    let mut url = Url {
        endpoint: Endpoint { address, entry },
        tls: TlsFiles::default(),
        connect_timeout: None,
        reply_timeout: None,
        connections: None,
    };
    for part in query.split('&').filter(|part| !part.is_empty()) {
        url.read_parameter(text, part)?;
    }
    Ok(url)
}

impl Url {
    fn read_parameter(&mut self, text: &str, part: &str) -> Result<(), Error> {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let value = decoded(text, value)?;
        let entry = &mut self.endpoint.entry;
        match name {
            "db" => entry.database = database(text, &value)?,
            "username" => entry.username = Some(value),
            "password" => entry.password = Some(Secret::new(value)),
            "ssl_ca_certs" => self.tls.authorities = Some(value.into()),
            "ssl_certfile" => self.tls.certificate = Some(value.into()),
            "ssl_keyfile" => self.tls.key = Some(value.into()),
            "socket_connect_timeout" => self.connect_timeout = Some(seconds(text, name, &value)?),
            "socket_timeout" => self.reply_timeout = Some(seconds(text, name, &value)?),
            "max_connections" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                self.connections =
                    Some(number.ok_or_else(|| mistake(text, "max_connections takes a number from 1 on"))?);
            }
            _ => {
                return Err(mistake(text, &format!("{name:?} is not a parameter; there are {PARAMETERS}")));
            }
        }
        Ok(())
    }
}

fn socket_path(text: &str, place: &str) -> Result<String, Error> {
    let path = decoded(text, place)?;
    match path.starts_with('/') && path.len() > 1 && !path.contains('\0') {
        true => Ok(path),
        false => Err(mistake(text, "the path of a socket is absolute: unix:///run/redis/redis.sock?db=0")),
    }
}

fn host_and_port(text: &str, server: &str, usual_port: u16) -> Result<Address, Error> {
    let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
        Some(_) => return Err(mistake(text, "an IPv6 address is written [::1]:6379")),
        None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None | Some("") => usual_port,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| mistake(text, "its port is not a number from 1 to 65535"))?,
    };
    let host = decoded(text, host)?;
    if host.contains(|letter: char| letter.is_whitespace() || letter.is_control() || "/@".contains(letter)) {
        return Err(mistake(text, "its host is not a name or an address"));
    }
    Ok(Address::Tcp { host: if host.is_empty() { "localhost".into() } else { host }, port })
}

fn database(text: &str, number: &str) -> Result<u32, Error> {
    // The server answers for the upper end, which is one of its settings.
    number.parse().map_err(|_| mistake(text, "its database is not a number: write redis://host:6379/1"))
}

fn seconds(text: &str, name: &str, value: &str) -> Result<Duration, Error> {
    let seconds = value.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| mistake(text, &format!("{name} takes a number of seconds above 0, such as 0.1")))
}

/// Replaces `%41` and the like.
fn decoded(text: &str, part: &str) -> Result<String, Error> {
    if !part.contains('%') {
        return Ok(part.into());
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, length) = match (first, after) {
            (b'%', [high, low, ..]) => {
                let digits = (char::from(*high).to_digit(16), char::from(*low).to_digit(16));
                let (Some(high), Some(low)) = digits else { return Err(percent(text)) };
                ((high * 16 + low) as u8, 2)
            }
            (b'%', _) => return Err(percent(text)),
            (byte, _) => (*byte, 0),
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    String::from_utf8(bytes).map_err(|_| percent(text))
}

fn percent(text: &str) -> Error {
    mistake(text, "a % in it is not followed by two digits of a letter's code: write %25 for a percent sign")
}

fn mistake(text: &str, fix: &str) -> Error {
    Error::setting(format!("url {:?}: {fix}", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn urls_are_read_as_django_and_redis_py_spell_them() {
        let unix = |path: &str| Address::Unix(path.into());
        for (text, address, user, password, database, cover) in [
            ("redis://127.0.0.1:6379/1", tcp("127.0.0.1", 6379), None, None, 1, Cover::Plain),
            ("redis://", tcp("localhost", 6379), None, None, 0, Cover::Plain),
            ("127.0.0.1:7000", tcp("127.0.0.1", 7000), None, None, 0, Cover::Plain),
            ("redis://:p%40ss@h", tcp("h", 6379), None, Some("p@ss"), 0, Cover::Plain),
            ("rediss://u:p@h:7/", tcp("h", 7), Some("u"), Some("p"), 0, Cover::Tls),
            ("valkeys://u@h", tcp("h", 6379), Some("u"), None, 0, Cover::Tls),
            ("valkey://[::1]:7/3", tcp("::1", 7), None, None, 3, Cover::Plain),
            ("redis://h?db=4&password=x", tcp("h", 6379), None, Some("x"), 4, Cover::Plain),
            ("unix:///run/r.sock?db=2", unix("/run/r.sock"), None, None, 2, Cover::Plain),
            ("unix://u:p@/run/r.sock", unix("/run/r.sock"), Some("u"), Some("p"), 0, Cover::Plain),
            ("redis+socket:///run/r.sock", unix("/run/r.sock"), None, None, 0, Cover::Plain),
        ] {
            let url = read(text, PORT).expect(text);
            assert_eq!(url.endpoint.address, address, "{text}");
            let entry = url.endpoint.entry;
            assert_eq!(entry.username.as_deref(), user, "{text}");
            assert_eq!(entry.password.as_ref().map(Secret::text), password, "{text}");
            assert_eq!((entry.database, entry.cover), (database, cover), "{text}");
        }
        let settings = RedisSettings::from_urls(&[
            "redis://h/1?socket_timeout=0.25&socket_connect_timeout=2&max_connections=7&ssl_ca_certs=/ca%20s.pem",
            "redis://replica",
        ])
        .expect("it is right");
        assert_eq!(settings.reply_timeout, Duration::from_millis(250));
        assert_eq!(settings.connect_timeout, Duration::from_secs(2));
        assert_eq!((settings.connections, settings.tls.authorities), (7, Some("/ca s.pem".into())));
        assert_eq!(settings.fleet.endpoints()[1].address, tcp("replica", 6379));
        let settings = RedisSettings::sentinel("redis://u:p@mymaster/2", &["10.0.0.1", "redis://:s@10.0.0.2:5"]);
        let Fleet::Sentinel { sentinels, service, entry } = settings.expect("it is right").fleet else { panic!() };
        assert_eq!((service.as_str(), entry.database, sentinels.len()), ("mymaster", 2, 2));
        assert_eq!(sentinels[0].address, tcp("10.0.0.1", 26379));
        assert!(sentinels[0].entry.password.is_none() && sentinels[1].entry.password.is_some());
    }

    #[test]
    fn mistakes_name_the_fix_and_no_secret() {
        for (text, fix) in [
            ("redi://u:hidden@h", "scheme is not known"),
            ("redis://u:hidden@h:port", "port is not a number"),
            ("redis://u:hidden@h:0", "port is not a number"),
            ("redis://u:hidden@h/one", "database is not a number"),
            ("redis://u:hidden@h?sise=1", "\"sise\" is not a parameter"),
            ("redis://h?password=hidden&x=1", "\"x\" is not a parameter"),
            ("redis://u:hidden@h?socket_timeout=no", "number of seconds"),
            ("redis://u:hidden@h?socket_timeout=0", "number of seconds"),
            ("redis://u:hidden@h?max_connections=0", "from 1 on"),
            ("redis://u:hidden%zz@h", "percent sign"),
            ("redis://u:hid?den@h", "url"),
            ("redis://u:hidden@h x", "not a name or an address"),
            ("unix://u:hidden@relative", "is absolute"),
            ("redis://[::1", "not a number"),
        ] {
            let error = RedisSettings::from_urls(&[text]).expect_err(text);
            let message = error.to_string();
            assert!(error.is_setting() && message.contains(fix), "{text}: {message}");
            assert!(!message.contains("hid") && !message.contains("den@"), "{message}");
        }
        assert!(RedisSettings::from_urls(&[]).is_err_and(|error| error.to_string().contains("no server")));
        assert!(RedisSettings::cluster(&["redis://h/1"]).is_err_and(|error| error.to_string().contains("database 0")));
        assert!(RedisSettings::sentinel("unix:///x", &["h"]).is_err());
    }
}
