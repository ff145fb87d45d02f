// SPDX-License-Identifier: GPL-2.0

//! One open file: ioctl validation, no policy.
//!
//! Each handler checks everything that user space passes, copies it once, and then makes one call. The errors are those of
//! `uapi/mirage_drm.h`.

use crate::{
    driver::{
        MirageDevice,
        MirageDrm, //
    },
    gpu::{
        Gpu,
        Param, //
    },
    gpu_pt::PAGE_SHIFT,
    kapi::{
        drm,
        hmm::Need,
        mm,
        raw,
        task::Process, //
    },
    regs::{
        Engine,
        COPY_ENGINES, //
    },
    svm::{
        Client,
        Svm, //
    },
};
use core::ops::Range;
use kernel::{
    mm::Mm,
    prelude::*,
    sync::{
        aref::ARef,
        new_mutex,
        Arc,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

mod exec;

type File = drm::File<MirageFile>;
type Outcome = drm::ioctl::Outcome<MirageDrm>;
type Registered = MirageDevice<drm::Registered>;

/// The driver's part of an open file.
#[pin_data(PinnedDrop)]
pub(crate) struct MirageFile {
    gpu: Arc<Gpu>,
    /// Filled in by SVM_INIT, once.
    #[pin]
    mirror: Mutex<Option<Mirror>>,
}

/// The address space that a file is bound to.
struct Mirror {
    /// Keeps the structure, not the memory, so that it can be compared with the caller's.
    mm: ARef<Mm>,
    svm: Arc<Svm>,
}

impl Mirror {
    /// [`EPERM`] in another address space.
    fn check_caller(&self) -> Result {
        if !mm::is_current(&self.mm) {
            return Err(EPERM);
        }
        Ok(())
    }
}

impl drm::DriverFile for MirageFile {
    type Driver = MirageDrm;

    fn open(device: &drm::Device<MirageDrm>) -> Result<Pin<KBox<Self>>> {
        let gpu: &Arc<Gpu> = device;
        let file = pin_init!(Self {
            gpu: gpu.clone(),
            mirror <- new_mutex!(None, "MirageFile::mirror"),
        });
        KBox::pin_init(file, GFP_KERNEL_ACCOUNT)
    }

    /// docs/userspace.md says what the keys mean.
    fn show_fdinfo(self: Pin<&Self>, printer: &mut drm::Printer) {
        let svm = self.mirror.lock().as_ref().map(|mirror| mirror.svm.clone());
        printer.print(fmt!("mirage-svm:\t{}\n", u32::from(svm.is_some())));
        let Some(svm) = svm else { return };
        let usage = svm.usage();
        for (region, bytes) in [("system", usage.mapped), ("vram", usage.tables)] {
            let kib = bytes >> 10;
            printer.print(fmt!("drm-total-{region}:\t{kib} KiB\n"));
            printer.print(fmt!("drm-shared-{region}:\t0\n"));
            printer.print(fmt!("drm-resident-{region}:\t{kib} KiB\n"));
        }
        for (kind, engines) in [("compute", &[Engine::Compute][..]), ("copy", &COPY_ENGINES)] {
            let ns = svm.busy().total_ns(engines);
            printer.print(fmt!("drm-engine-{kind}:\t{ns} ns\n"));
            printer.print(fmt!("drm-engine-capacity-{kind}:\t{}\n", engines.len()));
        }
        let regions = usage.regions;
        printer.print(fmt!("mirage-regions:\t{regions}\n"));
    }
}

#[pinned_drop]
impl PinnedDrop for MirageFile {
    fn drop(self: Pin<&mut Self>) {
        let mirror = self.mirror.lock().take();
        if let Some(mirror) = mirror {
            mirror.svm.close();
        }
    }
}

impl MirageFile {
    /// The caller's mirror. [`ENXIO`] before SVM_INIT, [`EPERM`] in another address space than the one that was bound.
    fn svm(&self) -> Result<Arc<Svm>> {
        let mirror = self.mirror.lock();
        let mirror = mirror.as_ref().ok_or(ENXIO)?;
        mirror.check_caller()?;
        Ok(mirror.svm.clone())
    }

    /// GETPARAM.
    pub(crate) fn getparam(
        _device: &Registered,
        args: &mut raw::drm_mirage_getparam,
        file: &File,
    ) -> Outcome {
        let param = param(args.param)?;
        let gpu = &file.inner().gpu;
        // Unbind says this before it ends work: whoever saw a fence fail for that sees no ioctl succeed any more.
        if gpu.is_lost() {
            return Err(ENODEV);
        }
        args.value = gpu.param(param);
        Ok(None)
    }

    /// SVM_INIT.
    pub(crate) fn svm_init(
        _device: &Registered,
        args: &mut raw::drm_mirage_svm_init,
        file: &File,
    ) -> Outcome {
        let this = file.inner();
        require_zero(&[args.flags, args.pad])?;
        let unmanaged = unmanaged_range(args, &this.gpu)?;
        let mut mirror = this.mirror.lock();
        if let Some(mirror) = mirror.as_ref() {
            mirror.check_caller()?;
            return Err(EBUSY);
        }
        let current = current!();
        let mm = current.mm().ok_or(EINVAL)?;
        *mirror = Some(Mirror {
            mm: ARef::from(&**mm),
            svm: Svm::new(&this.gpu, mm, unmanaged, client(file))?,
        });
        Ok(None)
    }

    /// SVM_BIND.
    pub(crate) fn svm_bind(
        _device: &Registered,
        args: &mut raw::drm_mirage_svm_bind,
        file: &File,
    ) -> Outcome {
        args.pages_done = 0;
        let need = match args.flags {
            0 => Need::Read,
            raw::drm_mirage_bind_flags_DRM_MIRAGE_BIND_WRITE => Need::Write,
            _ => return Err(EINVAL),
        };
        if args.op != raw::drm_mirage_bind_op_DRM_MIRAGE_BIND_PREFETCH {
            return Err(EINVAL);
        }
        let range = page_range(args.va, args.size)?;
        let svm = file.inner().svm()?;
        let current = current!();
        let mm = current.mm().ok_or(EINVAL)?;
        // DRM copies the argument back also when there is an error.
        svm.prefetch(mm, range, need, &mut args.pages_done)?;
        Ok(None)
    }

    /// SVM_QUERY.
    pub(crate) fn svm_query(
        _device: &Registered,
        args: &mut raw::drm_mirage_svm_query,
        file: &File,
    ) -> Outcome {
        let this = file.inner();
        require_zero(&[args.flags])?;
        if usize::try_from(args.page_size)? != size_of::<raw::drm_mirage_page>() {
            return Err(EINVAL);
        }
        let range = page_range(args.va, args.size)?;
        if args.size >> PAGE_SHIFT > this.gpu.param(Param::QueryPagesMax) {
            return Err(EINVAL);
        }
        let svm = this.svm()?;
        let current = current!();
        let mm = current.mm().ok_or(EINVAL)?;
        let len = usize::try_from(args.size >> PAGE_SHIFT)? * size_of::<raw::drm_mirage_page>();
        let user = UserPtr::from_addr(usize::try_from(args.pages_ptr)?);
        let mut writer = UserSlice::new(user, len).writer();
        svm.query(mm, range, |words| writer.write_slice(words.as_bytes()))?;
        Ok(None)
    }
}

/// First address past what SVM_INIT accepts: the rings must be where the GPU's front end can reach them.
const UNMANAGED_END: u64 = 1 << 40;

/// Fails unless all `fields`, reserved or without a flag that is known, are zero.
fn require_zero(fields: &[u32]) -> Result {
    if fields.iter().any(|&field| field != 0) {
        return Err(EINVAL);
    }
    Ok(())
}

fn param(number: u64) -> Result<Param> {
    Ok(match u32::try_from(number)? {
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_CHIPSET => Param::Chipset,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_VRAM_SIZE => Param::VramSize,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_COMPUTE_CLASS => Param::ComputeClass,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_CHANNELS_MAX => Param::ChannelsMax,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_UNMANAGED_ALIGN => Param::UnmanagedAlign,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_UNMANAGED_MIN => Param::UnmanagedMin,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_PUSH_MAX => Param::PushMax,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_FEATURES => Param::Features,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_COPY_CLASS => Param::CopyClass,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_COPY_ENGINES => Param::CopyEngines,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_PUSHES_MAX => Param::PushesMax,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_SYNCS_MAX => Param::SyncsMax,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_CHANNELS_PER_FILE => Param::ChannelsPerFile,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_TIMEOUT_DEFAULT => Param::TimeoutDefault,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_TIMEOUT_MAX => Param::TimeoutMax,
        raw::drm_mirage_param_DRM_MIRAGE_PARAM_QUERY_PAGES_MAX => Param::QueryPagesMax,
        _ => return Err(EINVAL),
    })
}

/// First address past what a process can map.
const USER_END: u64 = 1 << 47;

/// A range of whole pages that a process could map.
fn page_range(start: u64, size: u64) -> Result<Range<u64>> {
    let end = start.checked_add(size).ok_or(EINVAL)?;
    let aligned = (start | size) % (1 << PAGE_SHIFT) == 0;
    if size == 0 || !aligned || end > USER_END {
        return Err(EINVAL);
    }
    Ok(start..end)
}

/// The file, as its address space knows it.
fn client(file: &File) -> Client {
    Client {
        id: file.client_id(),
        process: Process::current(),
        events: file.events().clone(),
    }
}

/// The range that SVM_INIT leaves to the driver, checked.
fn unmanaged_range(args: &raw::drm_mirage_svm_init, gpu: &Gpu) -> Result<Range<u64>> {
    let align = gpu.param(Param::UnmanagedAlign);
    let start = args.unmanaged_addr;
    let end = start.checked_add(args.unmanaged_size).ok_or(EINVAL)?;

    let aligned = start % align == 0 && end % align == 0;
    let in_reach = start != 0 && end <= UNMANAGED_END;
    if !aligned || !in_reach || args.unmanaged_size < gpu.param(Param::UnmanagedMin) {
        return Err(EINVAL);
    }
    Ok(start..end)
}
