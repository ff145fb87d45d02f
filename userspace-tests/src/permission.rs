// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nothing that a program submits reaches physical addresses, other address spaces or the rings: each way is tried.

use anyhow::{ensure, Context, Result};
use mirage::{
    lanes, Access, Atomic, Channel, Fill, GpuPtr, Job, Load, PushBuffer, Reason, Store, Subchannel,
    COMPUTE,
};
use nix::errno::Errno;

use crate::channels::still_works;
use crate::exec::exec_once;
use crate::fixture::{ensure_eq, Mirror, Spinner, LIMIT};
use crate::harness::{guest_tests, wait_until};
use crate::region::{Region, PAGE};
use crate::sys;

guest_tests![
    privileged_and_unknown_host_methods_stop_the_channel,
    classes_of_other_engines_cannot_be_bound,
    rings_cannot_be_written_through_the_gpu,
    the_semaphore_of_a_channel_finishes_no_others_work,
    a_host_semaphore_reaches_no_ring,
    a_host_semaphore_reaches_only_the_mirror,
    a_push_buffer_cannot_swallow_the_fence_behind_it,
    the_same_address_is_another_page_in_another_process,
    rings_of_another_file_are_not_there,
];

const HOST: Subchannel = Subchannel(0);
const SEM_ADDR_LO: u16 = 0x5c;
const RELEASE: u32 = 1;
/// Bytes of a channel's piece of the range left to the driver (driver/channel/ring.rs), and its parts.
const CHANNEL_MEM: u64 = 256 << 10;
const SEMAPHORE: u64 = 0x1000;
const GPFIFO: u64 = 0x2000;
const PUSHES: u64 = 0x10000;

/// First address of a channel's rings.
fn rings(mirror: &Mirror, channel: &Channel) -> u64 {
    mirror.svm.unmanaged().0 + u64::from(channel.handle()) * CHANNEL_MEM
}

fn release(address: u64, payload: u32) -> PushBuffer {
    let mut push = PushBuffer::new();
    push.methods(
        HOST,
        SEM_ADDR_LO,
        &[address as u32, (address >> 32) as u32, payload, 0, RELEASE],
    );
    push
}

/// Runs a push buffer on a channel of its own, which must be stopped for that reason.
fn refused(mirror: &Mirror, push: &PushBuffer) -> Result<mirage::FaultReport> {
    let channel = mirror.svm.channel()?;
    let job = channel.submit(push)?;
    mirror.stopped(&channel, &job)
}

fn privileged_and_unknown_host_methods_stop_the_channel() -> Result<()> {
    let mirror = Mirror::new()?;
    // MEM_OP_A to D, FB_FLUSH, CLEAR_FAULTED, and what is left of the host's methods.
    const MEM_OP_D_OPERATIONS: [u32; 4] = [9 << 27, 10 << 27, 11 << 27, 13 << 27];
    for data in MEM_OP_D_OPERATIONS {
        let mut push = PushBuffer::new();
        push.methods(HOST, 0x28, &[0, 0, 1, data]);
        let report = refused(&mirror, &push)?;
        ensure_eq!(
            (report.access, report.reason),
            (Access::None, Reason::Method)
        );
    }
    for method in [0x84, 0x24, 0xf0, 0xfc] {
        let mut push = PushBuffer::new();
        push.methods(HOST, method, &[0]);
        let report = refused(&mirror, &push)?;
        ensure!(
            (report.addr, report.reason) == (u64::from(method), Reason::Method),
            "{method:#x}: {report}"
        );
    }
    still_works(&mirror)
}

fn classes_of_other_engines_cannot_be_bound() -> Result<()> {
    let mirror = Mirror::new()?;
    // Graphics, compute and copy of this and other chips, inline-to-memory, host, nothing.
    for class in [
        0xc397, 0xc3c0, 0xc3b5, 0xc5b5, 0xa140, 0xc36f, 0x902d, 0, 0xffff,
    ] {
        for subchannel in [1, 4] {
            let mut push = PushBuffer::new();
            push.methods(Subchannel(subchannel), 0, &[class]);
            let report = refused(&mirror, &push)?;
            ensure!(report.reason == Reason::Method, "{class:#x}: {report}");
        }
    }
    // Without a class there are no methods either.
    let mut push = PushBuffer::new();
    push.methods(COMPUTE, 0x0300, &[1]);
    ensure_eq!(refused(&mirror, &push)?.reason, Reason::Method);
    still_works(&mirror)
}

fn rings_cannot_be_written_through_the_gpu() -> Result<()> {
    let mirror = Mirror::new()?;
    let target = mirror.svm.channel()?;
    let start = rings(&mirror, &target);
    // USERD is not mapped at all.
    for offset in [
        0,
        0x8c & !7,
        GPFIFO,
        GPFIFO + 0x800,
        0x3000,
        PUSHES,
        CHANNEL_MEM - 8,
    ] {
        let at = GpuPtr::new(start + offset);
        let page = (start + offset) & !(PAGE as u64 - 1);
        let store = mirror.refused(Store::new(at.into(), u64::MAX), lanes(1))?;
        ensure!(
            (store.addr, store.access, store.reason) == (page, Access::Write, Reason::Unmanaged),
            "store at {offset:#x}: {store}"
        );
        let atomic = mirror.refused(Atomic::add(at.into(), 1_u64), lanes(1))?;
        ensure!(
            (atomic.addr, atomic.reason) == (page, Reason::Unmanaged),
            "atomic at {offset:#x}: {atomic}"
        );
    }
    let all = Fill::new(
        GpuPtr::new(start + GPFIFO).into(),
        0_u64,
        CHANNEL_MEM - GPFIFO,
    );
    ensure_eq!(mirror.refused(all, lanes(1))?.reason, Reason::Unmanaged);
    let region = Region::anonymous(PAGE)?;
    for value in 1..200_u64 {
        target
            .launch(Store::new(region.lanes(0, 0), value), lanes(1))?
            .wait(LIMIT)?;
        ensure_eq!(region.load(0), value);
    }
    Ok(())
}

/// Work that is in flight until it is told to end.
struct Endless {
    values: Region,
    spinner: Spinner,
    channel: Channel,
    job: Job,
}

impl Endless {
    /// The first work of a new channel.
    fn start(mirror: &Mirror) -> Result<Self> {
        let values = Region::anonymous(4 * PAGE)?;
        let spinner = Spinner::over(&values)?;
        let channel = mirror.svm.channel()?;
        let job = spinner.start(&channel)?;
        spinner.wait_round(&values)?;
        Ok(Endless {
            values,
            spinner,
            channel,
            job,
        })
    }

    /// Nobody has finished it, for the program or in truth.
    fn ensure_in_flight(&self) -> Result<()> {
        self.spinner.wait_round(&self.values)?;
        ensure!(!self.job.is_done(), "the fence has signalled early");
        ensure_eq!(self.channel.state()?.finished, 0);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.ensure_in_flight()?;
        self.spinner.finish(&self.job)
    }
}

/// The same in another process: says that it runs, and ends it when it is told to.
fn endless_until_told(step: &Region) -> Result<()> {
    let endless = Endless::start(&Mirror::new()?)?;
    step.store(0, 1);
    wait_until(LIMIT, || step.load(0) == 2)?;
    endless.finish()
}

/// A program may write its semaphores: it lies to itself about its own work, and to nobody else.
fn the_semaphore_of_a_channel_finishes_no_others_work() -> Result<()> {
    let step = Region::shared(PAGE)?;
    let child = sys::fork(|| endless_until_told(&step))?;
    wait_until(LIMIT, || step.load(0) == 1).context("the child does not begin")?;
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let victims = [Endless::start(&mirror)?, Endless::start(&other)?];
    let target = Endless::start(&mirror)?;
    let at = GpuPtr::new(rings(&mirror, &target.channel) + SEMAPHORE);
    // The number of the work in flight: sequence numbers begin at 1.
    let due = target.channel.state()?.submitted as u32;
    let forge = |value: u32| -> Result<()> {
        mirror.run(
            Store::new(at.into(), (u64::MAX << 32) | u64::from(value)),
            lanes(1),
        )?;
        mirror
            .channel
            .submit(&release(at.addr(), value))?
            .wait(LIMIT)?;
        victims.iter().try_for_each(Endless::ensure_in_flight)
    };
    // All of these are of work that was before.
    for before in [1, 2, 1000, u32::MAX / 2, 1 << 31] {
        forge(due.wrapping_sub(before))?;
        target.ensure_in_flight()?;
    }
    // And these of work that is still to come.
    for after in [0, 1, 1000, u32::MAX / 2] {
        forge(due.wrapping_add(after))?;
        wait_until(LIMIT, || target.job.is_done()).context("the lie does not arrive")?;
    }
    target.spinner.stop();
    victims.iter().try_for_each(Endless::finish)?;
    step.store(0, 2);
    child.join()?;
    still_works(&mirror)?;
    still_works(&other)
}

fn a_host_semaphore_reaches_no_ring() -> Result<()> {
    let mirror = Mirror::new()?;
    let target = mirror.svm.channel()?;
    for offset in [0x80, GPFIFO, 0x3000, PUSHES] {
        let report = refused(&mirror, &release(rings(&mirror, &target) + offset, 0xdead))?;
        ensure!(
            matches!(report.reason, Reason::Unmanaged | Reason::Permission),
            "{offset:#x}: {report}"
        );
    }
    still_works(&mirror)
}

fn a_host_semaphore_reaches_only_the_mirror() -> Result<()> {
    let mirror = Mirror::new()?;
    let (start, size) = mirror.svm.unmanaged();
    for address in [0, 0x1000, 0xfee0_0000, start + size, (1 << 40) - 0x1000] {
        let report = refused(&mirror, &release(address, 1))?;
        ensure!(
            report.reason != Reason::Device && report.access != Access::Read,
            "{address:#x}: {report}"
        );
    }
    still_works(&mirror)
}

fn a_push_buffer_cannot_swallow_the_fence_behind_it() -> Result<()> {
    let mirror = Mirror::new()?;
    for count in [1_u32, 2, 7, 8, 0x1fff] {
        for op in [1_u32, 3, 5] {
            let header = (op << 29) | (count << 16) | (0x100 >> 2);
            for present in [0, count - 1] {
                let mut push = vec![header];
                push.resize(1 + present as usize, 0);
                ensure_eq!(
                    exec_once(&mirror.gpu, &mirror.channel, &push),
                    Err(Errno::EINVAL)
                );
            }
        }
    }
    still_works(&mirror)
}

fn the_same_address_is_another_page_in_another_process() -> Result<()> {
    let region = Region::anonymous(PAGE)?;
    region.store(0, 1);
    let child = sys::fork(|| {
        let mirror = Mirror::new()?;
        mirror.run(Atomic::add(region.lanes(0, 0), 41_u64), lanes(1))?;
        ensure_eq!(region.load(0), 42);
        Ok(())
    })?;
    child.join()?;
    ensure_eq!(region.load(0), 1);
    Ok(())
}

/// Rings lie at the same addresses in each address space, but an address space has only its own.
fn rings_of_another_file_are_not_there() -> Result<()> {
    let (mirror, other) = (Mirror::new()?, Mirror::new()?);
    let channels = (0..4)
        .map(|_| other.svm.channel())
        .collect::<mirage::Result<Vec<_>>>()?;
    for channel in &channels {
        for offset in [SEMAPHORE, GPFIFO, PUSHES] {
            // Where they would be here, and where they are there.
            for start in [rings(&mirror, channel), rings(&other, channel)] {
                let at = GpuPtr::new(start + offset);
                let report = mirror.refused(Load::<u64>::new(at.into()), lanes(1))?;
                ensure!(report.reason != Reason::Device, "{offset:#x}: {report}");
            }
        }
    }
    still_works(&other)
}
