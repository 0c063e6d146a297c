//! Which operator failed: how a panic or an error in user code finds its operator's name.
//!
//! A chain is one inlined function, so its frames tell nothing. A guard on the stack around each
//! call of user code names the operator if, and only if, the call unwinds: on the way of a record
//! that costs nothing, because the guard's destructor is only in the landing pad.

use millstream_types::OperatorId;
use std::cell::Cell;
use std::panic::resume_unwind;

thread_local! {
    static BLAMED: Cell<Option<OperatorId>> = const { Cell::new(None) };
}

struct Blame(OperatorId);

impl Drop for Blame {
    #[cold]
    fn drop(&mut self) {
        // The innermost guard unwinds first, and it is the one that is to blame.
        BLAMED.with(|blamed| blamed.set(blamed.get().or(Some(self.0))));
    }
}

/// Calls user code on behalf of an operator.
#[inline(always)]
pub fn in_user_code<R>(operator: OperatorId, call: impl FnOnce() -> R) -> R {
    let guard = enter_user_code(operator);
    let result = call();
    guard.leave();
    result
}

/// User code is run on behalf of an operator from here until [`UserCode::leave`]. For code that
/// should be inlined where a closure would not.
#[inline(always)]
pub(crate) fn enter_user_code(operator: OperatorId) -> UserCode {
    UserCode(Blame(operator))
}

/// See [`enter_user_code`].
pub(crate) struct UserCode(Blame);

impl UserCode {
    #[inline(always)]
    pub(crate) fn leave(self) {
        std::mem::forget(self.0);
    }
}

/// The payload with which a chain unwinds when user code returned an error.
pub struct UserFailure {
    /// The operator whose code returned the error.
    pub operator: OperatorId,
    /// The error.
    pub error: Box<dyn std::error::Error + Send + Sync>,
}

/// Fails the job because user code returned an error: unwinds to the slot, which reports it.
///
/// # Panics
/// Always, without calling the panic hook.
#[cold]
pub fn fail(operator: OperatorId, error: Box<dyn std::error::Error + Send + Sync>) -> ! {
    resume_unwind(Box::new(UserFailure { operator, error }))
}

/// The operator whose code was unwound on this thread since the last call, if any.
pub fn take_blame() -> Option<OperatorId> {
    BLAMED.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_operator_is_blamed() {
        let result = std::panic::catch_unwind(|| {
            in_user_code(OperatorId(1), || {
                in_user_code(OperatorId(2), || resume_unwind(Box::new(())))
            })
        });
        assert!(result.is_err());
        assert_eq!(take_blame(), Some(OperatorId(2)));
        assert_eq!(take_blame(), None);
    }

    #[test]
    fn a_call_that_returns_leaves_no_blame() {
        assert_eq!(in_user_code(OperatorId(1), || 5), 5);
        assert_eq!(take_blame(), None);
    }
}
