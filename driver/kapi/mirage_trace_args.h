/* SPDX-License-Identifier: GPL-2.0 */
/* What trace events are made of. Their fields are described in mirage_trace.h. */
#ifndef MIRAGE_TRACE_ARGS_H
#define MIRAGE_TRACE_ARGS_H

#include <linux/types.h>

struct mirage_trace_fault {
	u64 client, batch, va;
	u32 channel, access;
	bool replayable;
};

struct mirage_trace_commit {
	u64 client, batch, start, end, seq;
	u32 pages, order, upgrades;
};

struct mirage_trace_retry {
	u64 client, batch, start, end, seq;
};

struct mirage_trace_invalidate {
	u64 client, start, end, seq;
	u32 pages, cause;
	bool blockable, refused;
};

struct mirage_trace_replay {
	u64 client, batch, start, end;
};

struct mirage_trace_cancel {
	u64 client, batch, va;
	u32 channel, access, reason;
};

#endif
