//! The driver for Redis and Valkey against real servers: the rules of a server, faults of the network, restarts, forks, failovers.
#![cfg(feature = "redis")]

mod support;

use std::time::Duration;

use support::servers::{Folder, RedisServer, certificates};
use tezkor::Error;
use tezkor::redis::{Redis, RedisSettings};
use tezkor::store::far::server::{Held, Item, Lifetime, Put, Server};
use tezkor::store::far::server_contract::{Checked, check};

const MINUTE: Lifetime = Lifetime::After(Duration::from_secs(60));

fn open(url: &str) -> Redis {
    Redis::open(&patient(RedisSettings::from_urls(&[url]).expect("the url is right"))).expect("the files are there")
}

/// Settings for tests that are not about time, on machines that have other things to do.
fn patient(settings: RedisSettings) -> RedisSettings {
    RedisSettings { connect_timeout: Duration::from_secs(5), reply_timeout: Duration::from_secs(5), ..settings }
}

fn keeps_the_contract(server: &dyn Server) {
    check(&Checked { server, beginning: "contract", scans: true, shortest: Duration::from_millis(20) });
}

fn set(server: &dyn Server, name: &str, bytes: &[u8]) -> Result<Put, Error> {
    server.set(&[Item { name: name.as_bytes(), bytes, lifetime: MINUTE }]).map(|puts| puts[0])
}

fn get(server: &dyn Server, name: &str) -> Result<Option<Vec<u8>>, Error> {
    server.get(&[name.as_bytes()]).map(|mut found| found.remove(0).map(|held: Held| held.bytes))
}

#[test]
fn redis_keeps_the_contract_over_a_unix_socket_and_tcp() {
    let Some(server) = RedisServer::start(&[]) else { return };
    keeps_the_contract(&open(&server.unix_url()));
    keeps_the_contract(&open(&format!("{}/3", server.url())));
    assert_eq!(server.cli(&["-n", "3", "EXISTS", "contract:a*[x]:0", "contract:scan:a*[x]:0"]), "1", "database 3");
    assert!(server.clients() <= 2 * 5, "connections of the pool are used again");
}

#[test]
fn valkey_keeps_the_contract() {
    let Some(server) = RedisServer::start_product("valkey", &[]) else { return };
    keeps_the_contract(&open(&server.url().replace("redis://", "valkey://")));
    let title = open("valkey://u:hidden@127.0.0.1:1/2").title();
    assert_eq!(title, "valkey at 127.0.0.1:1");
}

#[test]
fn redis_keeps_the_contract_over_tls_with_a_user_and_a_certificate() {
    let folder = Folder::new();
    let Some(()) = certificates(&folder.0) else { return };
    let file = |name: &str| folder.file(name).display().to_string();
    let port = support::servers::free_port().to_string();
    let options = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
    ];
    let Some(server) = RedisServer::start(&options) else { return };
    server.cli(&["ACL", "SETUSER", "shop", "on", ">p@ss/word", "~*", "+@all"]);
    let url = |host: &str, query: &str| format!("rediss://shop:p%40ss%2Fword@{host}:{port}/1?{query}");
    let query = |authority: &str| {
        let [authority, certificate, key] = [authority, "client.pem", "client.key"].map(file);
        format!("ssl_ca_certs={authority}&ssl_certfile={certificate}&ssl_keyfile={key}")
    };
    keeps_the_contract(&open(&url("localhost", &query("ca.pem"))));
    let with_ip = open(&url("127.0.0.1", &query("ca.pem")));
    let large = vec![7; 3_000_000];
    assert_eq!(set(&with_ip, "large", &large).expect("it answers"), Put::Done);
    assert!(get(&with_ip, "large").expect("it answers").is_some_and(|found| found == large));
    for (query, fix) in [
        (query("stranger.pem"), "not trusted"),
        (format!("ssl_ca_certs={}", file("ca.pem")), "does not accept our certificate"),
    ] {
        let error = get(&open(&url("localhost", &query)), "x").expect_err("it has to fail");
        assert!(error.is_setting() && error.to_string().contains(fix), "{error}");
    }
    let plain = get(&open(&format!("redis://127.0.0.1:{port}")), "x").expect_err("the server speaks TLS");
    assert!(plain.is_outage(), "{plain}");
    let url = format!("rediss://127.0.0.1:{}?socket_connect_timeout=0.3&{}", server.port, query("ca.pem"));
    let settings = RedisSettings::from_urls(&[&url]).expect("the url is right");
    let tls = get(&Redis::open(&settings).expect("the files are there"), "x");
    let tls = tls.expect_err("the server does not speak TLS, and waits for more");
    assert!(tls.is_outage() && tls.to_string().contains("whether it speaks TLS"), "{tls}");
}

#[test]
fn what_is_wrong_with_the_settings_is_said_without_secrets() {
    let Some(server) = RedisServer::start(&["--requirepass", "right", "--maxclients", "20"]) else { return };
    let cli = |words: &[&str]| server.cli(&[&["-a", "right", "--no-auth-warning"], words].concat());
    cli(&["ACL", "SETUSER", "reader", "on", ">right", "~*", "+get", "+select", "+echo"]);
    let place = format!("127.0.0.1:{}", server.port);
    for (url, fix) in [
        (format!("redis://:hidden@{place}"), "refused the password; check the url"),
        (format!("redis://nobody:hidden@{place}"), "refused the password; check the url"),
        (format!("redis://{place}"), "refused the password; check the url"),
        (format!("redis://:right@{place}/99"), "has no database of this number"),
    ] {
        let error = get(&open(&url), "x").expect_err(&url);
        let message = error.to_string();
        assert!(error.is_setting() && message.contains(fix), "{url}: {message}");
        assert!(message.contains(&format!("redis at {place}")) && !message.contains("hidden"), "{message}");
    }
    let reader = open(&format!("redis://reader:right@{place}"));
    assert_eq!(get(&reader, "x").expect("it may read"), None);
    let error = set(&reader, "x", b"1").expect_err("it may not write");
    assert!(error.is_setting() && error.to_string().contains("ACL"), "{error}");
    assert_eq!(get(&reader, "x").expect("a refusal does not cost the connection"), None);

    let error = get(&open("redis://127.0.0.1:1"), "x").expect_err("nobody listens there");
    assert!(error.is_outage() && error.to_string().starts_with("redis at 127.0.0.1:1 cannot be reached"), "{error}");
    let error = get(&open("unix:///nonexistent/socket"), "x").expect_err("there is no such socket");
    assert!(error.is_outage() && error.to_string().contains("/nonexistent/socket is not there"), "{error}");
    let error = get(&open("redis://no-such-host.invalid"), "x").expect_err("there is no such host");
    assert!(error.is_outage() && error.to_string().contains("no-such-host.invalid"), "{error}");
    let settings =
        RedisSettings::from_urls(&["rediss://h?ssl_ca_certs=/nonexistent/ca.pem"]).expect("it reads no file");
    let error = Redis::open(&settings).err().expect("the file is missing");
    assert!(error.is_setting() && error.to_string().contains("ssl_ca_certs /nonexistent/ca.pem"), "{error}");
}
