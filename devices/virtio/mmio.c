/*
 * The virtio-mmio register block. A register is read and written as one aligned 32-bit word;
 * whatever else the guest tries reads as all ones and is ignored when written.
 */
#include "devices/virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"

#define MMIO_MAGIC	     0x74726976 /* "virt" */
#define MMIO_VERSION	     2
#define MMIO_VENDOR	     0x4f445554 /* "TUDO" */
#define MMIO_DEVICE_REGS_MAX 256	/* bytes of a device's own state */
#define MMIO_INTERRUPTS	     (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)
#define MMIO_DRIVER_STATUS                                                                    \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | \
	 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

static const struct state_field mmio_fields[] = {
	STATE(struct virtio_mmio_regs, device_features),
	STATE(struct virtio_mmio_regs, driver_features),
	STATE(struct virtio_mmio_regs, device_features_sel),
	STATE(struct virtio_mmio_regs, driver_features_sel),
	STATE(struct virtio_mmio_regs, queue_sel),
	STATE(struct virtio_mmio_regs, status),
	STATE(struct virtio_mmio_regs, interrupt_status),
	STATE(struct virtio_mmio_regs, config_generation),
	STATE_STRUCT_ARRAY(struct virtio_mmio_regs, queue, virtq_state_fields),
	STATE_END,
};

/* Addresses and sizes of queues in use are checked by virtq_activate(), as after a guest's write */
static int mmio_check(const void *loaded, struct err *e)
{
	const struct virtio_mmio_regs *r = loaded;
	unsigned int i;

	if (r->driver_features & ~r->device_features)
		return err_set(e, -EINVAL,
			       "virtio-mmio driver_features %#llx has bits that device_features "
			       "%#llx has not; a driver accepts only what was offered",
			       (unsigned long long)r->driver_features,
			       (unsigned long long)r->device_features);
	if (r->status & ~(MMIO_DRIVER_STATUS | VIRTIO_CONFIG_S_NEEDS_RESET))
		return err_set(e, -EINVAL, "virtio-mmio status %#x has unknown bits; 0xcf is all",
			       r->status);
	if (r->interrupt_status & ~MMIO_INTERRUPTS)
		return err_set(e, -EINVAL,
			       "virtio-mmio interrupt_status %#x has unknown bits; 0x3 is all",
			       r->interrupt_status);
	for (i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		if (r->queue[i].ready > 1)
			return err_set(e, -EINVAL,
				       "virtio-mmio queue %u ready is %u; 0 or 1 is legal", i,
				       r->queue[i].ready);
	}
	return 0;
}

static struct virtio_mmio *mmio_of(struct virtio_transport *t)
{
	return container_of(t, struct virtio_mmio, transport);
}

static void mmio_interrupt(struct virtio_mmio *m, uint32_t cause)
{
	m->regs.interrupt_status |= cause;
	irq_pulse(&m->irq);
}

static void mmio_used(struct virtio_transport *t, unsigned int queue)
{
	(void)queue; /* one interrupt for all queues */
	mmio_interrupt(mmio_of(t), VIRTIO_MMIO_INT_VRING);
}

static void mmio_config_changed(struct virtio_transport *t)
{
	struct virtio_mmio *m = mmio_of(t);

	m->regs.config_generation++;
	if (m->regs.status & VIRTIO_CONFIG_S_DRIVER_OK)
		mmio_interrupt(m, VIRTIO_MMIO_INT_CONFIG);
}

static void mmio_broken(struct virtio_transport *t)
{
	struct virtio_mmio *m = mmio_of(t);

	m->regs.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (m->regs.status & VIRTIO_CONFIG_S_DRIVER_OK)
		mmio_interrupt(m, VIRTIO_MMIO_INT_CONFIG);
}

static void mmio_kick(struct virtio_transport *t, unsigned int queue)
{
	const uint64_t one = 1;

	/* refused only when the counter is full: a kick is pending then anyway */
	if (write(mmio_of(t)->kick[queue].fd, &one, sizeof(one)) < 0)
		return;
}

static void mmio_lend(struct virtio_transport *t, unsigned int queue, struct virtio_lent *lent)
{
	struct virtio_mmio *m = mmio_of(t);

	/* the other would not see a kick less, but this process would wake up for each */
	loop_mod(m->loop, &m->kick[queue].watch, lent ? 0 : EPOLLIN);
	if (lent)
		*lent = (struct virtio_lent) {.kick_fd = m->kick[queue].fd, .irq_fd = m->irq.fd};
}

static void mmio_kick_ready(struct loop_watch *w)
{
	struct virtio_mmio_kick *k = container_of(w, struct virtio_mmio_kick, watch);
	struct virtio_mmio *m = k->m;
	uint64_t count;

	if (read(k->fd, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&m->dev.lock);
	if (m->vdev->active && !m->vdev->broken && !m->paused)
		m->vdev->ops->queue_notify(m->vdev, k->queue);
	pthread_mutex_unlock(&m->dev.lock);
}

/* Return: the selected queue's registers, NULL if the device has no such queue */
static struct virtq_regs *mmio_queue(struct virtio_mmio *m)
{
	return m->regs.queue_sel < m->vdev->n_queues ? &m->regs.queue[m->regs.queue_sel] : NULL;
}

static void mmio_reset(struct virtio_mmio *m)
{
	const uint32_t generation = m->regs.config_generation;

	virtio_dev_reset(m->vdev);
	memset(&m->regs, 0, sizeof(m->regs));
	m->regs.device_features = m->vdev->offered;
	/* a driver that reads the config space across a reset must still notice a change */
	m->regs.config_generation = generation;
}

/* virtio 1.2, 2.1 and 3.1.1: bits are only ever added, until a 0 resets */
static void mmio_write_status(struct virtio_mmio *m, uint32_t val)
{
	struct virtio_mmio_regs *r = &m->regs;
	uint32_t added;

	if (!val) {
		mmio_reset(m);
		return;
	}
	added = val & ~r->status & MMIO_DRIVER_STATUS;
	if (added & VIRTIO_CONFIG_S_FEATURES_OK &&
	    !virtio_dev_features_ok(m->vdev, r->driver_features))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	if (!((r->status | added) & VIRTIO_CONFIG_S_FEATURES_OK))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
	r->status |= added;
	if (added & VIRTIO_CONFIG_S_DRIVER_OK)
		virtio_dev_activate(m->vdev, r->driver_features);
}

static void mmio_write_features(struct virtio_mmio *m, uint32_t val)
{
	struct virtio_mmio_regs *r = &m->regs;

	if (r->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	if (r->driver_features_sel == 0)
		r->driver_features = (r->driver_features & ~0xffffffffULL) | val;
	else if (r->driver_features_sel == 1)
		r->driver_features = (r->driver_features & 0xffffffff) | (uint64_t)val << 32;
}

static void set_low(uint64_t *reg, uint32_t val)
{
	*reg = (*reg & ~0xffffffffULL) | val;
}

static void set_high(uint64_t *reg, uint32_t val)
{
	*reg = (*reg & 0xffffffff) | (uint64_t)val << 32;
}

/* Queue registers are frozen while the device works with what virtq_activate() saw. */
static void mmio_write_queue(struct virtio_mmio *m, uint64_t offset, uint32_t val)
{
	struct virtq_regs *q = mmio_queue(m);

	if (!q || m->regs.status & VIRTIO_CONFIG_S_DRIVER_OK)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		q->num = val;
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		q->ready = val & 1;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
		set_low(&q->desc, val);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_high(&q->desc, val);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
		set_low(&q->avail, val);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_high(&q->avail, val);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
		set_low(&q->used, val);
		break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_high(&q->used, val);
		break;
	default:
		break;
	}
}

static void mmio_write_reg(struct virtio_mmio *m, uint64_t offset, uint32_t val)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		m->regs.device_features_sel = val;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		m->regs.driver_features_sel = val;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		mmio_write_features(m, val);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		m->regs.queue_sel = val;
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		if (val < m->vdev->n_queues)
			mmio_kick(&m->transport, val);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		m->regs.interrupt_status &= ~val;
		break;
	case VIRTIO_MMIO_STATUS:
		mmio_write_status(m, val);
		break;
	default:
		mmio_write_queue(m, offset, val);
		break;
	}
}

/* An interrupt that another raised has its reason in the used rings. */
static uint32_t mmio_interrupt_status(struct virtio_mmio *m)
{
	const struct virtio_dev_ops *ops = m->vdev->ops;

	if (ops->has_used && ops->has_used(m->vdev))
		m->regs.interrupt_status |= VIRTIO_MMIO_INT_VRING;
	return m->regs.interrupt_status;
}

static uint32_t mmio_read_reg(struct virtio_mmio *m, uint64_t offset)
{
	const struct virtq_regs *q = mmio_queue(m);
	const uint32_t sel = m->regs.device_features_sel;

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MMIO_MAGIC;
	case VIRTIO_MMIO_VERSION:
		return MMIO_VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return m->vdev->ops->device_id;
	case VIRTIO_MMIO_VENDOR_ID:
		return MMIO_VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return sel < 2 ? (uint32_t)(m->regs.device_features >> (sel * 32)) : 0;
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return q ? m->vdev->queue_size : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return q ? q->ready : 0;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return mmio_interrupt_status(m);
	case VIRTIO_MMIO_STATUS:
		return m->regs.status;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return m->regs.config_generation;
	default:
		/* also SHMLen and SHMBase, where all ones says that there is no such region */
		return 0xffffffff;
	}
}

static void mmio_read(struct device *dev, uint64_t offset, uint8_t *data, unsigned int len)
{
	struct virtio_mmio *m = container_of(dev, struct virtio_mmio, dev);
	unsigned int i;

	if (offset < VIRTIO_MMIO_CONFIG) {
		if (len == 4 && offset % 4 == 0)
			put_le32(data, mmio_read_reg(m, offset));
		return;
	}
	offset -= VIRTIO_MMIO_CONFIG;
	for (i = 0; i < len && offset + i < m->vdev->config_len; i++)
		data[i] = ((const uint8_t *)m->vdev->config)[offset + i];
}

static void mmio_write(struct device *dev, uint64_t offset, const uint8_t *data, unsigned int len)
{
	struct virtio_mmio *m = container_of(dev, struct virtio_mmio, dev);

	if (offset < VIRTIO_MMIO_CONFIG && len == 4 && offset % 4 == 0)
		mmio_write_reg(m, offset, get_le32(data));
}

static const struct device_ops mmio_ops = {
	.name = "virtio-mmio",
	.read = mmio_read,
	.write = mmio_write,
	.state = {.offset = offsetof(struct virtio_mmio, regs),
		  .size = sizeof(struct virtio_mmio_regs),
		  .version = 1,
		  .fields = mmio_fields,
		  .check = mmio_check},
};

static int mmio_add_kick(struct virtio_mmio *m, unsigned int queue, struct err *e)
{
	struct virtio_mmio_kick *k = &m->kick[queue];
	int ret;

	k->m = m;
	k->queue = queue;
	k->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (k->fd < 0)
		return err_set(e, -errno, "%s: cannot make an eventfd: %s; raise ulimit -n",
			       m->vdev->ops->name, strerror(errno));
	ret = loop_add(m->loop, &k->watch, k->fd, EPOLLIN, mmio_kick_ready);
	if (ret)
		return err_set(e, ret,
			       "%s: cannot watch an eventfd: %s; raise "
			       "/proc/sys/fs/epoll/max_user_watches",
			       m->vdev->ops->name, strerror(-ret));
	return 0;
}

int virtio_mmio_init(struct virtio_mmio *m, struct virtio_dev *vdev, const struct guest_mem *gm,
		     struct irq_line irq, struct loop *loop, struct err *e)
{
	unsigned int i;
	int ret = 0;

	memset(m, 0, sizeof(*m));
	for (i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		m->kick[i].fd = -1;
		m->kick[i].watch.fd = -1;
	}
	device_init(&m->dev, &mmio_ops);
	m->vdev = vdev;
	m->irq = irq;
	m->loop = loop;
	m->transport = (struct virtio_transport) {.used = mmio_used,
						  .config_changed = mmio_config_changed,
						  .broken = mmio_broken,
						  .kick = mmio_kick,
						  .lend = mmio_lend,
						  .lock = &m->dev.lock};
	virtio_dev_attach(vdev, &m->transport, gm, m->regs.queue);
	m->regs.device_features = vdev->offered;
	for (i = 0; i < vdev->n_queues && !ret; i++)
		ret = mmio_add_kick(m, i, e);
	return ret;
}

void virtio_mmio_fini(struct virtio_mmio *m)
{
	unsigned int i;

	if (!m->vdev)
		return;
	for (i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		loop_del(m->loop, &m->kick[i].watch);
		if (m->kick[i].fd >= 0)
			close(m->kick[i].fd);
		m->kick[i].fd = -1;
	}
	pthread_mutex_lock(&m->dev.lock);
	virtio_dev_reset(m->vdev);
	pthread_mutex_unlock(&m->dev.lock);
	device_fini(&m->dev);
	m->vdev->transport = NULL;
	m->vdev = NULL;
}

void virtio_mmio_pause(struct virtio_mmio *m)
{
	pthread_mutex_lock(&m->dev.lock);
	m->paused = true;
	pthread_mutex_unlock(&m->dev.lock);
	if (m->vdev->ops->quiesce)
		m->vdev->ops->quiesce(m->vdev);
}

void virtio_mmio_resume(struct virtio_mmio *m)
{
	unsigned int i;

	pthread_mutex_lock(&m->dev.lock);
	m->paused = false;
	pthread_mutex_unlock(&m->dev.lock);
	if (m->vdev->ops->unquiesce)
		m->vdev->ops->unquiesce(m->vdev);
	for (i = 0; i < m->vdev->n_queues; i++)
		mmio_kick(&m->transport, i);
}

/* ---- state ---- */

static void put_state(const struct state_desc *desc, const char *name, uint16_t instance,
		      const void *object, struct wbuf *w)
{
	state_save(desc, name, instance, (const uint8_t *)object + desc->offset, w);
}

void virtio_mmio_save(struct virtio_mmio *m, uint16_t instance, struct wbuf *w)
{
	pthread_mutex_lock(&m->dev.lock);
	put_state(&mmio_ops.state, mmio_ops.name, instance, m, w);
	put_state(&m->vdev->ops->state, m->vdev->ops->name, instance, m->vdev, w);
	pthread_mutex_unlock(&m->dev.lock);
}

static int load_queue(const struct virtio_mmio *m, unsigned int i, const struct virtio_mmio_regs *r,
		      struct err *e)
{
	const struct virtq_regs *q = &r->queue[i];
	const bool in_use = q->ready && r->status & VIRTIO_CONFIG_S_DRIVER_OK;
	const bool broken = r->status & VIRTIO_CONFIG_S_NEEDS_RESET;

	if (q->ready && i >= m->vdev->n_queues)
		return err_set(e, -EINVAL, "%s: queue %u is ready, this device has %u queues",
			       m->vdev->ops->name, i, m->vdev->n_queues);
	/* a device that stands still has handed back all that it took */
	if ((!in_use && (q->last_avail || q->used_idx)) ||
	    (in_use && !broken && q->last_avail != q->used_idx))
		return err_set(e, -EINVAL,
			       "%s: queue %u: last_avail=%u used_idx=%u ready=%u status=%#x: a "
			       "device that stands still has none in flight",
			       m->vdev->ops->name, i, q->last_avail, q->used_idx, q->ready,
			       r->status);
	return 0;
}

static int load_check(const struct virtio_mmio *m, const struct virtio_mmio_regs *r, struct err *e)
{
	const char *name = m->vdev->ops->name;
	unsigned int i;
	int ret = 0;

	if (r->device_features & ~m->vdev->offered)
		return err_set(e, -EINVAL,
			       "%s: the guest was offered features %#llx, this host's device has "
			       "%#llx (missing %#llx); give it a back end that can do as much",
			       name, (unsigned long long)r->device_features,
			       (unsigned long long)m->vdev->offered,
			       (unsigned long long)(r->device_features & ~m->vdev->offered));
	if ((r->status & VIRTIO_CONFIG_S_DRIVER_OK && !(r->status & VIRTIO_CONFIG_S_FEATURES_OK)) ||
	    (r->status & VIRTIO_CONFIG_S_FEATURES_OK &&
	     !virtio_dev_features_ok(m->vdev, r->driver_features)))
		return err_set(e, -EINVAL,
			       "%s: status %#x with driver_features %#llx: no driver can get there",
			       name, r->status, (unsigned long long)r->driver_features);
	for (i = 0; !ret && i < VIRTIO_MAX_QUEUES; i++)
		ret = load_queue(m, i, r, e);
	return ret;
}

/* The device's own registers, before it is activated with them. */
static int load_device(struct virtio_mmio *m, uint16_t instance, struct rbuf *r, struct err *e)
{
	const struct virtio_dev_ops *ops = m->vdev->ops;
	uint64_t regs[MMIO_DEVICE_REGS_MAX / sizeof(uint64_t)];
	int ret;

	if (ops->state.size > sizeof(regs))
		return err_set(e, -E2BIG, "%s: its state does not fit here", ops->name);
	ret = state_load(&ops->state, ops->name, instance, r, regs, e);
	if (ret < 0)
		return ret;
	if (ops->load)
		return ops->load(m->vdev, regs, e);
	memcpy((uint8_t *)m->vdev + ops->state.offset, regs, ops->state.size);
	return 0;
}

static int load_status(struct virtio_mmio *m, struct err *e)
{
	struct virtio_dev *vdev = m->vdev;

	if (m->regs.status & VIRTIO_CONFIG_S_NEEDS_RESET) {
		vdev->features = m->regs.driver_features;
		vdev->broken = true; /* until the driver resets it, as on the other host */
		return 0;
	}
	if (!(m->regs.status & VIRTIO_CONFIG_S_DRIVER_OK))
		return 0;
	virtio_dev_activate(vdev, m->regs.driver_features);
	if (vdev->active)
		return 0;
	return err_set(e, -EINVAL,
		       "%s: its queues cannot be taken up again (see the log): addresses and sizes "
		       "must be a driver's",
		       vdev->ops->name);
}

int virtio_mmio_load(struct virtio_mmio *m, uint16_t instance, struct rbuf *r, struct err *e)
{
	struct virtio_mmio_regs regs;
	int ret = state_load(&mmio_ops.state, mmio_ops.name, instance, r, &regs, e);

	if (!ret)
		ret = load_check(m, &regs, e);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&m->dev.lock);
	ret = load_device(m, instance, r, e);
	if (!ret) {
		m->regs = regs;
		ret = load_status(m, e);
	}
	/* an edge may have been on its way on the other host: one too many is harmless */
	if (!ret && m->regs.interrupt_status)
		irq_pulse(&m->irq);
	pthread_mutex_unlock(&m->dev.lock);
	if (!ret && m->vdev->ops->quiesce)
		m->vdev->ops->quiesce(m->vdev); /* activated, and still paused */
	return ret;
}

int virtio_mmio_kick_fd(const struct virtio_mmio *m, unsigned int queue)
{
	return m->kick[queue].fd;
}
