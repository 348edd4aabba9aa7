//! AS numbers.
