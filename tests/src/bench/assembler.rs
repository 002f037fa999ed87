//! Instructions of BPF, as few as the baselines need. Numbers are those of `include/uapi/linux/bpf.h` and of the
//! instruction set's document (`Documentation/bpf/standardization/instruction-set.rst`).

/// An instruction as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register: `r0` is the result, `r1` … `r5` are arguments, `r6` … `r9` survive calls, `r10` is the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are all there is to them")]
pub enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
}

/// A helper function of the kernel's: `enum bpf_func_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "bpf-helpers(7) has them all")]
pub enum Helper {
    MapLookupElem = 1,
    SkbLoadBytes = 26,
    GetLocalStorage = 81,
    RingbufReserve = 131,
    RingbufSubmit = 132,
    SetRetval = 187,
}

const fn instruction(code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to as u8 | (from as u8) << 4,
        offset,
        immediate,
    }
}

use Register::{R0, R10};

/// `to = value`
#[must_use]
pub const fn set(to: Register, value: i32) -> Instruction {
    instruction(0xb7, to, R0, 0, value)
}

/// `to = from`
#[must_use]
pub const fn copy(to: Register, from: Register) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `to += value`
#[must_use]
pub const fn add(to: Register, value: i32) -> Instruction {
    instruction(0x07, to, R0, 0, value)
}

/// `to = *(u32 *)(from + offset)`
#[must_use]
pub const fn load32(to: Register, from: Register, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// `to = *(u64 *)(from + offset)`
#[must_use]
pub const fn load64(to: Register, from: Register, offset: i16) -> Instruction {
    instruction(0x79, to, from, offset, 0)
}

/// `*(u32 *)(to + offset) = from`
#[must_use]
pub const fn store32(to: Register, offset: i16, from: Register) -> Instruction {
    instruction(0x63, to, from, offset, 0)
}

/// `*(u64 *)(to + offset) = from`
#[must_use]
pub const fn store64(to: Register, offset: i16, from: Register) -> Instruction {
    instruction(0x7b, to, from, offset, 0)
}

/// `*(u32 *)(to + offset) = value`
#[must_use]
pub const fn put32(to: Register, offset: i16, value: i32) -> Instruction {
    instruction(0x62, to, R0, offset, value)
}

/// `*(u64 *)(to + offset) = value`
#[must_use]
pub const fn put64(to: Register, offset: i16, value: i32) -> Instruction {
    instruction(0x7a, to, R0, offset, value)
}

/// Leaves out the next `by` instructions if `register == value`.
#[must_use]
pub const fn skip_if(register: Register, value: i32, by: i16) -> Instruction {
    instruction(0x15, register, R0, by, value)
}

/// Calls a helper.
#[must_use]
pub const fn call(helper: Helper) -> Instruction {
    instruction(0x85, R0, R0, 0, helper as i32)
}

/// Ends the program with what is in `r0`.
#[must_use]
pub const fn exit() -> Instruction {
    instruction(0x95, R0, R0, 0, 0)
}

/// `to` = the map of that descriptor; two instructions.
#[must_use]
pub const fn map(to: Register, fd: i32) -> [Instruction; 2] {
    // The source register 1 (`BPF_PSEUDO_MAP_FD`) says what the number is.
    [
        instruction(0x18, to, Register::R1, 0, fd),
        instruction(0, R0, R0, 0, 0),
    ]
}

/// `to = r10 + offset`: an address on the stack; two instructions.
#[must_use]
pub const fn on_stack(to: Register, offset: i32) -> [Instruction; 2] {
    [copy(to, R10), add(to, offset)]
}
