//! The nouns of people and keys, from message to row and back. One file for each group of rules.

mod keys;
mod people;
mod rights;
mod standard_methods;
