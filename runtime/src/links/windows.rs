//! Links of windows.

use super::keyed::open_error;
use crate::chain::{Link, OpenError, TwoInputLink};
use crate::links::SideBranches;
use crate::operator::{Operator, OutputTag};
use crate::subtask::SubtaskContext;
use crate::window::{
    AggregateFunction, CountWindow, DirectWindow, JoinTable, LateRecords, Partial, PreAggregate,
    Session, SessionWindow, SlicedWindow, Slicing, WindowFunction, WindowJoin, WindowResult,
};
use millstream_state::{Data, Key, Table, Timers, WindowTable};
use millstream_types::OperatorId;
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::time::Duration;

/// See [`PreAggregate`].
pub struct PreAggregateLink<K, KF, A> {
    id: OperatorId,
    slicing: Slicing,
    key: KF,
    function: A,
    of: PhantomData<fn(K)>,
}

impl<K, KF: Clone, A: Clone> Clone for PreAggregateLink<K, KF, A> {
    fn clone(&self) -> Self {
        Self::new(self.id, self.slicing, self.key.clone(), self.function.clone())
    }
}

impl<K, KF, A> PreAggregateLink<K, KF, A> {
    /// Operator `id`: the first phase of `function` by `key`.
    pub fn new(id: OperatorId, slicing: Slicing, key: KF, function: A) -> Self {
        Self { id, slicing, key, function, of: PhantomData }
    }
}

impl<In, K, KF, A> Link<In> for PreAggregateLink<K, KF, A>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + Clone + Send + 'static,
    A: AggregateFunction<In>,
{
    type Out = Partial<K, A::Accumulator>;
    type Operator<N: Operator<Self::Out>> = PreAggregate<In, K, KF, A, N>;

    fn build<N: Operator<Self::Out>>(
        self,
        _: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        Ok(PreAggregate::new(self.id, self.slicing, self.key, self.function, next))
    }
}

/// See [`SlicedWindow`].
pub struct SlicedWindowLink<In, K, A> {
    id: OperatorId,
    slicing: Slicing,
    allowed_lateness: Duration,
    function: A,
    of: PhantomData<fn(In, K)>,
}

impl<In, K, A: Clone> Clone for SlicedWindowLink<In, K, A> {
    fn clone(&self) -> Self {
        Self::new(self.id, self.slicing, self.allowed_lateness, self.function.clone())
    }
}

impl<In, K, A> SlicedWindowLink<In, K, A> {
    /// Operator `id`: the second phase of `function`.
    pub fn new(id: OperatorId, slicing: Slicing, allowed_lateness: Duration, function: A) -> Self {
        Self { id, slicing, allowed_lateness, function, of: PhantomData }
    }
}

impl<In, K, A> Link<Partial<K, A::Accumulator>> for SlicedWindowLink<In, K, A>
where
    In: 'static,
    K: Key,
    A: AggregateFunction<In>,
{
    type Out = WindowResult<K, A::Output>;
    type Operator<N: Operator<Self::Out>> = SlicedWindow<In, K, A, N>;

    fn build<N: Operator<Self::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let table = open_windows(context, self.id)?;
        Ok(SlicedWindow::new(
            self.id,
            self.slicing,
            self.allowed_lateness,
            self.function,
            table,
            context.counters.clone(),
            next,
        ))
    }
}

fn open_windows<K: Key, V: Data + Clone>(
    context: &SubtaskContext,
    operator: OperatorId,
) -> Result<WindowTable<K, V>, OpenError> {
    let spec = context.table_spec(operator, "windows");
    WindowTable::open(&context.state, &spec).map_err(open_error(operator))
}

/// What becomes of late records, as the program says it.
pub struct LateOutput<In> {
    tag: Option<OutputTag<In>>,
}

impl<In> Clone for LateOutput<In> {
    fn clone(&self) -> Self {
        Self { tag: self.tag.clone() }
    }
}

impl<In: 'static> LateOutput<In> {
    /// Counted and dropped.
    pub fn dropped() -> Self {
        Self { tag: None }
    }

    /// Counted and emitted into a side output.
    pub fn to(tag: OutputTag<In>) -> Self {
        Self { tag: Some(tag) }
    }

    fn build(
        self,
        context: &mut SubtaskContext,
        sides: &SideBranches,
    ) -> Result<LateRecords<In>, OpenError> {
        let sides = sides.build(context)?;
        Ok(LateRecords::new(context.counters.clone(), self.tag, sides))
    }
}

/// See [`DirectWindow`].
pub struct DirectWindowLink<In, K, KF, F> {
    id: OperatorId,
    slicing: Slicing,
    allowed_lateness: Duration,
    key: KF,
    function: F,
    late: LateOutput<In>,
    sides: SideBranches,
    of: PhantomData<fn(K)>,
}

impl<In, K, KF: Clone, F: Clone> Clone for DirectWindowLink<In, K, KF, F> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            slicing: self.slicing,
            allowed_lateness: self.allowed_lateness,
            key: self.key.clone(),
            function: self.function.clone(),
            late: self.late.clone(),
            sides: self.sides.clone(),
            of: PhantomData,
        }
    }
}

impl<In, K, KF, F> DirectWindowLink<In, K, KF, F> {
    /// Operator `id`: `function` over the records of each window.
    pub fn new(
        id: OperatorId,
        (slicing, allowed_lateness): (Slicing, Duration),
        key: KF,
        function: F,
        (late, sides): (LateOutput<In>, SideBranches),
    ) -> Self {
        Self { id, slicing, allowed_lateness, key, function, late, sides, of: PhantomData }
    }
}

impl<In, K, KF, F> Link<In> for DirectWindowLink<In, K, KF, F>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + Clone + Send + 'static,
    F: WindowFunction<K, In> + Clone + Send,
{
    type Out = F::Out;
    type Operator<N: Operator<F::Out>> = DirectWindow<In, K, KF, F, N>;

    fn build<N: Operator<F::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let table = open_windows(context, self.id)?;
        let late = self.late.build(context, &self.sides)?;
        Ok(DirectWindow::new(
            self.id,
            self.slicing,
            self.allowed_lateness,
            self.key,
            self.function,
            table,
            late,
            next,
        ))
    }
}

/// See [`SessionWindow`].
pub struct SessionWindowLink<In, K, KF, F> {
    id: OperatorId,
    sessions: Session,
    allowed_lateness: Duration,
    key: KF,
    function: F,
    late: LateOutput<In>,
    sides: SideBranches,
    of: PhantomData<fn(K)>,
}

impl<In, K, KF: Clone, F: Clone> Clone for SessionWindowLink<In, K, KF, F> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            sessions: self.sessions,
            allowed_lateness: self.allowed_lateness,
            key: self.key.clone(),
            function: self.function.clone(),
            late: self.late.clone(),
            sides: self.sides.clone(),
            of: PhantomData,
        }
    }
}

impl<In, K, KF, F> SessionWindowLink<In, K, KF, F> {
    /// Operator `id`: `function` over the records of each session.
    pub fn new(
        id: OperatorId,
        (sessions, allowed_lateness): (Session, Duration),
        key: KF,
        function: F,
        (late, sides): (LateOutput<In>, SideBranches),
    ) -> Self {
        Self { id, sessions, allowed_lateness, key, function, late, sides, of: PhantomData }
    }
}

impl<In, K, KF, F> Link<In> for SessionWindowLink<In, K, KF, F>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + Clone + Send + 'static,
    F: WindowFunction<K, In> + Clone + Send,
{
    type Out = F::Out;
    type Operator<N: Operator<F::Out>> = SessionWindow<In, K, KF, F, N>;

    fn build<N: Operator<F::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let late = self.late.build(context, &self.sides)?;
        let table = {
            let spec = context.table_spec(self.id, "sessions");
            Table::open(&context.state, &spec).map_err(open_error(self.id))?
        };
        let timers = {
            let spec = context.table_spec(self.id, "session timers");
            Timers::open(&context.state, &spec).map_err(open_error(self.id))?
        };
        Ok(SessionWindow::new(
            self.id,
            self.sessions,
            self.allowed_lateness,
            self.key,
            self.function,
            table,
            timers,
            late,
            next,
        ))
    }
}

/// See [`WindowJoin`].
pub struct WindowJoinLink<K, KL, KR, F, Out> {
    id: OperatorId,
    slicing: Slicing,
    allowed_lateness: Duration,
    keys: (KL, KR),
    apply: F,
    of: PhantomData<fn(K) -> Out>,
}

impl<K, KL: Clone, KR: Clone, F: Clone, Out> Clone for WindowJoinLink<K, KL, KR, F, Out> {
    fn clone(&self) -> Self {
        let windows = (self.slicing, self.allowed_lateness);
        Self::new(self.id, windows, self.keys.clone(), self.apply.clone())
    }
}

impl<K, KL, KR, F, Out> WindowJoinLink<K, KL, KR, F, Out> {
    /// Operator `id`: what `apply` makes of each pair.
    pub fn new(
        id: OperatorId,
        (slicing, allowed_lateness): (Slicing, Duration),
        keys: (KL, KR),
        apply: F,
    ) -> Self {
        Self { id, slicing, allowed_lateness, keys, apply, of: PhantomData }
    }
}

impl<L, R, K, KL, KR, F, Out> TwoInputLink<L, R> for WindowJoinLink<K, KL, KR, F, Out>
where
    L: Data + Clone,
    R: Data + Clone,
    K: Key,
    KL: Fn(&L) -> K + Clone + Send + 'static,
    KR: Fn(&R) -> K + Clone + Send + 'static,
    F: FnMut(&L, &R) -> Out + Clone + Send + 'static,
    Out: 'static,
{
    type Out = Out;
    type Operator<N: Operator<Out>> = WindowJoin<L, R, K, KL, KR, F, N>;

    fn build<N: Operator<Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let left = context.table_spec(self.id, "left");
        let right = context.table_spec(self.id, "right");
        let tables = {
            let left = JoinTable::open(&context.state, &left).map_err(open_error(self.id))?;
            let right = JoinTable::open(&context.state, &right).map_err(open_error(self.id))?;
            (left, right)
        };
        Ok(WindowJoin::new(
            self.id,
            self.slicing,
            self.allowed_lateness,
            self.keys,
            self.apply,
            tables,
            context.counters.clone(),
            next,
        ))
    }
}

/// See [`CountWindow`].
pub struct CountWindowLink<K, KF, F> {
    id: OperatorId,
    count: NonZeroU64,
    key: KF,
    function: F,
    of: PhantomData<fn(K)>,
}

impl<K, KF: Clone, F: Clone> Clone for CountWindowLink<K, KF, F> {
    fn clone(&self) -> Self {
        Self::new(self.id, self.count, self.key.clone(), self.function.clone())
    }
}

impl<K, KF, F> CountWindowLink<K, KF, F> {
    /// Operator `id`: `function` over every `count` records of each key.
    pub fn new(id: OperatorId, count: NonZeroU64, key: KF, function: F) -> Self {
        Self { id, count, key, function, of: PhantomData }
    }
}

impl<In, K, KF, F> Link<In> for CountWindowLink<K, KF, F>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + Clone + Send + 'static,
    F: WindowFunction<K, In> + Clone + Send,
{
    type Out = F::Out;
    type Operator<N: Operator<F::Out>> = CountWindow<In, K, KF, F, N>;

    fn build<N: Operator<F::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let spec = context.table_spec(self.id, "count windows");
        let table = Table::open(&context.state, &spec).map_err(open_error(self.id))?;
        Ok(CountWindow::new(self.id, self.count, self.key, self.function, table, next))
    }
}
