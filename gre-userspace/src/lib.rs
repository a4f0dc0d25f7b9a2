//! gregw as a library.
