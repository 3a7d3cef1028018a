//! What no single command of a server does, as scripts that it runs in one piece. Each is sent by its digest; a server that does not
//! know it is taught its text once.
//!
//! Numbers are compared as texts: those of scripts are floating, and exact only up to 2^53.

use std::sync::LazyLock;

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Adds to a number that is there. Name, delta; the sum as a text, or nil.
    Incr,
    /// Writes over the value that has this mark. Name, mark, value, lifetime as of SET; 1, 0, or -1 where there is no memory.
    Swap,
    /// Removes the value that has this mark. Name, mark; 1 or 0.
    RemoveMarked,
    /// Raises a number and lengthens its lifetime. Name, number, lifetime as of SET.
    Raise,
}

const COUNT: usize = 4;

const INCR: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
redis.call('INCRBY', KEYS[1], ARGV[1])
return redis.call('GET', KEYS[1])";

/// The mark of a value, as `Mark::of_value` has it: a number is its own, of anything else it is the beginning.
macro_rules! with_mark {
    ($rest:literal) => {
        concat!(
            "\
local head = redis.call('GETRANGE', KEYS[1], 0, 20)
if head == '' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if not (#head <= 20 and string.find(head, '^[-0-9]')) then head = string.sub(head, 1, 12) end
if head ~= ARGV[1] then return 0 end
",
            $rest
        )
    };
}

const SWAP: &str = with_mark!(
    "\
local done = redis.pcall('SET', KEYS[1], ARGV[2], unpack(ARGV, 3))
if not done.err then return 1 end
if not string.find(done.err, 'OOM ', 1, true) then return done end
redis.call('UNLINK', KEYS[1])
return -1"
);

const REMOVE_MARKED: &str = with_mark!("return redis.call('UNLINK', KEYS[1])");

/// Where there is no memory to write the number, it is removed, since an old one must not be believed.
const RAISE: &str = "\
local function is_number(text)
  local digits = text and string.match(text, '^-?([1-9]%d*)$')
  return text == '0' or digits and (#digits < 19 or #digits == 19 and digits <= '9223372036854775808')
end
local function is_less(one, other)
  local minus = string.sub(one, 1, 1) == '-'
  if minus ~= (string.sub(other, 1, 1) == '-') then return minus end
  if one == other then return false end
  if #one ~= #other then return (#one < #other) ~= minus end
  return (one < other) ~= minus
end
local left = redis.call('PTTL', KEYS[1])
local held = left ~= -2 and redis.call('GETRANGE', KEYS[1], 0, 20)
local keep = ARGV[2] == 'KEEPTTL'
if is_number(held) and not is_less(held, ARGV[1]) then
  if keep or left == -1 then return 0 end
  if not ARGV[2] then return redis.call('PERSIST', KEYS[1]) end
  if left < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
  return 0
end
local ms = tonumber(ARGV[3])
if left >= 0 and (keep or (ms and ms < left)) then ms = left end
if left == -1 then ms = nil end
local done
if ms then
  done = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', math.max(ms, 1)))
else
  done = redis.pcall('SET', KEYS[1], ARGV[1])
end
if done.err then redis.call('UNLINK', KEYS[1]) end
return done";

impl Script {
    const ALL: [Script; COUNT] = [Script::Incr, Script::Swap, Script::RemoveMarked, Script::Raise];

    pub(super) fn text(self) -> &'static str {
        match self {
            Script::Incr => INCR,
            Script::Swap => SWAP,
            Script::RemoveMarked => REMOVE_MARKED,
            Script::Raise => RAISE,
        }
    }

    /// What the server calls it.
    pub(super) fn digest(self) -> &'static str {
        static DIGESTS: LazyLock<[String; COUNT]> =
            LazyLock::new(|| Script::ALL.map(|script| sha1_smol::Sha1::from(script.text()).digest().to_string()));
        &DIGESTS[self as usize]
    }
}
