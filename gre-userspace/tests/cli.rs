//! The gregw command as a user meets it without a daemon: exit codes, and what goes to which stream.

use assert_cmd::Command;
use serde_json::Value;

/// An instance that nobody runs.
const NOBODY: &str = "--instance=cli-test-that-nobody-runs";

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

fn gregw(arguments: &[&str]) -> Outcome {
    let output = Command::cargo_bin("gregw")
        .expect("the binary of this package")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("GREGW_LOG")
        .args(arguments)
        .output()
        .expect("a binary that runs");
    Outcome {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_why() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["show"],
        &["show", "nosuch"],
        &["run"],
        &["run", "-c", "tests/no-such-file.toml", NOBODY],
        &["run", "-c", "tests/broken/three-mistakes.toml", NOBODY],
        &["check"],
        &["check", "a", "b"],
        &["completions", "nosuch"],
        &["man", "nosuch"],
        &["--instance", "../etc", "detach"],
        &["--instance", "", "detach"],
        &["check", "tests/no-such-file.toml"],
        &["plan", "tests/no-such-file.toml", NOBODY],
        &["apply", "tests/no-such-file.toml", NOBODY],
    ] {
        let outcome = gregw(arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.err);
        assert_eq!(outcome.out, "", "{arguments:?}");
        assert!(!outcome.err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn without_a_daemon_show_plan_and_apply_exit_with_1_and_name_the_socket() {
    let file = "../dist/examples/minimal.toml";
    for arguments in [
        &["show", "tunnel"][..],
        &["show", "drop", "name"],
        &["plan", file],
        &["apply", file],
    ] {
        let outcome = gregw(&[&[NOBODY], arguments].concat());
        assert_eq!(outcome.code, 1, "{arguments:?}");
        assert_eq!(outcome.out, "", "{arguments:?}");
        let socket = "/run/gregw/cli-test-that-nobody-runs.sock";
        assert!(outcome.err.contains(socket), "{}", outcome.err);
        assert!(
            outcome
                .err
                .contains("gregw --instance cli-test-that-nobody-runs run -c"),
            "{}",
            outcome.err
        );
    }
}

#[test]
fn failures_are_json_objects_when_json_is_asked_for() {
    let outcome = gregw(&[NOBODY, "-j", "show", "tunnel"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.out, "");
    let failure: Value = serde_json::from_str(&outcome.err).expect("JSON");
    assert_eq!(failure["exit_code"], 1);
    assert!(
        failure["error"]
            .as_str()
            .is_some_and(|text| text.contains(".sock"))
    );
    assert_eq!(failure["diagnostics"], Value::Array(Vec::new()));
}

#[test]
fn a_valid_file_is_summed_up() {
    let outcome = gregw(&["check", "../dist/examples/minimal.toml"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    assert!(
        outcome.out.starts_with("ok: 1 tenant, 1 network, "),
        "{}",
        outcome.out
    );

    let outcome = gregw(&["check", "-j", "../dist/examples/minimal.toml"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "[]\n"));
}

#[test]
fn a_broken_file_gives_every_mistake_and_exits_with_2() {
    let directory = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken"));
    let mut files = 0;
    for entry in directory.expect("a directory") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        let expected = text
            .lines()
            .filter(|line| line.starts_with("# expect "))
            .count();
        let path = path.to_str().expect("UTF-8");

        let outcome = gregw(&["check", path]);
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{path}");
        let drawings = outcome.err.lines().filter(|line| line.starts_with("  × "));
        assert_eq!(drawings.count(), expected, "{}", outcome.err);

        let outcome = gregw(&["check", "--json", path]);
        assert_eq!((outcome.code, outcome.err.as_str()), (2, ""), "{path}");
        let list: Vec<Value> = serde_json::from_str(&outcome.out).expect("a JSON array");
        assert_eq!(list.len(), expected, "{path}");
        assert!(
            list.iter()
                .all(|item| item["line"].is_u64() && item["column"].is_u64())
        );
        files += 1;
    }
    assert!(files >= 10);
}

#[test]
fn completions_know_the_commands_in_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let outcome = gregw(&["completions", shell]);
        assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{shell}");
        for word in ["run", "check", "apply", "show", "detach", "instance"] {
            assert!(outcome.out.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn the_manual_has_a_page_for_gregw_and_for_each_command() {
    let outcome = gregw(&["man"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    assert!(outcome.out.contains(".TH gregw 1"));
    assert!(outcome.out.contains("Exit status"));
    for command in [
        "run",
        "check",
        "plan",
        "apply",
        "show",
        "detach",
        "completions",
        "man",
    ] {
        assert!(
            outcome.out.contains(&format!("gregw\\-{command}(1)")),
            "{command}"
        );
        let page = gregw(&["man", command]);
        assert_eq!(page.code, 0, "{command}");
        assert!(
            page.out.contains(&format!(".TH gregw-{command} 1")),
            "{}",
            page.out
        );
        assert!(
            page.out.contains("instance"),
            "{command} lacks the options of all"
        );
    }
}
