//! State that an operator owns and a checkpoint visits.
//!
//! An operator changes its tables at every record, through a handle that only it has; at a barrier
//! the subtask's snapshot reads them all, also those in the fields of a user's function, which
//! nobody else can reach. A `RefCell` would be the safe way to share them, and costs the hot path a
//! nanosecond per record (a seventh of the rate of a count). So exclusion comes from the order of
//! things instead: see [`Visitor::visit`].

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// The one handle by which a value is changed.
pub(crate) struct Owner<T: ?Sized>(Rc<UnsafeCell<T>>);

/// Lets a snapshot look at the value of an [`Owner`].
pub(crate) struct Visitor<T: ?Sized>(Rc<UnsafeCell<T>>);

impl<T> Owner<T> {
    pub fn new(value: T) -> Self {
        Self(Rc::new(UnsafeCell::new(value)))
    }

    pub fn visitor(&self) -> Visitor<T> {
        Visitor(Rc::clone(&self.0))
    }
}

impl<T> Deref for Owner<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the only mutable references come from `deref_mut`, which borrows this handle
        // mutably, and there is one handle: it cannot be cloned. A visitor only reads.
        unsafe { &*self.0.get() }
    }
}

impl<T> DerefMut for Owner<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this handle is borrowed mutably, so no other reference comes from it; whoever
        // visits promises that none of this handle's references is alive meanwhile.
        unsafe { &mut *self.0.get() }
    }
}

impl<T: ?Sized> Visitor<T> {
    /// The value.
    ///
    /// # Safety
    /// No reference that was got from the owner may be alive until the one that is returned is gone.
    pub unsafe fn visit(&self) -> &T {
        // SAFETY: the caller promises that nobody changes the value meanwhile.
        unsafe { &*self.0.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_sees_what_the_owner_changed_also_when_the_owner_is_gone() {
        let mut owner = Owner::new(vec![1]);
        let visitor = owner.visitor();
        owner.push(2);
        // SAFETY: the owner is not used until the assertion is over.
        assert_eq!(unsafe { visitor.visit() }, &[1, 2]);
        drop(owner);
        // SAFETY: there is no owner any more.
        assert_eq!(unsafe { visitor.visit() }, &[1, 2]);
    }
}
