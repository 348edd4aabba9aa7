//! What a speaker tells of itself.
