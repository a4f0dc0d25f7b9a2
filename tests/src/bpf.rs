//! The four tiny BPF programs of the far ends of test links, written as raw instructions so that they need no compiler:
//! XDP pass, VLAN push, VLAN pop, and an XDP program that merely occupies a device.
//!
//! `link` attaches them. A program stays attached while its [`Attachment`] lives. The calling thread must be in the
//! device's network namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys;

/// A program attached to a device through a BPF link; dropping it detaches the program.
pub struct Attachment {
    _link: OwnedFd,
}

impl Attachment {
    /// Attaches, in native mode, an XDP program that passes everything. A veth end needs one to receive what XDP_TX or
    /// XDP_REDIRECT sends it.
    ///
    /// # Errors
    /// `EBUSY` if the device has an XDP program already.
    pub fn xdp_pass(interface_index: u32) -> io::Result<Self> {
        let program = load(
            PROGRAM_TYPE_XDP,
            ATTACH_XDP,
            XDP_HAS_FRAGS,
            &[move_immediate(0, XDP_PASS), EXIT],
        )?;
        attach(&program, interface_index, ATTACH_XDP, XDP_MODE_NATIVE)
    }

    /// Attaches a program behind the stack's output that tags every frame with this VLAN id. The device's
    /// `tx-vlan-offload` must be off for the tag to stand in the frame itself.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn vlan_push(interface_index: u32, vlan: u16) -> io::Result<Self> {
        let instructions = [
            move_immediate(2, i32::from(0x8100_u16.to_be())),
            move_immediate(3, i32::from(vlan)),
            call(HELPER_VLAN_PUSH),
            move_immediate(0, TCX_PASS),
            EXIT,
        ];
        let program = load(PROGRAM_TYPE_TC, ATTACH_TCX_EGRESS, 0, &instructions)?;
        attach(&program, interface_index, ATTACH_TCX_EGRESS, 0)
    }

    /// Attaches a program before the stack's input that removes the tag of frames with this VLAN id and drops all
    /// others.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn vlan_pop(interface_index: u32, vlan: u16) -> io::Result<Self> {
        let instructions = [
            move_register(6, 1),
            load_context_word(2, SKB_VLAN_PRESENT),
            jump_if_equal(2, 0, 7),
            load_context_word(3, SKB_VLAN_TCI),
            and_immediate(3, 0x0fff),
            jump_if_not_equal(3, i32::from(vlan), 4),
            move_register(1, 6),
            call(HELPER_VLAN_POP),
            move_immediate(0, TCX_PASS),
            EXIT,
            move_immediate(0, TCX_DROP),
            EXIT,
        ];
        let program = load(PROGRAM_TYPE_TC, ATTACH_TCX_INGRESS, 0, &instructions)?;
        attach(&program, interface_index, ATTACH_TCX_INGRESS, 0)
    }
}

const COMMAND_PROGRAM_LOAD: i64 = 5;
const COMMAND_LINK_CREATE: i64 = 28;
const PROGRAM_TYPE_TC: u32 = 3;
const PROGRAM_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
const XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_MODE_NATIVE: u32 = 1 << 2;
const XDP_PASS: i32 = 2;
const TCX_PASS: i32 = 0;
const TCX_DROP: i32 = 2;
const HELPER_VLAN_PUSH: i32 = 18;
const HELPER_VLAN_POP: i32 = 19;
/// Offsets in `struct __sk_buff`.
const SKB_VLAN_PRESENT: i16 = 20;
const SKB_VLAN_TCI: i16 = 24;

/// One eBPF instruction: opcode, registers (source high, destination low), offset, immediate (RFC 9669 §3).
#[derive(Clone, Copy)]
struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const EXIT: Instruction = Instruction {
    opcode: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

const fn move_immediate(destination: u8, immediate: i32) -> Instruction {
    Instruction {
        opcode: 0xb7,
        registers: destination,
        offset: 0,
        immediate,
    }
}

const fn move_register(destination: u8, source: u8) -> Instruction {
    Instruction {
        opcode: 0xbf,
        registers: source << 4 | destination,
        offset: 0,
        immediate: 0,
    }
}

/// Loads a 32-bit field of the context, which register 1 points to at the start.
const fn load_context_word(destination: u8, offset: i16) -> Instruction {
    Instruction {
        opcode: 0x61,
        registers: 6 << 4 | destination,
        offset,
        immediate: 0,
    }
}

const fn and_immediate(destination: u8, immediate: i32) -> Instruction {
    Instruction {
        opcode: 0x57,
        registers: destination,
        offset: 0,
        immediate,
    }
}

const fn jump_if_equal(destination: u8, immediate: i32, offset: i16) -> Instruction {
    Instruction {
        opcode: 0x15,
        registers: destination,
        offset,
        immediate,
    }
}

const fn jump_if_not_equal(destination: u8, immediate: i32, offset: i16) -> Instruction {
    Instruction {
        opcode: 0x55,
        registers: destination,
        offset,
        immediate,
    }
}

const fn call(helper: i32) -> Instruction {
    Instruction {
        opcode: 0x85,
        registers: 0,
        offset: 0,
        immediate: helper,
    }
}

/// `BPF_PROG_LOAD` with the attributes up to `expected_attach_type` (linux/bpf.h).
fn load(kind: u32, attach: u32, flags: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut code = Vec::with_capacity(instructions.len() * 8);
    for instruction in instructions {
        code.extend([instruction.opcode, instruction.registers]);
        code.extend(instruction.offset.to_ne_bytes());
        code.extend(instruction.immediate.to_ne_bytes());
    }
    let license = c"GPL";
    let mut attributes = Vec::with_capacity(72);
    attributes.extend(kind.to_ne_bytes());
    attributes.extend(
        u32::try_from(instructions.len())
            .unwrap_or_default()
            .to_ne_bytes(),
    );
    attributes.extend((code.as_ptr().addr() as u64).to_ne_bytes());
    attributes.extend((license.as_ptr().addr() as u64).to_ne_bytes());
    // Log level, log size, log buffer, kernel version: none.
    attributes.extend([0; 4 + 4 + 8 + 4]);
    attributes.extend(flags.to_ne_bytes());
    attributes.extend(b"gre_tests\0\0\0\0\0\0\0");
    attributes.extend(0_u32.to_ne_bytes());
    attributes.extend(attach.to_ne_bytes());
    sys::bpf(COMMAND_PROGRAM_LOAD, &attributes)
}

/// `BPF_LINK_CREATE`; the link holds the program.
fn attach(
    program: &OwnedFd,
    interface_index: u32,
    attach: u32,
    flags: u32,
) -> io::Result<Attachment> {
    let mut attributes = Vec::with_capacity(32);
    attributes.extend(program.as_raw_fd().to_ne_bytes());
    attributes.extend(interface_index.to_ne_bytes());
    attributes.extend(attach.to_ne_bytes());
    attributes.extend(flags.to_ne_bytes());
    attributes.extend([0; 16]);
    Ok(Attachment {
        _link: sys::bpf(COMMAND_LINK_CREATE, &attributes)?,
    })
}
