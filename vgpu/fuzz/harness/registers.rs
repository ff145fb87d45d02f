// SPDX-License-Identifier: MIT OR Apache-2.0
//! Register and configuration accesses of any kind, in any order, with RAM that comes and goes.

use mirage_vgpu::pci::{ConfigSpace, Effect};

use super::guest::{config, Guest, VRAM};
use super::input::Input;

/// First registers of the blocks that the device models.
const BLOCKS: [u32; 24] = [
    0x000000, 0x000100, 0x409b00, 0x000160, 0x000180, 0x000200, 0x001700, 0x002100, 0x00254c,
    0x002270, 0x002630, 0x040080, 0x040108, 0x100a20, 0x100c80, 0x100cb0, 0x100e24, 0x100e64,
    0x104400, 0x400100, 0x400700, 0x700000, 0x800000, 0x810080,
];
/// Accesses of one input.
const MOST: u32 = 400;

/// A register near one that exists, or any offset.
fn offset(input: &mut Input<'_>) -> u64 {
    match input.u8() % 16 {
        0 => input.u64(),
        1 => u64::from(input.u32() & 0xff_fffc),
        _ => u64::from(input.pick(&BLOCKS)) + u64::from(input.u8() & 0x1f) * 4,
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let guest = Guest::new();
    let gpu = guest.gpu(&config(input.last_u8()));
    let mut space = ConfigSpace::new(VRAM);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        match input.u8() % 16 {
            0 => {
                let mut bytes = [0; 8];
                let length = usize::from(input.u8() % 9);
                gpu.read_register(offset(&mut input), &mut bytes[..length]);
            }
            1 => {
                let bytes = input.u64().to_le_bytes();
                let length = usize::from(input.u8() % 9);
                gpu.write_register(offset(&mut input), &bytes[..length]);
            }
            2 => {
                let value = input.u64().to_le_bytes();
                let effect = space.write(u64::from(input.u16()), &value[..4]);
                match effect {
                    Effect::Reset => gpu.reset(),
                    Effect::BusMaster(enabled) => guest.memory.set_bus_master(enabled),
                    Effect::None => {}
                }
                let mut bytes = [0; 8];
                space.read(input.u64(), &mut bytes);
            }
            3 => guest.unplug(),
            4 => guest.plug(),
            5..8 => {
                let mut bytes = [0; 4];
                gpu.read_register(offset(&mut input), &mut bytes);
            }
            _ => {
                let value = input.u32().to_le_bytes();
                gpu.write_register(offset(&mut input), &value);
            }
        }
    }
    let _ = gpu.report();
    drop(gpu);
    guest.check();
}
