// SPDX-License-Identifier: MIT OR Apache-2.0
//! All actions.

use super::actions::{Action, Ahead, Between, Kind, Op, Part};

const fn cut(name: &'static str, between: Between, op: Op) -> Action {
    Action::of(name, Kind::Private)
        .then(between)
        .with(op)
        .rare()
}

use Between::*;
use Kind::*;
use Part::{Edge, Middle};

/// The actions.
pub(super) const ACTIONS: &[Action] = &[
    Action::of("malloc", Malloc),
    Action::of("malloc_nomemset", Malloc).gpu_first(),
    Action::of("malloc_race", Malloc).race(),
    Action::of("malloc_race_nomemset", Malloc)
        .race()
        .gpu_first()
        .rare(),
    Action::of("malloc_fork_read", Malloc).then(ForkRead),
    Action::of("malloc_fork_read_after", Malloc)
        .then(ForkReadAfter)
        .rare(),
    Action::of("malloc_atomic", Malloc).with(Op::Add).rare(),
    Action::of("free", Malloc).then(Free),
    Action::of("free_race", Malloc).then(Free).race().rare(),
    Action::of("free_nomemset", Malloc).then(Free).gpu_first(),
    Action::of("new", Malloc).then(New),
    Action::of("new_race", Malloc).then(New).race().rare(),
    Action::of("new_nomemset", Malloc)
        .then(New)
        .gpu_first()
        .rare(),
    Action::of("mmap", Private),
    Action::of("mmap_nomemset", Private).gpu_first(),
    Action::of("mmap_race", Private).race(),
    Action::of("mmap_race_nomemset", Private)
        .race()
        .gpu_first()
        .rare(),
    Action::of("mmap_atomic", Private).with(Op::Add),
    Action::of("mmap_exchange", Private)
        .with(Op::Exchange)
        .rare(),
    Action::of("mmap_mlock", Private).locked(),
    Action::of("mmap_mlock_nomemset", Private)
        .locked()
        .gpu_first()
        .rare(),
    Action::of("mmap_mlock_between", Private).then(Lock).rare(),
    Action::of("mmap_shared", Shared),
    Action::of("mmap_shared_nomemset", Shared)
        .gpu_first()
        .rare(),
    Action::of("mmap_shared_race", Shared).race().rare(),
    Action::of("mmap_shared_atomic", Shared)
        .with(Op::Add)
        .rare(),
    Action::of("mmap_shared_remap", Shared).then(Remap),
    Action::of("mmap_shared_remap_dontunmap", Shared)
        .then(RemapDontUnmap)
        .rare(),
    Action::of("mmap_shared_fork_write", Shared)
        .then(ForkWrite)
        .rare(),
    Action::of("mmap_file", File),
    Action::of("mmap_file_nomemset", File).gpu_first().rare(),
    Action::of("mmap_file_mlock", File).locked().rare(),
    Action::of("mmap_file_race", File).race().rare(),
    Action::of("mmap_file_private", FilePrivate).rare(),
    Action::of("mmap_file_private_nomemset", FilePrivate).gpu_first(),
    Action::of("mmap_file_private_fork_write", FilePrivate)
        .then(ForkWrite)
        .rare(),
    Action::of("mmap_huge", Huge),
    Action::of("mmap_huge_nomemset", Huge).gpu_first().rare(),
    Action::of("mmap_huge_remap", Huge).then(Remap).rare(),
    Action::of("mmap_remap", Private).then(Remap),
    Action::of("mmap_remap_dontunmap", Private).then(RemapDontUnmap),
    Action::of("mmap_remap_ro", Private).then(RemapReadOnly),
    Action::of("mmap_remap_ro_dontunmap", Private)
        .then(RemapReadOnlyDontUnmap)
        .rare(),
    Action::of("mmap_free", Private).then(Free),
    Action::of("mmap_free_race", Private)
        .then(Free)
        .race()
        .rare(),
    Action::of("mmap_free_huge", Huge).then(Free).rare(),
    Action::of("mmap_free_nomemset", Private)
        .then(Free)
        .gpu_first()
        .rare(),
    Action::of("mmap_new", Private).then(New).rare(),
    Action::of("mmap_new_race", Private).then(New).race().rare(),
    Action::of("mmap_new_huge", Huge).then(New).rare(),
    Action::of("mmap_new_nomemset", Private)
        .then(New)
        .gpu_first()
        .rare(),
    Action::of("mmap_fork_read", Private).then(ForkRead),
    Action::of("mmap_fork_write", Private).then(ForkWrite),
    Action::of("mmap_fork_write_race", Private)
        .then(ForkWrite)
        .race()
        .rare(),
    Action::of("mmap_dontneed", Private).then(DontNeed),
    Action::of("mmap_dontneed_race", Private)
        .then(DontNeed)
        .race()
        .rare(),
    Action::of("mmap_madv_free", Private).then(FreeLazily),
    Action::of("mmap_cold", Private).then(Cold).rare(),
    Action::of("mmap_pageout", Private).then(PageOut).rare(),
    Action::of("mmap_shared_pageout", Shared)
        .then(PageOut)
        .rare(),
    Action::of("mmap_collapse", Huge).then(Collapse).rare(),
    Action::of("mmap_hugepage_nohugepage", Huge)
        .then(HugeAndBack)
        .rare(),
    Action::of("mmap_mprotect_ro", Private).then(ReadOnlyAndBack),
    Action::of("mmap_mprotect_none", Private)
        .then(NoneAndBack)
        .rare(),
    Action::of("mmap_gpu_reads", Private).then(GpuReads),
    Action::of("malloc_gpu_reads", Malloc).then(GpuReads).rare(),
    Action::of("mmap_gpu_copies", Private)
        .then(GpuCopies)
        .rare(),
    Action::of("malloc_prefetch", Malloc).prefetch(Ahead::Write),
    Action::of("malloc_prefetch_nomemset", Malloc)
        .prefetch(Ahead::Write)
        .gpu_first()
        .rare(),
    Action::of("malloc_prefetch_race", Malloc).prefetch(Ahead::Race),
    Action::of("malloc_fork_read_prefetch", Malloc)
        .then(ForkRead)
        .prefetch(Ahead::Write)
        .rare(),
    Action::of("free_prefetch", Malloc)
        .then(Free)
        .prefetch(Ahead::Write),
    Action::of("new_prefetch", Malloc)
        .then(New)
        .prefetch(Ahead::Write)
        .rare(),
    Action::of("new_prefetch_race", Malloc)
        .then(New)
        .prefetch(Ahead::Race)
        .rare(),
    // What is there for reading only becomes writable by a fault.
    Action::of("mmap_prefetch_read", Private)
        .prefetch(Ahead::Read)
        .rare(),
    Action::of("mmap_prefetch_read_nomemset", Private)
        .prefetch(Ahead::Read)
        .gpu_first(),
    Action::of("mmap_prefetch", Private)
        .prefetch(Ahead::Write)
        .rare(),
    Action::of("mmap_prefetch_race_nomemset", Private)
        .prefetch(Ahead::Race)
        .gpu_first()
        .rare(),
    Action::of("mmap_prefetch_atomic_race", Private)
        .with(Op::Add)
        .prefetch(Ahead::Race)
        .rare(),
    Action::of("mmap_shared_prefetch", Shared).prefetch(Ahead::Write),
    Action::of("mmap_shared_prefetch_race", Shared)
        .prefetch(Ahead::Race)
        .rare(),
    Action::of("mmap_shared_fork_write_prefetch", Shared)
        .then(ForkWrite)
        .prefetch(Ahead::Read)
        .rare(),
    Action::of("mmap_file_prefetch", File)
        .prefetch(Ahead::Write)
        .rare(),
    Action::of("mmap_file_private_prefetch", FilePrivate)
        .prefetch(Ahead::Write)
        .gpu_first()
        .rare(),
    Action::of("mmap_huge_prefetch", Huge)
        .prefetch(Ahead::Write)
        .rare(),
    Action::of("mmap_huge_prefetch_race", Huge)
        .prefetch(Ahead::Race)
        .gpu_first()
        .rare(),
    Action::of("mmap_fork_write_prefetch", Private)
        .then(ForkWrite)
        .prefetch(Ahead::Write)
        .rare(),
    Action::of("mmap_dontneed_prefetch", Private)
        .then(DontNeed)
        .prefetch(Ahead::Write)
        .rare(),
    Action::of("mmap_remap_prefetch", Private)
        .then(Remap)
        .prefetch(Ahead::Write)
        .rare(),
    cut(
        "partial_munmap_cpu_fault",
        Unmap {
            part: Edge,
            touch: true,
        },
        Op::Store,
    ),
    cut(
        "partial_munmap_no_cpu_fault",
        Unmap {
            part: Edge,
            touch: false,
        },
        Op::Store,
    ),
    cut(
        "partial_middle_munmap_cpu_fault",
        Unmap {
            part: Middle,
            touch: true,
        },
        Op::Store,
    ),
    cut(
        "partial_middle_munmap_no_cpu_fault",
        Unmap {
            part: Middle,
            touch: false,
        },
        Op::Store,
    ),
    cut(
        "partial_remap_cpu_fault",
        Move {
            part: Edge,
            touch: true,
        },
        Op::Store,
    ),
    cut(
        "partial_remap_no_cpu_fault",
        Move {
            part: Edge,
            touch: false,
        },
        Op::Store,
    ),
    cut(
        "partial_middle_remap_cpu_fault",
        Move {
            part: Middle,
            touch: true,
        },
        Op::Store,
    ),
    cut(
        "partial_middle_remap_no_cpu_fault",
        Move {
            part: Middle,
            touch: false,
        },
        Op::Store,
    ),
    cut(
        "partial_atomic_munmap_cpu_fault",
        Unmap {
            part: Edge,
            touch: true,
        },
        Op::Add,
    ),
    cut(
        "partial_atomic_munmap_no_cpu_fault",
        Unmap {
            part: Edge,
            touch: false,
        },
        Op::Add,
    ),
    cut(
        "partial_atomic_middle_munmap_cpu_fault",
        Unmap {
            part: Middle,
            touch: true,
        },
        Op::Add,
    ),
    cut(
        "partial_atomic_middle_munmap_no_cpu_fault",
        Unmap {
            part: Middle,
            touch: false,
        },
        Op::Add,
    ),
    cut(
        "partial_atomic_remap_cpu_fault",
        Move {
            part: Edge,
            touch: true,
        },
        Op::Add,
    ),
    cut(
        "partial_atomic_remap_no_cpu_fault",
        Move {
            part: Edge,
            touch: false,
        },
        Op::Add,
    ),
    cut(
        "partial_atomic_middle_remap_cpu_fault",
        Move {
            part: Middle,
            touch: true,
        },
        Op::Add,
    ),
    cut(
        "partial_atomic_middle_remap_no_cpu_fault",
        Move {
            part: Middle,
            touch: false,
        },
        Op::Add,
    ),
];
