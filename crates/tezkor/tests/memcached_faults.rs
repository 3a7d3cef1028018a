//! What lies between the client and a real memcached misbehaves: replies are held back, cut at each byte, replaced, shifted, dripped.
//! No read ever gives a value that is not that of its name, each call ends in a bounded time, and the next connection works.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use support::memcached::{Memcached as Running, Over, own_directory};
use tezkor::store::far::server::{Item, Lifetime, Server};
use tezkor::store::memcached::{Memcached, MemcachedSettings};
use tezkor::{Error, Incr};

const MINUTE: Lifetime = Lifetime::After(Duration::from_secs(60));
/// What a call may take that has a reply timeout of 100 ms, on a machine that has other things to do.
const BOUNDED: Duration = Duration::from_secs(5);

/// What happens to replies.
#[derive(Clone, Debug, PartialEq)]
enum Damage {
    None,
    /// They never arrive.
    Silent,
    /// They end after so many bytes, and so does the connection.
    Cut(usize),
    /// Others come instead.
    Replaced(&'static [u8]),
    /// They come with something behind them.
    Followed(&'static [u8]),
    /// The reply to the question before comes, each time.
    Shifted,
    /// All digits of opaques are others.
    Renumbered,
    /// A byte at a time.
    Dripped,
}

/// Stands between a client and a memcached.
struct Between {
    directory: PathBuf,
    damage: Arc<Mutex<Damage>>,
    last: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
    settings: MemcachedSettings,
}

impl Between {
    fn new(server: &Running) -> Between {
        let directory = own_directory();
        let path = directory.join("between.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let behind = server.location.replace("unix:", "");
        let (damage, last) = (Arc::new(Mutex::new(Damage::None)), Arc::new(Mutex::new(Vec::new())));
        let connections = Arc::new(AtomicUsize::new(0));
        let (shared_damage, shared_last, count) = (Arc::clone(&damage), Arc::clone(&last), Arc::clone(&connections));
        // It ends with the test process; each test has its own.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&behind)) else { return };
                count.fetch_add(1, Ordering::SeqCst);
                let (mut questions, mut to_server) =
                    (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut questions, &mut to_server);
                    let _ = to_server.shutdown(std::net::Shutdown::Both);
                });
                let (damage, last) = (Arc::clone(&shared_damage), Arc::clone(&shared_last));
                std::thread::spawn(move || pass_replies(server, client, &damage, &last));
            }
        });
        let mut settings = MemcachedSettings::new(&[&format!("unix:{}", path.display())]).expect("a good location");
        settings.connect_timeout = Duration::from_secs(10);
        settings.shortest_rest = Duration::from_millis(1);
        settings.longest_rest = Duration::from_millis(1);
        Between { directory, damage, last, connections, settings }
    }

    fn set(&self, damage: Damage) {
        *self.damage.lock().expect("no panic") = damage;
    }

    fn client(&self) -> Memcached {
        Memcached::new(self.settings.clone()).expect("good settings")
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn pass_replies(mut server: UnixStream, mut client: UnixStream, damage: &Mutex<Damage>, last: &Mutex<Vec<u8>>) {
    let (mut buffer, mut passed) = (vec![0; 1 << 20], 0);
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        let reply = &buffer[..count];
        let damage = damage.lock().expect("no panic").clone();
        let before = std::mem::replace(&mut *last.lock().expect("no panic"), reply.to_vec());
        let bytes = match &damage {
            Damage::None | Damage::Dripped => reply.to_vec(),
            Damage::Silent => continue,
            Damage::Cut(at) => reply[..count.min(at.saturating_sub(passed))].to_vec(),
            Damage::Replaced(other) => other.to_vec(),
            Damage::Followed(more) => [reply, more].concat(),
            Damage::Shifted => before,
            Damage::Renumbered => renumbered(reply),
        };
        passed = if damage == Damage::None { 0 } else { passed + count };
        let step = if damage == Damage::Dripped { 1 } else { bytes.len().max(1) };
        for part in bytes.chunks(step) {
            if client.write_all(part).is_err() {
                return;
            }
            if damage == Damage::Dripped {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if matches!(damage, Damage::Cut(at) if passed >= at) {
            let _ = client.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// Each opaque one higher: replies to questions that were asked, but not to these.
fn renumbered(reply: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(reply).into_owned();
    let mut parts = text.split(" O");
    let mut all = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let end = part.find([' ', '\r']).unwrap_or(part.len());
        let number = u32::from_str_radix(&part[..end], 16).expect("an opaque");
        all += &format!(" O{:08x}{}", number.wrapping_add(1), &part[end..]);
    }
    all.into_bytes()
}

const NAMES: [&[u8]; 3] = [b"one", b"two", b"three four"];

/// Writes what is read later, past everything that lies between.
fn fill(server: &Running) {
    let mut settings = MemcachedSettings::new(&[&server.location]).expect("a good location");
    (settings.connect_timeout, settings.reply_timeout) = (Duration::from_secs(10), Duration::from_secs(10));
    let client = Memcached::new(settings).expect("good settings");
    let items = NAMES.map(|name| Item { name, bytes: name, lifetime: MINUTE });
    client.set(&items).expect("it answers");
    client.set(&[Item { name: b"count", bytes: b"5", lifetime: MINUTE }]).expect("it answers");
}

/// Uses a client in one way.
type Run = fn(&Memcached) -> Result<bool, Error>;

/// All verbs; whether each gave an answer that is right, or the error.
fn verbs() -> Vec<(&'static str, Run)> {
    vec![
        ("get", |client| Ok(client.get(&NAMES[..1])?[0].as_ref().is_some_and(|held| held.bytes == NAMES[0]))),
        ("get many", |client| {
            let found = client.get(&NAMES)?;
            Ok(found.iter().zip(NAMES).all(|(held, name)| held.as_ref().is_some_and(|held| held.bytes == name)))
        }),
        ("get missing", |client| Ok(client.get(&[b"missing"])?[0].is_none())),
        ("set", |client| client.set(&[Item { name: b"w", bytes: b"w", lifetime: MINUTE }]).map(|_| true)),
        ("add", |client| client.add(&[Item { name: b"w", bytes: b"w", lifetime: MINUTE }]).map(|_| true)),
        ("remove", |client| Ok(client.remove(&[b"missing", b"missing too"])? == [false, false])),
        ("touch", |client| Ok(client.touch(&NAMES, MINUTE)? == [true; 3])),
        ("incr", |client| Ok(matches!(client.incr(b"count", 1)?, Incr::Value(sum) if sum > 5))),
        ("raise", |client| client.raise(&[(b"count", 1, MINUTE)]).map(|()| true)),
        ("left", |client| client.left(b"one").map(|left| left != tezkor::store::far::server::Left::Absent)),
    ]
}

/// Until it works again, which it has to.
fn works_again(between: &Between, client: &Memcached) {
    between.set(Damage::None);
    let start = Instant::now();
    while !matches!(client.get(&NAMES), Ok(found) if found.iter().all(Option::is_some)) {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", client.down());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(client.down().is_empty());
}

#[test]
fn damaged_replies_are_outages_in_bounded_time_and_never_values() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let between = Between::new(&server);
    let client = between.client();
    fill(&server);
    let damages = [
        Damage::Silent,
        Damage::Dripped,
        Damage::Renumbered,
        Damage::Replaced(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        Damage::Replaced(b"\0\0\0\0\0\0\0\0\r\n"),
        Damage::Replaced(b"VA 3\r\nfoo\r\n"),
        Damage::Replaced(b"HD\r\n"),
        Damage::Replaced(b"EN\r\n"),
        Damage::Replaced(b"MN\r\n"),
        Damage::Replaced(b"SERVER_ERROR out of order\r\n"),
        Damage::Replaced(b"CLIENT_ERROR bad command line format\r\n"),
        Damage::Replaced(b"VA 1000000000 O0\r\n"),
        Damage::Followed(b"EN O0\r\n"),
        Damage::Followed(b"\n"),
    ];
    for damage in &damages {
        for (verb, run) in verbs() {
            works_again(&between, &client);
            between.set(damage.clone());
            let start = Instant::now();
            let outcome = run(&client);
            assert!(start.elapsed() < BOUNDED, "{verb}, {damage:?}");
            let error = outcome.expect_err(&format!("{verb}, {damage:?}"));
            assert!(error.is_outage(), "{verb}, {damage:?}: {error}");
        }
    }
    works_again(&between, &client);
}

#[test]
fn a_reply_cut_at_any_byte_is_an_outage() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let mut between = Between::new(&server);
    // Nothing here is silent, and a slow machine is no fault.
    between.settings.reply_timeout = Duration::from_secs(10);
    let client = between.client();
    fill(&server);
    for (verb, run) in verbs() {
        works_again(&between, &client);
        assert!(run(&client).expect("undamaged"), "{verb}");
        let whole = between.last.lock().expect("no panic").len();
        for cut in 0..whole {
            works_again(&between, &client);
            between.set(Damage::Cut(cut));
            let error = run(&client).expect_err(&format!("{verb}, cut at {cut} of {whole}"));
            assert!(error.is_outage(), "{verb}, cut at {cut} of {whole}: {error}");
        }
    }
}

#[test]
fn replies_shifted_by_one_never_show_the_value_of_another_name() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let between = Between::new(&server);
    let client = between.client();
    let names: Vec<Vec<u8>> = (0..50).map(|number| format!("name {number}").into_bytes()).collect();
    fill(&server);
    for name in &names {
        while client.set(&[Item { name, bytes: name, lifetime: MINUTE }]).is_err() {}
    }
    let mut outages = 0;
    for _ in 0..20 {
        works_again(&between, &client);
        between.set(Damage::Shifted);
        for name in &names {
            match client.get(&[name]) {
                Ok(found) => assert_eq!(found[0].as_ref().map(|held| &held.bytes), Some(name)),
                Err(error) => {
                    assert!(error.is_outage());
                    outages += 1;
                }
            }
        }
    }
    assert!(outages >= 20, "it never shifted anything");
}

#[test]
fn a_server_that_rests_is_not_asked_and_then_tried_by_one_caller() {
    let Some(server) = Running::start(Over::Unix, &[]) else { return };
    let mut between = Between::new(&server);
    between.settings.shortest_rest = Duration::from_secs(1);
    between.settings.longest_rest = Duration::from_secs(3600);
    let client = between.client();
    fill(&server);
    let connections = || between.connections.load(Ordering::SeqCst);
    works_again(&between, &client);
    between.set(Damage::Silent);
    let before = connections();
    assert!(client.get(&NAMES).is_err_and(|error| error.is_outage()));
    for _ in 0..1000 {
        assert!(client.get(&NAMES).is_err_and(|error| error.is_outage()));
    }
    assert_eq!(connections(), before, "it was asked while it rests");
    assert_eq!(client.down().len(), 1);
    std::thread::sleep(Duration::from_millis(1100));
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                assert!(client.get(&NAMES).is_err());
            });
        }
    });
    assert_eq!(connections(), before + 1, "one caller tries");
}

#[test]
fn a_server_that_closed_its_idle_connections_is_simply_connected_to_again() {
    let Some(server) = Running::start(Over::Tcp, &["-o", "idle_timeout=1"]) else { return };
    let mut settings = MemcachedSettings::new(&[&server.location]).expect("a good location");
    (settings.connect_timeout, settings.reply_timeout) = (Duration::from_secs(10), Duration::from_secs(10));
    let client = Memcached::new(settings).expect("good settings");
    fill(&server);
    assert!(client.get(&NAMES).expect("it answers").iter().all(Option::is_some));
    let start = Instant::now();
    let has_closed = || server.say(b"stats\r\n", "END\r\n").contains("STAT idle_kicks 1");
    while !has_closed() {
        assert!(start.elapsed() < Duration::from_secs(30), "memcached closes idle connections after a second or two");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(client.get(&NAMES).expect("a new connection").iter().all(Option::is_some));
    assert!(client.down().is_empty());
}

#[test]
fn where_nobody_listens_start_up_is_quick_and_the_message_names_place_and_fix() {
    let directory = own_directory();
    let locations = [
        format!("unix:{}/nobody.sock", directory.display()),
        "127.0.0.1:1".to_string(),
        // An address of the documentation, which no router knows.
        "192.0.2.1:11211".to_string(),
        "nobody.invalid:11211".to_string(),
    ];
    for location in &locations {
        let start = Instant::now();
        let client =
            Memcached::new(MemcachedSettings::new(&[location]).expect("a good location")).expect("good settings");
        let error = client.get(&[b"a"]).expect_err("nobody listens");
        assert!(error.is_outage() && error.to_string().contains("LOCATION"), "{error}");
        assert!(error.to_string().contains(location.trim_start_matches("unix:")), "{error}");
        assert!(start.elapsed() < BOUNDED, "{location}");
    }
    std::fs::remove_dir_all(directory).expect("it is ours");
}
