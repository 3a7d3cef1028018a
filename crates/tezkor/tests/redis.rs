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

#[test]
fn a_server_that_was_restarted_is_reached_by_the_same_pool() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    for url in [server.unix_url(), server.url()] {
        let redis = open(&url);
        for pause in [Duration::ZERO, Duration::from_millis(120)] {
            assert_eq!(set(&redis, "a", b"1").expect("it answers"), Put::Done);
            server.kill();
            let error = get(&redis, "a").expect_err("the server is gone");
            assert!(error.is_outage(), "{error}");
            assert!(set(&redis, "a", b"2").is_err_and(|error| error.is_outage()));
            server.restart();
            assert_eq!(get(&redis, "a").expect("it is back"), None);
            // Killed and back while the connection rested: reads go through at once, and so do writes once it rested for a while.
            server.restart();
            std::thread::sleep(pause);
            if pause.is_zero() {
                assert_eq!(get(&redis, "a").expect("a read is asked again"), None);
            } else {
                assert_eq!(set(&redis, "a", b"3").expect("the broken connection is replaced"), Put::Done);
            }
        }
    }
}

#[test]
fn scripts_that_a_server_forgot_are_taught_again() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let redis = open(&server.unix_url());
    for number in 0..3 {
        let names: Vec<String> = (0..10).map(|place| format!("n{place}")).collect();
        let items: Vec<_> = names.iter().map(|name| (name.as_bytes(), number, MINUTE)).collect();
        redis.raise(&items).expect("it answers");
        assert_eq!(server.cli(&["SCRIPT", "FLUSH"]), "OK");
        assert_eq!(redis.incr(b"n3", 0).expect("it answers"), tezkor::Incr::Value(number));
    }
}

#[test]
fn numbers_are_compared_exactly_over_their_whole_range() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let redis = open(&server.unix_url());
    let mut random = support::Random::new(7);
    let mut numbers = vec![i64::MIN, i64::MIN + 1, -10, -9, -1, 0, 1, 9, 10, 99, 100, 1 << 53, i64::MAX - 1, i64::MAX];
    numbers.extend((0..60).map(|_| random.next() as i64 >> random.below(63)));
    for held in &numbers {
        for raised in &numbers {
            set(&redis, "n", held.to_string().as_bytes()).expect("it answers");
            redis.raise(&[(b"n", *raised, MINUTE)]).expect("it answers");
            let found = get(&redis, "n").expect("it answers").expect("it is there");
            assert_eq!(found, (*held).max(*raised).to_string().into_bytes(), "{held} raised to {raised}");
        }
    }
    for no_number in ["", "-", "007", "1x", "9223372036854775809", "18446744073709551616", "+5", "1.5"] {
        set(&redis, "n", no_number.as_bytes()).expect("it answers");
        redis.raise(&[(b"n", -3, MINUTE)]).expect("it answers");
        assert_eq!(get(&redis, "n").expect("it answers").expect("it is there"), b"-3", "{no_number}");
    }
}

#[test]
fn a_full_server_keeps_no_older_value_behind_a_refused_write() {
    let Some(server) = RedisServer::start(&["--maxmemory-policy", "noeviction"]) else { return };
    let redis = open(&server.unix_url());
    for name in ["set", "swap", "added"] {
        set(&redis, name, b"Aolder value").expect("it answers");
    }
    set(&redis, "n", b"5").expect("it answers");
    let seen = redis.get(&[b"swap"]).expect("it answers").remove(0).expect("it is there");
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let item = |name| Item { name, bytes: b"Bnewer value", lifetime: MINUTE };
    assert_eq!(redis.set(&[item(b"set")]).expect("it answers"), [Put::TooLarge]);
    assert_eq!(redis.swap(&item(b"swap"), &seen.mark).expect("it answers"), Put::TooLarge);
    assert_eq!(redis.swap(&item(b"added"), &seen.mark).expect("it answers"), Put::TooLarge, "it begins alike");
    assert_eq!(redis.get(&[b"set", b"swap", b"added"]).expect("it answers"), [None, None, None]);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    set(&redis, "added", b"Aolder value").expect("it answers");
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let put = redis.add(&[item(b"added"), item(b"absent")]).expect("it answers");
    assert_eq!(put, [Put::Held, Put::TooLarge]);
    assert_eq!(get(&redis, "added").expect("it answers").expect("it was there"), b"Aolder value");
    let error = redis.raise(&[(b"n", 9, MINUTE)]).expect_err("it must not be lost silently");
    assert!(error.is_outage() && error.to_string().contains("out of memory"), "{error}");
    assert_eq!(get(&redis, "n").expect("it answers"), None, "an old number must not be believed");
    assert!(redis.incr(b"added", 1).is_err_and(|error| error.is_outage()));
}

#[test]
fn names_of_somebody_else_are_left_alone() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let redis = open(&server.unix_url());
    server.cli(&["LPUSH", "list", "x"]);
    assert_eq!(redis.get(&[b"list"]).expect("it answers"), [None]);
    assert_eq!(redis.get(&[b"list", b"list"]).expect("it answers"), [None, None]);
    assert_eq!(redis.incr(b"list", 1).expect("it answers"), tezkor::Incr::NotACount);
    let mark = tezkor::store::far::server::Mark::new(b"x");
    assert!(!redis.remove_marked(b"list", &mark).expect("it answers"));
    assert_eq!(redis.add(&[Item { name: b"list", bytes: b"1", lifetime: MINUTE }]).expect("it answers"), [Put::Held]);
    assert_eq!(server.cli(&["LLEN", "list"]), "1");
}

#[test]
fn reads_go_to_replicas_where_that_is_asked_for() {
    let Some(primary) = RedisServer::start(&[]) else { return };
    let port = primary.port.to_string();
    let Some(mut replica) = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {port}")]) else { return };
    support::servers::wait_until("a replica follows", || {
        replica.cli(&["INFO", "replication"]).contains("link_status:up")
    });
    let urls = [primary.url(), replica.url()];
    let settings = RedisSettings::from_urls(&[&urls[0], &urls[1]]).expect("the urls are right");
    let settings = RedisSettings { reads: tezkor::redis::Reads::Replicas, ..patient(settings) };
    let redis = Redis::open(&settings).expect("it reads no file");
    assert_eq!(set(&redis, "a", b"1").expect("it answers"), Put::Done);
    support::servers::wait_until("the value has arrived", || replica.cli(&["GET", "a"]) == "1");
    let gets = |server: &RedisServer| server.cli(&["INFO", "commandstats"]).contains("cmdstat_get:calls=10,");
    for _ in 0..9 {
        assert_eq!(get(&redis, "a").expect("it answers").as_deref(), Some(&b"1"[..]));
    }
    assert!(gets(&replica), "nine of ours and one of the test");
    replica.kill();
    assert_eq!(get(&redis, "a").expect("the primary answers").as_deref(), Some(&b"1"[..]));
    let error = set(&open(&replica.url()), "a", b"1").expect_err("it is gone");
    assert!(error.is_outage());
}

#[test]
fn a_process_waits_for_a_connection_when_all_are_in_use() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let redis = open(&format!("{}?max_connections=2", server.unix_url()));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let redis = &redis;
            scope.spawn(move || {
                for number in 0..300 {
                    let (name, value) = (format!("{thread}"), format!("{thread} {number}"));
                    set(redis, &name, value.as_bytes()).expect("it answers");
                    assert_eq!(get(redis, &name).expect("it answers"), Some(value.into_bytes()));
                }
            });
        }
    });
    assert!(server.clients() <= 2);
}

#[test]
fn parent_and_child_use_the_pool_at_once_without_mixing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for url in [server.unix_url(), server.url()] {
        let redis = open(&url);
        let work = |who: u64, rounds: u64| {
            for number in 0..rounds {
                let names: Vec<String> = (0..3).map(|place| format!("{who}:{}", (number + place) % 20)).collect();
                let value = format!("{} is written by {who}", names[0]);
                assert_eq!(set(&redis, &names[0], value.as_bytes()).expect("it answers"), Put::Done);
                let asked: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
                for (name, held) in names.iter().zip(redis.get(&asked).expect("it answers")) {
                    let expected = format!("{name} is written by {who}").into_bytes();
                    assert!(held.is_none_or(|held| held.bytes == expected), "an answer to another question");
                }
            }
        };
        work(0, 5);
        // Other threads are in the middle of exchanges when the process forks.
        let stop = support::Stop::default();
        std::thread::scope(|scope| {
            let _end = stop.at_end();
            for thread in 1..4 {
                let (stop, work) = (&stop, &work);
                scope.spawn(move || {
                    while !stop.is_said() {
                        work(thread, 20);
                    }
                });
            }
            for _ in 0..10 {
                let children = support::child::start_all(3, |child| work(100 + child, 200));
                work(0, 100);
                support::child::finish_all(children);
            }
        });
        work(0, 20);
    }
}

#[test]
fn signals_do_not_cut_exchanges() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let url = server.url();
    // Before the fork, so that the first does not come too early.
    support::child::note_signals(libc::SIGUSR1);
    let mut child = support::child::Child::start(|| {
        let redis = open(&url);
        let large = vec![b'x'; 300_000];
        for number in 0..3000_u32 {
            let value = [&number.to_le_bytes(), &large[..number as usize * 100]].concat();
            assert_eq!(set(&redis, "a", &value).expect("it answers"), Put::Done);
            assert!(get(&redis, "a").expect("it answers").is_some_and(|found| found == value));
        }
        assert!(support::child::noted_signals() > 100, "they came");
        assert!(server.clients() <= 1, "no connection was given up");
    });
    while child.ended().is_none() {
        child.send(libc::SIGUSR1);
        std::thread::sleep(Duration::from_micros(300));
    }
    child.finish();
}
