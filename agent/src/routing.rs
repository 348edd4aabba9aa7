//! The speaker joined to the model.
