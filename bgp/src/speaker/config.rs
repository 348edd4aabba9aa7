//! Configuration of a speaker.
