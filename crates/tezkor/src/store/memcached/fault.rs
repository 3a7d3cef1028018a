//! Why a server did not answer, as it is told to every caller whose question it was. It never has a secret in its text.

use crate::error::Error;

/// What went wrong with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Outage,
    Setting,
    Unsupported,
}

impl Fault {
    /// It is away, slow, or lied.
    pub(super) fn outage(text: impl Into<String>) -> Fault {
        Fault { kind: Kind::Outage, text: text.into() }
    }

    /// It refuses us until a setting is another.
    pub(super) fn setting(text: impl Into<String>) -> Fault {
        Fault { kind: Kind::Setting, text: text.into() }
    }

    /// What a line of error means.
    pub(super) fn of_error(title: &str, line: &[u8]) -> Fault {
        let text = String::from_utf8_lossy(line);
        if text.contains("authenticat") {
            return Fault::setting(format!("{title} refused the username or password; check USERNAME and PASSWORD"));
        }
        if text == "ERROR" {
            let text = format!("{title} does not know the meta protocol; use memcached 1.6.10 or later");
            return Fault { kind: Kind::Unsupported, text };
        }
        Fault::outage(format!("{title} answered {:?}", text.chars().take(200).collect::<String>()))
    }

    /// Whether the setting is wrong, or the server too old: what a miss must not hide.
    pub(super) fn is_lasting(&self) -> bool {
        self.kind != Kind::Outage
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        match fault.kind {
            Kind::Outage => Error::outage(fault.text),
            Kind::Setting => Error::setting(fault.text),
            Kind::Unsupported => Error::unsupported(fault.text),
        }
    }
}
