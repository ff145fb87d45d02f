// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread of a channel: fetches GP entries and push buffers, and hands methods on.

use std::sync::Arc;

use crate::bus::{BusError, GpuVa, Width};
use crate::engine::reduction::Reduction;
use crate::engine::{Context, GraphError, GraphIntr, Refusal, Run};
use crate::mmu::{Access, Client, ClientKind, Fault, MemOp, Translation, Unit};

use super::channel::{Channel, Task};
use super::errors::PbdmaError;
use super::host::{self, Semaphore};
use super::push::{self, Decoder, Method, Segment, Word};
use super::ramfc::RamFc;
use super::regs::{userd, PbdmaIntr};
use super::state::Activation;

/// NV_PFAULT_CLIENT_HUB_HOST (dev_fault).
const CLIENT_HOST: u8 = 6;
/// NV_PFAULT_MMU_ENG_ID_HOST0 (dev_fault).
const ENGINE_HOST0: u16 = 32;
/// Host, as fault packets name it: by the runlist that it serves.
fn client(runlist: u8) -> Client {
    Client {
        kind: ClientKind::Hub {
            client: CLIENT_HOST,
        },
        engine_id: ENGINE_HOST0 + u16::from(runlist),
    }
}

/// Push-buffer bytes fetched at a time.
const FETCH: usize = 4096;
const WORD: usize = 4;
/// Methods below this are host's own, on every subchannel.
const FIRST_ENGINE_METHOD: u16 = 0x100;
/// Subchannels of a channel.
const SUBCHANNELS: usize = 8;

/// Why the service of a channel ends before its work does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// The run was killed.
    Ended,
    /// An error for PPBDMA.
    Pbdma(PbdmaIntr, Option<Method>),
    /// An error for PGRAPH.
    Graph(GraphIntr, Method),
}

/// Serves a channel until the device goes away.
pub(super) fn serve(channel: &Channel) {
    let mut unit = channel.host.mmu.register_unit(client(0), channel.id.into());
    let mut state: Option<State> = None;
    loop {
        match channel.next() {
            Task::Quit => return,
            Task::End(run) => {
                channel.host.wait_idle(&run);
                unit.flush();
                channel.ended(&run);
            }
            Task::Serve(activation) => {
                let fresh = state
                    .take()
                    .filter(|state| Arc::ptr_eq(&state.run, &activation.run));
                let state = state.insert(fresh.unwrap_or_else(|| State::new(activation)));
                let mut pbdma = Pbdma {
                    channel,
                    unit: &mut unit,
                    state,
                };
                if let Err(stop) = pbdma.serve() {
                    pbdma.stop(stop);
                }
                channel.leave();
            }
        }
    }
}

/// A class on a subchannel, and the runlist whose engine has it.
struct Object {
    runlist: u8,
    context: Box<dyn Context>,
}

/// What a run carries from one doorbell to the next.
struct State {
    run: Arc<Run>,
    ramfc: RamFc,
    decoder: Decoder,
    objects: [Option<Object>; SUBCHANNELS],
    semaphore: Semaphore,
    mem_op: MemOp,
}

impl State {
    fn new(activation: Activation) -> Self {
        Self {
            run: activation.run,
            ramfc: activation.ramfc,
            decoder: Decoder::new(),
            objects: Default::default(),
            semaphore: Semaphore::default(),
            mem_op: MemOp::default(),
        }
    }
}

/// A channel being served.
pub(super) struct Pbdma<'a> {
    pub(super) channel: &'a Channel,
    pub(super) unit: &'a mut Unit,
    state: &'a mut State,
}

impl Pbdma<'_> {
    fn serve(&mut self) -> Result<(), Stop> {
        self.channel.enter(&self.state.run)?;
        self.entries()
    }

    /// Executes entries until GP_GET has reached GP_PUT.
    fn entries(&mut self) -> Result<(), Stop> {
        loop {
            let put = self.gp_put()?;
            if self.channel.gp_get() == put {
                return Ok(());
            }
            while self.channel.gp_get() != put {
                self.entry()?;
            }
        }
    }

    /// Reads GP_PUT; without memory behind it, it reads as ones, which are out of range.
    fn gp_put(&self) -> Result<u32, Stop> {
        let at = self.state.ramfc.userd.offset(userd::GP_PUT);
        match self.channel.host.bus.read_u32(at) {
            Ok(put) if put < self.state.ramfc.entries => Ok(put),
            _ => Err(Stop::Pbdma(PbdmaIntr::GpPtr, None)),
        }
    }

    fn entry(&mut self) -> Result<(), Stop> {
        let get = self.channel.gp_get() & (self.state.ramfc.entries - 1);
        let mut raw = [0; 8];
        self.read(self.state.ramfc.entry(get), &mut raw)?;
        let next = self.state.ramfc.after(get);
        self.channel.set_gp_get(&self.state.run, next)?;
        let at = self.state.ramfc.userd.offset(userd::GP_GET);
        self.note(self.channel.host.bus.write_u32(at, next));
        self.channel.host.counters.gp_entries.count();
        let segment = push::gp_entry(u64::from_le_bytes(raw));
        let segment = segment.ok_or(Stop::Pbdma(PbdmaIntr::GpEntry, None))?;
        self.segment(segment)?;
        let end = GpuVa(segment.va.0 + u64::from(segment.dwords) * WORD as u64);
        self.note(self.state.ramfc.set_get(&*self.channel.host.bus, end));
        Ok(())
    }

    fn segment(&mut self, segment: Segment) -> Result<(), Stop> {
        let mut buffer = [0; FETCH];
        let mut left = segment.dwords as usize * WORD;
        let mut va = segment.va;
        while left > 0 {
            let bytes = left.min(FETCH);
            let words = &mut buffer[..bytes];
            self.read(va, words)?;
            for word in words.chunks_exact(WORD) {
                let word = word.try_into().map_or(0, u32::from_le_bytes);
                match self.state.decoder.feed(word) {
                    Word::Nothing => {}
                    Word::Method(method) => self.method(method)?,
                    Word::EndSegment => return Ok(()),
                    Word::Bad => {
                        let shown = Method {
                            subchannel: 0,
                            address: 0,
                            data: word,
                        };
                        return Err(Stop::Pbdma(PbdmaIntr::PbEntry, Some(shown)));
                    }
                }
            }
            left -= bytes;
            va = GpuVa(va.0 + bytes as u64);
        }
        Ok(())
    }

    fn method(&mut self, method: Method) -> Result<(), Stop> {
        self.channel.host.counters.methods.count();
        self.check()?;
        match method.address {
            host::SET_OBJECT => self.set_object(method),
            address if address < FIRST_ENGINE_METHOD => self.host_method(method),
            _ => self.engine_method(method),
        }
    }

    fn set_object(&mut self, method: Method) -> Result<(), Stop> {
        let (class, runlist) = (host::class(method.data), self.channel.last_runlist());
        let mut engines = self.channel.host.engines.iter();
        let engine = engines.find(|engine| engine.class() == class && engine.runlist() == runlist);
        let engine = engine.ok_or(Stop::Graph(GraphIntr::IllegalClass, method))?;
        if let Some(object) = self.state.objects.get_mut(usize::from(method.subchannel)) {
            let context = engine.context(&self.state.run);
            *object = Some(Object { runlist, context });
        }
        Ok(())
    }

    fn engine_method(&mut self, method: Method) -> Result<(), Stop> {
        let runlist = self.channel.last_runlist();
        let object = self.state.objects.get_mut(usize::from(method.subchannel));
        let object = object.and_then(Option::as_mut);
        let Some(object) = object.filter(|object| object.runlist == runlist) else {
            return Err(Stop::Graph(GraphIntr::IllegalClass, method));
        };
        // Engines wait in methods, and reach memory on their own threads alone.
        self.channel.leave();
        let done = object.context.method(method);
        self.channel.enter(&self.state.run)?;
        done.map_err(|refusal| match refusal {
            Refusal::IllegalMethod => Stop::Graph(GraphIntr::IllegalMethod, method),
            Refusal::ClassError => Stop::Graph(GraphIntr::ClassError, method),
            Refusal::Ended => Stop::Ended,
        })
    }

    fn stop(&self, stop: Stop) {
        let run = &self.state.run;
        match stop {
            Stop::Ended => return,
            Stop::Pbdma(kind, method) => {
                let channel = run.channel;
                let error = PbdmaError {
                    kind,
                    channel,
                    method,
                };
                self.channel.host.errors.pbdma(error, run);
            }
            Stop::Graph(kind, method) => {
                let error = GraphError { kind, method };
                self.channel.host.graph.raise(error, run);
            }
        }
        self.channel.host.counters.channel_errors.count();
        self.channel.stop(run);
    }

    pub(super) fn run(&self) -> &Run {
        &self.state.run
    }

    pub(super) fn ramfc(&self) -> &RamFc {
        &self.state.ramfc
    }

    pub(super) fn mem_op(&mut self) -> &mut MemOp {
        &mut self.state.mem_op
    }

    /// Counts a write of state that reached no memory.
    pub(super) fn note(&self, written: Result<(), BusError>) {
        if written.is_err() {
            self.channel.host.counters.bus_errors.count();
        }
    }

    pub(super) fn semaphore(&mut self) -> &mut Semaphore {
        &mut self.state.semaphore
    }

    /// Waits for all launches of the channel.
    pub(super) fn wait_idle(&self) -> Result<(), Stop> {
        self.channel.leave();
        self.channel.host.wait_idle(&self.state.run);
        self.channel.enter(&self.state.run)
    }

    /// Comes before every method and every access: waits here while the channel is not to run.
    pub(super) fn check(&self) -> Result<(), Stop> {
        if self.state.run.is_open() {
            return Ok(());
        }
        self.unit.flush();
        self.channel.leave();
        self.channel.enter(&self.state.run)
    }

    /// Reads through the MMU. A fault is reported, and tried again when software has cleared PBDMA_FAULTED.
    pub(super) fn read(&mut self, va: GpuVa, mut out: &mut [u8]) -> Result<(), Stop> {
        let mut va = va;
        while !out.is_empty() {
            let bytes = self.access(va, Access::Read, |at, window| {
                let bytes = usize::try_from(at.bytes)
                    .unwrap_or(usize::MAX)
                    .min(out.len());
                window.load(at, out.get_mut(..bytes).unwrap_or_default());
                bytes
            })?;
            out = out.get_mut(bytes..).unwrap_or_default();
            va = GpuVa(va.0.wrapping_add(bytes as u64));
        }
        Ok(())
    }

    /// Writes what lies in one page, through the MMU.
    pub(super) fn write(&mut self, va: GpuVa, data: &[u8]) -> Result<(), Stop> {
        self.access(va, Access::Write, |at, window| window.store(at, data))?;
        self.unit.flush();
        Ok(())
    }

    /// Reduces what a semaphore holds, through the MMU.
    pub(super) fn reduce(
        &mut self,
        va: GpuVa,
        reduction: Reduction,
        (width, operand): (Width, u64),
    ) -> Result<(), Stop> {
        self.access(va, Access::Atomic, |at, window| {
            reduction.perform(window, at, width, operand);
        })
    }

    fn access<T>(
        &mut self,
        va: GpuVa,
        access: Access,
        mut perform: impl FnMut(Translation, &mut crate::mmu::Window<'_>) -> T,
    ) -> Result<T, Stop> {
        loop {
            self.check()?;
            let fault = {
                let mut window = self.unit.window();
                match window.translate(&self.state.run.space, va, access) {
                    Ok(at) => return Ok(perform(at, &mut window)),
                    Err(fault) => fault,
                }
            };
            self.faulted(fault);
        }
    }

    /// Reports a fault; the channel then waits until it may be tried again.
    fn faulted(&self, fault: Fault) {
        let run = &self.state.run;
        log::warn!("Channel {}: host faulted: {fault:x?}", run.channel);
        // Before the report: whoever reads the packet must find the bit set.
        self.channel.pbdma_faulted(run);
        let client = client(self.channel.last_runlist());
        self.channel.host.mmu.report(&run.space, client, fault);
    }
}
