//! Servers that are slow, silent, lying or cut off: each costs a bounded time and is an outage, never a value of another name.
#![cfg(feature = "redis")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::servers::RedisServer;
use tezkor::redis::{Redis, RedisSettings};
use tezkor::store::far::server::{Item, Lifetime, Put, Server};

/// What a fault may cost: to connect, to answer, a quarter more, and what a busy machine takes to wake a thread.
const BOUND: Duration = Duration::from_millis(350);

fn open(port: u16) -> Redis {
    let url = format!("redis://127.0.0.1:{port}");
    Redis::open(&RedisSettings::from_urls(&[&url]).expect("the url is right")).expect("it reads no file")
}

/// Listens, and hands each connection to a thread.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// The message of an outage that ends in time.
fn outage(redis: &Redis) -> String {
    let start = Instant::now();
    let error = redis.get(&[b"name"]).expect_err("it cannot answer");
    assert!(start.elapsed() < BOUND, "{:?}: {error}", start.elapsed());
    assert!(error.is_outage(), "{error}");
    let write = redis.set(&[Item { name: b"name", bytes: b"1", lifetime: Lifetime::Never }]);
    assert!(write.is_err_and(|error| error.is_outage()));
    error.to_string()
}

#[test]
fn a_silent_server_ends_within_the_timeouts() {
    let silent = listen(|stream| std::thread::sleep(Duration::from_secs(60 + u64::from(stream.nodelay().is_err()))));
    let message = outage(&open(silent));
    assert!(message.contains("did not answer within") && message.contains(&format!("127.0.0.1:{silent}")), "{message}");
    let url = format!("redis://:hidden@127.0.0.1:{silent}/1");
    let settings = RedisSettings::from_urls(&[&url]).expect("the url is right");
    let message = outage(&Redis::open(&settings).expect("it reads no file"));
    assert!(!message.contains("hidden"), "{message}");
}

#[test]
fn a_batch_that_nobody_answers_takes_no_longer_than_one() {
    let silent = listen(|stream| std::thread::sleep(Duration::from_secs(60 + u64::from(stream.nodelay().is_err()))));
    let redis = open(silent);
    let names: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let items: Vec<Item<'_>> =
        names.iter().map(|name| Item { name: name.as_bytes(), bytes: b"1", lifetime: Lifetime::Never }).collect();
    let start = Instant::now();
    assert!(redis.set(&items).is_err_and(|error| error.is_outage()));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
}

#[test]
fn an_address_that_swallows_packets_ends_within_the_timeouts() {
    // A listener whose backlog is full takes no more connections, and answers nothing.
    let socket = socket_with_full_backlog();
    let start = Instant::now();
    let error = open(socket.1).get(&[b"x"]).expect_err("it cannot answer");
    assert!(error.is_outage() && start.elapsed() < BOUND, "{:?} {error}", start.elapsed());
}

fn socket_with_full_backlog() -> (TcpListener, u16, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
        waiting.push(stream);
    }
    (listener, address.port(), waiting)
}

#[test]
fn garbage_is_an_outage() {
    let answers: [&[u8]; 9] = [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"\0\0\0\0\0\0\0\0",
        b"$5\r\nhello\r\n",
        b"$5\r\nhello\r\n$16\r\n0123456789abcdef\r\n",
        b"$-1\r\n$-1\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n",
        b"$99999999999999999999\r\n",
        b"*3\r\n",
        b"-ERR max number of clients reached\r\n",
    ];
    for answer in answers {
        let port = listen(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(Shutdown::Write);
            std::thread::sleep(Duration::from_millis(500));
        });
        outage(&open(port));
    }
}

#[test]
fn bytes_that_drip_in_end_within_the_timeouts() {
    let port = listen(|mut stream| {
        let _ = stream.set_nodelay(true);
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"$100000\r\n");
        for _ in 0..500 {
            if stream.write_all(b"x").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let message = outage(&open(port));
    assert!(message.contains("did not answer within"), "{message}");
}

/// Stands before a real server, and does something to what that answers.
struct Middle {
    port: u16,
    exchanges: Arc<AtomicU64>,
}

impl Middle {
    fn before(
        server: &RedisServer,
        change: impl Fn(u64, &[u8], &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Middle {
        let (to, exchanges) = (server.port, Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&exchanges);
        let port = listen(move |mut client| {
            let mut server = TcpStream::connect(("127.0.0.1", to)).expect("the server runs");
            let (mut question, mut answer) = (vec![0; 1 << 20], vec![0; 1 << 20]);
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            while let Ok(count @ 1..) = client.read(&mut question) {
                server.write_all(&question[..count]).expect("the server reads");
                let Ok(count @ 1..) = server.read(&mut answer) else { return };
                if !change(counted.fetch_add(1, Ordering::SeqCst), &answer[..count], &mut client) {
                    return;
                }
            }
        });
        Middle { port, exchanges }
    }
}

/// Each name holds itself, so any answer to another question is seen.
fn fill(server: &RedisServer, names: &[String]) {
    let redis = open(server.port);
    for name in names {
        let item = Item { name: name.as_bytes(), bytes: name.as_bytes(), lifetime: Lifetime::Never };
        assert_eq!(redis.set(&[item]).expect("the server answers"), [Put::Done]);
    }
}

fn names() -> Vec<String> {
    (0..50).map(|number| format!("name {number}")).collect()
}

#[test]
fn answers_that_are_shifted_by_one_are_never_values() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let names = names();
    fill(&server, &names);
    // The third exchange of a connection is answered twice, as if the answer to an earlier question came late: all that
    // follow on it would be shifted.
    let before = std::sync::Mutex::new(Vec::new());
    let middle = Middle::before(&server, move |number, answer, client| {
        let mut before = before.lock().expect("no panic");
        let shifted = if number % 7 >= 3 { std::mem::replace(&mut *before, answer.to_vec()) } else { answer.to_vec() };
        *before = answer.to_vec();
        client.write_all(&shifted).is_ok()
    });
    let redis = open(middle.port);
    let (mut right, mut outages) = (0, 0);
    for name in names.iter().cycle().take(600) {
        match redis.get(&[name.as_bytes()]) {
            Ok(found) => {
                let found = found[0].as_ref().expect("it is there");
                assert_eq!(found.bytes, name.as_bytes(), "the answer to another question");
                right += 1;
            }
            Err(error) => {
                assert!(error.is_outage() && error.to_string().contains("what was not asked"), "{error}");
                outages += 1;
            }
        }
    }
    assert!(right > 100 && outages > 100, "{right} right, {outages} outages");
    assert!(middle.exchanges.load(Ordering::SeqCst) >= 600);
}

#[test]
fn answers_that_are_cut_at_any_byte_are_never_values() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let names = names();
    fill(&server, &names);
    let middle = Middle::before(&server, |number, answer, client| {
        let cut = number as usize % (answer.len() + 1);
        client.write_all(&answer[..cut]).is_ok() && cut == answer.len()
    });
    let redis = open(middle.port);
    let mut right = 0;
    for name in names.iter().cycle().take(400) {
        match redis.get(&[name.as_bytes()]) {
            Ok(found) => {
                assert_eq!(found[0].as_ref().expect("it is there").bytes, name.as_bytes());
                right += 1;
            }
            Err(error) => assert!(error.is_outage(), "{error}"),
        }
    }
    assert!(right > 0);
}

#[test]
fn a_write_whose_answer_is_lost_is_carried_out_once() {
    let Some(server) = RedisServer::start(&[]) else { return };
    open(server.port).set(&[Item { name: b"n", bytes: b"0", lifetime: Lifetime::Never }]).expect("the server answers");
    assert_eq!(open(server.port).incr(b"n", 0).expect("the server answers"), tezkor::Incr::Value(0));
    let middle = Middle::before(&server, |number, answer, client| number % 3 != 2 && client.write_all(answer).is_ok());
    let redis = open(middle.port);
    for _ in 0..30 {
        match redis.incr(b"n", 1) {
            Ok(_) => {}
            Err(error) => assert!(error.is_outage(), "{error}"),
        }
    }
    assert_eq!(middle.exchanges.load(Ordering::SeqCst), 30, "nothing is sent twice");
    assert_eq!(open(server.port).incr(b"n", 0).expect("the server answers"), tezkor::Incr::Value(30));
}
