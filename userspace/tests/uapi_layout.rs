// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Rust structures are those of `uapi/mirage_drm.h`: a C program prints the header's, this test its own.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use mirage::uapi::*;
use mirage::{Access, Reason};
use nix::{request_code_readwrite, request_code_write};

/// Lines `expression value`: `expression` is C, `value` what Rust has for it.
#[derive(Default)]
struct Facts(Vec<(String, u64)>);

impl Facts {
    fn add(&mut self, expression: impl Into<String>, value: impl TryInto<u64>) {
        self.0
            .push((expression.into(), value.try_into().unwrap_or(u64::MAX)));
    }

    fn know(&self, expression: &str) -> bool {
        self.0.iter().any(|(known, _)| known == expression)
    }

    fn text(&self) -> String {
        self.0.iter().fold(String::new(), |text, (what, value)| {
            text + &format!("{what} {value}\n")
        })
    }
}

/// Size, and offset and size of each field. `rust = c` is for a name that is a keyword in Rust.
macro_rules! layout {
    ($facts:ident, $rust:ident, $c:literal, $($field:ident $(= $name:literal)?),*) => {
        $facts.add(concat!("sizeof(struct ", $c, ")"), size_of::<$rust>());
        $(
            let name = [$($name,)? stringify!($field)][0];
            $facts.add(format!("offsetof(struct {}, {name})", $c), offset_of!($rust, $field));
            $facts.add(format!("sizeof(((struct {} *)0)->{name})", $c), field_size(|value: &$rust| size_of_val(&value.$field)));
        )*
    };
}

fn field_size<T: Default>(size: impl Fn(&T) -> usize) -> usize {
    size(&T::default())
}

#[rustfmt::skip]
fn structures(facts: &mut Facts) {
    layout!(facts, Getparam, "drm_mirage_getparam", param, value);
    layout!(facts, SvmInit, "drm_mirage_svm_init", unmanaged_addr, unmanaged_size, flags, pad);
    layout!(facts, SvmBind, "drm_mirage_svm_bind", va, size, op, flags, pages_done);
    layout!(facts, Page, "drm_mirage_page", gpu, cpu);
    layout!(facts, SvmQuery, "drm_mirage_svm_query", va, size, pages_ptr, flags, page_size);
    layout!(facts, ChannelAlloc, "drm_mirage_channel_alloc", flags, channel, engine, timeout_ms);
    layout!(facts, ChannelFree, "drm_mirage_channel_free", channel, pad);
    layout!(facts, ChannelQuery, "drm_mirage_channel_query", channel, state, addr, timestamp, access, reason, submitted,
        finished, resets, pad);
    layout!(facts, ChannelReset, "drm_mirage_channel_reset", channel, flags);
    layout!(facts, Push, "drm_mirage_push", va, size, flags);
    layout!(facts, SyncPoint, "drm_mirage_sync", kind = "type", handle, point);
    layout!(facts, Exec, "drm_mirage_exec", channel, push_count, wait_count, sig_count, push_ptr, wait_ptr, sig_ptr, flags,
        pad);
    layout!(facts, DrmEvent, "drm_event", kind = "type", length);
    layout!(facts, EventFault, "drm_mirage_event_fault", base, addr, timestamp, batch, channel, access, reason, dropped);
}

/// Number of an ioctl, and the request code that is made of it.
macro_rules! request {
    ($facts:ident, $name:literal, $id:ident, $code:ident, $argument:ident) => {
        $facts.add(concat!("DRM_MIRAGE_", $name), IoctlId::$id as u64);
        let code = $code!(DRM_IOCTL_BASE, IoctlId::$id.nr(), size_of::<$argument>());
        $facts.add(concat!("DRM_IOCTL_MIRAGE_", $name), code);
    };
}

#[rustfmt::skip]
fn requests(facts: &mut Facts) {
    request!(facts, "GETPARAM", Getparam, request_code_readwrite, Getparam);
    request!(facts, "SVM_INIT", SvmInit, request_code_write, SvmInit);
    request!(facts, "SVM_BIND", SvmBind, request_code_readwrite, SvmBind);
    request!(facts, "SVM_QUERY", SvmQuery, request_code_write, SvmQuery);
    request!(facts, "CHANNEL_ALLOC", ChannelAlloc, request_code_readwrite, ChannelAlloc);
    request!(facts, "CHANNEL_FREE", ChannelFree, request_code_write, ChannelFree);
    request!(facts, "CHANNEL_QUERY", ChannelQuery, request_code_readwrite, ChannelQuery);
    request!(facts, "CHANNEL_RESET", ChannelReset, request_code_write, ChannelReset);
    request!(facts, "EXEC", Exec, request_code_write, Exec);
}

/// `NAME value` for each constant with a common beginning.
macro_rules! constants {
    ($facts:ident, $prefix:literal, $($name:literal = $value:expr),* $(,)?) => {
        $($facts.add(concat!("DRM_MIRAGE_", $prefix, $name), $value);)*
    };
}

#[rustfmt::skip]
fn parameters(facts: &mut Facts) {
    constants!(facts, "PARAM_",
        "CHIPSET" = Param::Chipset as u64, "VRAM_SIZE" = Param::VramSize as u64, "COMPUTE_CLASS" = Param::ComputeClass as u64,
        "CHANNELS_MAX" = Param::ChannelsMax as u64, "UNMANAGED_ALIGN" = Param::UnmanagedAlign as u64, "UNMANAGED_MIN" = Param::UnmanagedMin as u64,
        "PUSH_MAX" = Param::PushMax as u64, "FEATURES" = Param::Features as u64, "COPY_CLASS" = Param::CopyClass as u64,
        "COPY_ENGINES" = Param::CopyEngines as u64, "PUSHES_MAX" = Param::PushesMax as u64, "SYNCS_MAX" = Param::SyncsMax as u64,
        "CHANNELS_PER_FILE" = Param::ChannelsPerFile as u64, "TIMEOUT_DEFAULT" = Param::TimeoutDefault as u64,
        "TIMEOUT_MAX" = Param::TimeoutMax as u64, "QUERY_PAGES_MAX" = Param::QueryPagesMax as u64);
    constants!(facts, "FEATURE_", "USERFAULTFD" = FEATURE_USERFAULTFD);
}

#[rustfmt::skip]
fn constants(facts: &mut Facts) {
    constants!(facts, "BIND_", "PREFETCH" = BIND_PREFETCH, "WRITE" = BIND_WRITE);
    constants!(facts, "GPU_", "VALID" = GPU_VALID, "WRITE" = GPU_WRITE, "ATOMIC" = GPU_ATOMIC, "VRAM" = GPU_VRAM,
        "ORDER_SHIFT" = GPU_ORDER_SHIFT);
    constants!(facts, "CPU_", "READ" = CPU_READ, "WRITE" = CPU_WRITE, "ZERO" = CPU_ZERO, "DEVICE" = CPU_DEVICE,
        "ORDER_SHIFT" = CPU_ORDER_SHIFT);
    constants!(facts, "ENGINE_", "COMPUTE" = ENGINE_COMPUTE, "COPY" = ENGINE_COPY);
    constants!(facts, "CHANNEL_", "USABLE" = CHANNEL_USABLE, "STOPPED" = CHANNEL_STOPPED);
    constants!(facts, "SYNC_", "SYNCOBJ" = SYNC_SYNCOBJ, "TIMELINE" = SYNC_TIMELINE);
    constants!(facts, "EVENT_", "FAULT" = EVENT_FAULT);
}

#[rustfmt::skip]
fn accesses_and_reasons(facts: &mut Facts) {
    constants!(facts, "ACCESS_", "READ" = u32::from(Access::Read), "WRITE" = u32::from(Access::Write),
        "ATOMIC" = u32::from(Access::Atomic), "NONE" = u32::from(Access::None));
    constants!(facts, "REASON_", "NO_VMA" = u32::from(Reason::NoVma), "PERMISSION" = u32::from(Reason::Permission),
        "BUS" = u32::from(Reason::Bus), "UNMANAGED" = u32::from(Reason::Unmanaged),
        "OUT_OF_MEMORY" = u32::from(Reason::OutOfMemory), "EXITED" = u32::from(Reason::Exited),
        "METHOD" = u32::from(Reason::Method), "DEVICE" = u32::from(Reason::Device),
        "TIMEOUT" = u32::from(Reason::Timeout), "RESET" = u32::from(Reason::Reset));
}

fn all() -> Facts {
    let mut facts = Facts::default();
    for part in [
        structures,
        requests,
        parameters,
        constants,
        accesses_and_reasons,
    ] {
        part(&mut facts);
    }
    facts
}

fn header_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../uapi")
}

/// The C compiler, told where the headers are.
fn compiler() -> Command {
    let mut compiler = Command::new("cc");
    compiler
        .args(["-Wall", "-Werror", "-I"])
        .arg(header_dir())
        .args(["-idirafter", "/usr/include/drm", "-idirafter"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uapi"));
    compiler
}

fn compile(mut compiler: Command) {
    let output = compiler.output().expect("a C compiler is installed as cc");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Compiles and runs a C program that prints the value of each expression; returns its output.
fn ask_the_header(facts: &Facts) -> String {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (scratch.join("layout.c"), scratch.join("layout"));
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"mirage_drm.h\"\nint main(void) {\n",
    );
    for (expression, _) in &facts.0 {
        let print =
            format!("printf(\"{expression} %llu\\n\", (unsigned long long)({expression}));");
        writeln!(text, "{print}").expect("a String grows");
    }
    std::fs::write(&source, text + "return 0; }\n").expect("the target directory is writable");
    let mut compiler = compiler();
    compiler.arg("-o").args([&program, &source]);
    compile(compiler);
    let run = Command::new(&program)
        .output()
        .expect("the program was just built");
    String::from_utf8(run.stdout).expect("it prints ASCII")
}

/// The driver has no compat ioctls, because it needs none.
#[test]
fn programs_of_32_bits_have_the_same_structures_and_requests() {
    let mut facts = Facts::default();
    structures(&mut facts);
    requests(&mut facts);
    let mut text = String::from("#include <stddef.h>\n#include \"mirage_drm.h\"\n");
    let pointers = [("sizeof(void *)".to_string(), 4)];
    for (expression, value) in pointers.iter().chain(&facts.0) {
        let assert = format!(
            "_Static_assert(({expression}) == {value}ull, \"{expression} is not {value}\");"
        );
        writeln!(text, "{assert}").expect("a String grows");
    }
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("layout32.c");
    std::fs::write(&source, text).expect("the target directory is writable");
    let mut compiler = compiler();
    compiler
        .args(["-m32", "-fsyntax-only"])
        // where 64-bit Debian has what the kernel's headers include
        .args(["-idirafter", "/usr/include/x86_64-linux-gnu"])
        .arg(&source);
    compile(compiler);
}

#[test]
fn structures_numbers_and_constants_are_those_of_the_header() {
    let facts = all();
    let values = ask_the_header(&facts);
    // Enumerators with the top bit set are negative in C; the structures hold 32 bits of them.
    let values = values.replace(&(-0x8000_0000_i64 as u64).to_string(), "2147483648");
    assert_eq!(facts.text(), values);
}

/// The name of the field that a line declares.
fn field_of(line: &str) -> Option<&str> {
    let declaration = line.trim_start().strip_suffix(';')?;
    let is_type = declaration.starts_with("__u") || declaration.starts_with("struct ");
    declaration.rsplit(' ').next().filter(|_| is_type)
}

#[test]
fn nothing_of_the_header_is_missing() {
    let header = std::fs::read_to_string(header_dir().join("mirage_drm.h")).expect("the header");
    let (facts, mut missing) = (all(), Vec::new());
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let constants = header
        .split(|c| !word(c))
        .filter(|name| name.starts_with("DRM_MIRAGE_") || name.starts_with("DRM_IOCTL_MIRAGE_"));
    missing.extend(
        constants
            .filter(|name| !facts.know(name))
            .map(str::to_owned),
    );
    let mut structure = None;
    for line in header.lines() {
        if let Some(name) = line
            .strip_prefix("struct ")
            .and_then(|line| line.strip_suffix(" {"))
        {
            structure = Some(name);
        } else if line == "};" {
            structure = None;
        } else if let (Some(name), Some(field)) = (structure, field_of(line)) {
            let expression = format!("offsetof(struct {name}, {field})");
            if !facts.know(&expression) {
                missing.push(expression);
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn accesses_and_reasons_survive_the_way_through_numbers() {
    assert!((0..64).all(|value| u32::from(Access::from(value)) == value));
    assert!((0..64).all(|value| u32::from(Reason::from(value)) == value));
}
