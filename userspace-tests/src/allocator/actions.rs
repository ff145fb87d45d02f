// SPDX-License-Identifier: MIT OR Apache-2.0
//! The actions: what the memory is and what happens to it.

use super::shapes::Shape;

/// What the memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Malloc,
    Private,
    Shared,
    /// A shared mapping of a file.
    File,
    /// A private mapping of a file.
    FilePrivate,
    Huge,
}

/// Who touches it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Cpu,
    Gpu,
}

/// What the GPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Store,
    Add,
    Exchange,
}

/// Where a part is taken out of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Edge,
    Middle,
}

/// What happens between two submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    Nothing,
    /// Another allocation, and the old one is freed before.
    Free,
    /// Another allocation, and the old ones stay.
    New,
    /// A child reads all of it.
    ForkRead,
    /// A child reads all of it, and the parent once more after the child is gone.
    ForkReadAfter,
    /// A child writes all of it.
    ForkWrite,
    Remap,
    /// The old place stays, empty.
    RemapDontUnmap,
    /// Read-only before it moves.
    RemapReadOnly,
    RemapReadOnlyDontUnmap,
    DontNeed,
    /// MADV_FREE, after which the GPU writes all.
    FreeLazily,
    Cold,
    PageOut,
    Collapse,
    HugeAndBack,
    ReadOnlyAndBack,
    NoneAndBack,
    Lock,
    /// The CPU writes all of it and the GPU reads it.
    GpuReads,
    /// The GPU copies one half to the other.
    GpuCopies,
    /// A part is unmapped; the CPU touches the rest first if `touch`.
    Unmap {
        part: Part,
        touch: bool,
    },
    /// A part is moved away; likewise.
    Move {
        part: Part,
        touch: bool,
    },
}

/// What is prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    Nothing,
    /// All of the memory before each submission.
    Read,
    Write,
    /// All of it by another thread while the GPU works, for reading and for writing by turns.
    Race,
}

/// What is done to the memory.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) first: First,
    pub(super) between: Between,
    /// Whether the CPU writes neighbouring words meanwhile.
    pub(super) race: bool,
    pub(super) locked: bool,
    pub(super) op: Op,
    pub(super) ahead: Ahead,
    /// Goes with all shapes.
    first_rank: bool,
}

impl Action {
    /// Whether the pair is a test: what happens between submissions takes two of them.
    pub(super) fn fits(&self, shape: &Shape) -> bool {
        (self.first_rank || shape.all_actions)
            && (shape.submissions > 1 || self.between == Between::Nothing)
    }

    pub(super) const fn of(name: &'static str, kind: Kind) -> Self {
        Action {
            name,
            kind,
            first: First::Cpu,
            between: Between::Nothing,
            race: false,
            locked: false,
            op: Op::Store,
            ahead: Ahead::Nothing,
            first_rank: true,
        }
    }

    pub(super) const fn gpu_first(self) -> Self {
        Action {
            first: First::Gpu,
            ..self
        }
    }

    pub(super) const fn race(self) -> Self {
        Action { race: true, ..self }
    }

    pub(super) const fn locked(self) -> Self {
        Action {
            locked: true,
            ..self
        }
    }

    pub(super) const fn with(self, op: Op) -> Self {
        Action { op, ..self }
    }

    pub(super) const fn prefetch(self, ahead: Ahead) -> Self {
        Action { ahead, ..self }
    }

    pub(super) const fn then(self, between: Between) -> Self {
        Action { between, ..self }
    }

    /// Goes with a few shapes only.
    pub(super) const fn rare(self) -> Self {
        Action {
            first_rank: false,
            ..self
        }
    }
}
