//! The nouns of people and keys, from message to row and back. One file for each group of rules.

mod fleet;
mod joining;
mod keys;
mod leaving;
mod people;
mod pools;
mod rights;
mod session;
mod sharing;
mod standard_methods;
mod versions;
mod withdrawing;
