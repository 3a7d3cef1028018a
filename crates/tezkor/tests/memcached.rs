//! Memcached against real servers: the contract over every way to reach and to place, what memcached alone does, and deaths.
//! Servers that lie are in memcached_faults.rs.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::child::{finish_all, start_all};
use support::memcached::{Memcached as Running, Over};
use tezkor::Incr;
use tezkor::store::far::server::{Item, Left, Lifetime, Put, Server};
use tezkor::store::far::server_contract::{Checked, check};
use tezkor::store::memcached::{Lease, Memcached, MemcachedSettings, Placement};

const MINUTE: Lifetime = Lifetime::After(Duration::from_secs(60));

/// Long enough for a machine that has other things to do.
fn settings(servers: &[&Running]) -> MemcachedSettings {
    let locations: Vec<&str> = servers.iter().map(|server| server.location.as_str()).collect();
    MemcachedSettings {
        connect_timeout: Duration::from_secs(10),
        reply_timeout: Duration::from_secs(10),
        ..MemcachedSettings::new(&locations).expect("good locations")
    }
}

fn client(servers: &[&Running]) -> Memcached {
    Memcached::new(settings(servers)).expect("good settings")
}

fn keeps_the_contract(settings: MemcachedSettings) {
    let server = Memcached::new(settings).expect("good settings");
    check(&Checked { server: &server, beginning: "contract", scans: false, shortest: Duration::from_secs(1) });
    assert!(server.down().is_empty());
}

fn set(client: &Memcached, name: &[u8], bytes: &[u8]) -> Put {
    client.set(&[Item { name, bytes, lifetime: MINUTE }]).expect("it answers")[0]
}

fn get(client: &Memcached, name: &[u8]) -> Option<Vec<u8>> {
    client.get(&[name]).expect("it answers").remove(0).map(|held| held.bytes)
}

#[test]
fn one_server_on_a_socket_keeps_the_contract() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    keeps_the_contract(settings(&[&server]));
}

#[test]
fn one_server_on_a_port_keeps_the_contract() {
    let Some(server) = Running::start(Over::Tcp, &["-I", "8m"]) else { return };
    keeps_the_contract(settings(&[&server]));
}

#[test]
fn a_server_that_asks_for_a_password_keeps_the_contract() {
    let Some(server) = Running::start(Over::Tcp, &["-Y", "{}/login"]) else { return };
    keeps_the_contract(MemcachedSettings { login: Some(("me".into(), "secret".into())), ..settings(&[&server]) });
}

fn three_servers_keep_the_contract(placement: Placement) {
    let Some(servers) = Running::start_many(3) else { return };
    let all: Vec<&Running> = servers.iter().collect();
    keeps_the_contract(MemcachedSettings { placement, ..settings(&all) });
    for server in all {
        let items = server.say(b"stats\r\n", "END\r\n");
        assert!(!items.contains("STAT total_items 0\r"), "a server was never written to");
    }
}

#[test]
fn three_servers_placed_as_pymemcache_does_keep_the_contract() {
    three_servers_keep_the_contract(Placement::Rendezvous);
}

#[test]
fn three_servers_on_a_ring_keep_the_contract() {
    three_servers_keep_the_contract(Placement::Ketama);
}

#[test]
fn three_servers_on_a_weighted_ring_keep_the_contract() {
    three_servers_keep_the_contract(Placement::KetamaWeighted);
}

#[test]
fn three_servers_by_modulo_keep_the_contract() {
    three_servers_keep_the_contract(Placement::Modula);
}

#[test]
fn a_wrong_password_is_a_setting_and_is_not_shown() {
    let Some(server) = Running::start(Over::Tcp, &["-Y", "{}/login"]) else { return };
    for login in [Some(("me".to_string(), "hunter2".to_string())), None] {
        let client = Memcached::new(MemcachedSettings { login, ..settings(&[&server]) }).expect("good settings");
        for error in [client.get(&[b"a"]).map(drop), client.remove(&[b"a"]).map(drop), client.get(&[b"a"]).map(drop)] {
            let error = error.expect_err("it was refused");
            assert!(error.is_setting() && error.to_string().contains("PASSWORD"), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}

#[test]
fn plain_names_are_those_that_other_clients_see() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    assert_eq!(set(&client, b":1:plain", b"seen"), Put::Done);
    assert_eq!(server.say(b"get :1:plain\r\n", "END\r\n"), "VALUE :1:plain 0 4\r\nseen\r\nEND\r\n");
    server.say(b"set theirs 5 0 2\r\nhi\r\n", "STORED\r\n");
    assert_eq!(get(&client, b"theirs"), Some(b"hi".to_vec()));
}

#[test]
fn values_up_to_the_limit_fit_under_the_longest_names_and_larger_ones_are_refused() {
    for limit in ["1m", "4m"] {
        let Some(server) = Running::start(Over::Unix, &["-I", limit]) else { return };
        let client = client(&[&server]);
        let name = [b'n'; 250];
        // The limit is known once somebody has asked.
        assert_eq!(set(&client, &name, b"small"), Put::Done);
        let largest = client.largest_value_bytes();
        assert_eq!(largest + 320, if limit == "1m" { 1 << 20 } else { 4 << 20 });
        let value = vec![b'v'; largest + 1];
        assert_eq!(set(&client, &name, &value[1..]), Put::Done);
        assert!(get(&client, &name).is_some_and(|found| found == value[1..]));
        let mark = client.get(&[&name]).expect("it answers")[0].clone().expect("it is there").mark;
        let item = Item { name: &name, bytes: &value, lifetime: MINUTE };
        assert_eq!(client.add(&[item]).expect("it answers"), [Put::Held], "something is there");
        assert_eq!(client.swap(&item, &mark).expect("it answers"), Put::TooLarge);
        assert_eq!(get(&client, &name), None);
        assert_eq!(client.add(&[item]).expect("it answers"), [Put::TooLarge]);
        assert_eq!(client.swap(&item, &mark).expect("it answers"), Put::Held, "what was marked is gone");
        set(&client, &name, b"old");
        let small = Item { name: b"small", bytes: b"x", lifetime: MINUTE };
        assert_eq!(client.set(&[small, item, small]).expect("it answers"), [Put::Done, Put::TooLarge, Put::Done]);
        assert_eq!(get(&client, &name), None, "an old value behind a refused write would be stale");
    }
}

#[test]
fn a_server_without_memory_for_some_values_of_a_batch_keeps_the_others_and_nothing_old() {
    // Without evictions, memory is soon full.
    let Some(server) = Running::start(Over::Unix, &["-M", "-m", "2"]) else { return };
    let client = client(&[&server]);
    let values: Vec<Vec<u8>> = (0..64).map(|number| vec![number; 1_000_000]).collect();
    let names: Vec<Vec<u8>> = (0..64).map(|number| format!("large {number}").into_bytes()).collect();
    let items: Vec<Item<'_>> =
        names.iter().zip(&values).map(|(name, bytes)| Item { name, bytes, lifetime: MINUTE }).collect();
    for name in &names {
        assert_eq!(set(&client, name, b"old"), Put::Done);
    }
    let puts = client.set(&items).expect("an answer for each");
    assert!(puts.contains(&Put::Done) && puts.contains(&Put::TooLarge), "{puts:?}");
    for ((name, value), put) in names.iter().zip(&values).zip(puts) {
        let expected = (put == Put::Done).then_some(value);
        assert_eq!(get(&client, name).as_ref().map(Vec::len), expected.map(Vec::len));
        assert!(get(&client, name).as_ref() == expected);
    }
}

#[test]
fn batches_far_beyond_what_buffers_hold_come_back_in_order() {
    let Some(servers) = Running::start_many(2) else { return };
    let client = client(&servers.iter().collect::<Vec<_>>());
    let names: Vec<Vec<u8>> = (0..5000).map(|number| format!("{number} {}", "n".repeat(150)).into_bytes()).collect();
    let values: Vec<Vec<u8>> = (0..5000).map(|number| vec![number as u8; 2000 + number % 7]).collect();
    let items: Vec<Item<'_>> =
        names.iter().zip(&values).map(|(name, bytes)| Item { name, bytes, lifetime: MINUTE }).collect();
    assert!(client.set(&items).expect("it answers").iter().all(|put| *put == Put::Done));
    let all: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    for (found, value) in client.get(&all).expect("it answers").into_iter().zip(&values) {
        assert!(found.is_some_and(|held| held.bytes == *value));
    }
    assert!(client.touch(&all, MINUTE).expect("it answers").iter().all(|there| *there));
    assert!(client.remove(&all).expect("it answers").iter().all(|there| *there));
    assert!(client.get(&all).expect("it answers").iter().all(Option::is_none));
}

#[test]
fn lifetimes_beyond_thirty_days_are_kept() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let is_about = |left: Left, days_asked: u64| matches!(left, Left::Time(time) if time.abs_diff(days(days_asked)) < Duration::from_secs(30));
    for number in [29, 30, 31, 400] {
        let item = Item { name: b"long", bytes: b"1", lifetime: Lifetime::After(days(number)) };
        client.set(&[item]).expect("it answers");
        assert!(is_about(client.left(b"long").expect("it answers"), number), "{number} days");
        assert_eq!(client.incr(b"long", -5).expect("it answers"), Incr::Value(-4));
        client.set(&[Item { lifetime: Lifetime::Keep, ..item }]).expect("it answers");
        assert!(is_about(client.left(b"long").expect("it answers"), number), "{number} days after a change");
        client.raise(&[(b"long", 9, MINUTE)]).expect("it answers");
        assert!(is_about(client.left(b"long").expect("it answers"), number), "{number} days after a raise");
    }
    client.touch(&[b"long"], Lifetime::After(days(50_000))).expect("it answers");
    assert_eq!(client.left(b"long").expect("it answers"), Left::Never, "later than memcached can count");
}

#[test]
fn sums_are_exact_while_some_count_up_and_some_down_through_zero() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    set(&client, b"n", b"3");
    std::thread::scope(|scope| {
        for delta in [1, -2, 5, -7] {
            let client = &client;
            scope.spawn(move || {
                for _ in 0..200 {
                    assert!(matches!(client.incr(b"n", delta), Ok(Incr::Value(_))));
                }
            });
        }
    });
    assert_eq!(get(&client, b"n"), Some(b"-597".to_vec()));
    assert!(matches!(client.left(b"n").expect("it answers"), Left::Time(left) if left > Duration::from_secs(30)));
}

#[test]
fn many_at_the_end_of_the_numbers_leave_it_as_it_was() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    let end = (i64::MAX - 5).to_string().into_bytes();
    set(&client, b"n", &end);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope
                .spawn(|| (0..50).for_each(|_| assert_eq!(client.incr(b"n", 6).expect("it answers"), Incr::NotACount)));
        }
    });
    assert_eq!(get(&client, b"n"), Some(end));
}

#[test]
fn a_number_that_is_set_to_near_the_end_while_others_add_to_it_is_led_beyond_by_nobody() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    let near = (i64::MAX - 3).to_string().into_bytes();
    // Counted, and judged at the end: who panicked here would leave the others waiting.
    let (barrier, wrong) = (Barrier::new(3), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..1500 {
                    barrier.wait();
                    let is_right = matches!(client.incr(b"n", 10), Ok(Incr::NotACount | Incr::Value(15 | 25)));
                    wrong.fetch_add(usize::from(!is_right), Ordering::Relaxed);
                    barrier.wait();
                }
            });
        }
        for _ in 0..1500 {
            set(&client, b"n", b"5");
            barrier.wait();
            set(&client, b"n", &near);
            barrier.wait();
            wrong.fetch_add(usize::from(get(&client, b"n").as_ref() != Some(&near)), Ordering::Relaxed);
        }
    });
    assert_eq!(wrong.into_inner(), 0);
}

#[test]
fn one_of_many_wins_the_lease_and_the_others_wait() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    let hold = Duration::from_secs(30);
    let leases: Vec<Lease> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| client.lease(b"page", hold, None))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic").expect("it answers")).collect()
    });
    let won = leases.iter().filter_map(|lease| match lease {
        Lease::Won { mark, old: None } => Some(*mark),
        _ => None,
    });
    let won: Vec<_> = won.collect();
    assert_eq!(won.len(), 1, "{leases:?}");
    assert_eq!(leases.iter().filter(|lease| **lease == Lease::Waiting { old: None }).count(), 7);
    assert_eq!(get(&client, b"page"), None, "the mark of a lease is no value");
    let item = |bytes| Item { name: b"page", bytes, lifetime: MINUTE };
    assert_eq!(client.fill(&item(b"made"), &won[0]).expect("it answers"), Put::Done);
    assert!(matches!(client.lease(b"page", hold, None), Ok(Lease::Fresh(held)) if held.bytes == b"made"));
    assert_eq!(client.fill(&item(b"late"), &won[0]).expect("it answers"), Put::Done, "it is stored as stale");
    assert_eq!(get(&client, b"page"), None);
}

#[test]
fn a_value_that_was_invalidated_is_shown_as_old_and_a_fill_begun_before_stays_stale() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    let (hold, item) = (Duration::from_secs(30), |bytes| Item { name: b"page", bytes, lifetime: MINUTE });
    let lease = || client.lease(b"page", hold, None).expect("it answers");
    set(&client, b"page", b"first");
    assert_eq!(client.invalidate(&[b"page", b"other"], hold).expect("it answers"), [true, false]);
    assert_eq!(get(&client, b"page"), None, "what was invalidated is never served");
    assert_eq!(client.invalidate(&[b"page"], hold).expect("it answers"), [true]);
    let Lease::Won { mark, old } = lease() else { panic!("the first wins") };
    assert_eq!(old.as_deref(), Some(&b"first"[..]));
    assert_eq!(lease(), Lease::Waiting { old: Some(b"first".to_vec()) });
    // Invalidated again while it is being made: what is made is older than that.
    client.invalidate(&[b"page"], hold).expect("it answers");
    assert_eq!(client.fill(&item(b"overtaken"), &mark).expect("it answers"), Put::Done);
    let Lease::Won { mark, old } = lease() else { panic!("it is stale, so somebody wins") };
    assert_eq!(old.as_deref(), Some(&b"overtaken"[..]));
    assert_eq!(client.fill(&item(b"second"), &mark).expect("it answers"), Put::Done);
    assert!(matches!(lease(), Lease::Fresh(held) if held.bytes == b"second"));
    // Removed while it is being made: nothing is filled.
    client.invalidate(&[b"page"], hold).expect("it answers");
    let Lease::Won { mark, .. } = lease() else { panic!("the first wins") };
    assert_eq!(client.remove(&[b"page"]).expect("it answers"), [true]);
    assert_eq!(client.fill(&item(b"third"), &mark).expect("it answers"), Put::Held);
    assert_eq!(get(&client, b"page"), None);
}

#[test]
fn a_value_that_is_about_to_expire_is_leased_early_to_one() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    let (hold, early) = (Duration::from_secs(30), Some(Duration::from_secs(600)));
    set(&client, b"page", b"soon over");
    assert!(matches!(client.lease(b"page", hold, Some(Duration::from_secs(5))), Ok(Lease::Fresh(_))));
    let Ok(Lease::Won { old, .. }) = client.lease(b"page", hold, early) else { panic!("a minute is less than ten") };
    assert_eq!(old.as_deref(), Some(&b"soon over"[..]));
    assert!(matches!(client.lease(b"page", hold, early), Ok(Lease::Fresh(held)) if held.bytes == b"soon over"));
}

/// Names that live on each of the servers, in order.
fn names_by_place(client: &Memcached, servers: usize) -> Vec<Vec<u8>> {
    let name =
        |place| (0..).map(|number| format!("name {number}").into_bytes()).find(|name| client.place_of(name) == place);
    (0..servers).map(|place| name(place).expect("some name lives there")).collect()
}

#[test]
fn while_one_of_three_servers_is_down_its_keys_are_misses_and_writes_to_it_are_outages() {
    let Some(mut servers) = Running::start_many(3) else { return };
    let client = client(&servers.iter().collect::<Vec<_>>());
    let names = names_by_place(&client, 3);
    let all: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    for name in &all {
        set(&client, name, b"there");
    }
    servers[1].kill();
    let is_there = || -> Vec<bool> { client.get(&all).expect("two answer").iter().map(Option::is_some).collect() };
    assert_eq!(is_there(), [true, false, true]);
    let down = client.down();
    assert!(down.len() == 1 && down[0].contains(&servers[1].location.replace("unix:", "")), "{down:?}");
    assert!(client.get(&[all[1]]).is_err_and(|error| error.is_outage()), "all that were asked are down");
    let item = |place: usize| Item { name: all[place], bytes: b"x", lifetime: MINUTE };
    assert!(client.set(&[item(0), item(1)]).is_err_and(|error| error.is_outage()));
    assert!(client.remove(&all).is_err_and(|error| error.is_outage()));
    assert_eq!(set(&client, all[0], b"again"), Put::Done);
    servers[1].restart();
    let start = Instant::now();
    while client.set(&[item(1)]).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", client.down());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(client.down().is_empty());
    assert_eq!(get(&client, all[1]), Some(b"x".to_vec()));
    for server in &mut servers {
        server.kill();
    }
    assert!(client.get(&all).is_err_and(|error| error.is_outage()));
}

#[test]
fn a_server_killed_and_restarted_under_load_gives_outages_and_then_its_own_values() {
    let Some(mut server) = Running::start(Over::Tcp, &[]) else { return };
    let client = client(&[&server]);
    let stop = AtomicBool::new(false);
    let round = |thread: u64, number: u64| {
        let name = format!("{thread} {}", number % 10).into_bytes();
        let value = format!("value of {thread} {number}").into_bytes();
        if client.set(&[Item { name: &name, bytes: &value, lifetime: MINUTE }]).is_ok()
            && let Ok(found) = client.get(&[&name])
            && let Some(held) = &found[0]
        {
            assert_eq!(held.bytes, value);
            return true;
        }
        false
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (stop, round) = (&stop, &round);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    round(thread, number);
                    number += 1;
                }
            });
        }
        for _ in 0..3 {
            server.kill();
            std::thread::sleep(Duration::from_millis(150));
            assert!(!round(9, 0), "it is down");
            server.restart();
            let start = Instant::now();
            while !round(9, 1) {
                assert!(start.elapsed() < Duration::from_secs(10), "{:?}", client.down());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn parent_and_children_of_a_fork_share_no_connection() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let client = client(&[&server]);
    let work = |worker: u64, rounds: u64| {
        for number in 0..rounds {
            let name = format!("{worker} {}", number % 7).into_bytes();
            let value = format!("value of {worker} {number}").into_bytes();
            assert_eq!(set(&client, &name, &value), Put::Done);
            assert_eq!(get(&client, &name), Some(value));
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let work = &work;
            scope.spawn(move || work(thread, 2000));
        }
        for generation in 0..3 {
            work(10, 10);
            let children = start_all(4, |number| work(100 * (generation + 1) + number, 300));
            work(10, 200);
            finish_all(children);
        }
    });
}
