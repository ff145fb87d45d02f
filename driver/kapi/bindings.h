/* SPDX-License-Identifier: GPL-2.0 */
/* Input of bindgen; Kbuild says which items are taken. */
#include <drm/drm_debugfs.h>
#include <drm/drm_print.h>
#include <drm/drm_syncobj.h>
#include <linux/hmm.h>
#include <linux/sort.h>

#include "helpers.h"
#include "mirage_trace.h"
#include "../../uapi/mirage_drm.h"
