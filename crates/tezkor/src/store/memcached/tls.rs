//! TLS to a server, by rustls. It never resumes sessions: what they are kept in could be locked by another thread at a fork.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::connection::Stream;
use super::fault::Fault;
use super::settings::TlsSettings;
use crate::error::Error;

/// Where systems keep the authorities that they trust: Debian, Fedora, Alpine and macOS, OpenSUSE.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// How servers are checked, read once.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl Tls {
    pub(super) fn new(settings: &TlsSettings) -> Result<Tls, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::setting(format!("TLS cannot be set up: {error}")))?;
        let builder = builder.with_root_certificates(authorities(settings.authorities.as_deref())?);
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| refused("key", key, &error))?;
                let built = builder.with_client_auth_cert(certificates(certificate)?, key);
                built.map_err(|error| refused("certificate and key", certificate, &error))?
            }
        };
        config.resumption = Resumption::disabled();
        Ok(Tls { config: Arc::new(config), server_name: settings.server_name.clone() })
    }

    /// Shakes hands with who listens there, within the time.
    pub(super) fn wrap(
        &self,
        mut socket: TcpStream,
        host: &str,
        title: &str,
        timeout: Duration,
    ) -> Result<Box<dyn Stream>, Fault> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let wrong_name = |_| Fault::setting(format!("{title} has no name that a certificate could be for"));
        let name = ServerName::try_from(name).map_err(wrong_name)?;
        let connection = ClientConnection::new(Arc::clone(&self.config), name);
        let mut connection =
            connection.map_err(|error| Fault::setting(format!("TLS to {title} cannot be set up: {error}")))?;
        let deadline = Instant::now() + timeout;
        while connection.is_handshaking() {
            let left = deadline.saturating_duration_since(Instant::now());
            let step = match left.is_zero() {
                true => Err(io::ErrorKind::TimedOut.into()),
                false => socket.set_timeout(left).and_then(|()| hand(&mut connection, &mut socket)),
            };
            step.map_err(|error| not_trusted(title, &error))?;
        }
        Ok(Box::new(StreamOwned::new(connection, socket)))
    }
}

/// One step of a handshake: what is to be said is said, else something is heard.
fn hand(connection: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    if connection.wants_write() {
        connection.write_tls(socket)?;
        return Ok(());
    }
    if connection.read_tls(socket)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(())
}

fn not_trusted(title: &str, error: &io::Error) -> Fault {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(reason)) = cause {
        let fix = "check the CA file, and that the certificate is for this host";
        return Fault::setting(format!("the certificate of {title} is not trusted: {reason}; {fix}"));
    }
    Fault::outage(format!("TLS to {title} failed: {error}; check that it speaks TLS (-Z)"))
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, Error> {
    let file = file.or_else(|| SYSTEM_AUTHORITIES.map(Path::new).into_iter().find(|path| path.is_file()));
    let missing = || Error::setting("this system keeps no list of authorities where one is looked for; name a CA file");
    let file = file.ok_or_else(missing)?;
    let mut store = RootCertStore::empty();
    // Lists of systems have some that rustls does not take.
    store.add_parsable_certificates(certificates(file)?);
    if store.is_empty() {
        return Err(Error::setting(format!("the CA file {} has no certificate in it", file.display())));
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|error| refused("certificates", file, &error))
}

fn refused(what: &str, file: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::setting(format!(
        "the {what} in {} cannot be used: {error}; check the path and that it is PEM",
        file.display()
    ))
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.sock.set_timeout(timeout)
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.sock.set_nonblocking(nonblocking)
    }
}
