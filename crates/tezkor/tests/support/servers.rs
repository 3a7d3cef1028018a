//! Real servers for tests: found on the machine, started on free ports of the loopback and on unix sockets, saving nothing, and gone
//! when the test ends, however it ends. A test whose server is not installed says so in one line.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start, or a cluster to come to terms.
const LONGEST_START: Duration = Duration::from_secs(30);

/// Where a program is; `None` after saying that the test is skipped for the lack of it.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder: PathBuf| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        // Past the harness, which shows what a passed test printed to nobody.
        let _ = writeln!(std::io::stderr(), "skipped: {name} is not installed");
    }
    found
}

/// A directory that goes with the test; short enough for the path of a socket.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tezkor-servers-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary directory");
        Folder(folder)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port of the loopback that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A Redis or Valkey, or a Sentinel.
pub struct RedisServer {
    folder: Folder,
    command: Vec<String>,
    cli: String,
    process: Option<Child>,
    pub port: u16,
}

impl RedisServer {
    /// Starts a Redis with these options beside the usual ones; `None` where it is not installed.
    pub fn start(options: &[&str]) -> Option<RedisServer> {
        RedisServer::start_product("redis", options)
    }

    /// Starts `redis-server` or `valkey-server`.
    pub fn start_product(product: &str, options: &[&str]) -> Option<RedisServer> {
        let binary = program(&format!("{product}-server"))?;
        let (folder, port) = (Folder::new(), free_port());
        let bus_port = free_port();
        let socket = folder.file("socket");
        let words = [
            &binary.display().to_string(),
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            &socket.display().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--repl-diskless-sync-delay",
            "0",
            "--cluster-port",
            &bus_port.to_string(),
            "--dir",
            &folder.0.display().to_string(),
        ];
        let command = words.iter().chain(options).map(ToString::to_string).collect();
        let mut server = RedisServer { folder, command, cli: format!("{product}-cli"), process: None, port };
        server.restart();
        Some(server)
    }

    /// Starts a Sentinel with this configuration.
    pub fn start_sentinel(configuration: &str) -> Option<RedisServer> {
        let binary = program("redis-server")?;
        let (folder, port) = (Folder::new(), free_port());
        let file = folder.file("sentinel.conf");
        let socket = folder.file("socket");
        let place =
            format!("port {port}\nbind 127.0.0.1\ndir {}\nunixsocket {}\n", folder.0.display(), socket.display());
        std::fs::write(&file, place + configuration).expect("a file");
        let command = [binary, file, "--sentinel".into()].iter().map(|word| word.display().to_string()).collect();
        let mut server = RedisServer { folder, command, cli: "redis-cli".into(), process: None, port };
        server.restart();
        Some(server)
    }

    /// The path of its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.file("socket")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        let mut command = match program("setpriv") {
            // It goes with the test even when that is killed.
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).args(&self.command);
                command
            }
            None => {
                let mut command = Command::new(&self.command[0]);
                command.args(&self.command[1..]);
                command
            }
        };
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.process = Some(process.expect("it starts"));
        wait_until("a server answers", || !self.cli(&["PING"]).is_empty());
    }

    /// What its own client prints for a command, over the unix socket.
    pub fn cli(&self, words: &[&str]) -> String {
        cli(&self.cli, &["-s", &self.socket().display().to_string()], words)
    }

    /// The number of clients that are connected, this one not counted.
    pub fn clients(&self) -> usize {
        self.cli(&["CLIENT", "LIST"]).lines().filter(|line| !line.contains("cmd=client")).count()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn cli(program: &str, place: &[&str], words: &[&str]) -> String {
    let output = Command::new(program).args(place).args(words).stdin(Stdio::null()).output().expect("a client");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// A cluster of three primaries, and a replica of each of the first so many.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start(replicas: usize) -> Option<RedisCluster> {
        let options =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-require-full-coverage", "no"];
        let nodes: Option<Vec<RedisServer>> = (0..3 + replicas).map(|_| RedisServer::start(&options)).collect();
        let cluster = RedisCluster { nodes: nodes? };
        for (number, (first, last)) in [(0, 5460), (5461, 10_922), (10_923, 16_383)].into_iter().enumerate() {
            let range = [first.to_string(), last.to_string()];
            assert_eq!(cluster.nodes[number].cli(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]), "OK");
            // Epochs of their own, so that a failover has a majority from the start.
            cluster.nodes[number].cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
        }
        for node in &cluster.nodes[1..] {
            let first = &cluster.nodes[0];
            let bus = first.cli(&["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().last().expect("a port");
            node.cli(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), bus]);
        }
        let count = format!("cluster_known_nodes:{}", cluster.nodes.len());
        wait_until("all nodes know each other", || {
            cluster.nodes.iter().all(|node| node.cli(&["CLUSTER", "INFO"]).contains(&count))
        });
        for (number, replica) in cluster.nodes[3..].iter().enumerate() {
            let primary = cluster.nodes[number].cli(&["CLUSTER", "MYID"]);
            wait_until("a replica follows", || replica.cli(&["CLUSTER", "REPLICATE", &primary]) == "OK");
        }
        wait_until("the cluster is whole", || {
            cluster.nodes.iter().all(|node| {
                let info = node.cli(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            })
        });
        for replica in &cluster.nodes[3..] {
            wait_until("a replica has caught up", || replica.cli(&["INFO", "replication"]).contains("link_status:up"));
        }
        Some(cluster)
    }

    /// Moves a slot with all its keys, as an operator's tools do.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let ids: Vec<String> = self.nodes[..3].iter().map(|node| node.cli(&["CLUSTER", "MYID"])).collect();
        assert_eq!(self.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[from]]), "OK");
        assert_eq!(self.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[to]]), "OK");
        let port = self.nodes[to].port.to_string();
        loop {
            let keys = self.nodes[from].cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                break;
            }
            let words = [&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"][..], &keys].concat();
            assert!(["OK", "NOKEY"].contains(&self.nodes[from].cli(&words).as_str()));
        }
        for node in [to, from, 3 - to - from] {
            assert_eq!(self.nodes[node].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]), "OK");
        }
    }
}

/// Waits until something holds.
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONGEST_START, "this did not come true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Certificates for the loopback in a folder: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, and a `stranger.pem`
/// that signed nothing. `None` where openssl is not installed.
pub fn certificates(folder: &Path) -> Option<()> {
    program("openssl")?;
    let openssl = |words: &str| {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(folder).stdin(Stdio::null()).output();
        let output = output.expect("openssl runs");
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for name in ["ca", "stranger"] {
        openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
    }
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        .expect("a file");
    for name in ["server", "client"] {
        openssl(&format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile names"
        ));
    }
    Some(())
}
