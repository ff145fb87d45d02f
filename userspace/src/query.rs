// SPDX-License-Identifier: MIT OR Apache-2.0
//! What [`Svm::query`](crate::Svm::query) finds: how GPU and CPU map a page.

use crate::range::PAGE_SIZE;
use crate::uapi;

/// One page of 4 KiB, seen from both sides. Each view was true at some moment during the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Address of the page.
    pub addr: u64,
    /// How the GPU maps it; `None`: it would fault.
    pub gpu: Option<GpuPage>,
    /// How the CPU maps it; `None`: it would fault.
    pub cpu: Option<CpuPage>,
}

/// How the GPU maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GpuPage {
    /// Size of the mapping that the page is a part of.
    pub order: Order,
    /// Writes are allowed.
    pub writable: bool,
    /// Atomics are allowed.
    pub atomic: bool,
    /// The memory that it is in.
    pub place: Place,
}

/// How the CPU maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuPage {
    /// Size of the mapping that the page is a part of.
    pub order: Order,
    /// It can be written without a fault.
    pub writable: bool,
    /// It is the zero page, or part of the huge zero page.
    pub zero: bool,
    /// The memory that it is in: [`Place::Vram`] is device-private memory, which the CPU faults on.
    pub place: Place,
}

/// Memory that pages are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// System memory.
    System,
    /// Memory of the device.
    Vram,
}

/// Size of a mapping: `4096 << order` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(pub u8);

impl Order {
    /// 4 KiB.
    pub const PAGE: Self = Order(0);
    /// 64 KiB: the GPU's larger pages.
    pub const BIG: Self = Order(4);
    /// 2 MiB: a huge page.
    pub const HUGE: Self = Order(9);

    /// Its size in bytes.
    pub fn bytes(self) -> u64 {
        PAGE_SIZE.checked_shl(self.0.into()).unwrap_or(u64::MAX)
    }

    fn from_bits(bits: u32, shift: u32) -> Self {
        Order((bits >> shift) as u8)
    }
}

impl Place {
    fn device_if(device: bool) -> Self {
        if device {
            Place::Vram
        } else {
            Place::System
        }
    }
}

impl Page {
    pub(crate) fn new(addr: u64, raw: uapi::Page) -> Self {
        let has = |bits: u32, bit| bits & bit != 0;
        let uapi::Page { gpu, cpu } = raw;
        Page {
            addr,
            gpu: has(gpu, uapi::GPU_VALID).then(|| GpuPage {
                order: Order::from_bits(gpu, uapi::GPU_ORDER_SHIFT),
                writable: has(gpu, uapi::GPU_WRITE),
                atomic: has(gpu, uapi::GPU_ATOMIC),
                place: Place::device_if(has(gpu, uapi::GPU_VRAM)),
            }),
            cpu: (cpu != 0).then(|| CpuPage {
                order: Order::from_bits(cpu, uapi::CPU_ORDER_SHIFT),
                writable: has(cpu, uapi::CPU_WRITE),
                zero: has(cpu, uapi::CPU_ZERO),
                place: Place::device_if(has(cpu, uapi::CPU_DEVICE)),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_mapped_is_no_view() {
        let page = Page::new(0x1000, uapi::Page::default());
        assert_eq!((page.addr, page.gpu, page.cpu), (0x1000, None, None));
    }

    #[test]
    fn the_views_say_size_rights_and_place() {
        let page = Page::new(
            0,
            uapi::Page {
                gpu: 0x0907,
                cpu: 0x0901,
            },
        );
        let (gpu, cpu) = (
            page.gpu.expect("the valid bit is set"),
            page.cpu.expect("the read bit is set"),
        );
        assert_eq!(
            (gpu.order, gpu.writable, gpu.atomic, gpu.place),
            (Order::HUGE, true, true, Place::System)
        );
        assert_eq!(
            (cpu.order.bytes(), cpu.writable, cpu.zero, cpu.place),
            (2 << 20, false, false, Place::System)
        );
    }

    #[test]
    fn device_memory_and_the_zero_page_are_told_apart() {
        let page = Page::new(0, uapi::Page { gpu: 9, cpu: 8 });
        assert_eq!(page.gpu.map(|gpu| gpu.place), Some(Place::Vram));
        assert_eq!(page.cpu.map(|cpu| cpu.place), Some(Place::Vram));
        let page = Page::new(0, uapi::Page { gpu: 1, cpu: 5 });
        assert_eq!(page.cpu.map(|cpu| cpu.zero), Some(true));
    }

    #[test]
    fn an_order_that_no_address_space_has_is_not_a_panic() {
        assert_eq!(Order(255).bytes(), u64::MAX);
    }
}
