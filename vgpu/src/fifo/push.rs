// SPDX-License-Identifier: MIT OR Apache-2.0
//! GP entries and push-buffer words (dev_pbdma): pure decoding.

use bitfield_struct::bitfield;

use crate::bus::GpuVa;

/// NV_PPBDMA_GP_ENTRY, 64 bits.
#[bitfield(u64)]
struct GpEntry {
    #[bits(2)]
    __: u8,
    /// Address bits 39:2, in dwords.
    #[bits(38)]
    get: u64,
    __: bool,
    level: bool,
    /// Dwords; 0 makes it a control entry.
    #[bits(21)]
    length: u32,
    sync: bool,
}

/// OPCODE of a control entry (7:0 of its upper half).
mod opcode {
    pub(super) const NOP: u64 = 0;
    pub(super) const GP_CRC: u64 = 2;
    pub(super) const PB_CRC: u64 = 3;
}

/// A run of push-buffer words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it starts.
    pub(crate) va: GpuVa,
    /// How many dwords it has; 0 for control entries, which do nothing here.
    pub(crate) dwords: u32,
}

/// Decodes a GP entry; `None` for an illegal opcode.
pub(crate) fn gp_entry(raw: u64) -> Option<Segment> {
    let entry = GpEntry::from(raw);
    let known = [opcode::NOP, opcode::GP_CRC, opcode::PB_CRC];
    if entry.length() == 0 && !known.contains(&((raw >> 32) & 0xff)) {
        return None;
    }
    Some(Segment {
        va: GpuVa(entry.get() << 2),
        dwords: entry.length(),
    })
}

/// A method header.
#[bitfield(u32)]
struct Header {
    /// Byte offset of the method >> 2.
    #[bits(12)]
    method: u16,
    __: bool,
    #[bits(3)]
    subchannel: u8,
    /// Data words; the datum itself for an immediate.
    #[bits(13)]
    count: u16,
    #[bits(3)]
    sec_op: u8,
}

/// SEC_OP of a method header.
mod sec_op {
    pub(super) const USE_TERT: u8 = 0;
    pub(super) const INC: u8 = 1;
    pub(super) const NON_INC: u8 = 3;
    pub(super) const IMMEDIATE: u8 = 4;
    pub(super) const ONE_INC: u8 = 5;
    pub(super) const END_SEGMENT: u8 = 7;
}

/// A method and its datum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// 0 to 7.
    pub(crate) subchannel: u8,
    /// Byte offset, a multiple of 4 below 0x4000.
    pub(crate) address: u16,
    /// The datum.
    pub(crate) data: u32,
}

impl Method {
    /// How NV_PPBDMA_METHOD0 and NV_PGRAPH_TRAPPED_ADDR show a method: 13:2 method, 18:16 subchannel.
    pub(crate) fn trapped(self) -> u32 {
        (u32::from(self.subchannel) << 16) | u32::from(self.address)
    }
}

/// What a push-buffer word amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing to do.
    Nothing,
    /// A method to execute.
    Method(Method),
    /// The rest of the segment is to be skipped.
    EndSegment,
    /// A header that cannot be decoded.
    Bad,
}

/// How the method address moves from one datum to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stepping {
    Always,
    Once,
    Never,
}

/// State between words: what the data words that follow belong to. It survives the end of a segment.
#[derive(Debug)]
pub(crate) struct Decoder {
    left: u16,
    subchannel: u8,
    /// In dwords, 12 bits.
    method: u16,
    stepping: Stepping,
}

const METHOD_MASK: u16 = 0xfff;

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            left: 0,
            subchannel: 0,
            method: 0,
            stepping: Stepping::Never,
        }
    }

    /// Takes the next word.
    pub(crate) fn feed(&mut self, word: u32) -> Word {
        if self.left > 0 {
            return Word::Method(self.datum(word));
        }
        let header = Header::from(word);
        let stepping = match header.sec_op() {
            sec_op::INC => Stepping::Always,
            sec_op::NON_INC => Stepping::Never,
            sec_op::ONE_INC => Stepping::Once,
            sec_op::IMMEDIATE => {
                return Word::Method(Method {
                    subchannel: header.subchannel(),
                    address: header.method() << 2,
                    data: u32::from(header.count()),
                })
            }
            sec_op::END_SEGMENT => return Word::EndSegment,
            // Of the old formats only the empty word is taken: padding.
            sec_op::USE_TERT if word == 0 => return Word::Nothing,
            _ => return Word::Bad,
        };
        self.left = header.count();
        self.subchannel = header.subchannel();
        self.method = header.method();
        self.stepping = stepping;
        Word::Nothing
    }

    fn datum(&mut self, data: u32) -> Method {
        let method = Method {
            subchannel: self.subchannel,
            address: self.method << 2,
            data,
        };
        self.left -= 1;
        match self.stepping {
            Stepping::Never => {}
            Stepping::Always => self.method = self.method.wrapping_add(1) & METHOD_MASK,
            Stepping::Once => {
                self.method = self.method.wrapping_add(1) & METHOD_MASK;
                self.stepping = Stepping::Never;
            }
        }
        method
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(op: u8, count: u16, subchannel: u8, method: u16) -> u32 {
        Header::new()
            .with_sec_op(op)
            .with_count(count)
            .with_subchannel(subchannel)
            .with_method(method >> 2)
            .into()
    }

    fn methods(words: &[u32]) -> Vec<(u16, u32)> {
        let mut decoder = Decoder::new();
        let decoded = words.iter().map(|word| decoder.feed(*word));
        decoded
            .filter_map(|word| match word {
                Word::Method(method) => Some((method.address, method.data)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_manuals_example_of_a_gp_entry() {
        let segment = gp_entry(0x0000_1410_0000_1000).unwrap();
        assert_eq!(
            segment,
            Segment {
                va: GpuVa(0x10_0000_1000),
                dwords: 5
            }
        );
    }

    #[test]
    fn a_control_entry_is_empty_or_illegal() {
        assert_eq!(gp_entry(0).map(|segment| segment.dwords), Some(0));
        assert_eq!(gp_entry(1 << 32), None);
    }

    #[test]
    fn inc_steps_noninc_stays_oneinc_steps_once() {
        assert_eq!(
            methods(&[header(1, 3, 1, 0x200), 7, 8, 9]),
            [(0x200, 7), (0x204, 8), (0x208, 9)]
        );
        assert_eq!(
            methods(&[header(3, 3, 1, 0x200), 7, 8, 9]),
            [(0x200, 7), (0x200, 8), (0x200, 9)]
        );
        assert_eq!(
            methods(&[header(5, 3, 1, 0x200), 7, 8, 9]),
            [(0x200, 7), (0x204, 8), (0x204, 9)]
        );
    }

    #[test]
    fn an_immediate_is_header_and_datum_in_one() {
        let mut decoder = Decoder::new();
        let method = Method {
            subchannel: 4,
            address: 0x300,
            data: 0x1abc,
        };
        assert_eq!(
            decoder.feed(header(4, 0x1abc, 4, 0x300)),
            Word::Method(method)
        );
    }

    #[test]
    fn the_last_method_wraps_to_the_first() {
        assert_eq!(
            methods(&[header(1, 2, 0, 0x3ffc), 1, 2]),
            [(0x3ffc, 1), (0, 2)]
        );
    }

    #[test]
    fn reserved_headers_are_bad_and_zero_is_padding() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.feed(0), Word::Nothing);
        assert_eq!(decoder.feed(header(2, 1, 0, 0)), Word::Bad);
        assert_eq!(decoder.feed(header(6, 1, 0, 0)), Word::Bad);
        assert_eq!(decoder.feed(header(0, 1, 0, 4)), Word::Bad);
        assert_eq!(decoder.feed(header(7, 0, 0, 0)), Word::EndSegment);
    }
}
