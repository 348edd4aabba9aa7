//! Messages between octets and types.
