// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Rust structures are those of `uapi/mirage_drm.h`: a C program prints the header's, this test its own.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use mirage::uapi::{
    ChannelAlloc, ChannelFree, ChannelQuery, ChannelReset, Exec, FaultReport, Getparam, IoctlId,
    Page, Param, Push, SvmBind, SvmInit, SvmQuery, SyncPoint, CHANNEL_STOPPED, ENGINE_COPY,
    SYNC_SYNCOBJ, SYNC_TIMELINE,
};
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
}

macro_rules! layout {
    ($facts:ident, $rust:ident, $c:literal, $($field:ident),*) => {
        $facts.add(concat!("sizeof(struct ", $c, ")"), size_of::<$rust>());
        $($facts.add(concat!("offsetof(struct ", $c, ", ", stringify!($field), ")"), offset_of!($rust, $field));)*
    };
}

fn structures(facts: &mut Facts) {
    layout!(facts, Getparam, "drm_mirage_getparam", param, value);
    layout!(
        facts,
        SvmInit,
        "drm_mirage_svm_init",
        unmanaged_addr,
        unmanaged_size,
        flags,
        pad
    );
    layout!(
        facts,
        ChannelAlloc,
        "drm_mirage_channel_alloc",
        flags,
        channel,
        engine,
        timeout_ms
    );
    layout!(facts, ChannelFree, "drm_mirage_channel_free", channel, pad);
    layout!(
        facts,
        ChannelQuery,
        "drm_mirage_channel_query",
        channel,
        state,
        addr,
        timestamp,
        access,
        reason,
        submitted,
        finished,
        resets,
        pad
    );
    layout!(
        facts,
        ChannelReset,
        "drm_mirage_channel_reset",
        channel,
        flags
    );
    layout!(
        facts,
        SvmBind,
        "drm_mirage_svm_bind",
        va,
        size,
        op,
        flags,
        pages_done
    );
    layout!(facts, Page, "drm_mirage_page", gpu, cpu);
    layout!(
        facts,
        SvmQuery,
        "drm_mirage_svm_query",
        va,
        size,
        pages_ptr,
        flags,
        page_size
    );
    layout!(facts, Push, "drm_mirage_push", va, size, flags);
    layout!(facts, SyncPoint, "drm_mirage_sync", handle, point);
    facts.add(
        "offsetof(struct drm_mirage_sync, type)",
        offset_of!(SyncPoint, kind),
    );
    layout!(
        facts,
        Exec,
        "drm_mirage_exec",
        channel,
        push_count,
        wait_count,
        sig_count,
        push_ptr,
        wait_ptr,
        sig_ptr,
        flags,
        pad
    );
    layout!(
        facts,
        FaultReport,
        "drm_mirage_fault_report",
        addr,
        timestamp,
        channel,
        access,
        reason,
        dropped
    );
}

fn requests(facts: &mut Facts) {
    const B: u8 = mirage::uapi::DRM_IOCTL_BASE;
    facts.add(
        "DRM_IOCTL_MIRAGE_GETPARAM",
        request_code_readwrite!(B, IoctlId::Getparam.nr(), size_of::<Getparam>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_SVM_INIT",
        request_code_write!(B, IoctlId::SvmInit.nr(), size_of::<SvmInit>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_SVM_BIND",
        request_code_readwrite!(B, IoctlId::SvmBind.nr(), size_of::<SvmBind>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_SVM_QUERY",
        request_code_write!(B, IoctlId::SvmQuery.nr(), size_of::<SvmQuery>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_CHANNEL_QUERY",
        request_code_readwrite!(B, IoctlId::ChannelQuery.nr(), size_of::<ChannelQuery>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_CHANNEL_RESET",
        request_code_write!(B, IoctlId::ChannelReset.nr(), size_of::<ChannelReset>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_CHANNEL_ALLOC",
        request_code_readwrite!(B, IoctlId::ChannelAlloc.nr(), size_of::<ChannelAlloc>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_CHANNEL_FREE",
        request_code_write!(B, IoctlId::ChannelFree.nr(), size_of::<ChannelFree>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_EXEC",
        request_code_write!(B, IoctlId::Exec.nr(), size_of::<Exec>()),
    );
    facts.add(
        "DRM_IOCTL_MIRAGE_FAULT_REPORT",
        request_code_readwrite!(B, IoctlId::FaultReport.nr(), size_of::<FaultReport>()),
    );
}

fn parameters(facts: &mut Facts) {
    facts.add("DRM_MIRAGE_PARAM_CHIPSET", Param::Chipset as u64);
    facts.add("DRM_MIRAGE_PARAM_VRAM_SIZE", Param::VramSize as u64);
    facts.add("DRM_MIRAGE_PARAM_COMPUTE_CLASS", Param::ComputeClass as u64);
    facts.add("DRM_MIRAGE_PARAM_CHANNELS_MAX", Param::ChannelsMax as u64);
    facts.add(
        "DRM_MIRAGE_PARAM_UNMANAGED_ALIGN",
        Param::UnmanagedAlign as u64,
    );
    facts.add("DRM_MIRAGE_PARAM_UNMANAGED_MIN", Param::UnmanagedMin as u64);
    facts.add("DRM_MIRAGE_PARAM_PUSH_MAX", Param::PushMax as u64);
    facts.add("DRM_MIRAGE_PARAM_FEATURES", Param::Features as u64);
    facts.add("DRM_MIRAGE_PARAM_COPY_CLASS", Param::CopyClass as u64);
    facts.add("DRM_MIRAGE_PARAM_COPY_ENGINES", Param::CopyEngines as u64);
    facts.add("DRM_MIRAGE_PARAM_PUSHES_MAX", Param::PushesMax as u64);
    facts.add("DRM_MIRAGE_PARAM_SYNCS_MAX", Param::SyncsMax as u64);
    facts.add(
        "DRM_MIRAGE_PARAM_CHANNELS_PER_FILE",
        Param::ChannelsPerFile as u64,
    );
    facts.add(
        "DRM_MIRAGE_PARAM_TIMEOUT_DEFAULT",
        Param::TimeoutDefault as u64,
    );
    facts.add("DRM_MIRAGE_PARAM_TIMEOUT_MAX", Param::TimeoutMax as u64);
    facts.add(
        "DRM_MIRAGE_PARAM_QUERY_PAGES_MAX",
        Param::QueryPagesMax as u64,
    );
    facts.add("DRM_MIRAGE_ENGINE_COPY", ENGINE_COPY);
    facts.add("DRM_MIRAGE_CHANNEL_STOPPED", CHANNEL_STOPPED);
    facts.add("DRM_MIRAGE_SYNC_SYNCOBJ", SYNC_SYNCOBJ);
    facts.add("DRM_MIRAGE_SYNC_TIMELINE", SYNC_TIMELINE);
}

/// Compiles and runs a C program that prints the value of each expression; returns its output.
fn ask_the_header(name: &str, facts: &Facts) -> String {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (scratch.join(format!("{name}.c")), scratch.join(name));
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"mirage_drm.h\"\nint main(void) {\n",
    );
    for (expression, _) in &facts.0 {
        writeln!(
            text,
            "printf(\"{expression} %llu\\n\", (unsigned long long)({expression}));"
        )
        .expect("a String grows");
    }
    std::fs::write(&source, text + "return 0; }\n").expect("the target directory is writable");
    let compiler = Command::new("cc")
        .args(["-Wall", "-Werror", "-o"])
        .args([&program, &source])
        .arg("-I")
        .arg(crate_dir.join("../uapi"))
        .args(["-idirafter", "/usr/include/drm", "-idirafter"])
        .arg(crate_dir.join("tests/uapi"))
        .output()
        .expect("a C compiler is installed as cc");
    assert!(
        compiler.status.success(),
        "{}",
        String::from_utf8_lossy(&compiler.stderr)
    );
    let run = Command::new(&program)
        .output()
        .expect("the program was just built");
    String::from_utf8(run.stdout).expect("it prints ASCII")
}

#[test]
fn structures_numbers_and_parameters_are_those_of_the_header() {
    let mut facts = Facts::default();
    structures(&mut facts);
    requests(&mut facts);
    parameters(&mut facts);
    let mut ours = String::new();
    for (expression, value) in &facts.0 {
        writeln!(ours, "{expression} {value}").expect("a String grows");
    }
    assert_eq!(ours, ask_the_header("layout", &facts));
}

#[test]
fn accesses_and_reasons_are_those_of_the_header() {
    let accesses = [
        ("READ", Access::Read),
        ("WRITE", Access::Write),
        ("ATOMIC", Access::Atomic),
        ("NONE", Access::None),
    ];
    let reasons = [
        ("NO_VMA", Reason::NoVma),
        ("PERMISSION", Reason::Permission),
        ("BUS", Reason::Bus),
        ("UNMANAGED", Reason::Unmanaged),
        ("OUT_OF_MEMORY", Reason::OutOfMemory),
        ("EXITED", Reason::Exited),
        ("METHOD", Reason::Method),
        ("DEVICE", Reason::Device),
        ("TIMEOUT", Reason::Timeout),
        ("RESET", Reason::Reset),
    ];
    let names: Vec<String> = (accesses
        .iter()
        .map(|(name, _)| format!("DRM_MIRAGE_ACCESS_{name}")))
    .chain(
        reasons
            .iter()
            .map(|(name, _)| format!("DRM_MIRAGE_REASON_{name}")),
    )
    .collect();
    let output = ask_the_header(
        "enums",
        &Facts(names.into_iter().map(|name| (name, 0)).collect()),
    );
    let values: Vec<u32> = output
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    let (access_values, reason_values) = values.split_at(accesses.len());
    assert_eq!(
        access_values
            .iter()
            .map(|&v| Access::from(v))
            .collect::<Vec<_>>(),
        accesses.map(|(_, a)| a)
    );
    assert_eq!(
        reason_values
            .iter()
            .map(|&v| Reason::from(v))
            .collect::<Vec<_>>(),
        reasons.map(|(_, r)| r)
    );
}
