//! Best path selection (RFC 4271 §9.1.2).
