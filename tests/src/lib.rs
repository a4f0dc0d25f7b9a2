//! What the gregw test suites share: network namespaces, links, an independent GRE endpoint, packet injection and
//! capture, streams, and the gateway under test.
//!
//! Nothing here that builds or judges packets uses `gre-common`: an error there must not hide itself. Harness functions
//! panic with what failed, as the tests that call them would.

pub mod barrier;
pub mod both_sides;
pub mod bpf;
pub mod broken_program;
pub mod configuration;
pub mod fixture;
pub mod frames;
pub mod gateway;
pub mod gre;
pub mod gre_peer;
pub mod kernel_gateway;
pub mod kernel_site;
pub mod link;
pub mod netns;
pub mod packet;
pub mod random;
pub mod scenario;
pub mod stream;
pub mod sys;
pub mod topology;
pub mod transfer;
pub mod wait;
pub mod wire;

/// Whether network-namespace tests can run here. If not, prints `SKIPPED: …`, which `cargo xtask test` counts.
///
/// ```no_run
/// if !gre_tests::can_use_namespaces() { return; }
/// ```
pub fn can_use_namespaces() -> bool {
    if nix::unistd::Uid::effective().is_root() {
        return true;
    }
    skip("network namespaces need root");
    false
}

/// Says that this test does not run, and why; the test then returns.
pub fn skip(reason: &str) {
    println!("SKIPPED: {reason}");
}
