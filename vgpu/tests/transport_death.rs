// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device as a process. A client that dies in the middle of something: the device ends its work, and its process ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{fcntl_setfd, FdFlags};
use rustix::process::{kill_process, Pid, Signal};
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
};
use vfio_user::Client;

const PATIENCE: Duration = Duration::from_secs(30);
const COMMAND: u64 = 0x04;
const BUS_MASTER: u16 = 1 << 2;
const DEVICE_CONTROL: u64 = 0x48;
const FUNCTION_RESET: u16 = 1 << 15;
const CHANNEL_INST: u64 = 0x80_0000;
const CHANNEL: u64 = 0x80_0004;
const RUNLIST_BASE: u64 = 0x2270;
const RUNLIST: u64 = 0x2274;
const DOORBELL: u64 = 0x81_0090;
const REPLAY_BUFFER_PUT: u64 = 0x100e44;
const BUSY: u32 = 1 << 28;

const INSTANCE: u64 = 0x2_0000;
const USERD: u64 = 0x2_1000;
const LIST: u64 = 0x2_2000;
const RING: u64 = 0x1_0000;
const PUSH: u64 = 0x1_1000;
const SEMAPHORE: u64 = 0x1_2000;
const UNMAPPED: u32 = 0x1f_0000;

/// The device as a process of its own.
struct Process {
    child: Child,
    socket: PathBuf,
}

impl Process {
    fn start() -> Self {
        Self::start_logging("error", Stdio::inherit())
    }

    fn start_logging(level: &str, log: Stdio) -> Self {
        Self::start_with(|command| command.env("RUST_LOG", level).stderr(log))
    }

    fn start_with(options: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mirage-death-{}-{number}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let (ready, announce) = rustix::pipe::pipe().unwrap();
        fcntl_setfd(&announce, FdFlags::empty()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirage-vgpu"));
        command
            .args(["--vram", "64", "--sms", "2", "--socket"])
            .arg(&socket)
            .arg("--ready-fd")
            .arg(announce.as_raw_fd().to_string());
        let child = options(&mut command).spawn().unwrap();
        drop::<OwnedFd>(announce);
        let mut line = String::new();
        BufReader::new(File::from(ready))
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self { child, socket }
    }

    fn end(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(!self.socket.exists(), "the socket was left behind");
                return status;
            }
            if start.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                panic!("the process did not end with its client");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn read(client: &mut Client, register: u64) -> u32 {
    let mut data = [0; 4];
    client
        .region_read(VFIO_PCI_BAR0_REGION_INDEX, register, &mut data)
        .unwrap();
    u32::from_le_bytes(data)
}

fn write(client: &mut Client, register: u64, value: u32) {
    client
        .region_write(VFIO_PCI_BAR0_REGION_INDEX, register, &value.to_le_bytes())
        .unwrap();
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// INC header with one method.
fn method(subchannel: u32, address: u32, data: u32) -> [u32; 2] {
    [
        (1 << 29) | (1 << 16) | (subchannel << 13) | (address >> 2),
        data,
    ]
}

/// Starts work that never ends: a store that waits for a replay, and behind it a semaphore that nobody releases.
fn start_work(client: &mut Client) {
    let region = client.region(VFIO_PCI_BAR1_REGION_INDEX).unwrap();
    let vram = region.file_offset.as_ref().unwrap().file();
    let put = |at: u64, value: u64| vram.write_all_at(&value.to_le_bytes(), at).unwrap();
    // One table of each level; the 4 KiB pages of the first 256 KiB map themselves. PDE aperture 1 and PTE aperture 0 are VRAM.
    for (entry, table) in [
        (0x1000, 0x2000),
        (0x2000, 0x3000),
        (0x3000, 0x4000),
        (0x4008, 0x5000),
    ] {
        put(entry, (table >> 4) | (1 << 1));
    }
    (0..64).for_each(|page| put(0x5000 + 8 * page, (page << 12 >> 4) | 1));
    put(INSTANCE + 0x008, USERD);
    put(INSTANCE + 0x010, 0xface);
    put(INSTANCE + 0x048, RING | (3 << 16 << 32));
    put(INSTANCE + 0x200, 0x1000 | (1 << 10) | (1 << 11) | (1 << 4));
    let words: Vec<u8> = [
        method(1, 0x0000, 0xfec0),
        method(1, 0x0204, UNMAPPED),
        method(1, 0x023c, 32),
        method(1, 0x0300, 1),
        method(0, 0x005c, SEMAPHORE as u32),
        method(0, 0x0064, 1),
        method(0, 0x006c, 0),
    ]
    .iter()
    .flatten()
    .flat_map(|word| word.to_le_bytes())
    .collect();
    vram.write_all_at(&words, PUSH).unwrap();
    put(RING, PUSH | ((words.len() as u64 / 4) << 42));
    vram.write_all_at(&1u32.to_le_bytes(), USERD + 0x8c)
        .unwrap();
    // A group of one channel, and channel 0.
    put(LIST, 1 | (1 << 32));
    write(client, RUNLIST_BASE, (LIST >> 12) as u32);
    write(client, RUNLIST, 2);
    // The replayable fault buffer.
    write(client, 0x100e38, 0x3_0000 | 1);
    write(client, 0x100e48, (1 << 31) | 64);
    write(client, CHANNEL_INST, (1 << 31) | (INSTANCE >> 12) as u32);
    write(client, CHANNEL, 1 << 10);
    write(client, DOORBELL, 0);
    until("a fault", || read(client, REPLAY_BUFFER_PUT) != 0);
    assert_ne!(read(client, CHANNEL) & BUSY, 0);
}

#[test]
fn the_process_ends_when_its_client_dies_in_the_middle_of_work() {
    let process = Process::start();
    let mut client = Client::new(&process.socket).unwrap();
    start_work(&mut client);
    drop(client);
    assert_eq!(process.end().code(), Some(0));
}

#[test]
fn the_process_ends_when_its_client_dies_in_the_middle_of_a_message() {
    for bytes in [1, 15, 16, 20] {
        let process = Process::start();
        let mut stream = UnixStream::connect(&process.socket).unwrap();
        // A region write of 4096 bytes, of which some come.
        let header: [u32; 8] = [10 << 16, 4096 + 32, 0, 0, 0, 0, 0, 4096];
        let message: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        stream.write_all(&message[..bytes]).unwrap();
        drop(stream);
        assert_eq!(process.end().code(), Some(0), "{bytes} bytes");
    }
}

#[test]
fn a_malformed_message_ends_the_process_with_an_error() {
    let process = Process::start_logging("error", Stdio::null());
    let mut stream = UnixStream::connect(&process.socket).unwrap();
    // VERSION 0.0, with capabilities that do not end.
    let mut message = Vec::new();
    for word in [1_u32 << 16, 24, 0, 0, 0] {
        message.extend(word.to_le_bytes());
    }
    message.extend(b"{{{{");
    stream.write_all(&message).unwrap();
    assert_eq!(process.end().code(), Some(1));
}

#[test]
fn a_function_level_reset_in_the_middle_of_work_ends_it_and_the_device_works_again() {
    let process = Process::start();
    let mut client = Client::new(&process.socket).unwrap();
    for by_function in [true, false] {
        start_work(&mut client);
        if by_function {
            client
                .region_write(
                    VFIO_PCI_CONFIG_REGION_INDEX,
                    DEVICE_CONTROL,
                    &FUNCTION_RESET.to_le_bytes(),
                )
                .unwrap();
        } else {
            client.reset().unwrap();
        }
        for register in [CHANNEL_INST, CHANNEL, REPLAY_BUFFER_PUT, 0x100e48] {
            assert_eq!(read(&mut client, register), 0, "{register:#x}");
        }
        let mut command = [0; 2];
        client
            .region_read(VFIO_PCI_CONFIG_REGION_INDEX, COMMAND, &mut command)
            .unwrap();
        assert_eq!(u16::from_le_bytes(command) & BUS_MASTER, 0);
    }
    start_work(&mut client);
    drop(client);
    assert_eq!(process.end().code(), Some(0));
}

#[test]
fn counters_are_written_when_they_are_asked_for_and_at_the_end() {
    let path = std::env::temp_dir().join(format!("mirage-counters-{}", std::process::id()));
    let process = Process::start_with(|command| command.arg("--counters").arg(&path));
    let counters = || {
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let counters: serde_json::Value = serde_json::from_reader(file).unwrap();
        move |name: &str| counters[name].as_u64().unwrap()
    };
    let mut client = Client::new(&process.socket).unwrap();
    start_work(&mut client);
    let asked = || {
        kill_process(Pid::from_child(&process.child), Signal::USR1).unwrap();
        until("a file", || path.exists());
        counters()
    };
    // A packet is there before it is counted.
    until("the packet is counted", || {
        asked()("replayable_packets") > 0
    });
    let count = asked();
    assert_eq!(count("launches"), 1);
    assert_eq!(count("replayable_packets"), 1);
    assert_eq!(count("channel_errors"), 0);

    client.reset().unwrap();
    start_work(&mut client);
    drop(client);
    assert_eq!(process.end().code(), Some(0));
    assert_eq!(counters()("launches"), 2);
}

#[test]
fn a_guest_cannot_fill_the_log() {
    const MOST: usize = 1000;
    let path = std::env::temp_dir().join(format!("mirage-log-{}", std::process::id()));
    let process = Process::start_logging("info", File::create(&path).unwrap().into());
    let mut client = Client::new(&process.socket).unwrap();
    for _ in 0..2 * MOST {
        // There is no runlist 15.
        write(&mut client, RUNLIST, 15 << 20);
    }
    drop(client);
    assert_eq!(process.end().code(), Some(0));
    let log = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let about = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(about("Runlist 15 was submitted"), MOST);
    assert_eq!(about("not logged"), 1);
    assert_eq!(
        about("Client is gone") + about("Connection closed"),
        1,
        "{log}"
    );
}
