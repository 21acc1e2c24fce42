//! The presence service.
