/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The user interface without a library: the GPU adds 1 to each element of a malloc'ed array, a copy engine (if there is one) copies it to another
 * array that nobody has touched yet.
 *
 *     cc -Wall -Wextra -Werror -I uapi -I /usr/include/drm -o add examples/add.c
 *
 * The last line is "add: PASS", with status 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "mirage_drm.h"

#define COUNT 1000
#define WAIT_SECONDS 60

/* Subchannels of the two classes, by convention. */
#define COMPUTE 1
#define COPY 4

/* Compute class: LAUNCH 3:0 is the operation, 9:8 the binary logarithm of the size of an element. */
#define ATOMIC_ADD 6
#define SIZE_8_BYTES (3 << 8)

/* Copy class: LAUNCH_DMA. */
#define NON_PIPELINED 2
#define FLUSH (1 << 2)
#define PITCH_LAYOUTS (3 << 7)

struct push {
	uint32_t words[64];
	uint32_t count;
};

static void fail(const char *what)
{
	printf("add: FAIL: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void control(int fd, unsigned long request, void *argument, const char *what)
{
	while (ioctl(fd, request, argument))
		if (errno != EINTR)
			fail(what);
}

/* Data for consecutive methods of a subchannel, from the byte offset "first" on. */
static void methods(struct push *push, uint32_t subchannel, uint32_t first, uint32_t count, const uint32_t *data)
{
	push->words[push->count++] = 1u << 29 | count << 16 | subchannel << 13 | first >> 2;
	memcpy(&push->words[push->count], data, count * sizeof(*data));
	push->count += count;
}

static void method(struct push *push, uint32_t subchannel, uint32_t first, uint32_t data)
{
	methods(push, subchannel, first, 1, &data);
}

/* The first render node whose driver is Mirage's. */
static int open_gpu(void)
{
	for (int minor = 128; minor < 192; minor++) {
		char path[64], name[16] = "";
		struct drm_version version = { .name = name, .name_len = sizeof(name) - 1 };
		int fd;

		snprintf(path, sizeof(path), "/dev/dri/renderD%d", minor);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && !ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, "mirage"))
			return fd;
	}
	errno = ENODEV;
	fail("no render node of the driver mirage");
	return -1;
}

static uint64_t parameter(int fd, uint64_t param)
{
	struct drm_mirage_getparam args = { .param = param };

	control(fd, DRM_IOCTL_MIRAGE_GETPARAM, &args, "GETPARAM");
	return args.value;
}

/* Gives the driver a piece of address space below 2^40 for its rings. From then on, every pointer is valid on the GPU. */
static void mirror(int fd)
{
	uint64_t align = parameter(fd, DRM_MIRAGE_PARAM_UNMANAGED_ALIGN);
	uint64_t size = parameter(fd, DRM_MIRAGE_PARAM_UNMANAGED_MIN);
	struct drm_mirage_svm_init args = { 0 };

	if (size < 64ull << 20)
		size = 64ull << 20;
	size = (size + align - 1) / align * align;
	for (uint64_t addr = 1ull << 36; addr + size <= 1ull << 40; addr += 1ull << 34) {
		void *hole = mmap((void *)(uintptr_t)addr, size, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

		if (hole == MAP_FAILED)
			continue;
		args.unmanaged_addr = (uintptr_t)hole;
		args.unmanaged_size = size;
		control(fd, DRM_IOCTL_MIRAGE_SVM_INIT, &args, "SVM_INIT");
		return;
	}
	fail("no free range below 1 TiB");
}

static uint32_t channel(int fd, uint32_t engine)
{
	struct drm_mirage_channel_alloc args = { .engine = engine };

	control(fd, DRM_IOCTL_MIRAGE_CHANNEL_ALLOC, &args, "CHANNEL_ALLOC");
	return args.channel;
}

static uint32_t syncobj(int fd)
{
	struct drm_syncobj_create args = { 0 };

	control(fd, DRM_IOCTL_SYNCOBJ_CREATE, &args, "SYNCOBJ_CREATE");
	return args.handle;
}

/* Runs a push buffer when "after" is signalled (0: at once), and signals "done". */
static void exec(int fd, uint32_t channel, const struct push *push, uint32_t after, uint32_t done)
{
	struct drm_mirage_push pushes = { .va = (uintptr_t)push->words, .size = push->count * 4 };
	struct drm_mirage_sync wait = { .type = DRM_MIRAGE_SYNC_SYNCOBJ, .handle = after };
	struct drm_mirage_sync signal = { .type = DRM_MIRAGE_SYNC_SYNCOBJ, .handle = done };
	struct drm_mirage_exec args = {
		.channel = channel,
		.push_count = 1,
		.push_ptr = (uintptr_t)&pushes,
		.wait_count = after ? 1 : 0,
		.wait_ptr = (uintptr_t)&wait,
		.sig_count = 1,
		.sig_ptr = (uintptr_t)&signal,
	};

	control(fd, DRM_IOCTL_MIRAGE_EXEC, &args, "EXEC");
}

static void wait_for(int fd, uint32_t handle)
{
	struct timespec now;
	struct drm_syncobj_wait args = {
		.handles = (uintptr_t)&handle,
		.count_handles = 1,
		.flags = DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL,
	};

	clock_gettime(CLOCK_MONOTONIC, &now);
	args.timeout_nsec = (now.tv_sec + WAIT_SECONDS) * 1000000000ll + now.tv_nsec;
	control(fd, DRM_IOCTL_SYNCOBJ_WAIT, &args, "SYNCOBJ_WAIT");
}

/* Lane i adds 1 to numbers[i]. */
static void add_one(struct push *push, uint32_t class, const uint64_t *numbers)
{
	uint64_t at = (uintptr_t)numbers;

	method(push, COMPUTE, 0x000, class);
	methods(push, COMPUTE, 0x200, 2, (uint32_t[]){ at >> 32, at });		/* SET_A: where */
	methods(push, COMPUTE, 0x218, 2, (uint32_t[]){ 0, 1 });			/* SET_VALUE: how much */
	method(push, COMPUTE, 0x230, sizeof(*numbers));				/* SET_STRIDE_A */
	method(push, COMPUTE, 0x23c, COUNT);					/* SET_LANES */
	method(push, COMPUTE, 0x300, ATOMIC_ADD | SIZE_8_BYTES);		/* LAUNCH */
}

static void copy(struct push *push, uint32_t class, const uint64_t *from, uint64_t *to)
{
	uint64_t in = (uintptr_t)from, out = (uintptr_t)to;

	method(push, COPY, 0x000, class);
	methods(push, COPY, 0x400, 4, (uint32_t[]){ in >> 32, in, out >> 32, out });	/* OFFSET_IN, OFFSET_OUT */
	methods(push, COPY, 0x418, 2, (uint32_t[]){ COUNT * sizeof(*to), 1 });		/* LINE_LENGTH_IN, LINE_COUNT */
	method(push, COPY, 0x300, NON_PIPELINED | FLUSH | PITCH_LAYOUTS);		/* LAUNCH_DMA */
}

static void check(const uint64_t *numbers, const char *what)
{
	for (uint64_t i = 0; i < COUNT; i++)
		if (numbers[i] != i + 1) {
			printf("add: FAIL: %s: number %llu is %llu\n", what, (unsigned long long)i,
			       (unsigned long long)numbers[i]);
			exit(1);
		}
	printf("%s: %d numbers, each of them right\n", what, COUNT);
}

int main(void)
{
	uint64_t *numbers = malloc(COUNT * sizeof(*numbers)), *copied = malloc(COUNT * sizeof(*copied));
	struct push add = { .count = 0 }, dma = { .count = 0 };
	uint32_t added, done;
	int fd = open_gpu();

	if (!numbers || !copied)
		fail("malloc");
	for (uint64_t i = 0; i < COUNT; i++)
		numbers[i] = i;

	mirror(fd);
	added = syncobj(fd);
	add_one(&add, parameter(fd, DRM_MIRAGE_PARAM_COMPUTE_CLASS), numbers);
	exec(fd, channel(fd, DRM_MIRAGE_ENGINE_COMPUTE), &add, 0, added);

	if (parameter(fd, DRM_MIRAGE_PARAM_COPY_ENGINES)) {
		/* Queued at once; the GPU waits, not this program. */
		done = syncobj(fd);
		copy(&dma, parameter(fd, DRM_MIRAGE_PARAM_COPY_CLASS), numbers, copied);
		exec(fd, channel(fd, DRM_MIRAGE_ENGINE_COPY), &dma, added, done);
		wait_for(fd, done);
		check(copied, "copied by the copy engine");
	}
	wait_for(fd, added);
	check(numbers, "added to by the GPU");
	printf("add: PASS\n");
	return 0;
}
