// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror of this process on a GPU.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;

use crate::channel::{Channel, ChannelBuilder, Engine};
use crate::error::{Error, Result};
use crate::events::FaultEvents;
use crate::gpu::Gpu;
use crate::hole;
use crate::node::Node;
use crate::query::Page;
use crate::range::{PageRange, PAGE_SIZE};
use crate::sys;
use crate::uapi::{self, Param, SvmBind};

/// Room for the rings and push buffers of all channels.
const HOLE_SIZE: u64 = 64 << 20;

/// The mirror of this process: every pointer is valid on the GPU while it lives.
///
/// Cheap to share between threads; the file is closed when the last channel, job and syncobj are gone too.
#[derive(Clone, Debug)]
pub struct Svm {
    node: Arc<Node>,
}

/// What the GPU is going to do with prefetched pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Only read: pages stay shared with whoever shares them, and untouched ones stay the zero page.
    Read,
    /// Write as well: copy-on-write is broken now, and not by a fault later.
    Write,
}

impl Svm {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self> {
        let align = gpu.param(Param::UnmanagedAlign)?.max(1);
        let size = gpu.param(Param::UnmanagedMin)?.max(HOLE_SIZE);
        gpu.node()
            .mirror(hole::reserve(size.next_multiple_of(align), align)?)?;
        Ok(Svm {
            node: Arc::clone(gpu.node()),
        })
    }

    /// Makes a channel for the compute engine: a queue of work that runs in order, side by side with other channels.
    ///
    /// Errors: [`Error::Ioctl`] with ENOSPC when the device or this file has no channel left.
    pub fn channel(&self) -> Result<Channel> {
        self.channel_builder().build()
    }

    /// Makes a channel for a copy engine.
    ///
    /// Errors: as for [`Svm::channel`].
    pub fn copy_channel(&self) -> Result<Channel> {
        self.channel_builder().engine(Engine::Copy).build()
    }

    /// Makes a channel with a say in everything.
    pub fn channel_builder(&self) -> ChannelBuilder {
        ChannelBuilder::new(&self.node)
    }

    /// Faults pages in and maps them on the GPU, as its accesses would, and returns how many: all of them. The GPU can have them without
    /// a fault then, as long as the CPU's side does not change; they may be taken from it again at any time.
    ///
    /// ```no_run
    /// # fn main() -> mirage::Result<()> {
    /// # let svm: mirage::Svm = todo!();
    /// use mirage::{Intent, PageRange};
    ///
    /// let numbers = vec![0_u32; 1 << 20];
    /// svm.prefetch(PageRange::of(&numbers), Intent::Write)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Errors: [`Error::Prefetch`], which says at which page and why it stopped; what came before it is done.
    pub fn prefetch(&self, range: PageRange, intent: Intent) -> Result<u64> {
        let mut done = 0;
        while done < range.pages() {
            let rest = range.skip(done);
            let mut args = SvmBind {
                va: rest.start(),
                size: rest.bytes(),
                op: uapi::BIND_PREFETCH,
                flags: match intent {
                    Intent::Read => 0,
                    Intent::Write => uapi::BIND_WRITE,
                },
                pages_done: 0,
            };
            let outcome = sys::svm_bind(self.node.as_fd(), &mut args);
            done += args.pages_done.min(rest.pages());
            match outcome {
                // A signal came, or not everything was done in one go.
                Err(Errno::EINTR) => {}
                Ok(()) if args.pages_done > 0 => {}
                outcome => {
                    return Err(Error::Prefetch {
                        done,
                        addr: range.skip(done).start(),
                        errno: outcome.err().unwrap_or(Errno::EIO),
                    })
                }
            }
        }
        Ok(done)
    }

    /// What GPU and CPU map, page by page, without faulting anything in.
    ///
    /// ```no_run
    /// # fn main() -> mirage::Result<()> {
    /// # let svm: mirage::Svm = todo!();
    /// use mirage::PageRange;
    ///
    /// let numbers = vec![0_u32; 1 << 20];
    /// let pages = svm.query(PageRange::of(&numbers))?;
    /// let shared = pages.iter().filter(|page| page.gpu.is_some()).count();
    /// println!("{shared} of {} pages are mapped by the GPU", pages.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Errors: [`Error::Ioctl`] with EINVAL for addresses that no process has.
    pub fn query(&self, range: PageRange) -> Result<Vec<Page>> {
        let most = self.node.param(Param::QueryPagesMax)?.max(1);
        let (mut pages, mut rest) = (Vec::new(), range);
        while rest.pages() > 0 {
            let count = rest.pages().min(most);
            let mut raw = vec![uapi::Page::default(); count as usize];
            match sys::svm_query(self.node.as_fd(), rest.start(), &mut raw) {
                Err(Errno::EINTR) => continue,
                outcome => outcome.map_err(Error::ioctl("SVM_QUERY"))?,
            }
            let addresses = (rest.start()..).step_by(PAGE_SIZE as usize);
            pages.extend(addresses.zip(raw).map(|(addr, raw)| Page::new(addr, raw)));
            rest = rest.skip(count);
        }
        Ok(pages)
    }

    /// Why channels were stopped, as a stream: to take, to wait for, to poll, to iterate over.
    pub fn fault_events(&self) -> FaultEvents {
        FaultEvents::new(&self.node)
    }

    /// The range that was left to the driver: first address and size. Launches cannot use it.
    pub fn unmanaged(&self) -> (u64, u64) {
        self.node.unmanaged()
    }
}
