// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls that need unsafe: fork, ioctls that break the rules, pages kept in a pipe.
#![allow(unsafe_code)]

mod uffd;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use mirage::{Gpu, Svm};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork as nix_fork, ForkResult, Pid};

use crate::harness::wait_until;
use crate::region::Region;

pub(crate) use uffd::{Userfault, Watch};

/// Mirrors this process.
pub(crate) fn mirror(gpu: &Gpu) -> mirage::Result<Svm> {
    // SAFETY: tests give the GPU addresses of `Region`s, which are words without references, results in arrays that nothing
    // touches until the wait, and addresses where nothing is mapped.
    unsafe { gpu.svm() }
}

/// A forked child. Killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Option<Pid>,
}

/// Runs `child` in a forked process, which exits with status 0 if it returns Ok.
pub(crate) fn fork(child: impl FnOnce() -> Result<()>) -> Result<Child> {
    // SAFETY: glibc keeps its own locks usable in the child; tests fork while no other thread holds one of theirs.
    match unsafe { nix_fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(Child { pid: Some(child) }),
        ForkResult::Child => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            let code = match outcome {
                Ok(Ok(())) => 0,
                Ok(Err(error)) => {
                    eprintln!("in the child: {error:#}");
                    1
                }
                Err(_) => 101,
            };
            // SAFETY: ends the process without running the parent's destructors a second time.
            unsafe { libc::_exit(code) }
        }
    }
}

impl Child {
    /// Its number.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Waits for a child that should succeed.
    pub(crate) fn join(mut self) -> Result<()> {
        let pid = self.pid.take().context("already reaped")?;
        let status = waitpid(pid, None).context("waitpid")?;
        ensure!(
            status == WaitStatus::Exited(pid, 0),
            "child ended with {status:?}"
        );
        Ok(())
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        let pid = self.pid.take().context("already reaped")?;
        kill(pid, Signal::SIGKILL).context("kill")?;
        let status = waitpid(pid, None).context("waitpid")?;
        ensure!(
            status == WaitStatus::Signaled(pid, Signal::SIGKILL, false),
            "killed child ended with {status:?}"
        );
        Ok(())
    }

    /// Waits for a child that something else should have killed.
    pub(crate) fn killed_by(mut self) -> Result<Signal> {
        let pid = self.pid.take().context("already reaped")?;
        match waitpid(pid, None).context("waitpid")? {
            WaitStatus::Signaled(_, signal, _) => Ok(signal),
            status => anyhow::bail!("child ended with {status:?} instead of a signal"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.take() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = wait_until(Duration::from_secs(5), || {
                waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
                    != Ok(WaitStatus::StillAlive)
            });
        }
    }
}

/// An ioctl with any request code and any argument.
pub(crate) fn ioctl(fd: BorrowedFd<'_>, request: u64, argument: &mut [u8]) -> nix::Result<()> {
    // _IOC_SIZE(request)
    let size = ((request >> 16) & 0x3fff) as usize;
    assert!(argument.len() >= size, "the kernel would use {size} bytes");
    // SAFETY: the kernel touches no more than the size in the request code, which `argument` has. Pointers inside are only
    // read by the driver, and SVM_INIT is given ranges that the caller reserved or that must be refused.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_mut_ptr()) }).map(drop)
}

/// Status of a sync file: 1 signalled, 0 active, negative errno when its fence signalled with an error.
pub(crate) fn sync_file_status(file: BorrowedFd<'_>) -> nix::Result<i32> {
    // struct sync_file_info: 32 bytes of name, status, flags, number of fences, padding, and a pointer that is not followed if the
    // number is 0.
    let mut info = [0_u32; 14];
    let request = nix::request_code_readwrite!(b'>', 4, size_of_val(&info));
    ioctl(file, request, bytemuck::cast_slice_mut(&mut info))?;
    Ok(info[8] as i32)
}

/// Takes charge of a descriptor that the kernel has just made.
pub(crate) fn own_fd(fd: i32) -> Result<OwnedFd> {
    ensure!(fd >= 0, "no descriptor: {fd}");
    // SAFETY: the kernel made it for the caller, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has SIGALRM interrupt system calls, and do nothing else.
fn interrupt_on_alarm() -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(nothing),
        nix::sys::signal::SaFlags::empty(),
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it is async-signal-safe.
    unsafe { nix::sys::signal::sigaction(Signal::SIGALRM, &action) }.context("sigaction")?;
    Ok(())
}

/// While it exists, the thread that made it gets SIGALRMs.
pub(crate) struct Alarms(Arc<Mutex<bool>>);

impl Alarms {
    /// One each `interval`.
    pub(crate) fn every(interval: Duration) -> Result<Self> {
        interrupt_on_alarm()?;
        let thread = nix::sys::pthread::pthread_self();
        let alarms = Alarms(Arc::new(Mutex::new(true)));
        let wanted = Arc::clone(&alarms.0);
        std::thread::spawn(move || loop {
            std::thread::sleep(interval);
            match wanted.lock() {
                Ok(wanted) if *wanted => {
                    let _ = nix::sys::pthread::pthread_kill(thread, Signal::SIGALRM);
                }
                _ => return,
            }
        });
        Ok(alarms)
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        if let Ok(mut wanted) = self.0.lock() {
            *wanted = false;
        }
    }
}

/// A file of secret memory, where the kernel has that.
pub(crate) fn memfd_secret() -> Option<File> {
    // SAFETY: makes a file descriptor and touches no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) });
    // SAFETY: the descriptor is new and belongs to nobody else.
    fd.ok().map(|fd| unsafe { File::from_raw_fd(fd as i32) })
}

/// An ioctl whose argument lies where the kernel must not be able to use it.
pub(crate) fn ioctl_at(fd: BorrowedFd<'_>, request: u64, addr: u64) -> nix::Result<()> {
    // SAFETY: the callers' addresses are null, not mapped, or the kernel's: it returns EFAULT.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, addr) }).map(drop)
}

/// A page below 4 GiB, and the system calls of a 32-bit program on it.
#[derive(Debug)]
pub(crate) struct Low(std::ptr::NonNull<libc::c_void>);

impl Low {
    const SIZE: usize = 4096;

    pub(crate) fn new() -> Result<Self> {
        use nix::sys::mman::{mmap_anonymous, MapFlags, ProtFlags};
        let size = std::num::NonZeroUsize::new(Self::SIZE).context("size")?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT;
        // SAFETY: without MAP_FIXED the kernel picks a place that is free.
        let page = unsafe { mmap_anonymous(None, size, prot, flags) };
        Ok(Low(page.context("mmap")?))
    }

    pub(crate) fn addr(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// The 64-bit word at `offset`.
    pub(crate) fn word(&self, offset: usize) -> u64 {
        assert!(offset % 8 == 0 && offset + 8 <= Self::SIZE);
        // SAFETY: inside the mapping, by the check.
        let word = unsafe { self.0.byte_add(offset) }.cast::<u64>();
        // SAFETY: mapped and aligned, by the check; the kernel is done with it.
        unsafe { word.read_volatile() }
    }

    /// Writes 32-bit words at `offset`, behind what [`Low::call`] uses.
    pub(crate) fn put(&self, offset: usize, words: &[u32]) {
        let end = offset + size_of_val(words);
        assert!(offset % 4 == 0 && offset >= 128 && end <= Self::SIZE);
        for (i, word) in words.iter().enumerate() {
            // SAFETY: inside the mapping, by the check.
            let at = unsafe { self.0.byte_add(offset + 4 * i) }.cast::<u32>();
            // SAFETY: mapped and aligned, by the check; no call is under way.
            unsafe { at.write_volatile(*word) };
        }
    }

    /// Reserves `size` bytes below 4 GiB, at a multiple of their number; never given back.
    pub(crate) fn reserve(&self, size: u64) -> Result<u64> {
        use nix::sys::mman::{mmap_anonymous, MapFlags, ProtFlags};
        let len = std::num::NonZeroUsize::new(2 * size as usize).context("size")?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT | MapFlags::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED the kernel picks a place that is free.
        let addr = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_NONE, flags) };
        Ok((addr.context("mmap")?.as_ptr().expose_provenance() as u64).next_multiple_of(size))
    }

    /// An ioctl by the way that 32-bit programs take.
    pub(crate) fn call<T: bytemuck::Pod>(
        &self,
        fd: BorrowedFd<'_>,
        id: mirage::uapi::IoctlId,
        argument: T,
    ) -> Result<T> {
        const SYS_IOCTL_32: u64 = 54;
        let request = crate::ioctls::request(id.nr(), size_of::<T>());
        assert!(size_of::<T>() <= 128);
        // SAFETY: the argument fits into the mapping, which nothing else uses.
        unsafe { self.0.cast::<T>().write_volatile(argument) };
        let mut result = SYS_IOCTL_32;
        // SAFETY: an ioctl whose argument is in the mapping, as in `ioctl` above; rbx is restored.
        unsafe {
            std::arch::asm!(
                "xchg {fd:r}, rbx",
                "int 0x80",
                "xchg {fd:r}, rbx",
                fd = inout(reg) fd.as_raw_fd() as u64 => _,
                inout("rax") result,
                in("rcx") request,
                in("rdx") self.addr(),
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        // The register holds the 32 bits of an `int`.
        let result = result as i32;
        if result < 0 {
            return Err(Errno::from_raw(-result)).with_context(|| format!("{id:?}"));
        }
        // SAFETY: the kernel wrote plain integers there, or left what was written above.
        Ok(unsafe { self.0.cast::<T>().read_volatile() })
    }
}

/// Pins a region as a buffer of an io_uring, until the ring is closed; nothing where the kernel has none.
pub(crate) fn pin(region: &Region) -> Option<OwnedFd> {
    const REGISTER_BUFFERS: libc::c_long = 0;
    /// Bytes of struct io_uring_params.
    const PARAMS: usize = 120;
    let mut params = [0_u64; PARAMS / 8];
    // SAFETY: the kernel writes struct io_uring_params, which the array has room for.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let fd = Errno::result(fd).ok()?;
    // SAFETY: the descriptor is new and belongs to nobody else.
    let ring = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let buffer = libc::iovec {
        iov_base: region.start().as_ptr(),
        iov_len: region.len(),
    };
    // SAFETY: pins the pages of the region, which no request will name.
    let pinned = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_BUFFERS,
            &raw const buffer,
            1,
        )
    };
    Errno::result(pinned).ok().map(|_| ring)
}
