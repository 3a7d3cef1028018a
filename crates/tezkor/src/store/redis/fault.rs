//! Why an exchange did not end well, in words that name the server and the next step, and whether asking again is safe.

use std::io;

use crate::error::Error;

/// An exchange that did not end well.
#[derive(Debug)]
pub(super) struct Fault {
    /// What the caller is told.
    pub error: Error,
    /// How far the commands came.
    pub reach: Reach,
    /// What it says about the server.
    pub cause: Cause,
}

/// How far commands came before the exchange broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing of them reached the server.
    Unsent,
    /// They may have been carried out.
    Perhaps,
}

/// What a fault says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The connection was closed or could not be made: the server was stopped, or is another one by now. Known at once.
    Closed,
    /// Time was up, or something odd came: asking again would cost as much again.
    Other,
}

impl Fault {
    pub(super) fn unsent(error: Error) -> Fault {
        Fault { error, reach: Reach::Unsent, cause: Cause::Other }
    }

    /// A fault of the socket while connecting.
    pub(super) fn while_connecting(title: &str, error: &io::Error, ms: u128) -> Fault {
        let (cause, message) = match error.kind() {
            io::ErrorKind::TimedOut => (Cause::Other, format!("{title} could not be reached within {ms} ms")),
            io::ErrorKind::NotFound => {
                (Cause::Closed, format!("{title} is not there: {error}; check the url, and that the server runs"))
            }
            _ => {
                (Cause::Closed, format!("{title} cannot be reached: {error}; check the url, and that the server runs"))
            }
        };
        let error = tls_mistake(title, error).unwrap_or_else(|| Error::outage(message));
        Fault { error, reach: Reach::Unsent, cause }
    }

    /// A fault of the socket during an exchange.
    pub(super) fn during(title: &str, error: &io::Error, reach: Reach, ms: u128) -> Fault {
        let (cause, message) = match error.kind() {
            io::ErrorKind::TimedOut => (Cause::Other, format!("{title} did not answer within {ms} ms")),
            io::ErrorKind::InvalidData => (
                Cause::Other,
                format!("{title} sends what is not the protocol of Redis; check the url, and whether TLS is meant"),
            ),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                (Cause::Closed, format!("{title} closed the connection"))
            }
            _ => (Cause::Closed, format!("{title} is lost: {error}")),
        };
        let error = tls_mistake(title, error).unwrap_or_else(|| Error::outage(message));
        Fault { error, reach, cause }
    }

    /// What came is no answer to what was asked.
    pub(super) fn foreign(title: &str) -> Fault {
        Fault { error: foreign(title), reach: Reach::Perhaps, cause: Cause::Other }
    }
}

/// The error for answers that are not ours.
pub(super) fn foreign(title: &str) -> Error {
    Error::outage(format!("{title} answered what was not asked; the connection was dropped"))
}

/// What a server's refusal means. The text of the server is shown only where it cannot hold anything that was sent.
pub(super) fn refusal(title: &str, text: &str) -> Error {
    let word = text.split(' ').next().unwrap_or_default();
    match word {
        "WRONGPASS" | "NOAUTH" => Error::setting(format!("{title} refused the password; check the url")),
        "NOPERM" => Error::setting(format!(
            "{title} does not let this user do that; its ACL has to allow the commands GET, MGET, SET, UNLINK, EXISTS, \
             INCRBY, PEXPIRE, PTTL, PERSIST, GETRANGE, SCAN, ECHO, ROLE, CLUSTER, EVAL and EVALSHA on all keys"
        )),
        "DENIED" => Error::setting(format!(
            "{title} is in protected mode and takes no clients of other machines; give it a password"
        )),
        "OOM" => Error::outage(format!("{title} is out of memory; raise its maxmemory or set a maxmemory-policy")),
        "READONLY" => Error::outage(format!("{title} is a replica and takes no writes; name its primary first")),
        "LOADING" => Error::outage(format!("{title} is still loading its data")),
        "CLUSTERDOWN" => Error::outage(format!("{title}: a part of the cluster is down")),
        "MISCONF" => Error::outage(format!(
            "{title} takes no writes because it cannot save; free its disk, or set stop-writes-on-bgsave-error no"
        )),
        "MOVED" | "ASK" => Error::setting(format!("{title} belongs to a cluster; open it as one")),
        _ if text.starts_with("ERR AUTH") || text.starts_with("ERR invalid password") => {
            Error::setting(format!("{title} refused the password (perhaps it has none for this user); check the url"))
        }
        _ if text.contains("Client sent AUTH, but no password is set") => {
            Error::setting(format!("{title} has no password; leave it out of the url"))
        }
        _ if text.contains("DB index is out of range") || text.contains("invalid DB index") => {
            Error::setting(format!("{title} has no database of this number; check the url"))
        }
        _ if text.contains("max number of clients") => {
            Error::outage(format!("{title} has as many clients as it takes; raise its maxclients"))
        }
        _ if text.contains("unknown command") => {
            Error::unsupported(format!("{title} lacks a command that is needed; Redis 6.0 or later has all"))
        }
        _ => Error::outage(format!("{title} refused a command: {word}")),
    }
}

/// What went wrong in TLS, if that is what it was: certificates are settings.
fn tls_mistake(title: &str, error: &io::Error) -> Option<Error> {
    let found = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match found {
        rustls::Error::InvalidCertificate(reason) => Error::setting(format!(
            "{title} has a certificate that is not trusted ({reason:?}); set ssl_ca_certs to the authority that signed it, \
             and use the host that it is made for"
        )),
        rustls::Error::AlertReceived(reason) => {
            let is_about_ours = matches!(
                reason,
                rustls::AlertDescription::CertificateRequired
                    | rustls::AlertDescription::BadCertificate
                    | rustls::AlertDescription::UnknownCA
                    | rustls::AlertDescription::CertificateUnknown
            );
            match is_about_ours {
                true => Error::setting(format!(
                    "{title} does not accept our certificate ({reason:?}); check ssl_certfile and ssl_keyfile"
                )),
                false => Error::outage(format!("{title} ended TLS: {reason:?}")),
            }
        }
        rustls::Error::InvalidMessage(_) => Error::outage(format!("{title} does not speak TLS; check the url")),
        _ => Error::outage(format!("{title}: TLS failed: {found}")),
    })
}
