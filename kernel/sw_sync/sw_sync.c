// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's own software fences (CONFIG_SW_SYNC), which Debian leaves out, as a module: igt-gpu-tools needs them.
 */
#include <linux/module.h>

#include "drivers/dma-buf/sync_debug.c"
#include "drivers/dma-buf/sw_sync.c"

MODULE_DESCRIPTION("Software fences for tests");
MODULE_LICENSE("GPL");
