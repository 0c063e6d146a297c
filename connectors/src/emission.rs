//! What a source emits: the records alone, or more.

use crate::format::Malformed;
use millstream::{BoxError, Collector, OutputTag, ProcessContext, ProcessFunction};
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

/// Emits `Ok(record)` or `Err(malformed)`; see [`MalformedTo`].
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

/// Parts the records of a source `with_malformed` (such as
/// [`FileSource::with_malformed`](crate::FileSource::with_malformed)): passes the good ones on and
/// sends the malformed ones to a side output.
///
/// ```
/// use millstream::{Config, Environment, OutputTag};
/// use millstream_connectors::{FileSource, JsonLines, Malformed, MalformedTo};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("numbers.jsonl");
/// # std::fs::write(&path, "1\n2\nthree\n")?;
///
/// let env = Environment::new(Config::default());
/// let malformed = OutputTag::<Malformed>::new("malformed");
/// let numbers = env
///     .from_source("numbers", FileSource::new(&path, JsonLines::<u64>::new()).with_malformed())
///     .process(MalformedTo(malformed.clone()));
/// let malformed = numbers.side_output(&malformed).collect();
/// let numbers = numbers.collect();
/// env.execute("numbers")?;
/// assert_eq!(numbers.take(), [1, 2]);
/// assert_eq!(malformed.take()[0].line, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct MalformedTo(pub OutputTag<Malformed>);

impl<R: 'static> ProcessFunction<Result<R, Malformed>> for MalformedTo {
    type Out = R;

    #[inline]
    fn process(
        &mut self,
        record: Result<R, Malformed>,
        context: &mut ProcessContext<'_>,
        out: &mut impl Collector<R>,
    ) -> Result<(), BoxError> {
        match record {
            Ok(record) => out.collect(record),
            Err(malformed) => context.emit_to(&self.0, malformed),
        }
        Ok(())
    }
}
