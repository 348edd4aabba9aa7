//! What the kernel and the speaker should hold.

pub mod state;
