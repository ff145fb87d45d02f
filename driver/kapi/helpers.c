// SPDX-License-Identifier: GPL-2.0
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/oom.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "helpers.h"

void mirage_wmb(void)
{
	wmb();
}

void mirage_rmb(void)
{
	rmb();
}

void mirage_dma_fence_put(struct dma_fence *fence)
{
	dma_fence_put(fence);
}

void mirage_dma_fence_set_error(struct dma_fence *fence, int error)
{
	dma_fence_set_error(fence, error);
}

/* Tell lockdep, if there is one. */
bool mirage_dma_fence_begin_signalling(void)
{
	return dma_fence_begin_signalling();
}

void mirage_dma_fence_end_signalling(bool cookie)
{
	dma_fence_end_signalling(cookie);
}

/* Does nothing without debugfs. */
void mirage_drm_debugfs_create_file(struct drm_device *dev, const char *name, const struct file_operations *fops)
{
	debugfs_create_file(name, 0400, dev->debugfs_root, dev, fops);
}

void mirage_drm_syncobj_put(struct drm_syncobj *syncobj)
{
	drm_syncobj_put(syncobj);
}

/* The last point of a timeline; 0 if it has none. */
u64 mirage_drm_syncobj_last_point(struct drm_syncobj *syncobj)
{
	struct dma_fence *fence = drm_syncobj_fence_get(syncobj);
	u64 point = to_dma_fence_chain(fence) ? fence->seqno : 0;

	dma_fence_put(fence);
	return point;
}

struct dma_fence_chain *mirage_dma_fence_chain_alloc(void)
{
	return dma_fence_chain_alloc();
}

void mirage_dma_fence_chain_free(struct dma_fence_chain *chain)
{
	dma_fence_chain_free(chain);
}

bool mirage_mmu_interval_read_retry(struct mmu_interval_notifier *notifier, unsigned long seq)
{
	return mmu_interval_read_retry(notifier, seq);
}

void mirage_mmu_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq)
{
	mmu_interval_set_seq(notifier, seq);
}

struct page *mirage_hmm_pfn_to_page(unsigned long hmm_pfn)
{
	return hmm_pfn_to_page(hmm_pfn);
}

/*
 * One try of what hmm_range_fault_unlocked_timeout() does, for kernels without it. The caller has a reference on the users of
 * the address space and has set notifier_seq. An address space that the OOM killer has begun to reap gives no more pages.
 */
int mirage_hmm_range_fault_locked(struct hmm_range *range)
{
	struct mm_struct *mm = range->notifier->mm;
	int ret;

	ret = mmap_read_lock_killable(mm);
	if (ret)
		return ret;
	ret = check_stable_address_space(mm) ? -EFAULT : hmm_range_fault(range);
	mmap_read_unlock(mm);
	return ret;
}

void mirage_set_page_dirty(struct page *page)
{
	set_page_dirty(page);
}

static bool is_secret(const struct inode *inode)
{
	return inode && inode->i_sb->s_magic == SECRETMEM_MAGIC;
}

/*
 * Memory of memfd_secret(2), which the kernel's own get_user_pages() refuses; HMM does not look. The page is mapped, so it cannot be
 * truncated meanwhile. (secretmem_mapping() is not for modules.)
 */
bool mirage_page_is_secret(struct page *page)
{
	const struct address_space *mapping = folio_mapping(page_folio(page));

	return mapping && is_secret(mapping->host);
}

/* The same for a mapping; the mmap lock is held. */
bool mirage_vma_is_secret(const struct vm_area_struct *vma)
{
	return vma->vm_file && is_secret(file_inode(vma->vm_file));
}

/*
 * Whether a page that is mapped somewhere is the zero page or part of the huge one, whose address modules do not get. Of all that is
 * mapped with huge entries, only that belongs neither to a file nor to anonymous memory.
 */
bool mirage_page_is_zero(struct page *page)
{
	struct folio *folio = page_folio(page);

	if (is_zero_pfn(page_to_pfn(page)))
		return true;
	return folio_test_large(folio) && !READ_ONCE(folio->mapping) && !folio_test_hugetlb(folio);
}

/* comm has room for TASK_COMM_LEN bytes. */
void mirage_task_comm(char *comm, struct task_struct *task)
{
	strscpy_pad(comm, task->comm, TASK_COMM_LEN);
}

/* Whether a mapping may be a copy of the page, which a mirror cannot use. */
bool mirage_dma_needs_bounce(struct device *dev)
{
#ifdef CONFIG_DMA_NEED_SYNC
	if (!dev_dma_skip_sync(dev))
		return true;
#endif
	return dma_addressing_limited(dev);
}

/*
 * Mirrored pages stay in use by the CPU, and several mirrors may map the same page: never a bounce buffer, and nothing is
 * synchronised when they are mapped and unmapped.
 */
#define MIRROR_ATTRS (DMA_ATTR_SKIP_CPU_SYNC | DMA_ATTR_REQUIRE_COHERENT)

dma_addr_t mirage_dma_map_page(struct device *dev, struct page *page)
{
	return dma_map_page_attrs(dev, page, 0, PAGE_SIZE, DMA_BIDIRECTIONAL, MIRROR_ATTRS);
}

void mirage_dma_unmap_page(struct device *dev, dma_addr_t addr)
{
	dma_unmap_page_attrs(dev, addr, PAGE_SIZE, DMA_BIDIRECTIONAL, MIRROR_ATTRS);
}

bool mirage_dma_mapping_error(struct device *dev, dma_addr_t addr)
{
	return dma_mapping_error(dev, addr);
}
