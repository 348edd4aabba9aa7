//! Graceful restart (RFC 4724).
