//! What a daemon shows of itself: the text and JSON of `show`, the API over a real unix socket, the metrics over TCP.
//!
//! A task stands in for the gateway and answers with the hand-made reports of `sample`.

mod api;
mod metrics;
mod sample;
mod show;
