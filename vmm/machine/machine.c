#include "vmm/machine/machine.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/hold/mitigation.h"
#include "vmm/machine/acpi/acpi.h"
#include "vmm/machine/boot/entry.h"
#include "vmm/machine/vm_time.h"

/* An interrupt line and, after the irqchip is there, its way to the guest. */
static int new_irq(struct machine *m, uint32_t gsi, struct err *e)
{
	m->irq[gsi].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->irq[gsi].fd >= 0)
		return 0;
	return err_set(e, -errno,
		       "no eventfd for interrupt %u: %s; raise the limit of open files "
		       "(ulimit -n)",
		       gsi, strerror(errno));
}

static int add_fixed_devices(struct machine *m, struct err *e)
{
	int ret = new_irq(m, LAYOUT_GSI_COM1, e);
	size_t i;

	if (!ret)
		ret = new_irq(m, LAYOUT_GSI_BUTTON, e);
	if (ret < 0)
		return ret;
	serial_init(&m->serial, m->irq[LAYOUT_GSI_COM1], m->host->serial);
	power_init(&m->power, m->host->sink, m->irq[LAYOUT_GSI_BUTTON]);
	pvpanic_init(&m->pvpanic, m->host->sink);

	const struct {
		uint16_t port, count;
		struct device *dev;
	} ports[] = {
		{LAYOUT_PORT_COM1, 8, &m->serial.dev},
		{LAYOUT_PORT_RESET, 3, &m->power.acpi},
		{LAYOUT_PORT_KBD, 1, &m->power.kbd},
		{LAYOUT_PORT_PVPANIC, 1, &m->pvpanic.dev},
	};
	for (i = 0; !ret && i < ARRAY_SIZE(ports); i++)
		ret = bus_add(&m->ports, ports[i].port, ports[i].count, 0, ports[i].dev, e);
	return ret;
}

static void fini_blk(struct machine_slot *slot)
{
	virtio_blk_fini(&slot->blk);
}

static void fini_net(struct machine_slot *slot)
{
	virtio_net_fini(&slot->net);
}

/* Put the device in the next slot behind its transport and onto the bus. */
static int plug(struct machine *m, struct virtio_dev *vdev, struct err *e)
{
	const unsigned int n = m->n_slots;
	struct machine_slot *slot = &m->slot[n];
	const uint32_t gsi = LAYOUT_VIRTIO_GSI + n;
	int ret;

	m->n_slots++;
	ret = new_irq(m, gsi, e);
	if (ret < 0)
		return ret;
	ret = virtio_mmio_init(&slot->mmio, vdev, &m->memory.guest, m->irq[gsi], m->host->loop, e);
	if (ret < 0)
		return ret;
	return bus_add(&m->mmio, LAYOUT_VIRTIO_BASE + (uint64_t)n * LAYOUT_VIRTIO_SIZE,
		       LAYOUT_VIRTIO_SIZE, 0, &slot->mmio.dev, e);
}

static int add_virtio_devices(struct machine *m, struct err *e)
{
	const struct machine_config *c = m->host->config;
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < c->n_disks; i++) {
		struct machine_slot *slot = &m->slot[m->n_slots];

		slot->fini = fini_blk;
		ret = virtio_blk_init(&slot->blk, &m->host->disks[i], c->disk[i].serial,
				      m->host->loop, e);
		if (!ret)
			ret = plug(m, &slot->blk.vdev, e);
	}
	for (i = 0; !ret && i < c->n_nets; i++) {
		struct machine_slot *slot = &m->slot[m->n_slots];

		slot->fini = fini_net;
		ret = virtio_net_init(&slot->net, &m->host->taps[i], m->host->loop, e);
		if (!ret)
			ret = plug(m, &slot->net.vdev, e);
		if (!ret && slot->net.vhost.host)
			guest_mem_add_writer(&m->memory.guest, &slot->net.vhost.writer);
	}
	if (!ret && c->rng) {
		struct machine_slot *slot = &m->slot[m->n_slots];

		virtio_rng_init(&slot->rng);
		ret = plug(m, &slot->rng.vdev, e);
	}
	return ret;
}

static int bind_interrupts(struct machine *m, struct err *e)
{
	unsigned int n, q;
	uint32_t gsi;
	int ret = 0;

	for (gsi = 0; !ret && gsi < ARRAY_SIZE(m->irq); gsi++)
		if (m->irq[gsi].fd >= 0)
			ret = vm_bind_irq(&m->vm, gsi, m->irq[gsi].fd, e);
	for (n = 0; !ret && n < m->n_slots; n++) {
		const gpa_t base = LAYOUT_VIRTIO_BASE + (gpa_t)n * LAYOUT_VIRTIO_SIZE;
		const struct virtio_mmio *t = &m->slot[n].mmio;

		for (q = 0; !ret && q < t->vdev->n_queues; q++)
			ret = vm_bind_kick(&m->vm, base + VIRTIO_MMIO_QUEUE_NOTIFY, q,
					   virtio_mmio_kick_fd(t, q), e);
	}
	return ret;
}

static int create_vcpus(struct machine *m, struct err *e)
{
	const uint32_t n = m->host->config->n_vcpus;
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < n; i++)
		ret = vcpu_create(&m->vcpus[i], i, n, m->host->kvm, &m->vm, &m->env, e);
	if (!ret) /* a vCPU that runs cannot be asked */
		m->tsc_khz = vm_time_tsc_khz(&m->vcpus[0]);
	return ret;
}

/* See vm.h for why the order is what it is. */
static int build(struct machine *m, struct err *e)
{
	int ret = 0;

	if (!m->memory.map)
		ret = memory_init(&m->memory, &m->host->config->memory, e);
	if (!ret)
		ret = vm_create(&m->vm, m->host->kvm, e);
	if (!ret)
		ret = mitigation_setup_vm(m->host->mitigation, &m->vm, e);
	if (!ret) /* before any vCPU */
		ret = dirty_ring_init(&m->dirty_ring, &m->memory.guest, m->vm.fd,
				      m->host->config->dirty_ring, m->host->config->n_vcpus, e);
	if (!ret)
		ret = vm_add_memory(&m->vm, &m->memory.guest, e);
	if (!ret)
		ret = vm_create_irqchip(&m->vm, e);
	if (!ret)
		ret = add_fixed_devices(m, e);
	if (!ret)
		ret = add_virtio_devices(m, e);
	if (!ret)
		ret = bind_interrupts(m, e);
	if (!ret)
		ret = create_vcpus(m, e);
	return ret;
}

int machine_init(struct machine *m, const struct machine_host *host, struct memory *memory,
		 struct err *e)
{
	const uint32_t n_vcpus = host->config->n_vcpus;
	uint32_t i;

	memset(m, 0, sizeof(*m));
	m->host = host;
	m->vm.fd = -1;
	if (memory)
		memory_move(&m->memory, memory);
	else
		m->memory.fd = -1;
	m->ports.name = "port";
	m->mmio.name = "mmio";
	for (i = 0; i < ARRAY_SIZE(m->irq); i++)
		m->irq[i].fd = -1;
	m->env = (struct vcpu_env) {
		.ports = &m->ports,
		.mmio = &m->mmio,
		.mem = &m->memory.guest,
		.sink = host->sink,
		.cpuid = host->cpuid,
		.cpu_msrs = host->cpu_msrs,
		.mitigation = host->mitigation,
		.isolation = host->isolation,
		.dirty_ring = &m->dirty_ring,
	};
	m->slot = calloc(LAYOUT_VIRTIO_SLOTS, sizeof(*m->slot));
	m->vcpus = calloc(n_vcpus, sizeof(*m->vcpus));
	if (!m->slot || !m->vcpus)
		return err_no_memory(e);
	for (i = 0; i < n_vcpus; i++)
		m->vcpus[i].fd = -1;
	return build(m, e);
}

int machine_load(struct machine *m, struct err *e)
{
	const struct acpi_config acpi = {
		.n_vcpus = m->host->config->n_vcpus,
		.slots = (1u << m->n_slots) - 1,
	};
	gpa_t rsdp;
	int ret = acpi_build(&acpi, &m->memory.guest, &rsdp, e);

	if (ret < 0)
		return ret;
	return kernel_load(m->host->kernel, &m->memory.guest, rsdp, &m->entry, e);
}

static int enter_kernel(struct machine *m, struct err *e)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int ret = vcpu_get_sregs(&m->vcpus[0], &sregs, e);

	if (ret < 0)
		return ret;
	entry_set_regs(&m->entry, &regs, &sregs);
	return vcpu_set_entry(&m->vcpus[0], &regs, &sregs, e);
}

static int start_vcpus(struct machine *m, struct err *e)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < m->host->config->n_vcpus; i++)
		ret = vcpu_start(&m->vcpus[i], e);
	if (ret)
		machine_stop(m);
	return ret;
}

int machine_start(struct machine *m, struct err *e)
{
	int ret = enter_kernel(m, e);

	return ret ? ret : start_vcpus(m, e);
}

int machine_start_restored(struct machine *m, bool paused, struct err *e)
{
	int ret = start_vcpus(m, e);

	if (!ret && !paused)
		machine_resume(m);
	return ret;
}

void machine_pause(struct machine *m)
{
	const uint32_t n_vcpus = m->host->config->n_vcpus;
	uint32_t i;

	if (m->paused)
		return;
	m->paused = true;
	/* all are kicked before any is waited for: one round trip for any number of them */
	for (i = 0; i < n_vcpus; i++)
		vcpu_request_pause(&m->vcpus[i]);
	for (i = 0; i < n_vcpus; i++)
		vcpu_wait_parked(&m->vcpus[i]);
	for (i = 0; i < m->n_slots; i++)
		virtio_mmio_pause(&m->slot[i].mmio);
	serial_pause(&m->serial);
}

void machine_resume(struct machine *m)
{
	uint32_t i;

	if (!m->paused)
		return;
	m->paused = false;
	serial_resume(&m->serial);
	for (i = 0; i < m->n_slots; i++)
		virtio_mmio_resume(&m->slot[i].mmio);
	for (i = 0; i < m->host->config->n_vcpus; i++)
		vcpu_resume(&m->vcpus[i]);
}

void machine_stop(struct machine *m)
{
	uint32_t i;

	if (!m->vcpus)
		return;
	for (i = 0; i < m->host->config->n_vcpus; i++)
		vcpu_request_stop(&m->vcpus[i]);
	for (i = 0; i < m->host->config->n_vcpus; i++)
		vcpu_join(&m->vcpus[i]);
}

int machine_init_dirty_log(struct machine *m, struct err *e)
{
	if (m->dirty_ring.entries)
		return dirty_log_init(&m->dirty_log, &m->memory.guest, &dirty_ring_ops,
				      &m->dirty_ring, e);
	return dirty_log_init(&m->dirty_log, &m->memory.guest, &kvm_dirty_log_ops, &m->vm.fd, e);
}

void machine_request_checks(struct machine *m)
{
	uint32_t i;

	for (i = 0; i < m->host->config->n_vcpus; i++)
		vcpu_request_check(&m->vcpus[i]);
}

void machine_announce(struct machine *m)
{
	unsigned int n;

	for (n = 0; n < m->n_slots; n++)
		if (m->slot[n].mmio.vdev->ops->device_id == VIRTIO_ID_NET)
			virtio_net_announce(&m->slot[n].net);
}

/* The last look at what is held, while the vCPUs still have their descriptors. */
static void end_mitigation(struct machine *m)
{
	uint32_t i;

	for (i = 0; i < m->host->config->n_vcpus; i++)
		if (m->vcpus[i].fd >= 0)
			mitigation_check_vcpu(m->host->mitigation, i);
	mitigation_forget_vm(m->host->mitigation);
}

static void log_exits(const struct machine *m)
{
	uint64_t exits = 0;
	uint32_t i;

	for (i = 0; i < m->host->config->n_vcpus; i++)
		exits += m->vcpus[i].exits;
	log_debug("machine stopped: vcpus=%u exits=%llu", m->host->config->n_vcpus,
		  (unsigned long long)exits);
}

void machine_fini(struct machine *m)
{
	uint32_t i;

	machine_stop(m);
	if (m->vcpus) {
		log_exits(m);
		end_mitigation(m);
		for (i = 0; i < m->host->config->n_vcpus; i++)
			vcpu_destroy(&m->vcpus[i]);
	}
	free(m->vcpus);
	m->memory.guest.writers = NULL; /* they are in the slots */
	for (i = 0; m->slot && i < LAYOUT_VIRTIO_SLOTS; i++) {
		virtio_mmio_fini(&m->slot[i].mmio);
		if (m->slot[i].fini)
			m->slot[i].fini(&m->slot[i]);
	}
	free(m->slot);
	serial_fini(&m->serial);
	power_fini(&m->power);
	pvpanic_fini(&m->pvpanic);
	for (i = 0; i < ARRAY_SIZE(m->irq); i++)
		if (m->irq[i].fd >= 0)
			close(m->irq[i].fd);
	dirty_log_fini(&m->dirty_log);
	dirty_ring_fini(&m->dirty_ring);
	vm_fini(&m->vm, m->host->closer); /* behind all that holds it, or that would end it here */
	memory_fini(&m->memory);
	m->vcpus = NULL;
	m->slot = NULL;
}
