/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events: /sys/kernel/tracing/events/mirage. The names and meanings of the fields stay; docs/architecture.md describes them.
 * Fields that events share have the same name: client is the drm-client-id of fdinfo, batch the number of the batch of faults (0: none),
 * start and end are addresses, end exclusive.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mirage
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE mirage_trace

#if !defined(MIRAGE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define MIRAGE_TRACE_H

#include <linux/mmu_notifier.h>
#include <linux/tracepoint.h>

#include "../../uapi/mirage_drm.h"
#include "mirage_trace_args.h"

TRACE_DEFINE_ENUM(MMU_NOTIFY_UNMAP);
TRACE_DEFINE_ENUM(MMU_NOTIFY_CLEAR);
TRACE_DEFINE_ENUM(MMU_NOTIFY_PROTECTION_VMA);
TRACE_DEFINE_ENUM(MMU_NOTIFY_PROTECTION_PAGE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_SOFT_DIRTY);
TRACE_DEFINE_ENUM(MMU_NOTIFY_RELEASE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_MIGRATE);
TRACE_DEFINE_ENUM(MMU_NOTIFY_EXCLUSIVE);

#define mirage_show_cause(cause)				\
	__print_symbolic(cause,					\
		{ MMU_NOTIFY_UNMAP, "unmap" },			\
		{ MMU_NOTIFY_CLEAR, "clear" },			\
		{ MMU_NOTIFY_PROTECTION_VMA, "protection_vma" },	\
		{ MMU_NOTIFY_PROTECTION_PAGE, "protection_page" },	\
		{ MMU_NOTIFY_SOFT_DIRTY, "soft_dirty" },	\
		{ MMU_NOTIFY_RELEASE, "release" },		\
		{ MMU_NOTIFY_MIGRATE, "migrate" },		\
		{ MMU_NOTIFY_EXCLUSIVE, "exclusive" })

TRACE_DEFINE_ENUM(DRM_MIRAGE_ACCESS_READ);
TRACE_DEFINE_ENUM(DRM_MIRAGE_ACCESS_WRITE);
TRACE_DEFINE_ENUM(DRM_MIRAGE_ACCESS_ATOMIC);
TRACE_DEFINE_ENUM(DRM_MIRAGE_ACCESS_NONE);

#define mirage_show_access(access)				\
	__print_symbolic(access,				\
		{ DRM_MIRAGE_ACCESS_READ, "read" },		\
		{ DRM_MIRAGE_ACCESS_WRITE, "write" },		\
		{ DRM_MIRAGE_ACCESS_ATOMIC, "atomic" },		\
		{ DRM_MIRAGE_ACCESS_NONE, "prefetch" })

TRACE_DEFINE_ENUM(DRM_MIRAGE_REASON_NO_VMA);
TRACE_DEFINE_ENUM(DRM_MIRAGE_REASON_PERMISSION);
TRACE_DEFINE_ENUM(DRM_MIRAGE_REASON_BUS);
TRACE_DEFINE_ENUM(DRM_MIRAGE_REASON_UNMANAGED);
TRACE_DEFINE_ENUM(DRM_MIRAGE_REASON_OUT_OF_MEMORY);
TRACE_DEFINE_ENUM(DRM_MIRAGE_REASON_EXITED);
TRACE_DEFINE_ENUM(DRM_MIRAGE_REASON_DEVICE);

/* A service can find no other reason. */
#define mirage_show_reason(reason)				\
	__print_symbolic(reason,				\
		{ DRM_MIRAGE_REASON_NO_VMA, "no_vma" },		\
		{ DRM_MIRAGE_REASON_PERMISSION, "permission" },	\
		{ DRM_MIRAGE_REASON_BUS, "bus" },		\
		{ DRM_MIRAGE_REASON_UNMANAGED, "unmanaged" },	\
		{ DRM_MIRAGE_REASON_OUT_OF_MEMORY, "out_of_memory" },	\
		{ DRM_MIRAGE_REASON_EXITED, "exited" },		\
		{ DRM_MIRAGE_REASON_DEVICE, "device" })

/* A fault is about to be served. */
TRACE_EVENT(mirage_fault,
	TP_PROTO(const struct mirage_trace_fault *args),
	TP_ARGS(args),
	TP_STRUCT__entry(
		__field(u64, client)
		__field(u64, batch)
		__field(u64, va)
		__field(u32, channel)
		__field(u32, access)
		__field(bool, replayable)
	),
	TP_fast_assign(
		__entry->client = args->client;
		__entry->batch = args->batch;
		__entry->va = args->va;
		__entry->channel = args->channel;
		__entry->access = args->access;
		__entry->replayable = args->replayable;
	),
	TP_printk("client=%llu batch=%llu channel=%u va=%#llx access=%s replayable=%d",
		  __entry->client, __entry->batch, __entry->channel, __entry->va,
		  mirage_show_access(__entry->access), __entry->replayable)
);

/* Pages of a range were mapped, or got more rights, under the update lock. */
TRACE_EVENT(mirage_commit,
	TP_PROTO(const struct mirage_trace_commit *args),
	TP_ARGS(args),
	TP_STRUCT__entry(
		__field(u64, client)
		__field(u64, batch)
		__field(u64, start)
		__field(u64, end)
		__field(u64, seq)
		__field(u32, pages)
		__field(u32, order)
		__field(u32, upgrades)
	),
	TP_fast_assign(
		__entry->client = args->client;
		__entry->batch = args->batch;
		__entry->start = args->start;
		__entry->end = args->end;
		__entry->seq = args->seq;
		__entry->pages = args->pages;
		__entry->order = args->order;
		__entry->upgrades = args->upgrades;
	),
	TP_printk("client=%llu batch=%llu start=%#llx end=%#llx seq=%llu pages=%u order=%u upgrades=%u",
		  __entry->client, __entry->batch, __entry->start, __entry->end, __entry->seq,
		  __entry->pages, __entry->order, __entry->upgrades)
);

/* An invalidation came between looking at a range and mapping it: it is looked at again. */
TRACE_EVENT(mirage_retry,
	TP_PROTO(const struct mirage_trace_retry *args),
	TP_ARGS(args),
	TP_STRUCT__entry(
		__field(u64, client)
		__field(u64, batch)
		__field(u64, start)
		__field(u64, end)
		__field(u64, seq)
	),
	TP_fast_assign(
		__entry->client = args->client;
		__entry->batch = args->batch;
		__entry->start = args->start;
		__entry->end = args->end;
		__entry->seq = args->seq;
	),
	TP_printk("client=%llu batch=%llu start=%#llx end=%#llx seq=%llu",
		  __entry->client, __entry->batch, __entry->start, __entry->end, __entry->seq)
);

/* The CPU's mapping of a range changes. refused: the event may not block, and a lock was taken; nothing was changed. */
TRACE_EVENT(mirage_invalidate,
	TP_PROTO(const struct mirage_trace_invalidate *args),
	TP_ARGS(args),
	TP_STRUCT__entry(
		__field(u64, client)
		__field(u64, start)
		__field(u64, end)
		__field(u64, seq)
		__field(u32, pages)
		__field(u32, cause)
		__field(bool, blockable)
		__field(bool, refused)
	),
	TP_fast_assign(
		__entry->client = args->client;
		__entry->start = args->start;
		__entry->end = args->end;
		__entry->seq = args->seq;
		__entry->pages = args->pages;
		__entry->cause = args->cause;
		__entry->blockable = args->blockable;
		__entry->refused = args->refused;
	),
	TP_printk("client=%llu start=%#llx end=%#llx seq=%llu pages=%u cause=%s blockable=%d refused=%d",
		  __entry->client, __entry->start, __entry->end, __entry->seq, __entry->pages,
		  mirage_show_cause(__entry->cause), __entry->blockable, __entry->refused)
);

/* A batch is done: what waits tries again. start and end: what the TLB forgets first; both 0: nothing. */
TRACE_EVENT(mirage_replay,
	TP_PROTO(const struct mirage_trace_replay *args),
	TP_ARGS(args),
	TP_STRUCT__entry(
		__field(u64, client)
		__field(u64, batch)
		__field(u64, start)
		__field(u64, end)
	),
	TP_fast_assign(
		__entry->client = args->client;
		__entry->batch = args->batch;
		__entry->start = args->start;
		__entry->end = args->end;
	),
	TP_printk("client=%llu batch=%llu start=%#llx end=%#llx",
		  __entry->client, __entry->batch, __entry->start, __entry->end)
);

/* An access cannot be served: its channel ends. */
TRACE_EVENT(mirage_cancel,
	TP_PROTO(const struct mirage_trace_cancel *args),
	TP_ARGS(args),
	TP_STRUCT__entry(
		__field(u64, client)
		__field(u64, batch)
		__field(u64, va)
		__field(u32, channel)
		__field(u32, access)
		__field(u32, reason)
	),
	TP_fast_assign(
		__entry->client = args->client;
		__entry->batch = args->batch;
		__entry->va = args->va;
		__entry->channel = args->channel;
		__entry->access = args->access;
		__entry->reason = args->reason;
	),
	TP_printk("client=%llu batch=%llu channel=%u va=%#llx access=%s reason=%s",
		  __entry->client, __entry->batch, __entry->channel, __entry->va,
		  mirage_show_access(__entry->access), mirage_show_reason(__entry->reason))
);

#endif /* MIRAGE_TRACE_H */

/* Outside of the guard: read several times. */
#include <trace/define_trace.h>
