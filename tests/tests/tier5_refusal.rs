//! Tier 5, on kernels that are too old: gregw refuses to start before it has made anything, and says what would do.
//! Run in guests only.

use gre_common::limits::OLDEST_KERNEL;
use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::{Gateway, binary, describe};
use gre_tests::netns::Namespace;
use gre_userspace::kernel;

#[test]
fn an_old_kernel_is_named_with_the_minimum_and_nothing_is_left() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let refused = Gateway::start_refused(&namespace, &toml::without_device());
    let message = describe(&refused);
    assert_eq!(refused.status.code(), Some(6), "{message}");
    assert!(names_both_versions(&message), "{message}");
}

#[test]
fn a_configuration_is_checked_there_all_the_same_with_a_warning() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("gregw.toml");
    std::fs::write(&file, toml::without_device()).expect("the directory is writable");
    let checked = std::process::Command::new(binary())
        .arg("check")
        .arg(&file)
        .output()
        .expect("gregw can be run");
    assert!(checked.status.success(), "{}", describe(&checked));
    let warning = String::from_utf8_lossy(&checked.stderr);
    assert!(names_both_versions(&warning), "{}", describe(&checked));
}

/// The kernel that runs, and the oldest that would do.
fn names_both_versions(text: &str) -> bool {
    let release = kernel::release().expect("a kernel");
    let (major, minor) = OLDEST_KERNEL;
    text.contains(&release) && text.contains(&format!(" {major}.{minor} or newer"))
}
