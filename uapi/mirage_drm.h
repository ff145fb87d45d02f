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
 * A client opens the render node, asks GETPARAM for what it needs to know, reserves a piece of its
 * own address space (for example with mmap(PROT_NONE)) and hands it to SVM_INIT. From then on every
 * pointer of the process is valid on the GPU, except in the reserved piece, which the driver uses
 * for its rings. CHANNEL_ALLOC makes a channel for one kind of engine, EXEC submits push buffers to
 * it, waits for and signals DRM syncobjs. A bad access of the GPU stops its channel; an event on
 * the file (read(2), poll(2)) tells why, CHANNEL_QUERY too, and CHANNEL_RESET makes the channel
 * usable again.
 *
 * A reset of the device, for example through sysfs, stops all channels with
 * DRM_MIRAGE_REASON_RESET; the mirror stays. While it lasts there are no channels to be had:
 * CHANNEL_ALLOC, CHANNEL_RESET and SVM_BIND wait for its end or return -EAGAIN, SVM_INIT waits, and
 * EXEC returns -EIO as on any channel that was stopped.
 *
 * Every ioctl returns -EINVAL for unknown flags or parameters and for padding that is not zero, and
 * -ENODEV when the device is gone.
 *
 * DOC: Growth
 *
 * Structures grow at their end only. The DRM core copies as many bytes as the caller's ioctl number
 * says and fills the rest with zeroes, so new fields are such that zero means what was before.
 * Records that are read, and arrays that the driver fills, have their size in the record or in the
 * request. What a driver can do beyond this file's first version is a bit of
 * DRM_MIRAGE_PARAM_FEATURES.
 *
 * DOC: 32-bit programs
 *
 * All fields have a fixed size and their natural alignment, also where a 32-bit ABI aligns less,
 * and pointers are __u64: one layout for all, no compat handlers. A 32-bit process has its whole
 * address space, 4 GiB, mirrored.
 */

/** enum drm_mirage_ioctl_id - ioctl numbers, relative to DRM_COMMAND_BASE */
enum drm_mirage_ioctl_id {
	/** @DRM_MIRAGE_GETPARAM: query a parameter of the device */
	DRM_MIRAGE_GETPARAM = 0,
	/** @DRM_MIRAGE_SVM_INIT: mirror the address space of the caller */
	DRM_MIRAGE_SVM_INIT,
	/** @DRM_MIRAGE_SVM_BIND: act on a range of the mirror ahead of use */
	DRM_MIRAGE_SVM_BIND,
	/** @DRM_MIRAGE_SVM_QUERY: what GPU and CPU map, page by page */
	DRM_MIRAGE_SVM_QUERY,
	/** @DRM_MIRAGE_CHANNEL_ALLOC: make a channel */
	DRM_MIRAGE_CHANNEL_ALLOC,
	/** @DRM_MIRAGE_CHANNEL_FREE: stop and free a channel */
	DRM_MIRAGE_CHANNEL_FREE,
	/** @DRM_MIRAGE_CHANNEL_QUERY: state of a channel, and why it was stopped */
	DRM_MIRAGE_CHANNEL_QUERY,
	/** @DRM_MIRAGE_CHANNEL_RESET: make a stopped channel usable again */
	DRM_MIRAGE_CHANNEL_RESET,
	/** @DRM_MIRAGE_EXEC: run push buffers on a channel */
	DRM_MIRAGE_EXEC,
};

/** enum drm_mirage_param - parameters of GETPARAM */
enum drm_mirage_param {
	/** @DRM_MIRAGE_PARAM_CHIPSET: NV_PMC_BOOT_0 of the device */
	DRM_MIRAGE_PARAM_CHIPSET = 0,
	/** @DRM_MIRAGE_PARAM_VRAM_SIZE: bytes of device memory */
	DRM_MIRAGE_PARAM_VRAM_SIZE,
	/** @DRM_MIRAGE_PARAM_COMPUTE_CLASS: class to bind to subchannel 1 of a compute channel */
	DRM_MIRAGE_PARAM_COMPUTE_CLASS,
	/** @DRM_MIRAGE_PARAM_CHANNELS_MAX: channels of the device, over all files */
	DRM_MIRAGE_PARAM_CHANNELS_MAX,
	/**
	 * @DRM_MIRAGE_PARAM_UNMANAGED_ALIGN: alignment, in bytes, of address and size in SVM_INIT
	 */
	DRM_MIRAGE_PARAM_UNMANAGED_ALIGN,
	/** @DRM_MIRAGE_PARAM_UNMANAGED_MIN: smallest unmanaged size, in bytes */
	DRM_MIRAGE_PARAM_UNMANAGED_MIN,
	/** @DRM_MIRAGE_PARAM_PUSH_MAX: most bytes of all push buffers of one EXEC */
	DRM_MIRAGE_PARAM_PUSH_MAX,
	/** @DRM_MIRAGE_PARAM_FEATURES: bits of enum drm_mirage_feature */
	DRM_MIRAGE_PARAM_FEATURES,
	/** @DRM_MIRAGE_PARAM_COPY_CLASS: class to bind to subchannel 4 of a copy channel */
	DRM_MIRAGE_PARAM_COPY_CLASS,
	/** @DRM_MIRAGE_PARAM_COPY_ENGINES: how many copy engines there are */
	DRM_MIRAGE_PARAM_COPY_ENGINES,
	/** @DRM_MIRAGE_PARAM_PUSHES_MAX: most push buffers of one EXEC */
	DRM_MIRAGE_PARAM_PUSHES_MAX,
	/**
	 * @DRM_MIRAGE_PARAM_SYNCS_MAX: most entries of each of the two arrays of syncobjs of one
	 * EXEC
	 */
	DRM_MIRAGE_PARAM_SYNCS_MAX,
	/** @DRM_MIRAGE_PARAM_CHANNELS_PER_FILE: most channels of one file */
	DRM_MIRAGE_PARAM_CHANNELS_PER_FILE,
	/**
	 * @DRM_MIRAGE_PARAM_TIMEOUT_DEFAULT: time-out of a channel that asks for none, milliseconds
	 */
	DRM_MIRAGE_PARAM_TIMEOUT_DEFAULT,
	/** @DRM_MIRAGE_PARAM_TIMEOUT_MAX: longest time-out of a channel, milliseconds */
	DRM_MIRAGE_PARAM_TIMEOUT_MAX,
	/** @DRM_MIRAGE_PARAM_QUERY_PAGES_MAX: most pages of one SVM_QUERY */
	DRM_MIRAGE_PARAM_QUERY_PAGES_MAX,
};

/** enum drm_mirage_feature - bits of DRM_MIRAGE_PARAM_FEATURES */
enum drm_mirage_feature {
	/**
	 * @DRM_MIRAGE_FEATURE_USERFAULTFD: pages that a userfaultfd handler has to supply can be
	 * faulted in
	 */
	DRM_MIRAGE_FEATURE_USERFAULTFD = 1 << 0,
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
 * Binds the file to the address space of the caller, for the life of the file. Other processes that
 * hold the file may not use it: their ioctls return -EPERM.
 *
 * Errors: -EINVAL if the range is not aligned to DRM_MIRAGE_PARAM_UNMANAGED_ALIGN, smaller than
 * DRM_MIRAGE_PARAM_UNMANAGED_MIN, starts at 0, overflows or ends above 2^40; -EBUSY if the file is
 * bound already; -ENOSPC when the device has 512 address spaces; -EINTR when a signal came whose
 * handler does not restart calls; -ENOMEM.
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

/** enum drm_mirage_bind_op - what SVM_BIND does */
enum drm_mirage_bind_op {
	/** @DRM_MIRAGE_BIND_PREFETCH: fault pages in and map them, as accesses of the GPU would */
	DRM_MIRAGE_BIND_PREFETCH = 0,
};

/** enum drm_mirage_bind_flags - flags of SVM_BIND */
enum drm_mirage_bind_flags {
	/**
	 * @DRM_MIRAGE_BIND_WRITE: make the pages writable, which breaks copy-on-write; without it
	 * they are faulted in for reading
	 */
	DRM_MIRAGE_BIND_WRITE = 1 << 0,
};

/**
 * struct drm_mirage_svm_bind - SVM_BIND
 *
 * Goes through the range from its start, in 2 MiB blocks, and stops at the first page that cannot
 * be had. @pages_done tells how far it came, also when an error is returned; calling again with the
 * rest of the range continues. Pages may be taken from the GPU again at any time; they are then
 * faulted in as usual.
 *
 * Errors: -ENXIO before SVM_INIT; -EINVAL if @va or @size is not a multiple of 4096, @size is 0,
 * the range overflows, or touches the unmanaged range or addresses of 2^47 and above; -EFAULT at a
 * page that an access of the GPU could not have: nothing mapped, no permission, past the end of a
 * file; -EINTR when a signal came; -EAGAIN when the memory changed all the time; -ENOMEM.
 */
struct drm_mirage_svm_bind {
	/** @va: first address */
	__u64 va;
	/** @size: bytes */
	__u64 size;
	/** @op: one of enum drm_mirage_bind_op */
	__u32 op;
	/** @flags: bits of enum drm_mirage_bind_flags */
	__u32 flags;
	/** @pages_done: out: pages of 4 KiB, from @va, that the GPU maps as asked */
	__u64 pages_done;
};

/** enum drm_mirage_page_gpu - what the GPU maps, &struct drm_mirage_page.gpu; 0: nothing */
enum drm_mirage_page_gpu {
	/** @DRM_MIRAGE_GPU_VALID: there is a translation */
	DRM_MIRAGE_GPU_VALID = 1 << 0,
	/** @DRM_MIRAGE_GPU_WRITE: writes are allowed */
	DRM_MIRAGE_GPU_WRITE = 1 << 1,
	/** @DRM_MIRAGE_GPU_ATOMIC: atomics are allowed */
	DRM_MIRAGE_GPU_ATOMIC = 1 << 2,
	/**
	 * @DRM_MIRAGE_GPU_VRAM: the page is in device memory; without it, in system memory. This
	 * version of the driver migrates nothing, so it does not occur yet
	 */
	DRM_MIRAGE_GPU_VRAM = 1 << 3,
	/** @DRM_MIRAGE_GPU_ORDER_SHIFT: bits 15:8: the leaf has 4096 << order bytes: 0, 4 or 9 */
	DRM_MIRAGE_GPU_ORDER_SHIFT = 8,
};

/** enum drm_mirage_page_cpu - what the CPU maps, &struct drm_mirage_page.cpu; 0: absent */
enum drm_mirage_page_cpu {
	/** @DRM_MIRAGE_CPU_READ: the page is there and can be read */
	DRM_MIRAGE_CPU_READ = 1 << 0,
	/** @DRM_MIRAGE_CPU_WRITE: it can be written without a fault */
	DRM_MIRAGE_CPU_WRITE = 1 << 1,
	/** @DRM_MIRAGE_CPU_ZERO: it is the zero page or part of the huge zero page */
	DRM_MIRAGE_CPU_ZERO = 1 << 2,
	/**
	 * @DRM_MIRAGE_CPU_DEVICE: it is device-private memory of this device, which this version of
	 * the driver does not have yet; that of other devices reads as absent
	 */
	DRM_MIRAGE_CPU_DEVICE = 1 << 3,
	/**
	 * @DRM_MIRAGE_CPU_ORDER_SHIFT: bits 15:8: the CPU maps it with an entry of 4096 << order
	 * bytes
	 */
	DRM_MIRAGE_CPU_ORDER_SHIFT = 8,
};

/** struct drm_mirage_page - one page in SVM_QUERY */
struct drm_mirage_page {
	/** @gpu: bits of enum drm_mirage_page_gpu */
	__u32 gpu;
	/** @cpu: bits of enum drm_mirage_page_cpu */
	__u32 cpu;
};

/**
 * struct drm_mirage_svm_query - SVM_QUERY
 *
 * Fills in two views of each page of 4 KiB: what the GPU's page tables hold, and what the CPU's
 * hold, seen without faulting anything in. In the range left to the driver the GPU's view is empty.
 * Each view of a page is true at some moment during the call; pages may change meanwhile.
 *
 * Errors: -ENXIO before SVM_INIT; -EINVAL if @va or @size is not a multiple of 4096, @size is 0 or
 * more than DRM_MIRAGE_PARAM_QUERY_PAGES_MAX pages, the range overflows or ends above 2^47; -EFAULT
 * if @pages_ptr cannot be written; -EINTR; -EAGAIN when the memory changed all the time; -ENOMEM.
 */
struct drm_mirage_svm_query {
	/** @va: first address */
	__u64 va;
	/** @size: bytes */
	__u64 size;
	/**
	 * @pages_ptr: user address of an array of struct drm_mirage_page, one for each page of 4
	 * KiB
	 */
	__u64 pages_ptr;
	/** @flags: must be 0 */
	__u32 flags;
	/** @page_size: size of one array element: sizeof(struct drm_mirage_page) */
	__u32 page_size;
};

/** enum drm_mirage_engine - kinds of engines */
enum drm_mirage_engine {
	/** @DRM_MIRAGE_ENGINE_COMPUTE: the compute engine: DRM_MIRAGE_PARAM_COMPUTE_CLASS */
	DRM_MIRAGE_ENGINE_COMPUTE = 0,
	/**
	 * @DRM_MIRAGE_ENGINE_COPY: a copy engine, the driver chooses which:
	 * DRM_MIRAGE_PARAM_COPY_CLASS
	 */
	DRM_MIRAGE_ENGINE_COPY,
};

/**
 * struct drm_mirage_channel_alloc - CHANNEL_ALLOC
 *
 * Errors: -ENXIO before SVM_INIT; -EINVAL for an unknown engine or a time-out above
 * DRM_MIRAGE_PARAM_TIMEOUT_MAX; -ENOSPC when the device has no channel left, or the file has
 * DRM_MIRAGE_PARAM_CHANNELS_PER_FILE; -EAGAIN while the device is being reset; -ENOMEM.
 */
struct drm_mirage_channel_alloc {
	/** @flags: must be 0 */
	__u32 flags;
	/** @channel: out: handle, valid in this file */
	__u32 channel;
	/** @engine: one of enum drm_mirage_engine */
	__u32 engine;
	/**
	 * @timeout_ms: the channel is stopped when work of it runs for so many milliseconds without
	 * finishing and without having faults served; 0: DRM_MIRAGE_PARAM_TIMEOUT_DEFAULT
	 */
	__u32 timeout_ms;
};

/**
 * struct drm_mirage_channel_free - CHANNEL_FREE
 *
 * Stops the channel at once; work that is not finished is abandoned and its syncobjs are signalled
 * with an error.
 *
 * Errors: -ENOENT for an unknown channel.
 */
struct drm_mirage_channel_free {
	/** @channel: handle from CHANNEL_ALLOC */
	__u32 channel;
	/** @pad: must be 0 */
	__u32 pad;
};

/** enum drm_mirage_access - what the GPU tried */
enum drm_mirage_access {
	/** @DRM_MIRAGE_ACCESS_READ: read */
	DRM_MIRAGE_ACCESS_READ = 0,
	/** @DRM_MIRAGE_ACCESS_WRITE: write */
	DRM_MIRAGE_ACCESS_WRITE,
	/** @DRM_MIRAGE_ACCESS_ATOMIC: atomic */
	DRM_MIRAGE_ACCESS_ATOMIC,
	/**
	 * @DRM_MIRAGE_ACCESS_NONE: the channel was stopped by something else than a memory access
	 */
	DRM_MIRAGE_ACCESS_NONE,
};

/** enum drm_mirage_reason - why a channel was stopped */
enum drm_mirage_reason {
	/** @DRM_MIRAGE_REASON_NO_VMA: nothing is mapped at the address */
	DRM_MIRAGE_REASON_NO_VMA = 1,
	/**
	 * @DRM_MIRAGE_REASON_PERMISSION: the mapping does not allow the access, or the kernel does
	 * not let devices in
	 */
	DRM_MIRAGE_REASON_PERMISSION,
	/**
	 * @DRM_MIRAGE_REASON_BUS: where the CPU would get SIGBUS: past the end of a file, a memory
	 * error
	 */
	DRM_MIRAGE_REASON_BUS,
	/**
	 * @DRM_MIRAGE_REASON_UNMANAGED: the address is in the range left to the driver, or above
	 * what the GPU can address
	 */
	DRM_MIRAGE_REASON_UNMANAGED,
	/** @DRM_MIRAGE_REASON_OUT_OF_MEMORY: no memory to serve the fault, even after retries */
	DRM_MIRAGE_REASON_OUT_OF_MEMORY,
	/** @DRM_MIRAGE_REASON_EXITED: the process is exiting */
	DRM_MIRAGE_REASON_EXITED,
	/**
	 * @DRM_MIRAGE_REASON_METHOD: the push buffer has a method that is unknown, privileged or
	 * has bad data; the address is the method
	 */
	DRM_MIRAGE_REASON_METHOD,
	/**
	 * @DRM_MIRAGE_REASON_DEVICE: the device reported something that the driver does not
	 * understand, or hangs
	 */
	DRM_MIRAGE_REASON_DEVICE,
	/** @DRM_MIRAGE_REASON_TIMEOUT: the work did not end in the time that the channel allows */
	DRM_MIRAGE_REASON_TIMEOUT,
	/** @DRM_MIRAGE_REASON_RESET: the device was reset */
	DRM_MIRAGE_REASON_RESET,
};

/** enum drm_mirage_channel_state - states of a channel */
enum drm_mirage_channel_state {
	/** @DRM_MIRAGE_CHANNEL_USABLE: it takes and runs work */
	DRM_MIRAGE_CHANNEL_USABLE = 0,
	/** @DRM_MIRAGE_CHANNEL_STOPPED: it was stopped; EXEC returns -EIO until CHANNEL_RESET */
	DRM_MIRAGE_CHANNEL_STOPPED,
};

/**
 * struct drm_mirage_channel_query - CHANNEL_QUERY: the error notifier of a channel
 *
 * Errors: -ENOENT for an unknown channel.
 */
struct drm_mirage_channel_query {
	/** @channel: handle from CHANNEL_ALLOC */
	__u32 channel;
	/** @state: out: one of enum drm_mirage_channel_state */
	__u32 state;
	/** @addr: out: address of the access that stopped it, 4 KiB aligned, or the method */
	__u64 addr;
	/** @timestamp: out: CLOCK_MONOTONIC nanoseconds when it was stopped, or 0 */
	__u64 timestamp;
	/** @access: out: one of enum drm_mirage_access */
	__u32 access;
	/** @reason: out: one of enum drm_mirage_reason; 0 if it is usable */
	__u32 reason;
	/** @submitted: out: EXECs accepted so far */
	__u64 submitted;
	/** @finished: out: EXECs whose fence is signalled, with or without an error */
	__u64 finished;
	/** @resets: out: times that the channel was reset */
	__u32 resets;
	/** @pad: must be 0 */
	__u32 pad;
};

/**
 * struct drm_mirage_channel_reset - CHANNEL_RESET
 *
 * Makes a channel that was stopped usable again, with an empty queue. Does nothing to one that is
 * usable.
 *
 * Errors: -ENOENT for an unknown channel; -EAGAIN while the device is being reset; -ENODEV;
 * -ENOMEM.
 */
struct drm_mirage_channel_reset {
	/** @channel: handle from CHANNEL_ALLOC */
	__u32 channel;
	/** @flags: must be 0 */
	__u32 flags;
};

/** struct drm_mirage_push - one push buffer of EXEC */
struct drm_mirage_push {
	/** @va: user address of method headers and data, 32-bit words */
	__u64 va;
	/** @size: bytes: not 0, a multiple of 4 */
	__u32 size;
	/** @flags: must be 0 */
	__u32 flags;
};

/** enum drm_mirage_sync_type - kinds of synchronization objects */
enum drm_mirage_sync_type {
	/** @DRM_MIRAGE_SYNC_SYNCOBJ: a binary DRM syncobj */
	DRM_MIRAGE_SYNC_SYNCOBJ = 0,
	/** @DRM_MIRAGE_SYNC_TIMELINE: a point of a timeline DRM syncobj */
	DRM_MIRAGE_SYNC_TIMELINE,
};

/** struct drm_mirage_sync - one syncobj of EXEC */
struct drm_mirage_sync {
	/** @type: one of enum drm_mirage_sync_type */
	__u32 type;
	/** @handle: DRM syncobj handle */
	__u32 handle;
	/** @point: point of the timeline; 0 for a binary syncobj, not 0 for a timeline */
	__u64 point;
};

/**
 * struct drm_mirage_exec - EXEC
 *
 * Copies push buffers and queues them on the channel; returns without waiting for the syncobjs of
 * @wait_ptr. Work of one channel runs in order. It runs when all fences of @wait_ptr are signalled,
 * with or without an error; the syncobjs of @sig_ptr get a fence that signals when the work is
 * finished, or with an error when the channel was stopped (-EIO), freed (-ECANCELED) or lost with
 * the device (-ENODEV). Either everything of an EXEC is accepted or, with an error, nothing. The
 * caller may reuse push buffers and arrays when the call returns. Without push buffers nothing
 * runs, but the fences are passed on.
 *
 * Errors: -ENOENT for an unknown channel or syncobj; -EINVAL if there are more push buffers or
 * syncobjs than DRM_MIRAGE_PARAM_PUSHES_MAX and DRM_MIRAGE_PARAM_SYNCS_MAX, a size is 0 or not a
 * multiple of 4, all sizes together are above DRM_MIRAGE_PARAM_PUSH_MAX, a push buffer is not a
 * sequence of whole methods, a sync is malformed, a timeline point is not above the last one, or a
 * syncobj to wait for has no fence yet; -EFAULT if memory cannot be read; -EIO if the channel was
 * stopped; -EINTR when a signal came while the queue was full; -ENOMEM.
 */
struct drm_mirage_exec {
	/** @channel: handle from CHANNEL_ALLOC */
	__u32 channel;
	/** @push_count: push buffers */
	__u32 push_count;
	/** @wait_count: syncobjs to wait for */
	__u32 wait_count;
	/** @sig_count: syncobjs that get the fence */
	__u32 sig_count;
	/** @push_ptr: user address of an array of struct drm_mirage_push */
	__u64 push_ptr;
	/** @wait_ptr: user address of an array of struct drm_mirage_sync */
	__u64 wait_ptr;
	/** @sig_ptr: user address of an array of struct drm_mirage_sync */
	__u64 sig_ptr;
	/** @flags: must be 0 */
	__u32 flags;
	/** @pad: must be 0 */
	__u32 pad;
};

/**
 * enum drm_mirage_event_type - events that read(2) on the file returns, each beginning with struct
 * drm_event
 */
enum drm_mirage_event_type {
	/** @DRM_MIRAGE_EVENT_FAULT: struct drm_mirage_event_fault */
	DRM_MIRAGE_EVENT_FAULT = 0x80000000,
};

/**
 * struct drm_mirage_event_fault - a channel was stopped
 *
 * The event is there before the fences of the channel signal. When 4096 bytes of events wait, or
 * there is no memory, further ones are dropped and counted.
 */
struct drm_mirage_event_fault {
	/** @base: type and length of the record */
	struct drm_event base;
	/** @addr: address of the access, 4 KiB aligned, or the method */
	__u64 addr;
	/** @timestamp: CLOCK_MONOTONIC nanoseconds when the driver stopped the channel */
	__u64 timestamp;
	/** @batch: number of the batch of faults that it was served in; 0 if it was not a fault */
	__u64 batch;
	/** @channel: handle of the channel */
	__u32 channel;
	/** @access: one of enum drm_mirage_access */
	__u32 access;
	/** @reason: one of enum drm_mirage_reason */
	__u32 reason;
	/** @dropped: events dropped since the last one that was queued */
	__u32 dropped;
};

/*
 * The numbers are an enum and not macros because bindgen cannot evaluate DRM_IOWR().
 */
enum {
	DRM_IOCTL_MIRAGE_GETPARAM = DRM_IOWR(DRM_COMMAND_BASE + DRM_MIRAGE_GETPARAM, struct drm_mirage_getparam),
	DRM_IOCTL_MIRAGE_SVM_INIT = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_SVM_INIT, struct drm_mirage_svm_init),
	DRM_IOCTL_MIRAGE_SVM_BIND = DRM_IOWR(DRM_COMMAND_BASE + DRM_MIRAGE_SVM_BIND, struct drm_mirage_svm_bind),
	DRM_IOCTL_MIRAGE_SVM_QUERY = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_SVM_QUERY, struct drm_mirage_svm_query),
	DRM_IOCTL_MIRAGE_CHANNEL_ALLOC =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_MIRAGE_CHANNEL_ALLOC, struct drm_mirage_channel_alloc),
	DRM_IOCTL_MIRAGE_CHANNEL_FREE = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_CHANNEL_FREE, struct drm_mirage_channel_free),
	DRM_IOCTL_MIRAGE_CHANNEL_QUERY =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_MIRAGE_CHANNEL_QUERY, struct drm_mirage_channel_query),
	DRM_IOCTL_MIRAGE_CHANNEL_RESET = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_CHANNEL_RESET, struct drm_mirage_channel_reset),
	DRM_IOCTL_MIRAGE_EXEC = DRM_IOW(DRM_COMMAND_BASE + DRM_MIRAGE_EXEC, struct drm_mirage_exec),
};

#if defined(__cplusplus)
}
#endif

#endif
