// SPDX-License-Identifier: MIT OR Apache-2.0
//! Remapping: each element of the destination is put together from components of the source, constants and gaps.

use std::ops::Range;

use super::regs::{LaunchError, RemapComponents};

/// Most components of an element.
const COMPONENTS: usize = 4;

/// Where a component of the destination comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Component {
    /// This component of the source.
    Source(u8),
    /// The low bytes of a constant.
    Constant(u32),
    /// The destination keeps what it has.
    Keep,
}

/// How elements of the destination are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remap {
    /// Bytes of a component.
    size: usize,
    /// Components of the source.
    sources: u8,
    components: Vec<Component>,
}

impl Remap {
    /// Checks what was set against the rules of the class.
    pub(super) fn new(set: RemapComponents, constants: [u32; 2]) -> Result<Self, LaunchError> {
        let selected = [set.dst_x(), set.dst_y(), set.dst_z(), set.dst_w()];
        let sources = set.num_src() + 1;
        let component = |select: u8| match select {
            0..=3 if select >= sources => Err(LaunchError::BadSrcPixelCompRef),
            0..=3 => Ok(Component::Source(select)),
            4 => Ok(Component::Constant(constants[0])),
            5 => Ok(Component::Constant(constants[1])),
            6 => Ok(Component::Keep),
            _ => Err(LaunchError::InvalidValue),
        };
        let used = selected.into_iter().take(usize::from(set.num_dst()) + 1);
        Ok(Self {
            size: usize::from(set.component_size()) + 1,
            sources,
            components: used.map(component).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn src_bytes(&self) -> usize {
        self.size * usize::from(self.sources)
    }

    pub(super) fn dst_bytes(&self) -> usize {
        self.size * self.components.len()
    }

    pub(super) fn reads_source(&self) -> bool {
        let is_source = |component: &Component| matches!(component, Component::Source(_));
        self.components.iter().any(is_source)
    }

    fn has_gaps(&self) -> bool {
        self.components.contains(&Component::Keep)
    }

    /// One element, given the source's; gaps are zero.
    fn element(&self, source: &[u8], out: &mut [u8]) {
        for (component, out) in self.components.iter().zip(out.chunks_mut(self.size)) {
            match component {
                Component::Source(index) => {
                    let start = usize::from(*index) * self.size;
                    let from = source.get(start..start + self.size).unwrap_or_default();
                    copy(out, from);
                }
                Component::Constant(value) => copy(out, &value.to_le_bytes()),
                Component::Keep => {}
            }
        }
    }

    /// Makes destination bytes from `start` within the first element on; `source` begins with that element.
    pub(super) fn make(&self, start: usize, source: &[u8], out: &mut [u8]) {
        let size = self.dst_bytes();
        let mut element = [0; 4 * COMPONENTS];
        let element = element.get_mut(..size).unwrap_or_default();
        let mut sources = source.chunks(self.src_bytes());
        let mut skip = start;
        let mut rest = out;
        if !self.reads_source() {
            self.element(&[], element);
        }
        while !rest.is_empty() {
            if self.reads_source() {
                self.element(sources.next().unwrap_or_default(), element);
            }
            let from = element.get(skip..).unwrap_or_default();
            let (now, later) = rest.split_at_mut(from.len().min(rest.len()));
            copy(now, from);
            rest = later;
            skip = 0;
        }
    }

    /// The parts of `bytes` destination bytes that are written; they start at `start` within an element.
    pub(super) fn written(&self, start: usize, bytes: usize) -> Vec<Range<usize>> {
        if !self.has_gaps() {
            return std::iter::once(0..bytes).collect();
        }
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in 0..bytes {
            let component = ((start + at) % self.dst_bytes()) / self.size;
            if self.components.get(component) == Some(&Component::Keep) {
                continue;
            }
            match runs.last_mut().filter(|run| run.end == at) {
                Some(run) => run.end += 1,
                None => runs.push(at..at + 1),
            }
        }
        runs
    }
}

/// Copies as much as both have.
fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remap(components: [u8; 4], size: u8, num_src: u8, num_dst: u8) -> Remap {
        let set = RemapComponents::new()
            .with_dst_x(components[0])
            .with_dst_y(components[1])
            .with_dst_z(components[2])
            .with_dst_w(components[3])
            .with_component_size(size - 1)
            .with_num_src(num_src - 1)
            .with_num_dst(num_dst - 1);
        Remap::new(set, [0x1122_3344, 0x5566_7788]).unwrap()
    }

    #[test]
    fn components_are_selected_and_reordered() {
        let swap = remap([2, 1, 0, 4], 1, 3, 4);
        let mut out = [0; 8];
        swap.make(0, &[1, 2, 3, 4, 5, 6], &mut out);
        assert_eq!(out, [3, 2, 1, 0x44, 6, 5, 4, 0x44]);
    }

    #[test]
    fn a_piece_may_start_and_end_in_an_element() {
        let swap = remap([1, 0, 6, 6], 2, 2, 2);
        let source: Vec<u8> = (0..16).collect();
        let mut whole = [0; 16];
        swap.make(0, &source, &mut whole);
        for start in 0..16 {
            let element = start / 4;
            let mut piece = vec![0; 16 - start];
            swap.make(start % 4, &source[4 * element..], &mut piece);
            assert_eq!(piece, whole[start..]);
        }
    }

    #[test]
    fn constants_alone_read_no_source() {
        let clear = remap([4, 5, 0, 0], 4, 1, 2);
        assert!(!clear.reads_source());
        let mut out = [0; 8];
        clear.make(0, &[], &mut out);
        assert_eq!(out, 0x5566_7788_1122_3344u64.to_le_bytes());
    }

    #[test]
    fn gaps_are_not_written() {
        let gap = remap([0, 6, 0, 0], 2, 1, 2);
        assert_eq!(gap.written(0, 8), [0..2, 4..6]);
        assert_eq!(gap.written(3, 6), [1..3, 5..6]);
        let whole = remap([0, 0, 0, 0], 1, 1, 1).written(0, 9);
        assert!(whole.into_iter().eq(std::iter::once(0..9)));
    }

    #[test]
    fn a_component_that_the_source_has_not_is_refused() {
        let set = RemapComponents::new().with_dst_x(1);
        assert_eq!(
            Remap::new(set, [0; 2]),
            Err(LaunchError::BadSrcPixelCompRef)
        );
        let set = RemapComponents::new().with_dst_x(7);
        assert_eq!(Remap::new(set, [0; 2]), Err(LaunchError::InvalidValue));
    }
}
