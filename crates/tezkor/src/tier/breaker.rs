//! The word of a breaker that all workers of the machine share; see docs/format.md.

/// Failures in a row that open the breaker.
pub(super) const MOST_FAILURES: u64 = 3;
/// The first rest, and the longest.
pub(super) const REST_MS: u64 = 250;
pub(super) const LONGEST_REST_MS: u64 = 1_000;
/// How long a trial may take before another worker begins one: its worker may have died.
pub(super) const TRIAL_MS: u64 = 1_000;
const UNTIL: u64 = (1 << 44) - 1;
const PHASE_AT: u32 = 44;
const FAILURES_AT: u32 = 48;
const OPENED_AT: u32 = 56;

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The server is asked.
    Closed,
    /// It is left alone for a while.
    Open,
    /// One worker tries it.
    OnTrial,
    /// It answers, and is being told what it has missed; what it has of entries cannot be trusted yet.
    CatchingUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Breaker {
    pub(super) phase: Phase,
    pub(super) until_ms: u64,
    pub(super) failures: u64,
    pub(super) opened: u64,
}

impl Breaker {
    pub(super) fn of(word: u64) -> Breaker {
        let phase = match (word >> PHASE_AT) & 3 {
            0 => Phase::Closed,
            2 => Phase::OnTrial,
            3 => Phase::CatchingUp,
            _ => Phase::Open,
        };
        Breaker {
            phase,
            until_ms: word & UNTIL,
            failures: (word >> FAILURES_AT) & 0xff,
            opened: (word >> OPENED_AT) & 0xff,
        }
    }

    pub(super) fn word(self) -> u64 {
        let phase = match self.phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::OnTrial => 2,
            Phase::CatchingUp => 3,
        };
        (self.until_ms & UNTIL)
            | phase << PHASE_AT
            | self.failures.min(0xff) << FAILURES_AT
            | self.opened.min(0xff) << OPENED_AT
    }

    /// Whether its time is over; one that lies further ahead than any rest is of an earlier boot.
    pub(super) fn is_over(self, now_ms: u64) -> bool {
        now_ms >= self.until_ms || self.until_ms > now_ms + TRIAL_MS.max(LONGEST_REST_MS)
    }

    pub(super) fn opened(self, now_ms: u64) -> Breaker {
        let rest_ms = (REST_MS << self.opened.min(8)).min(LONGEST_REST_MS);
        Breaker { phase: Phase::Open, until_ms: now_ms + rest_ms, failures: 0, opened: self.opened + 1 }
    }
}
