//! Redis under Sentinel and as a cluster, with real servers: failovers, slots that move and nodes that die while it works. No value is
//! ever wrong, errors are outages that end in time, and what the servers kept is readable afterwards.
#![cfg(feature = "redis")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::servers::{RedisCluster, RedisServer, wait_until};
use tezkor::redis::{Reads, Redis, RedisSettings};
use tezkor::store::far::server::{Item, Lifetime, Put, Server};
use tezkor::store::far::server_contract::{Checked, check};

const MINUTE: Lifetime = Lifetime::After(Duration::from_secs(60));
/// What an operation may take while servers fail: a timeout to connect and one to answer, a quarter more, and what a machine with
/// two cores and six servers takes to wake a thread.
const BOUND: Duration = Duration::from_millis(600);

fn set(redis: &Redis, name: &str, value: &str) -> Result<Put, tezkor::Error> {
    redis.set(&[Item { name: name.as_bytes(), bytes: value.as_bytes(), lifetime: MINUTE }]).map(|puts| puts[0])
}

fn get(redis: &Redis, name: &str) -> Result<Option<String>, tezkor::Error> {
    let found = redis.get(&[name.as_bytes()])?.remove(0);
    Ok(found.map(|held| String::from_utf8(held.bytes).expect("a text")))
}

fn patient(settings: RedisSettings) -> RedisSettings {
    RedisSettings { connect_timeout: Duration::from_secs(3), reply_timeout: Duration::from_secs(3), ..settings }
}

fn open(settings: RedisSettings) -> Redis {
    Redis::open(&settings).expect("it reads no file")
}

/// Writes and reads from several threads until told to stop: every value names its key, and only grows.
struct Load {
    stop: support::Stop,
    done: AtomicU64,
    outages: AtomicU64,
}

impl Load {
    fn new() -> Load {
        Load { stop: support::Stop::default(), done: AtomicU64::new(0), outages: AtomicU64::new(0) }
    }

    fn run(&self, redis: &Redis, thread: u64) {
        for number in 0.. {
            if self.stop.is_said() {
                return;
            }
            let names: Vec<String> = (0..4).map(|place| format!("{thread}:{}", (number + place * 7) % 50)).collect();
            let value = format!("{}={number}", names[0]);
            let start = Instant::now();
            let written = set(redis, &names[0], &value);
            let asked: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
            let middle = Instant::now();
            let read = redis.get(&asked);
            let slowest = (middle - start).max(middle.elapsed());
            assert!(slowest < BOUND, "{slowest:?}: {:?} {:?}", written.err(), read.err());
            for (name, held) in names.iter().zip(read.as_ref().into_iter().flatten()) {
                let found = held.as_ref().map(|held| String::from_utf8_lossy(&held.bytes));
                let is_right = found.as_ref().is_none_or(|found| found.split('=').next() == Some(name));
                assert!(is_right, "{found:?} under {name}");
            }
            for error in [written.err(), read.err()].into_iter().flatten() {
                assert!(error.is_outage(), "{error}");
                self.outages.fetch_add(1, Ordering::Relaxed);
                // As a breaker would.
                std::thread::sleep(Duration::from_millis(5));
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs the load, and meanwhile what is to happen.
    fn around(&self, redis: &Redis, happening: impl FnOnce()) {
        std::thread::scope(|scope| {
            let _end = self.stop.at_end();
            for thread in 0..3 {
                scope.spawn(move || self.run(redis, thread));
            }
            self.wait_for_more();
            happening();
            self.wait_for_more();
        });
    }

    fn wait_for_more(&self) {
        let done = self.done.load(Ordering::Relaxed);
        wait_until("the load goes on", || self.done.load(Ordering::Relaxed) > done + 100);
    }
}

/// A primary, a replica and three sentinels.
struct Watched {
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Watched {
    fn start() -> Option<Watched> {
        let options = ["--requirepass", "right", "--masterauth", "right"];
        let primary = RedisServer::start(&options)?;
        let of = format!("127.0.0.1 {}", primary.port);
        let replica = RedisServer::start(&[&options[..], &["--replicaof", &of]].concat())?;
        let configuration = format!(
            "requirepass watch\nsentinel sentinel-pass watch\nsentinel monitor shop 127.0.0.1 {} 2\n\
             sentinel auth-pass shop right\nsentinel down-after-milliseconds shop 400\nsentinel failover-timeout shop 3000\n",
            primary.port
        );
        let sentinels: Option<Vec<RedisServer>> = (0..3).map(|_| RedisServer::start_sentinel(&configuration)).collect();
        let watched = Watched { servers: vec![primary, replica], sentinels: sentinels? };
        let says = |sentinel: &RedisServer, text: &str| {
            sentinel
                .cli(&["-a", "watch", "--no-auth-warning", "SENTINEL", "MASTER", "shop"])
                .replace('\n', "=")
                .contains(text)
        };
        wait_until("the sentinels know each other", || {
            watched.sentinels.iter().all(|sentinel| {
                says(sentinel, "num-other-sentinels=2")
                    && says(sentinel, "num-slaves=1")
                    && says(sentinel, "flags=master=")
            })
        });
        wait_until("the replica follows", || watched.role(1).contains("connected"));
        Some(watched)
    }

    fn role(&self, server: usize) -> String {
        self.servers[server].cli(&["-a", "right", "--no-auth-warning", "ROLE"])
    }

    fn settings(&self) -> RedisSettings {
        let urls: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("redis://:watch@127.0.0.1:{}", sentinel.port)).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        RedisSettings::sentinel("redis://:right@shop/0", &urls).expect("the urls are right")
    }
}

#[test]
fn a_failover_of_sentinel_is_followed() {
    let Some(mut watched) = Watched::start() else { return };
    let redis = open(patient(watched.settings()));
    assert!(redis.title().contains("redis \"shop\" of the sentinels 127.0.0.1:"), "{}", redis.title());
    check(&Checked { server: &redis, beginning: "contract", scans: true, shortest: Duration::from_millis(20) });

    let wrong = RedisSettings::sentinel(
        "redis://:right@shopp/0",
        &[&format!("redis://:watch@127.0.0.1:{}", watched.sentinels[0].port)],
    );
    let error = get(&open(wrong.expect("the urls are right")), "x").expect_err("there is no such service");
    assert!(error.is_setting() && error.to_string().contains("watches no service \"shopp\""), "{error}");

    let redis = open(watched.settings());
    assert_eq!(set(&redis, "kept", "1").expect("it answers"), Put::Done);
    assert_eq!(watched.servers[0].cli(&["-a", "right", "--no-auth-warning", "WAIT", "1", "2000"]), "1");
    let load = Load::new();
    let mut old = watched.servers.remove(0);
    load.around(&redis, || {
        old.kill();
        wait_until("the replica is the primary", || watched.role(0).starts_with("master"));
        wait_until("writes go to it", || set(&redis, "after", "2").is_ok_and(|put| put == Put::Done));
    });
    assert_eq!(get(&redis, "kept").expect("it answers").as_deref(), Some("1"));
    assert_eq!(get(&redis, "after").expect("it answers").as_deref(), Some("2"));
    assert!(load.outages.load(Ordering::Relaxed) > 0, "the primary was away for a while");

    // The old primary comes back, is made a replica, and then the primary again while nobody dies: connections are still open
    // to one that is none any more.
    old.restart();
    // Sentinel would do so as well, after a long look.
    let port = watched.servers[0].port.to_string();
    old.cli(&["-a", "right", "--no-auth-warning", "REPLICAOF", "127.0.0.1", &port]);
    watched.servers.push(old);
    wait_until("the old primary is a replica", || watched.role(1).contains("connected"));
    let load = Load::new();
    load.around(&redis, || {
        let failover =
            || watched.sentinels[0].cli(&["-a", "watch", "--no-auth-warning", "SENTINEL", "FAILOVER", "shop"]) == "OK";
        wait_until("a failover begins", failover);
        wait_until("they changed their parts", || {
            watched.role(1).starts_with("master") && watched.role(0).contains("connected")
        });
        wait_until("writes go to it", || set(&redis, "again", "3").is_ok_and(|put| put == Put::Done));
    });
    assert_eq!(get(&redis, "again").expect("it answers").as_deref(), Some("3"));

    let settings = RedisSettings { reads: Reads::Replicas, ..patient(watched.settings()) };
    let reader = open(settings);
    assert_eq!(get(&reader, "kept").expect("it answers").as_deref(), Some("1"));
    let replica = &watched.servers[0];
    assert!(replica.cli(&["-a", "right", "--no-auth-warning", "INFO", "commandstats"]).contains("cmdstat_get:"));
}

#[test]
fn a_cluster_keeps_the_contract() {
    let Some(cluster) = RedisCluster::start(0) else { return };
    let urls = cluster.nodes[0].url();
    let redis = open(patient(RedisSettings::cluster(&[&urls]).expect("the url is right")));
    check(&Checked { server: &redis, beginning: "contract", scans: true, shortest: Duration::from_millis(20) });
    let sizes: Vec<String> = cluster.nodes.iter().map(|node| node.cli(&["DBSIZE"])).collect();
    assert!(sizes.iter().all(|size| size.parse::<u32>().is_ok_and(|size| size > 100)), "{sizes:?}");

    let single = open(RedisSettings::from_urls(&[&urls]).expect("the url is right"));
    let errors = (0..20).filter_map(|number| get(&single, &format!("{number}")).err());
    let errors: Vec<tezkor::Error> = errors.collect();
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|error| error.is_setting() && error.to_string().contains("belongs to a cluster")));
    let Some(alone) = RedisServer::start(&[]) else { return };
    let error = get(&open(RedisSettings::cluster(&[&alone.url()]).expect("the url is right")), "x");
    let error = error.expect_err("it is no cluster");
    assert!(error.is_setting() && error.to_string().contains("is no cluster"), "{error}");
}

#[test]
fn slots_move_while_a_cluster_works() {
    let Some(cluster) = RedisCluster::start(0) else { return };
    let urls: Vec<String> = cluster.nodes.iter().map(RedisServer::url).collect();
    let redis = open(RedisSettings::cluster(&[&urls[1]]).expect("the url is right"));
    let patient_redis = open(patient(RedisSettings::cluster(&[&urls[0], &urls[2]]).expect("the urls are right")));
    // One slot holds all of these.
    let names: Vec<String> = (0..100).map(|number| format!("{{moved}}{number}")).collect();
    for name in &names {
        assert_eq!(set(&patient_redis, name, &format!("{name}=0")).expect("it answers"), Put::Done);
    }
    let slot: u16 = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", "{moved}"]).parse().expect("a slot");
    let home = usize::from(slot > 5460) + usize::from(slot > 10_922);
    let load = Load::new();
    load.around(&redis, || {
        for round in 0..4 {
            let (from, to) = ((home + round) % 3, (home + round + 1) % 3);
            cluster.move_slot(slot, from, to);
            let asked: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
            let found = patient_redis.get(&asked).expect("it is sent on");
            for (name, held) in names.iter().zip(found) {
                assert_eq!(held.expect("it was moved").bytes, format!("{name}=0").into_bytes());
            }
            let mut shown = std::collections::BTreeSet::new();
            let scanned = patient_redis.scan(b"{moved}", &mut |name| {
                shown.insert(name.to_vec());
                true
            });
            scanned.expect("it answers");
            assert_eq!(shown.len(), names.len());
        }
        // Slots of the load as well.
        for thread in 0..3 {
            let name = format!("{thread}:7");
            let slot: u16 = cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", &name]).parse().expect("a slot");
            let home = usize::from(slot > 5460) + usize::from(slot > 10_922);
            cluster.move_slot(slot, home, (home + 1) % 3);
        }
    });
    assert_eq!(load.outages.load(Ordering::Relaxed), 0, "slots that move are no outage");
}

/// The first server was scanned when names of a later one, which is still to be scanned, come to it: no server shows them in its
/// turn, and the slots lie as they did until the last name has moved.
#[test]
fn names_that_move_behind_a_scan_are_shown() {
    let Some(cluster) = RedisCluster::start(0) else { return };
    let redis = open(patient(RedisSettings::cluster(&[&cluster.nodes[0].url()]).expect("the url is right")));
    let slot_of =
        |tag: u32| cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", &tag.to_string()]).parse::<u16>().expect("a slot");
    let on = |first: u16, last: u16| (0..).find(|tag| (first..=last).contains(&slot_of(*tag))).expect("a tag");
    let (middle, moved) = (on(5461, 10_922), on(10_923, 16_383));
    let names: Vec<String> = (0..20).map(|number| format!("shown:{{{moved}}}{number}")).collect();
    for name in names.iter().chain([&format!("shown:{{{middle}}}")]) {
        assert_eq!(set(&redis, name, name).expect("it answers"), Put::Done);
    }
    let (mut shown, mut is_moved) = (std::collections::BTreeSet::new(), false);
    let ids: Vec<String> = cluster.nodes.iter().map(|node| node.cli(&["CLUSTER", "MYID"])).collect();
    let slot = slot_of(moved).to_string();
    assert_eq!(cluster.nodes[0].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[2]]), "OK");
    assert_eq!(cluster.nodes[2].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[0]]), "OK");
    let scanned = redis.scan(b"shown:", &mut |name| {
        if !is_moved && !name.starts_with(format!("shown:{{{moved}}}").as_bytes()) {
            let port = cluster.nodes[0].port.to_string();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let words = [&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"][..], &names].concat();
            assert_eq!(cluster.nodes[2].cli(&words), "OK");
            is_moved = true;
        }
        shown.insert(name.to_vec());
        true
    });
    scanned.expect("it answers");
    assert!(is_moved && shown.len() == 21, "{} of 21", shown.len());
    for name in &names {
        assert_eq!(get(&redis, name).expect("it is sent on").as_ref(), Some(name));
    }
}

#[test]
fn a_node_of_a_cluster_dies_and_its_replica_takes_over() {
    let Some(mut cluster) = RedisCluster::start(1) else { return };
    let urls: Vec<String> = cluster.nodes[..3].iter().map(RedisServer::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let redis = open(RedisSettings::cluster(&urls).expect("the urls are right"));
    let names: Vec<String> = (0..200).map(|number| format!("kept {number}")).collect();
    for name in &names {
        assert_eq!(set(&redis, name, name).expect("it answers"), Put::Done);
    }
    assert_eq!(cluster.nodes[0].cli(&["WAIT", "1", "2000"]), "1");
    let load = Load::new();
    let mut dead = cluster.nodes.remove(0);
    load.around(&redis, || {
        dead.kill();
        wait_until("its replica is a primary", || cluster.nodes[2].cli(&["ROLE"]).starts_with("master"));
        wait_until("all answer", || names.iter().all(|name| get(&redis, name).is_ok()));
    });
    for name in &names {
        assert_eq!(get(&redis, name).expect("it answers").as_ref(), Some(name));
    }
    assert!(load.outages.load(Ordering::Relaxed) > 0, "a third of the slots was away for a while");
    dead.restart();
    wait_until("the old node is a replica", || dead.cli(&["ROLE"]).contains("connected"));
    let readers =
        RedisSettings { reads: Reads::Replicas, ..RedisSettings::cluster(&urls).expect("the urls are right") };
    let readers = open(patient(readers));
    for name in &names {
        assert_eq!(get(&readers, name).expect("it answers").as_ref(), Some(name));
    }
    assert!(dead.cli(&["INFO", "commandstats"]).contains("cmdstat_get:"), "the replica was read from");
    dead.kill();
    for name in &names {
        assert_eq!(get(&readers, name).expect("its primary answers").as_ref(), Some(name));
    }
}
