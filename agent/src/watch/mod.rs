//! From stored objects to the model.
