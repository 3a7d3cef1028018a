//! The one error of the engine: for a caller's mistake, or for what must not be lost. A miss is `None`, an outage an event.

/// What went wrong, with the thing named and the fix in the text.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<std::io::Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Setting,
    Full,
    Io,
    Outage,
    Unsupported,
    Unasked,
}

impl Error {
    pub(crate) fn setting(message: impl Into<String>) -> Self {
        Error { kind: Kind::Setting, message: message.into(), source: None }
    }

    pub(crate) fn full(message: impl Into<String>) -> Self {
        Error { kind: Kind::Full, message: message.into(), source: None }
    }

    pub(crate) fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        Error { kind: Kind::Io, message: format!("{}: {source}", message.into()), source: Some(source) }
    }

    #[allow(dead_code, reason = "for servers, each a feature of its own")]
    /// A server that is away, slow, or answers what was not asked. The message names it.
    pub(crate) fn outage(message: impl Into<String>) -> Self {
        Error { kind: Kind::Outage, message: message.into(), source: None }
    }

    #[allow(dead_code, reason = "for servers, each a feature of its own")]
    /// What a server cannot do.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Error { kind: Kind::Unsupported, message: message.into(), source: None }
    }

    /// A server that could not be asked, which says nothing of whether it is there.
    pub(crate) fn unasked(message: impl Into<String>) -> Self {
        Error { kind: Kind::Unasked, message: message.into(), source: None }
    }

    /// The same for another one who waited for the same.
    pub fn again(&self) -> Self {
        Error { kind: self.kind, message: self.message.clone(), source: None }
    }

    /// Whether a setting or an argument is wrong, so that trying again is of no use.
    pub fn is_setting(&self) -> bool {
        self.kind == Kind::Setting
    }

    /// Whether a table of fixed size is full, which may pass.
    pub fn is_full(&self) -> bool {
        self.kind == Kind::Full
    }

    /// Whether the operating system refused something.
    pub fn is_io(&self) -> bool {
        self.kind == Kind::Io
    }

    /// Whether a server is away, slow, or answered what was not asked: trying again later may help.
    pub fn is_outage(&self) -> bool {
        self.kind == Kind::Outage
    }

    /// Whether the server cannot do this at all.
    pub fn is_unsupported(&self) -> bool {
        self.kind == Kind::Unsupported
    }

    /// The error of the operating system, if there was one.
    pub fn io_error(&self) -> Option<&std::io::Error> {
        self.source.as_ref()
    }
}
