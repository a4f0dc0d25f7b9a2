//! A gregw that no verifier takes: a copy of the binary, the first instruction of whose program reads where it may not.
//!
//! For tests of what gregw does when a kernel refuses it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use gre_userspace::object::{GATEWAY, OBJECT};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::gateway;

/// `r0 = *(u64 *)(r2 + 0)`; only register 1 holds anything when a program begins.
const INSTRUCTION: [u8; 8] = [0x79, 0x20, 0, 0, 0, 0, 0, 0];
/// What every verifier says of it in the end.
pub const OBJECTION: &str = "R2 !read_ok";

/// Writes the copy.
///
/// # Panics
/// If the binary does not hold the program that this test was built with, or the copy cannot be written.
pub fn write_gateway(path: &Path) {
    let mut binary = fs::read(gateway::binary()).expect("the binary can be read");
    let start = binary
        .windows(OBJECT.len())
        .position(|window| window == OBJECT)
        .expect("gregw and this test are of one build");
    let begin = start + first_instruction();
    binary[begin..begin + INSTRUCTION.len()].copy_from_slice(&INSTRUCTION);
    fs::write(path, binary).expect("the copy can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Where the program begins in the object's file.
fn first_instruction() -> usize {
    let object = object::File::parse(OBJECT).expect("the object is an ELF file");
    let symbol = object
        .symbols()
        .find(|symbol| symbol.name() == Ok(GATEWAY))
        .expect("the object has the program");
    let section = symbol.section_index().expect("it has instructions");
    let section = object.section_by_index(section).expect("they are there");
    let (offset, _) = section.file_range().expect("they are in the file");
    usize::try_from(offset + symbol.address()).expect("a file in memory")
}
