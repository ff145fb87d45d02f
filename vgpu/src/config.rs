// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be chosen about a device before it starts. All that is random in it follows from `seed`.

use std::time::Duration;

/// Smallest number of fault-buffer entries that SET_DEFAULT may give: room for one packet.
pub const MIN_FAULT_BUFFER_ENTRIES: u32 = 2;
/// Largest number of fault-buffer entries that SET_DEFAULT may give.
pub const MAX_FAULT_BUFFER_ENTRIES: u32 = 65536;

/// A device's parameters.
#[derive(Clone, Debug)]
pub struct Config {
    /// Seed of every random choice of the device.
    pub seed: u64,
    /// Entries that FAULT_BUFFER_SIZE.SET_DEFAULT gives, 2 to 65536.
    pub fault_buffer_entries: u32,
    /// Streaming multiprocessors, each on a thread of its own.
    pub sms: u32,
    /// Hold back stores whose translation is done. None: they land at once.
    pub late_writes: Option<LateWrites>,
    /// Finish acked invalidates late. None: as soon as they are done.
    pub late_acks: Option<LateAcks>,
    /// How often the addresses that wait for a replay are walked again meanwhile. None: not at all.
    pub eager_walks: Option<Duration>,
    /// What happens to fault packets.
    pub packets: PacketTrouble,
    /// What happens to interrupt messages.
    pub interrupts: InterruptTrouble,
}

/// Fault packets that are late, or that no fault has made. Percentages of the packets that are due; made-up ones follow
/// such a packet, where its buffer has room.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketTrouble {
    /// VALID comes up to so much later than the rest of the packet and PUT.
    pub delayed_valid: Option<Duration>,
    /// Packets that come twice.
    pub duplicate_percent: u8,
    /// An older packet of the same channel and buffer comes again.
    pub stale_percent: u8,
    /// A packet with an impossible instance block, address, engine or fault type comes.
    pub nonsense_percent: u8,
}

/// Interrupt messages that come for nothing, or do not come.
#[derive(Clone, Copy, Debug, Default)]
pub struct InterruptTrouble {
    /// How many of 100 changes of an interrupt level or enable send a message without anything pending.
    pub spurious_percent: u8,
    /// How many of 100 messages are not sent; what is pending stays so.
    pub lost_percent: u8,
}

/// Stores wait in their unit's queue until an acked invalidate, a flush or a load of the same unit drains them.
#[derive(Clone, Copy, Debug)]
pub struct LateWrites {
    /// How many of 100 stores are held back.
    pub percent: u8,
    /// Most stores that one unit holds back; the oldest lands when another comes.
    pub depth: usize,
    /// Longest time that a store is held back when nothing drains it.
    pub window: Duration,
}

/// Acked invalidates finish up to `most` after their work is done.
#[derive(Clone, Copy, Debug)]
pub struct LateAcks {
    /// The longest delay.
    pub most: Duration,
}

impl Config {
    /// A device that is hard to please in every way that there is, yet keeps all promises of the hardware.
    pub fn hard() -> Self {
        Self {
            fault_buffer_entries: 16,
            late_writes: Some(LateWrites {
                percent: 50,
                depth: 64,
                window: Duration::from_millis(2),
            }),
            late_acks: Some(LateAcks {
                most: Duration::from_micros(200),
            }),
            eager_walks: Some(Duration::from_micros(100)),
            packets: PacketTrouble {
                delayed_valid: Some(Duration::from_micros(200)),
                duplicate_percent: 20,
                stale_percent: 10,
                nonsense_percent: 10,
            },
            interrupts: InterruptTrouble {
                spurious_percent: 20,
                lost_percent: 2,
            },
            ..Self::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            fault_buffer_entries: 4096,
            sms: 8,
            late_writes: None,
            late_acks: None,
            eager_walks: None,
            packets: PacketTrouble::default(),
            interrupts: InterruptTrouble::default(),
        }
    }
}
