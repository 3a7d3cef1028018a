//! The slots of a cluster: which of the 16 384 a name is in, and which servers have it.

use super::reply::Reply;
use super::settings::Address;

pub(super) const SLOT_COUNT: usize = 16_384;

/// Slots that stand together, and who has them: the primary first, then its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
    pub servers: Vec<Address>,
}

/// The slot of a name: only what stands between its first braces counts, if anything does.
pub(super) fn slot_of(name: &[u8]) -> u16 {
    let tag = name.iter().position(|byte| *byte == b'{').map(|open| &name[open + 1..]);
    let tag = tag.and_then(|rest| rest.iter().position(|byte| *byte == b'}').map(|close| &rest[..close]));
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(name)) % SLOT_COUNT as u16
}

/// Reads the answer to CLUSTER SLOTS; a server that does not know its own host is where it was asked.
pub(super) fn read(reply: &Reply, asked: &Address) -> Option<Vec<Range>> {
    let Reply::Many(ranges) = reply else { return None };
    ranges.iter().map(|range| read_range(range.parts(), asked)).collect()
}

fn read_range(parts: &[Reply], asked: &Address) -> Option<Range> {
    let [first, last, servers @ ..] = parts else { return None };
    let slot = |reply: &Reply| reply.number().and_then(|number| u16::try_from(number).ok());
    let (first, last) = (slot(first)?, slot(last)?);
    let servers: Option<Vec<Address>> = servers
        .iter()
        .map(|server| {
            let [host, port, ..] = server.parts() else { return None };
            Some(at_host(host.text(), u16::try_from(port.number()?).ok()?, asked))
        })
        .collect();
    let servers = servers.filter(|servers| !servers.is_empty())?;
    (first <= last && usize::from(last) < SLOT_COUNT).then_some(Range { first, last, servers })
}

/// Where a MOVED or an ASK sends: `MOVED 3999 127.0.0.1:6381`.
pub(super) fn redirection(text: &str, asked: &Address) -> Option<Address> {
    let (host, port) = text.split(' ').nth(2)?.rsplit_once(':')?;
    Some(at_host(host, port.parse().ok()?, asked))
}

fn at_host(host: &str, port: u16, asked: &Address) -> Address {
    match (host, asked) {
        ("" | "?", Address::Tcp { host, .. }) => Address::Tcp { host: host.clone(), port },
        _ => Address::Tcp { host: host.into(), port },
    }
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = ((byte as u16) << 8, 0);
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc: u16, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), crc16(b"{bar") % 16_384);
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16_384);
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo"), 12_182);
    }

    #[test]
    fn answers_of_clusters_are_read() {
        let asked = Address::Tcp { host: "10.0.0.1".into(), port: 1 };
        let server = |host: &str, port| Reply::Many(vec![Reply::Bytes(host.as_bytes().to_vec()), Reply::Number(port)]);
        let range = |first, last, servers: Vec<Reply>| {
            Reply::Many([vec![Reply::Number(first), Reply::Number(last)], servers].concat())
        };
        let good = Reply::Many(vec![range(0, 16_383, vec![server("", 7000), server("h", 7001)])]);
        let read_ranges = read(&good, &asked).expect("it is right");
        let tcp = |host: &str, port| Address::Tcp { host: host.into(), port };
        assert_eq!(read_ranges[0].servers, [tcp("10.0.0.1", 7000), tcp("h", 7001)]);
        for bad in [
            range(0, 16_384, vec![server("h", 1)]),
            range(5, 4, vec![server("h", 1)]),
            range(0, 1, vec![]),
            range(0, 1, vec![server("h", 70_000)]),
        ] {
            assert_eq!(read(&Reply::Many(vec![bad]), &asked), None);
        }
        assert_eq!(redirection("MOVED 1 ::1:7000", &asked), Some(tcp("::1", 7000)));
        assert_eq!(redirection("ASK 1 :7000", &asked), Some(tcp("10.0.0.1", 7000)));
        assert_eq!(redirection("MOVED 1", &asked), None);
    }
}
