//! A part of a shard that a reload of the settings replaces.

use std::cell::RefCell;
use std::rc::Rc;

/// A value that is replaced as a whole. A task that has taken it keeps it until its work is done.
#[derive(Debug, Default)]
pub struct Reloadable<T>(RefCell<Rc<T>>);

impl<T> Reloadable<T> {
    /// Creates it with its first value.
    pub fn new(value: T) -> Self {
        Self(RefCell::new(Rc::new(value)))
    }

    /// Returns the present value.
    pub fn get(&self) -> Rc<T> {
        self.0.borrow().clone()
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        self.0.replace(Rc::new(value));
    }

    /// Returns whether `value` is the present one.
    pub fn is_present(&self, value: &Rc<T>) -> bool {
        Rc::ptr_eq(&self.0.borrow(), value)
    }
}
