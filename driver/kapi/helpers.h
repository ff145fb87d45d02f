/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions for what C headers define inline or as macros, and the kernel crate does not have.
 */
#ifndef MIRAGE_HELPERS_H
#define MIRAGE_HELPERS_H

#include <linux/dma-fence-chain.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/hmm.h>
#include <linux/mmu_notifier.h>

#include <drm/drm_debugfs.h>
#include <drm/drm_syncobj.h>

void mirage_wmb(void);
void mirage_rmb(void);

void mirage_dma_fence_put(struct dma_fence *fence);
void mirage_dma_fence_set_error(struct dma_fence *fence, int error);
bool mirage_dma_fence_begin_signalling(void);
void mirage_dma_fence_end_signalling(bool cookie);

void mirage_drm_debugfs_create_file(struct drm_device *dev, const char *name, const struct file_operations *fops);
void mirage_drm_syncobj_put(struct drm_syncobj *syncobj);
u64 mirage_drm_syncobj_last_point(struct drm_syncobj *syncobj);
struct dma_fence_chain *mirage_dma_fence_chain_alloc(void);
void mirage_dma_fence_chain_free(struct dma_fence_chain *chain);

bool mirage_mmu_interval_read_retry(struct mmu_interval_notifier *notifier, unsigned long seq);
void mirage_mmu_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq);

struct page *mirage_hmm_pfn_to_page(unsigned long hmm_pfn);
int mirage_hmm_range_fault_locked(struct hmm_range *range);
void mirage_set_page_dirty(struct page *page);
bool mirage_page_is_secret(struct page *page);
bool mirage_vma_is_secret(const struct vm_area_struct *vma);
bool mirage_page_is_zero(struct page *page);

void mirage_task_comm(char *comm, struct task_struct *task);

bool mirage_dma_needs_bounce(struct device *dev);
dma_addr_t mirage_dma_map_page(struct device *dev, struct page *page);
void mirage_dma_unmap_page(struct device *dev, dma_addr_t addr);
bool mirage_dma_mapping_error(struct device *dev, dma_addr_t addr);

#endif
