//! Real memcached servers, each in a directory of its own, killed when dropped. Where memcached is missing one line says so, and the
//! tests that need it pass without it. Servers listen on loopback or on a socket, and keep nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const LONGEST_START: Duration = Duration::from_secs(20);

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Unix,
    Tcp,
}

/// A certificate authority and a certificate of it for `localhost` and `127.0.0.1`, made anew: `authority.pem`, `server.pem`,
/// `server.key`. Whether it could be made.
pub fn make_certificates(directory: &Path) -> bool {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    let names = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let commands = [
        format!("req -x509 {key} -keyout authority.key -out authority.pem -subj /CN=authority"),
        format!(
            "req -x509 {key} -keyout server.key -out server.pem -subj /CN=server {names} -CA authority.pem -CAkey authority.key"
        ),
    ];
    let is_made = commands.iter().all(|command| {
        let mut openssl = Command::new("openssl");
        openssl.args(command.split(' ')).current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null());
        openssl.status().is_ok_and(|status| status.success())
    });
    if !is_made {
        eprintln!("openssl 3 is missing: memcached was not tested over TLS; apt-get install openssl");
    }
    is_made
}

/// A running memcached.
pub struct Memcached {
    process: Child,
    command: Vec<String>,
    directory: PathBuf,
    /// What to write into LOCATION.
    pub location: String,
}

/// The path of the program, if there is one.
fn program() -> Option<PathBuf> {
    static SAID: Once = Once::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("memcached")).find(|program| program.is_file());
    if found.is_none() {
        SAID.call_once(|| eprintln!("memcached is missing: its tests were not run; apt-get install memcached"));
    }
    found
}

/// A directory that nobody else has.
pub fn own_directory() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("tezkor-memcached-{}-{number}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

impl Memcached {
    /// Starts one with these further arguments; none where memcached is missing.
    pub fn start(over: Over, arguments: &[&str]) -> Option<Memcached> {
        let program = program()?;
        let directory = own_directory();
        fs::write(directory.join("login"), "me:secret\n").expect("a file");
        loop {
            let (location, mut command) = match over {
                Over::Unix => {
                    let path = directory.join("memcached.sock").display().to_string();
                    (format!("unix:{path}"), vec!["-s".into(), path, "-a".into(), "0700".into()])
                }
                Over::Tcp => {
                    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
                    let port = listener.local_addr().expect("it is bound").port().to_string();
                    let options = ["-l", "127.0.0.1", "-U", "0", "-p", &port].map(String::from);
                    (format!("127.0.0.1:{port}"), options.to_vec())
                }
            };
            command.extend(["-m", "256", "-t", "2", "-R", "200"].map(String::from));
            let in_directory = |text: &&str| text.replace("{}", &directory.display().to_string());
            command.extend(arguments.iter().map(in_directory));
            if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
                command.extend(["-u", "root"].map(String::from));
            }
            command.insert(0, program.display().to_string());
            let process = run(&command);
            let mut server = Memcached { process, command, directory: directory.clone(), location };
            if server.wait_until_it_listens() {
                return Some(server);
            }
            // Somebody has taken the port meanwhile.
            let _ = server.process.wait();
        }
    }

    /// Several on sockets.
    pub fn start_many(count: usize) -> Option<Vec<Memcached>> {
        (0..count).map(|_| Memcached::start(Over::Unix, &[])).collect()
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill().expect("it ran");
        self.process.wait().expect("it ends");
    }

    /// Starts it again, empty, where it was.
    pub fn restart(&mut self) {
        let _ = fs::remove_file(self.directory.join("memcached.sock"));
        self.process = run(&self.command);
        assert!(self.wait_until_it_listens(), "{:?} does not start again", self.command);
    }

    /// Sends bytes as any client would, and reads until the answer ends so.
    pub fn say(&self, question: &[u8], end: &str) -> String {
        let mut stream: Box<dyn Stream> = match self.location.strip_prefix("unix:") {
            Some(path) => Box::new(UnixStream::connect(path).expect("it listens")),
            None => Box::new(TcpStream::connect(&self.location).expect("it listens")),
        };
        stream.write_all(question).expect("it takes questions");
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("it answers");
            answer.push(byte[0]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn wait_until_it_listens(&mut self) -> bool {
        let start = Instant::now();
        loop {
            let is_listening = match self.location.strip_prefix("unix:") {
                Some(path) => Path::new(path).exists() && UnixStream::connect(path).is_ok(),
                None => TcpStream::connect(&self.location).is_ok(),
            };
            if let Ok(Some(_)) = self.process.try_wait() {
                return false;
            }
            if is_listening {
                return true;
            }
            assert!(start.elapsed() < LONGEST_START, "{:?} does not start", self.command);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn run(command: &[String]) -> Child {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    process.spawn().expect("memcached starts")
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
