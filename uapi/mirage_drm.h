/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
#ifndef _UAPI_MIRAGE_DRM_H_
#define _UAPI_MIRAGE_DRM_H_

#include "drm.h"

#if defined(__cplusplus)
extern "C" {
#endif

/**
 * DOC: Life of a client
 *
 * A client opens the render node, asks GETPARAM for what it needs to know, reserves a piece of its own address space
 * (for example with mmap(PROT_NONE)) and hands it to SVM_INIT. From then on every pointer of the process is valid
 * on the GPU, except in the reserved piece, which the driver uses for its rings. CHANNEL_ALLOC makes a channel, EXEC
 * submits push buffers to it and returns a DRM syncobj to wait on. A bad access of the GPU stops its channel; FAULT_REPORT
 * tells why.
 *
 * Every ioctl returns -EINVAL for unknown flags or parameters and for padding that is not zero, and -ENODEV when the device is gone.
 */

/** enum drm_mirage_ioctl_id - ioctl numbers, relative to DRM_COMMAND_BASE */
enum drm_mirage_ioctl_id {
	/** @DRM_MIRAGE_GETPARAM: query a parameter of the device */
	DRM_MIRAGE_GETPARAM = 0,
	/** @DRM_MIRAGE_SVM_INIT: mirror the address space of the caller */
	DRM_MIRAGE_SVM_INIT,
	/** @DRM_MIRAGE_CHANNEL_ALLOC: make a channel */
	DRM_MIRAGE_CHANNEL_ALLOC,
	/** @DRM_MIRAGE_CHANNEL_FREE: stop and free a channel */
	DRM_MIRAGE_CHANNEL_FREE,
	/** @DRM_MIRAGE_EXEC: run a push buffer on a channel */
	DRM_MIRAGE_EXEC,
	/** @DRM_MIRAGE_FAULT_REPORT: take the oldest fault report of this file */
	DRM_MIRAGE_FAULT_REPORT,
};

/** enum drm_mirage_param - parameters of GETPARAM */
enum drm_mirage_param {
	/** @DRM_MIRAGE_PARAM_CHIPSET: NV_PMC_BOOT_0 of the device */
	DRM_MIRAGE_PARAM_CHIPSET = 0,
	/** @DRM_MIRAGE_PARAM_VRAM_SIZE: bytes of device memory */
	DRM_MIRAGE_PARAM_VRAM_SIZE,
	/** @DRM_MIRAGE_PARAM_COMPUTE_CLASS: class to bind to subchannel 1 */
	DRM_MIRAGE_PARAM_COMPUTE_CLASS,
	/** @DRM_MIRAGE_PARAM_CHANNELS_MAX: channels of the device, over all files */
	DRM_MIRAGE_PARAM_CHANNELS_MAX,
	/** @DRM_MIRAGE_PARAM_UNMANAGED_ALIGN: alignment, in bytes, of address and size in SVM_INIT */
	DRM_MIRAGE_PARAM_UNMANAGED_ALIGN,
	/** @DRM_MIRAGE_PARAM_UNMANAGED_MIN: smallest unmanaged size, in bytes */
	DRM_MIRAGE_PARAM_UNMANAGED_MIN,
	/** @DRM_MIRAGE_PARAM_PUSH_MAX: most bytes of one push buffer */
	DRM_MIRAGE_PARAM_PUSH_MAX,
};

/**
 * struct drm_mirage_getparam - GETPARAM
 *
 * Errors: -EINVAL for an unknown parameter.
 */
struct drm_mirage_getparam {
	/** @param: one of enum drm_mirage_param */
	__u64 param;
	/** @value: out: its value */
	__u64 value;
};

/**
 * struct drm_mirage_svm_init - SVM_INIT
 *
 * Binds the file to the address space of the caller, for the life of the file. Other processes that hold the file may
 * not use it: their ioctls return -EPERM.
 *
 * Errors: -EINVAL if the range is not aligned to DRM_MIRAGE_PARAM_UNMANAGED_ALIGN, smaller than DRM_MIRAGE_PARAM_UNMANAGED_MIN, starts
 * at 0, overflows or ends above 2^40; -EBUSY if the file is bound already; -ENOMEM.
 */
struct drm_mirage_svm_init {
	/** @unmanaged_addr: first address of the range left to the driver */
	__u64 unmanaged_addr;
	/** @unmanaged_size: its size in bytes */
	__u64 unmanaged_size;
	/** @flags: must be 0 */
	__u32 flags;
	/** @pad: must be 0 */
	__u32 pad;
};

/**
 * struct drm_mirage_channel_alloc - CHANNEL_ALLOC
 *
 * Errors: -ENXIO before SVM_INIT; -ENOSPC when the device has no channel left or the unmanaged range is full; -ENOMEM.
 */
struct drm_mirage_channel_alloc {
	/** @flags: must be 0 */
	__u32 flags;
	/** @channel: out: handle, valid in this file */
	__u32 channel;
};

/**
 * struct drm_mirage_channel_free - CHANNEL_FREE
 *
 * Stops the channel at once; work that is not finished is abandoned and its syncobjs are signalled with an error.
 *
 * Errors: -ENOENT for an unknown channel.
 */
struct drm_mirage_channel_free {
	/** @channel: handle from CHANNEL_ALLOC */
	__u32 channel;
	/** @pad: must be 0 */
	__u32 pad;
};

/**
 * struct drm_mirage_exec - EXEC
 *
 * Copies a push buffer and appends it to the channel. Work of one channel runs in order. The syncobj @out_sync gets a fence that
 * signals when the work is finished, or with an error when the channel was stopped.
 *
 * Errors: -ENOENT for an unknown channel or syncobj; -EINVAL if @push_size is 0, not a multiple of 4 or above
 * DRM_MIRAGE_PARAM_PUSH_MAX, or if the push buffer is not a sequence of whole methods; -EFAULT if @push_ptr cannot be read; -EIO if the channel is in the error state; -EINTR
 * when a signal came while the ring was full; -ENOMEM.
 */
struct drm_mirage_exec {
	/** @push_ptr: user address of the push buffer: method headers and data, 32-bit words */
	__u64 push_ptr;
	/** @push_size: its size in bytes */
	__u32 push_size;
	/** @channel: handle from CHANNEL_ALLOC */
	__u32 channel;
	/** @out_sync: syncobj handle that gets the fence, or 0 */
	__u32 out_sync;
	/** @flags: must be 0 */
	__u32 flags;
};

/** enum drm_mirage_access - what the GPU tried */
enum drm_mirage_access {
	/** @DRM_MIRAGE_ACCESS_READ: read */
	DRM_MIRAGE_ACCESS_READ = 0,
	/** @DRM_MIRAGE_ACCESS_WRITE: write */
	DRM_MIRAGE_ACCESS_WRITE,
	/** @DRM_MIRAGE_ACCESS_ATOMIC: atomic */
	DRM_MIRAGE_ACCESS_ATOMIC,
	/** @DRM_MIRAGE_ACCESS_NONE: the channel was stopped by something else than a memory access */
	DRM_MIRAGE_ACCESS_NONE,
};

/** enum drm_mirage_reason - why a channel was stopped */
enum drm_mirage_reason {
	/** @DRM_MIRAGE_REASON_NO_VMA: nothing is mapped at the address */
	DRM_MIRAGE_REASON_NO_VMA = 1,
	/** @DRM_MIRAGE_REASON_PERMISSION: the mapping does not allow the access, or the kernel does not let devices in */
	DRM_MIRAGE_REASON_PERMISSION,
	/** @DRM_MIRAGE_REASON_BUS: where the CPU would get SIGBUS: past the end of a file, a memory error */
	DRM_MIRAGE_REASON_BUS,
	/** @DRM_MIRAGE_REASON_UNMANAGED: the address is in the range left to the driver, or above what the GPU can address */
	DRM_MIRAGE_REASON_UNMANAGED,
	/** @DRM_MIRAGE_REASON_OUT_OF_MEMORY: no memory to serve the fault, even after retries */
	DRM_MIRAGE_REASON_OUT_OF_MEMORY,
	/** @DRM_MIRAGE_REASON_EXITED: the process is exiting */
	DRM_MIRAGE_REASON_EXITED,
	/** @DRM_MIRAGE_REASON_METHOD: the push buffer has a method that is unknown, privileged or has bad data; @addr is the method */
	DRM_MIRAGE_REASON_METHOD,
	/** @DRM_MIRAGE_REASON_DEVICE: the device reported something that the driver does not understand, or hangs */
	DRM_MIRAGE_REASON_DEVICE,
};

/**
 * struct drm_mirage_fault_report - FAULT_REPORT
 *
 * Takes the oldest report out of the queue of this file. The queue holds 64; further ones are dropped and counted.
 *
 * Errors: -ENXIO before SVM_INIT; -ENODATA if there is none.
 */
struct drm_mirage_fault_report {
	/** @addr: out: GPU address of the access, 4 KiB aligned */
	__u64 addr;
	/** @timestamp: out: CLOCK_MONOTONIC nanoseconds when the driver reported it */
	__u64 timestamp;
	/** @channel: out: handle of the channel that was stopped */
	__u32 channel;
	/** @access: out: one of enum drm_mirage_access */
	__u32 access;
	/** @reason: out: one of enum drm_mirage_reason */
	__u32 reason;
	/** @dropped: out: reports dropped since the last one taken */
	__u32 dropped;
};

/*
 * The numbers are an enum and not macros because bindgen cannot evaluate DRM_IOWR().
 */
enum {
	DRM_IOCTL_MIRAGE_GETPARAM = DRM_IOWR(DRM_COMMAND_BASE + DRM_MIRAGE_GETPARAM, struct drm_mirage_getparam),
	DRM_IOCTL_MIRAGE_SVM_INIT = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_SVM_INIT, struct drm_mirage_svm_init),
	DRM_IOCTL_MIRAGE_CHANNEL_ALLOC =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_MIRAGE_CHANNEL_ALLOC, struct drm_mirage_channel_alloc),
	DRM_IOCTL_MIRAGE_CHANNEL_FREE = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_CHANNEL_FREE, struct drm_mirage_channel_free),
	DRM_IOCTL_MIRAGE_EXEC = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_EXEC, struct drm_mirage_exec),
	DRM_IOCTL_MIRAGE_FAULT_REPORT =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_MIRAGE_FAULT_REPORT, struct drm_mirage_fault_report),
};

#if defined(__cplusplus)
}
#endif

#endif
