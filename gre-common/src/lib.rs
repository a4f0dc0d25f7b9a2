#![no_std]
//! Everything of gregw that kernel and host share.
