//! What stands for TLS where the cargo feature `memcached-tls` is off: it refuses the setting, and never connects without TLS instead.

use std::net::TcpStream;
use std::time::Duration;

use super::connection::Stream;
use super::fault::Fault;
use super::settings::TlsSettings;
use crate::error::Error;

const REFUSED: &str =
    "this build speaks no TLS to memcached; build with the feature memcached-tls, or take TLS out of OPTIONS";

/// There is none.
#[derive(Clone)]
pub(super) struct Tls;

impl Tls {
    pub(super) fn new(_settings: &TlsSettings) -> Result<Tls, Error> {
        Err(Error::setting(REFUSED))
    }

    pub(super) fn wrap(
        &self,
        _socket: TcpStream,
        _host: &str,
        _title: &str,
        _timeout: Duration,
    ) -> Result<Box<dyn Stream>, Fault> {
        Err(Fault::setting(REFUSED))
    }
}
