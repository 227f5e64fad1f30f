//! A decision told to a person.
