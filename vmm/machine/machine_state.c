#include "vmm/machine/machine_state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "cpuid/cpuid.h"
#include "migration/state/section.h"
#include "migration/state/state.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vcpu_state.h"
#include "vmm/machine/vm_state.h"
#include "vmm/machine/vm_time.h"

#define VERSION 1

/* ---- what the machine is made of: the first section, so that devices are named as such ---- */

static void save_shape(const struct machine *m, struct wbuf *w)
{
	struct wbuf body = {0};
	unsigned int i;

	wbuf_u32(&body, m->host->config->n_vcpus);
	wbuf_u64(&body, m->memory.size_bytes);
	wbuf_u32(&body, m->n_slots);
	for (i = 0; i < m->n_slots; i++)
		wbuf_u32(&body, m->slot[i].mmio.vdev->ops->device_id);
	section_put(w, "machine", 0, VERSION, &body);
	wbuf_fini(&body);
}

static int restore_shape(const struct machine *m, struct rbuf *r, struct err *e)
{
	struct section s;
	uint64_t ram;
	uint32_t n_vcpus, n_slots, i;
	int ret = section_expect(r, "machine", 0, VERSION, &s, e);

	if (ret < 0)
		return ret;
	n_vcpus = rbuf_u32(&s.body);
	ram = rbuf_u64(&s.body);
	n_slots = rbuf_u32(&s.body);
	if (!s.body.failed && (n_vcpus != m->host->config->n_vcpus || ram != m->memory.size_bytes ||
			       n_slots != m->n_slots))
		return err_set(e, -EINVAL,
			       "the guest has %u vCPUs, %llu bytes of memory and %u virtio "
			       "devices, the destination has %u, %llu and %u; give both sides the "
			       "same -c, -m and devices",
			       n_vcpus, (unsigned long long)ram, n_slots, m->host->config->n_vcpus,
			       (unsigned long long)m->memory.size_bytes, m->n_slots);
	for (i = 0; !s.body.failed && i < n_slots; i++) {
		const uint32_t there = rbuf_u32(&s.body);
		const struct virtio_dev_ops *ops = m->slot[i].mmio.vdev->ops;

		if (!s.body.failed && there != ops->device_id)
			return err_set(
				e, -EINVAL,
				"virtio slot %u: the guest has a device of type %u, the "
				"destination "
				"%s (%u); give both sides the same devices in the same order",
				i, there, ops->name, ops->device_id);
	}
	return section_end(&s, e);
}

/* ---- parts ---- */

static int save_mitigation(const struct machine *m, struct wbuf *w, struct err *e)
{
	struct mitigation_saved s;
	int ret = mitigation_save(m->host->mitigation, true, &s, e);

	if (!ret)
		mitigation_saved_encode(&s, w);
	mitigation_saved_fini(&s);
	return ret;
}

/* @stays: the guest was here all the time, and the engine knows all there is */
static int restore_mitigation(const struct machine *m, bool stays, struct rbuf *r, struct err *e)
{
	struct mitigation_saved s;
	int ret = mitigation_saved_decode(r, &s, e);

	if (!ret && !stays)
		ret = mitigation_update(m->host->mitigation, &s, e);
	mitigation_saved_fini(&s);
	return ret;
}

static void save_serial(struct machine *m, struct wbuf *w)
{
	const struct device_ops *ops = m->serial.dev.ops;

	state_save(&ops->state, ops->name, 0, &m->serial.regs, w);
}

static int restore_serial(struct machine *m, struct rbuf *r, struct err *e)
{
	const struct device_ops *ops = m->serial.dev.ops;
	struct serial_regs regs;
	int ret = state_load(&ops->state, ops->name, 0, r, &regs, e);

	if (!ret)
		serial_load(&m->serial, &regs);
	return ret;
}

/* ---- the whole ---- */

int machine_save(struct machine *m, const struct clock_reading *base, struct wbuf *w, struct err *e)
{
	const uint32_t n_vcpus = m->host->config->n_vcpus;
	uint32_t i;
	int ret;

	if (!m->paused)
		return err_set(e, -EBUSY, "the machine runs; pause it before it is saved");
	save_shape(m, w);
	ret = save_mitigation(m, w, e);
	if (!ret)
		ret = vm_save_time(&m->vm, m->vcpus, n_vcpus, base, w, e);
	for (i = 0; !ret && i < n_vcpus; i++)
		ret = vcpu_save(&m->vcpus[i], m->host->kvm, &m->vm, w, e);
	if (!ret)
		ret = vm_save_chips(&m->vm, w, e);
	if (ret < 0)
		return ret;
	save_serial(m, w);
	for (i = 0; i < m->n_slots; i++)
		virtio_mmio_save(&m->slot[i].mmio, (uint16_t)i, w);
	return w->failed ? err_no_memory(e) : 0;
}

static int restore(struct machine *m, const struct clock_window *when, int64_t *off_ns, bool stays,
		   struct rbuf *r, struct err *e)
{
	const uint32_t n_vcpus = m->host->config->n_vcpus;
	struct vm_time_load time = {
		.window = *when,
		.invariant_tsc = cpuid_has_invariant_tsc(m->host->cpuid),
		.tsc_scaling = m->host->kvm->tsc_scaling,
	};
	uint32_t i;
	int ret;

	machine_pause(m);
	ret = restore_shape(m, r, e);
	if (!ret)
		ret = restore_mitigation(m, stays, r, e);
	if (!ret)
		ret = vm_restore_time(&m->vm, m->vcpus, n_vcpus, &time, r, e);
	*off_ns = time.off_ns; /* 0 when it was not looked at */
	m->tsc_khz = vm_time_tsc_khz(&m->vcpus[0]);
	for (i = 0; !ret && i < n_vcpus; i++)
		ret = vcpu_restore(&m->vcpus[i], &m->vm, r, e);
	if (!ret)
		ret = vm_restore_chips(&m->vm, r, e);
	if (!ret)
		ret = restore_serial(m, r, e);
	for (i = 0; !ret && i < m->n_slots; i++)
		ret = virtio_mmio_load(&m->slot[i].mmio, (uint16_t)i, r, e);
	return ret ? ret : section_finish(r, e);
}

int machine_restore(struct machine *m, const struct clock_window *when, int64_t *off_ns,
		    struct rbuf *r, struct err *e)
{
	return restore(m, when, off_ns, false, r, e);
}

/* ---- the same guest in a new VM ---- */

static int build_again(struct machine *m, const struct wbuf *state, bool paused, struct err *e)
{
	const struct machine_host *host = m->host;
	const struct clock_window when = clock_window_here();
	struct rbuf r = rbuf_of(state->data, state->len);
	struct memory memory;
	int64_t off_ns;
	int ret;

	mitigation_stay(host->mitigation);
	memory_move(&memory, &m->memory);
	machine_fini(m);
	ret = machine_init(m, host, &memory, e);
	if (!ret)
		ret = restore(m, &when, &off_ns, true, &r, e);
	return ret ? ret : machine_start_restored(m, paused, e);
}

int machine_rebuild(struct machine *m, bool *gone, struct err *e)
{
	const struct clock_reading monotonic = {0};
	const bool paused = m->paused;
	struct wbuf state = {0};
	int ret;

	*gone = false;
	machine_pause(m);
	ret = machine_save(m, &monotonic, &state, e);
	if (!ret) {
		*gone = true;
		ret = build_again(m, &state, paused, e);
		*gone = ret < 0;
	} else if (!paused) {
		machine_resume(m);
	}
	wbuf_fini(&state);
	return ret;
}
