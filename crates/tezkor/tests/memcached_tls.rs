//! Memcached over TLS: the contract, and what is refused.
#![cfg(feature = "memcached-tls")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::memcached::{Memcached as Running, Over, make_certificates, own_directory};
use tezkor::store::far::server::Server;
use tezkor::store::far::server_contract::{Checked, check};
use tezkor::store::memcached::{Memcached, MemcachedSettings, TlsSettings};

/// A directory with certificates, and a server that shows them; none where either cannot be had.
fn start(more: &[&str]) -> Option<(PathBuf, Running)> {
    let directory = own_directory();
    if !make_certificates(&directory) {
        return None;
    }
    let (chain, key) = (directory.join("server.pem"), directory.join("server.key"));
    let files = format!("ssl_chain_cert={},ssl_key={}", chain.display(), key.display());
    let authority = format!("ssl_ca_cert={}", directory.join("authority.pem").display());
    let mut arguments = vec!["-Z", "-o", &files, "-o", &authority];
    arguments.extend(more);
    Some((directory, Running::start(Over::Tcp, &arguments)?))
}

fn settings(server: &Running, tls: TlsSettings) -> MemcachedSettings {
    MemcachedSettings {
        tls: Some(tls),
        connect_timeout: Duration::from_secs(10),
        reply_timeout: Duration::from_secs(10),
        ..MemcachedSettings::new(&[&server.location]).expect("a good location")
    }
}

fn trusting(directory: &std::path::Path) -> TlsSettings {
    TlsSettings { authorities: Some(directory.join("authority.pem")), ..TlsSettings::default() }
}

#[test]
fn a_server_over_tls_keeps_the_contract() {
    let Some((directory, server)) = start(&[]) else { return };
    let client = Memcached::new(settings(&server, trusting(&directory))).expect("good settings");
    check(&Checked { server: &client, beginning: "contract", scans: false, shortest: Duration::from_secs(1) });
    assert!(client.down().is_empty());
    std::fs::remove_dir_all(directory).expect("it is ours");
}

#[test]
fn a_server_over_tls_that_asks_for_a_certificate_and_a_password_is_reached() {
    // 2: a certificate is asked for, and there is no connection without one.
    let Some((directory, server)) = start(&["-o", "ssl_verify_mode=2", "-Y", "{}/login"]) else { return };
    let login = Some(("me".to_string(), "secret".to_string()));
    let identity = Some((directory.join("server.pem"), directory.join("server.key")));
    let tls = TlsSettings { identity, server_name: Some("localhost".into()), ..trusting(&directory) };
    let client = Memcached::new(MemcachedSettings { login: login.clone(), ..settings(&server, tls) });
    assert_eq!(client.expect("good settings").remove(&[b"a"]).expect("it answers"), [false]);
    let nameless = Memcached::new(MemcachedSettings { login, ..settings(&server, trusting(&directory)) });
    assert!(nameless.expect("good settings").remove(&[b"a"]).is_err(), "it was let in without a certificate");
    std::fs::remove_dir_all(directory).expect("it is ours");
}

#[test]
fn a_server_that_is_not_trusted_is_refused_with_the_fix() {
    let (Some((directory, server)), Some((other, _))) = (start(&[]), start(&[])) else { return };
    let wrong_name = TlsSettings { server_name: Some("elsewhere.example".into()), ..trusting(&directory) };
    for tls in [trusting(&other), wrong_name, TlsSettings::default()] {
        let client = match Memcached::new(settings(&server, tls)) {
            Ok(client) => client,
            // This system keeps no list of authorities.
            Err(error) => {
                assert!(error.is_setting());
                continue;
            }
        };
        let error = client.get(&[b"a"]).expect_err("it is not to be trusted");
        assert!(error.is_setting() && error.to_string().contains("CA file"), "{error}");
    }
    let nowhere = TlsSettings { authorities: Some(directory.join("nowhere.pem")), ..TlsSettings::default() };
    let error = Memcached::new(settings(&server, nowhere)).err().expect("there is no such file");
    assert!(error.is_setting() && error.to_string().contains("nowhere.pem"), "{error}");
    let keys = TlsSettings { authorities: Some(directory.join("server.key")), ..TlsSettings::default() };
    assert!(Memcached::new(settings(&server, keys)).is_err_and(|error| error.is_setting()));
    for directory in [directory, other] {
        std::fs::remove_dir_all(directory).expect("it is ours");
    }
}

#[test]
fn a_server_without_tls_is_an_outage_in_bounded_time() {
    let (Some((directory, _tls)), Some(plain)) = (start(&[]), Running::start(Over::Tcp, &[])) else { return };
    let settings =
        MemcachedSettings { connect_timeout: Duration::from_millis(100), ..settings(&plain, trusting(&directory)) };
    let client = Memcached::new(settings).expect("good settings");
    let begin = Instant::now();
    assert!(client.get(&[b"a"]).is_err_and(|error| error.is_outage()));
    assert!(begin.elapsed() < Duration::from_secs(5));
    std::fs::remove_dir_all(directory).expect("it is ours");
}
