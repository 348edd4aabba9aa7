//! Bringing the kernel to the desired state.
