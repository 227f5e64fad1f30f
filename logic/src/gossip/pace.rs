//! When a change is worth telling.
