//! Links over keyed state.

use crate::chain::{Link, OpenError, TwoInputLink};
use crate::keyed::{
    Fold, FoldFunction, KeyedCoProcessFunction, KeyedConnect, KeyedProcess, KeyedProcessFunction,
    KeyedState, TimerService,
};
use crate::links::SideBranches;
use crate::operator::Operator;
use crate::subtask::SubtaskContext;
use millstream_state::{Key, StateError, Table};
use millstream_types::OperatorId;
use std::marker::PhantomData;

pub(super) fn open_error(operator: OperatorId) -> impl FnOnce(StateError) -> OpenError {
    move |error| OpenError { operator, error: error.into() }
}

/// See [`Fold`].
pub struct FoldLink<K, F, KF> {
    id: OperatorId,
    key: KF,
    function: F,
    of: PhantomData<fn(K)>,
}

impl<K, F: Clone, KF: Clone> Clone for FoldLink<K, F, KF> {
    fn clone(&self) -> Self {
        Self::new(self.id, self.key.clone(), self.function.clone())
    }
}

impl<K, F, KF> FoldLink<K, F, KF> {
    /// Operator `id`, a fold of `function` by `key`.
    pub fn new(id: OperatorId, key: KF, function: F) -> Self {
        Self { id, key, function, of: PhantomData }
    }
}

impl<K, In, F, KF> Link<In> for FoldLink<K, F, KF>
where
    K: Key,
    In: 'static,
    F: FoldFunction<K, In> + Clone + Send,
    KF: Fn(&In) -> K + Clone + Send + 'static,
{
    type Out = F::Out;
    type Operator<N: Operator<F::Out>> = Fold<K, F, F::State, KF, N>;

    fn build<N: Operator<F::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let spec = context.table_spec(self.id, "fold");
        let table = Table::open(&context.state, &spec).map_err(open_error(self.id))?;
        Ok(Fold::new(self.id, self.key, self.function, table, next))
    }
}

/// See [`KeyedProcess`].
pub struct KeyedProcessLink<K, M, KF> {
    id: OperatorId,
    key: KF,
    make: M,
    sides: SideBranches,
    of: PhantomData<fn(K)>,
}

impl<K, M: Clone, KF: Clone> Clone for KeyedProcessLink<K, M, KF> {
    fn clone(&self) -> Self {
        Self::new(self.id, self.key.clone(), self.make.clone(), self.sides.clone())
    }
}

impl<K, M, KF> KeyedProcessLink<K, M, KF> {
    /// Operator `id`: the function that `make` returns, once per subtask.
    pub fn new(id: OperatorId, key: KF, make: M, sides: SideBranches) -> Self {
        Self { id, key, make, sides, of: PhantomData }
    }
}

impl<K, In, P, M, KF> Link<In> for KeyedProcessLink<K, M, KF>
where
    K: Key,
    In: 'static,
    P: KeyedProcessFunction<K, In>,
    M: FnOnce(&mut KeyedState<'_, K>) -> P + Clone + Send + 'static,
    KF: Fn(&In) -> K + Clone + Send + 'static,
{
    type Out = P::Out;
    type Operator<N: Operator<P::Out>> = KeyedProcess<K, P, KF, N>;

    fn build<N: Operator<P::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let timers = TimerService::open(context, self.id).map_err(open_error(self.id))?;
        let function = make_function(context, self.id, self.make);
        let ahead = context.state.look_ahead(&context.table_spec(self.id, "").operator);
        let sides = self.sides.build(context)?;
        Ok(KeyedProcess::new(self.id, self.key, function, timers, sides, ahead, next))
    }
}

fn make_function<K: Key, P>(
    context: &SubtaskContext,
    id: OperatorId,
    make: impl FnOnce(&mut KeyedState<'_, K>) -> P,
) -> P {
    let spec = context.table_spec(id, "");
    let mut state = KeyedState::new(&context.state, spec, context.subtask.0);
    crate::operator::in_user_code(id, || make(&mut state))
}

/// See [`KeyedConnect`].
pub struct KeyedConnectLink<K, M, LF, RF> {
    id: OperatorId,
    left_key: LF,
    right_key: RF,
    make: M,
    sides: SideBranches,
    of: PhantomData<fn(K)>,
}

impl<K, M: Clone, LF: Clone, RF: Clone> Clone for KeyedConnectLink<K, M, LF, RF> {
    fn clone(&self) -> Self {
        let keys = (self.left_key.clone(), self.right_key.clone());
        Self::new(self.id, keys, self.make.clone(), self.sides.clone())
    }
}

impl<K, M, LF, RF> KeyedConnectLink<K, M, LF, RF> {
    /// Operator `id`: the function that `make` returns, once per subtask.
    pub fn new(id: OperatorId, keys: (LF, RF), make: M, sides: SideBranches) -> Self {
        Self { id, left_key: keys.0, right_key: keys.1, make, sides, of: PhantomData }
    }
}

impl<K, L, R, P, M, LF, RF> TwoInputLink<L, R> for KeyedConnectLink<K, M, LF, RF>
where
    K: Key,
    L: 'static,
    R: 'static,
    P: KeyedCoProcessFunction<K, L, R>,
    M: FnOnce(&mut KeyedState<'_, K>) -> P + Clone + Send + 'static,
    LF: Fn(&L) -> K + Clone + Send + 'static,
    RF: Fn(&R) -> K + Clone + Send + 'static,
{
    type Out = P::Out;
    type Operator<N: Operator<P::Out>> = KeyedConnect<K, P, LF, RF, N>;

    fn build<N: Operator<P::Out>>(
        self,
        context: &mut SubtaskContext,
        next: N,
    ) -> Result<Self::Operator<N>, OpenError> {
        let timers = TimerService::open(context, self.id).map_err(open_error(self.id))?;
        let function = make_function(context, self.id, self.make);
        let sides = self.sides.build(context)?;
        let keys = (self.left_key, self.right_key);
        Ok(KeyedConnect::new(self.id, keys, function, timers, sides, next))
    }
}
