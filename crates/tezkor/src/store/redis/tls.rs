//! The TLS of connections: rustls with ring. Files are read once, when the settings are; a certificate is always checked.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::settings::TlsFiles;
use crate::error::Error;

/// Reads the files into what connections are made with.
pub(super) fn read(files: &TlsFiles) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::setting(format!("TLS: {error}")))?
        .with_root_certificates(authorities(files)?);
    let config = match (&files.certificate, &files.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates("ssl_certfile", certificate)?;
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("ssl_keyfile", key, &error))?;
            builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                Error::setting(format!(
                    "ssl_certfile {} and ssl_keyfile {} do not fit together: {error}",
                    certificate.display(),
                    key.display()
                ))
            })?
        }
        _ => return Err(Error::setting("ssl_certfile and ssl_keyfile go together: set both, or neither")),
    };
    Ok(Arc::new(config))
}

fn authorities(files: &TlsFiles) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    let Some(path) = &files.authorities else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return match store.is_empty() {
            false => Ok(store),
            true => Err(Error::setting(
                "TLS: the system has no certificates of authorities; install ca-certificates, or set ssl_ca_certs",
            )),
        };
    };
    for certificate in certificates("ssl_ca_certs", path)? {
        store.add(certificate).map_err(|error| unreadable("ssl_ca_certs", path, &error))?;
    }
    Ok(store)
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(setting, path, &error))?;
    match found.is_empty() {
        false => Ok(found),
        true => Err(Error::setting(format!("{setting} {}: it has no certificate in PEM", path.display()))),
    }
}

fn unreadable(setting: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::setting(format!("{setting} {}: {error}; give the path of a readable PEM file", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_missing_are_named() {
        let files = |authorities: Option<&str>, certificate: Option<&str>, key: Option<&str>| TlsFiles {
            authorities: authorities.map(Into::into),
            certificate: certificate.map(Into::into),
            key: key.map(Into::into),
        };
        let missing = Some("/nonexistent/file.pem");
        for (files, setting) in [
            (files(missing, None, None), "ssl_ca_certs /nonexistent/file.pem"),
            (files(Some("/dev/null"), None, None), "ssl_ca_certs /dev/null: it has no certificate"),
        ] {
            let error = read(&files).expect_err("there is no such file");
            assert!(error.is_setting() && error.to_string().contains(setting), "{error}");
        }
    }
}
