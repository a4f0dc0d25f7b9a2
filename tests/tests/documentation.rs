//! Tier 0: what the manuals say is there, is there: links, drop reasons, configurations.

use std::path::{Path, PathBuf};

use gre_common::limits::OLDEST_KERNEL;
use gre_common::verdict::DropReason;
use gre_userspace::config::Config;

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = read(&document);
        let directory = document.parent().expect("a file is in a directory");
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().unwrap_or_default();
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") {
                continue;
            }
            links += 1;
            let file = match file {
                "" => document.clone(),
                file => directory.join(file),
            };
            assert!(file.exists(), "{}: {target}", document.display());
            assert!(
                section.is_empty() || anchors(&read(&file)).any(|anchor| anchor == section),
                "{}: {target}",
                document.display()
            );
        }
    }
    assert!(links > 10, "only {links} links were found");
}

#[test]
fn the_operators_manual_explains_every_drop_reason_and_no_other() {
    let manual = read(&workspace().join("docs/operation.md"));
    let (_, section) = manual
        .split_once("## Drop reasons")
        .expect("the manual has a section on drop reasons");
    let section = section.split("\n## ").next().unwrap_or_default();
    let explained: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let all: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(explained, all);
}

#[test]
fn configurations_in_the_manuals_are_valid() {
    let mut found = 0;
    for document in documents() {
        for block in read(&document).split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            found += 1;
            let name = document.display().to_string();
            if let Err(mistakes) = Config::parse(&name, block.as_bytes()) {
                let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                panic!("{name}: {}\n{block}", mistakes.join("; "));
            }
        }
    }
    assert!(found > 0, "no configuration was found");
}

#[test]
fn the_manuals_name_the_oldest_kernel() {
    let (major, minor) = OLDEST_KERNEL;
    for document in ["README.md", "docs/operation.md"] {
        let text = read(&workspace().join(document));
        assert!(
            text.contains(&format!("Linux {major}.{minor} or newer")),
            "{document}"
        );
    }
}

/// All documents for users and developers.
fn documents() -> Vec<PathBuf> {
    let directories = [workspace(), workspace().join("docs")];
    directories
        .iter()
        .flat_map(|directory| {
            std::fs::read_dir(directory).unwrap_or_else(|error| {
                panic!("{}: {error}", directory.display());
            })
        })
        .map(|entry| entry.expect("a directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// The anchors of a document's headings.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            words
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
}

fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the crate is in the workspace")
        .to_path_buf()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
