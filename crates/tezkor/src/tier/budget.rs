//! What a request loses to servers that do not answer, over all of them: beyond a budget it does without. A request is what a thread
//! does between [`begin_request`] and [`end_request`]; outside of one the breaker alone bounds the loss.

use std::cell::Cell;
use std::time::Duration;

#[derive(Clone, Copy, Default)]
struct Lost {
    in_request: bool,
    all: Duration,
    longest: Duration,
}

thread_local! {
    static LOST: Cell<Lost> = const { Cell::new(Lost { in_request: false, all: Duration::ZERO, longest: Duration::ZERO }) };
}

/// The running thread begins a request.
pub fn begin_request() {
    LOST.set(Lost { in_request: true, ..Lost::default() });
}

/// It has ended.
pub fn end_request() {
    LOST.set(Lost::default());
}

/// Whether another wait as long as the longest so far would be beyond the budget.
pub(super) fn is_spent(budget: Duration) -> bool {
    let lost = LOST.get();
    lost.in_request && !lost.all.is_zero() && lost.all + lost.longest > budget
}

/// So much was waited in vain.
pub(super) fn lose(time: Duration) {
    let lost = LOST.get();
    LOST.set(Lost { all: lost.all + time, longest: lost.longest.max(time), ..lost });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_in_vain_as_long_as_its_budget_and_the_next_one_again() {
        let (budget, wait) = (Duration::from_millis(250), Duration::from_millis(100));
        lose(wait * 10);
        assert!(!is_spent(budget), "outside of a request");
        for _ in 0..2 {
            begin_request();
            assert!(!is_spent(budget));
            lose(wait);
            assert!(!is_spent(budget));
            lose(wait);
            assert!(is_spent(budget), "a third would come to 300 ms");
        }
        end_request();
        assert!(!is_spent(budget));
        // One that is longer than the budget is waited for once.
        begin_request();
        lose(budget * 4);
        assert!(is_spent(budget));
        end_request();
    }
}
