//! Every committed input of every fuzz target still holds.

use std::{fs, panic};

use gre_fuzz::{TARGETS, Target};

#[test]
fn the_frame_corpus_holds() {
    replay("frame");
}

#[test]
fn the_gre_header_corpus_holds() {
    replay("gre_header");
}

#[test]
fn the_pipeline_corpus_holds() {
    replay("pipeline");
}

#[test]
fn every_target_is_replayed_here() {
    let source = include_str!("replay.rs");
    for Target { name, .. } in TARGETS {
        assert!(
            source.contains(&format!("replay(\"{name}\")")),
            "no test replays {name}"
        );
    }
}

fn replay(name: &str) {
    let target = Target::find(name).expect("the target exists");
    let mut inputs = 0;
    for entry in fs::read_dir(target.corpus()).expect("the target has a corpus") {
        let path = entry.expect("the corpus can be listed").path();
        let input = fs::read(&path).expect("the input can be read");
        let outcome = panic::catch_unwind(|| (target.run)(&input));
        assert!(outcome.is_ok(), "{} fails", path.display());
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {name} is empty");
}
