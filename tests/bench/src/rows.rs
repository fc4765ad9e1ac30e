//! All rows, in the order of their numbers.

mod epochs;
mod listing;
mod memory;
mod names;
mod random;
mod sequential;

use crate::row::Row;

/// All rows.
pub(crate) static ALL: [Row; 15] = [
    listing::COLD,
    listing::LONG_COLD,
    listing::WARM,
    listing::RESTART,
    listing::MILLION,
    names::ONE,
    names::MISSING,
    sequential::COLD,
    sequential::COLD_FOUR,
    sequential::WARM,
    random::WARM,
    random::COLD,
    epochs::FIRST,
    epochs::SECOND,
    memory::MANY,
];
