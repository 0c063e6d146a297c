//! What a source emits: the records alone, or more.

use crate::format::Malformed;
use std::sync::Arc;

/// What a source emits for a record: see [`Records`], [`Results`] and [`Named`].
pub trait Emission<R>: sealed::Sealed + Clone + Send + 'static {
    /// The type of what is emitted.
    type Out: 'static;
    /// For a parsed record, from the input of this name.
    fn record(record: R, name: &Arc<str>) -> Self::Out;
    /// For a malformed one; the error if malformed records are left to
    /// [`OnMalformed`](crate::OnMalformed).
    fn malformed(malformed: Malformed) -> Result<Self::Out, Malformed>;
    /// False if malformed records are left to [`OnMalformed`](crate::OnMalformed).
    const TAKES_MALFORMED: bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Records {}
    impl Sealed for super::Results {}
    impl Sealed for super::Named {}
}

/// Emits the records alone.
#[derive(Clone, Copy, Debug)]
pub struct Records;

impl<R: 'static> Emission<R> for Records {
    type Out = R;
    const TAKES_MALFORMED: bool = false;

    #[inline]
    fn record(record: R, _: &Arc<str>) -> R {
        record
    }

    fn malformed(malformed: Malformed) -> Result<R, Malformed> {
        Err(malformed)
    }
}

/// Emits `Ok(record)` or `Err(malformed)`, so that a process function can send the latter to a
/// side output.
#[derive(Clone, Copy, Debug)]
pub struct Results;

impl<R: 'static> Emission<R> for Results {
    type Out = Result<R, Malformed>;
    const TAKES_MALFORMED: bool = true;

    #[inline]
    fn record(record: R, _: &Arc<str>) -> Self::Out {
        Ok(record)
    }

    fn malformed(malformed: Malformed) -> Result<Self::Out, Malformed> {
        Ok(Err(malformed))
    }
}

/// Emits each record with the name of the file that it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Named;

impl<R: 'static> Emission<R> for Named {
    type Out = (Arc<str>, R);
    const TAKES_MALFORMED: bool = false;

    #[inline]
    fn record(record: R, name: &Arc<str>) -> Self::Out {
        (name.clone(), record)
    }

    fn malformed(malformed: Malformed) -> Result<Self::Out, Malformed> {
        Err(malformed)
    }
}
