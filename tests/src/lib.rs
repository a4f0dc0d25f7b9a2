//! Shared parts of the gregw test suites.
