/* KVM's dirty log: what vCPUs and KVM itself wrote, by memory slot. */
#ifndef VMM_KVM_DIRTY_LOG_KVM_H
#define VMM_KVM_DIRTY_LOG_KVM_H

#include "migration/ram/dirty_log.h"

/*
 * For dirty_log_init(), with a pointer to the VM's descriptor as ctx; slots are numbered as the regions.
 * begin: -ENOTSUP when KVM has no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
 * Source: api.rst 4.8 KVM_GET_DIRTY_LOG, 4.117 KVM_CLEAR_DIRTY_LOG, 7.18
 */
extern const struct dirty_log_ops kvm_dirty_log_ops;

/** vm_watch_slot - let KVM watch the slot of region @r, or end it. Return: 0 or -errno */
int vm_watch_slot(int vm_fd, uint32_t slot, const struct guest_mem_region *r, bool on);

#endif
