/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What mirage_drm.h takes from drm.h, for hosts without the kernel's header. Found last on the include path. */
#include <linux/ioctl.h>
#include <linux/types.h>

#define DRM_IOCTL_BASE 'd'
#define DRM_COMMAND_BASE 0x40
#define DRM_IOW(nr, type) _IOW(DRM_IOCTL_BASE, nr, type)
#define DRM_IOWR(nr, type) _IOWR(DRM_IOCTL_BASE, nr, type)

struct drm_event {
	__u32 type;
	__u32 length;
};
