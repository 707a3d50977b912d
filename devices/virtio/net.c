/*
 * virtio-net. To the network: a chain's header is copied and checked, then header and data go to
 * the tap in one writev(2) from where they lie. From the network: a frame is read into a buffer of
 * ours, since only its length tells how many of the guest's buffers it needs, and copied from
 * there. A frame that finds no room waits, and the tap is not watched until the guest offers more.
 *
 * The kernel acts on the header, and the guest wrote it: nothing of it is passed on that was not
 * negotiated or does not lie within its frame. A frame that is wrong is dropped as on any network;
 * a ring that is wrong breaks the device.
 *
 * With vhost all that is the kernel's work, checks included; what is left here is its beginning and
 * end, the control queue and the config space. Where the kernel does not want to, we do it.
 */
#include "devices/virtio/net.h"

#include <assert.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "devices/tap.h"
#include "devices/virtio/iov.h"

enum { NET_RX, NET_TX, NET_CTRL, NET_QUEUES };

#define NET_HDR_LEN	sizeof(struct virtio_net_hdr_v1)
#define NET_FRAME_MAX	(65536 + 256) /* header, Ethernet header and tags, 64 KiB */
#define NET_FRAME_MIN	(NET_HDR_LEN + ETH_HLEN)
#define NET_RX_BATCH	64   /* frames until other devices of the loop get their turn */
#define NET_WAITING_MAX 1024 /* more than a tap's queue holds */

#define F(name) (1ULL << VIRTIO_NET_F_##name)

/* The config space that the guest reads is regs. */
static_assert(offsetof(struct virtio_net_regs, mac) == offsetof(struct virtio_net_config, mac) &&
		      offsetof(struct virtio_net_regs, status) ==
			      offsetof(struct virtio_net_config, status),
	      "virtio_net_regs must begin as virtio_net_config does");

static struct virtio_net *net_of(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_net, vdev);
}

static bool net_has(const struct virtio_net *n, uint64_t features)
{
	return (n->vdev.features & features) == features;
}

/* Errors of the host are watched for always. */
static void net_watch_input(struct virtio_net *n, bool on)
{
	if (n->watch.fd >= 0)
		loop_mod(n->loop, &n->watch, on ? EPOLLIN : 0);
}

static void net_lose_tap(struct virtio_net *n)
{
	loop_del(n->loop, &n->watch);
	log_warn("network interface is gone, the guest's link stays down; start it again with "
		 "another: interface=%s",
		 n->tap->name);
	n->regs.status &= (uint16_t)~VIRTIO_NET_S_LINK_UP;
	if (n->vdev.transport)
		n->vdev.transport->config_changed(n->vdev.transport);
}

/* ---- to the network ---- */

/* The two features that a segmented frame takes: that of its kind, and checksums. */
static bool net_gso_ok(const struct virtio_net *n, uint8_t type, bool to_guest)
{
	switch (type) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return net_has(n,
			       to_guest ? F(GUEST_TSO4) | F(GUEST_CSUM) : F(HOST_TSO4) | F(CSUM));
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return net_has(n,
			       to_guest ? F(GUEST_TSO6) | F(GUEST_CSUM) : F(HOST_TSO6) | F(CSUM));
	default:
		return false;
	}
}

/* Makes the guest's header one for the kernel. Return: false if the frame is to be dropped */
static bool net_check_tx(const struct virtio_net *n, struct virtio_net_hdr_v1 *h, uint32_t len)
{
	const bool csum = h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	/* behind the checksum field; at most three times 65535 */
	const uint32_t csum_end = (uint32_t)h->csum_start + h->csum_offset + 2;

	if (csum && (!net_has(n, F(CSUM)) || h->csum_start < ETH_HLEN || csum_end > len))
		return false;
	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE &&
	    (!net_gso_ok(n, h->gso_type, false) || !csum || !h->gso_size || h->hdr_len > len))
		return false;
	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		h->gso_size = h->hdr_len = 0;
	if (!csum)
		h->csum_start = h->csum_offset = 0;
	h->flags = csum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
	h->num_buffers = 0;
	return true;
}

/* @c->iov has one more element before its first. */
static void net_send(const struct virtio_net *n, const struct virtq_chain *c)
{
	struct iovec *data = c->iov;
	unsigned int n_data = c->n_out;
	struct virtio_net_hdr_v1 hdr;

	if (c->out_len < NET_FRAME_MIN || c->out_len > NET_FRAME_MAX)
		return;
	iov_copy(data, n_data, &hdr, sizeof(hdr), false);
	if (!net_check_tx(n, &hdr, c->out_len - (uint32_t)sizeof(hdr)))
		return;
	iov_drop(&data, &n_data, sizeof(hdr));
	*--data = (struct iovec) {.iov_base = &hdr, .iov_len = sizeof(hdr)};
	/* what the host cannot take (interface down, no memory) is lost, as on a wire */
	if (writev(n->tap->fd, data, (int)n_data + 1) < 0)
		return;
}

static void net_tx(struct virtio_net *n)
{
	struct virtq *vq = &n->vdev.queue[NET_TX];
	struct iovec iov[VIRTQ_SIZE_MAX + 1];
	struct virtq_chain c = {.iov = iov + 1};
	unsigned int turns = VIRTQ_SIZE_MAX;

	virtq_kicks_off(vq);
	while (turns-- && virtq_pop(vq, &c)) {
		net_send(n, &c);
		virtq_push(vq, c.head, 0);
	}
	virtq_notify(vq);
	virtq_kicks_on(vq);
}

/* ---- from the network ---- */

/* What came before the driver's wishes were known, or by a foreign hand, may not suit it. */
static bool net_check_rx(const struct virtio_net *n, struct virtio_net_hdr_v1 *h)
{
	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE && !net_gso_ok(n, h->gso_type, true))
		return false;
	if (!net_has(n, F(GUEST_CSUM))) {
		if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			return false;
		h->flags = 0;
	}
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
	h->num_buffers = 1;
	return true;
}

/* Return: true with a frame in n->frame; false when there is none at the moment */
static bool net_read(struct virtio_net *n)
{
	unsigned int turns = NET_RX_BATCH;

	while (turns--) {
		const ssize_t len = read(n->tap->fd, n->frame, NET_FRAME_MAX);
		struct virtio_net_hdr_v1 hdr;

		if (len < 0)
			return false;
		/* a full buffer may mean that the end was cut off */
		if (len < (ssize_t)NET_FRAME_MIN || len == NET_FRAME_MAX)
			continue;
		memcpy(&hdr, n->frame, sizeof(hdr));
		if (!net_check_rx(n, &hdr))
			continue;
		memcpy(n->frame, &hdr, sizeof(hdr));
		n->frame_len = (uint32_t)len;
		return true;
	}
	return false;
}

/* Byte @at of the iovecs, which have more bytes than that. */
static uint8_t *iov_byte(const struct iovec *iov, size_t at)
{
	while (at >= iov->iov_len)
		at -= iov++->iov_len;
	return (uint8_t *)iov->iov_base + at;
}

struct net_taken {
	unsigned int n;
	uint16_t head[VIRTQ_SIZE_MAX];
	uint32_t len[VIRTQ_SIZE_MAX]; /* bytes written */
};

/* Return: true if the frame lies in guest memory as a whole; otherwise no chain was taken */
static bool net_place(struct virtio_net *n, struct net_taken *t)
{
	const size_t num_buffers = offsetof(struct virtio_net_hdr_v1, num_buffers);
	const bool merge = net_has(n, F(MRG_RXBUF));
	struct virtq *vq = &n->vdev.queue[NET_RX];
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct virtq_chain c = {.iov = iov};
	uint8_t *low = NULL, *high = NULL;
	uint32_t done = 0;

	t->n = 0;
	while (done < n->frame_len && (merge || !t->n) && virtq_pop(vq, &c)) {
		const struct iovec *in = c.iov + c.n_out;

		if (c.in_len < NET_HDR_LEN) {
			virtio_dev_break(&n->vdev, "a receive buffer of %u bytes; 12 is the least",
					 c.in_len);
			return false;
		}
		if (!t->n) {
			low = iov_byte(in, num_buffers);
			high = iov_byte(in, num_buffers + 1);
		}
		t->head[t->n] = c.head;
		t->len[t->n] =
			(uint32_t)iov_copy(in, c.n_in, n->frame + done, n->frame_len - done, true);
		done += t->len[t->n++];
	}
	if (low && done == n->frame_len) {
		*low = (uint8_t)t->n;
		*high = (uint8_t)(t->n >> 8);
		return true;
	}
	/* larger than all that the driver could offer, or than its one buffer: it never fits */
	if (t->n == vq->num || (!merge && t->n))
		n->frame_len = 0;
	n->n_short = (uint16_t)t->n;
	while (t->n)
		virtq_unpop(vq, t->head[--t->n]);
	return false;
}

/* Return: false when the frame has to wait for buffers, or the device is broken */
static bool net_deliver(struct virtio_net *n)
{
	struct virtq *vq = &n->vdev.queue[NET_RX];
	struct net_taken t;
	unsigned int i;

	if (!net_place(n, &t))
		return !n->frame_len;
	for (i = 0; i < t.n; i++)
		virtq_fill(vq, t.head[i], t.len[i]);
	virtq_publish(vq); /* at once: a driver takes all buffers of a frame together */
	n->frame_len = 0;
	return true;
}

static void net_rx(struct virtio_net *n)
{
	struct virtq *vq = &n->vdev.queue[NET_RX];
	unsigned int turns = NET_RX_BATCH;
	bool room = true;

	virtq_kicks_off(vq);
	while (room && turns-- && (n->frame_len || net_read(n)))
		room = net_deliver(n);
	virtq_notify(vq);
	net_watch_input(n, room);
	if (!room)
		virtq_kicks_on_beyond(vq, n->n_short);
}

static void net_tap_ready(struct loop_watch *w)
{
	struct virtio_net *n = container_of(w, struct virtio_net, watch);
	struct virtio_transport *t = n->vdev.transport;

	if (!t)
		return;
	pthread_mutex_lock(t->lock);
	if (n->watch.fd >= 0 && w->events & (EPOLLERR | EPOLLHUP))
		net_lose_tap(n);
	else if (!n->vdev.active || n->vdev.broken || n->quiesced)
		net_watch_input(n, false);
	else
		net_rx(n);
	pthread_mutex_unlock(t->lock);
}

/* ---- control ---- */

static uint8_t net_command(struct virtio_net *n, const struct virtq_chain *c)
{
	struct virtio_net_ctrl_hdr hdr;

	if (iov_copy(c->iov, c->n_out, &hdr, sizeof(hdr), false) < sizeof(hdr) ||
	    hdr.class != VIRTIO_NET_CTRL_ANNOUNCE || hdr.cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK ||
	    !net_has(n, F(GUEST_ANNOUNCE)))
		return VIRTIO_NET_ERR;
	n->regs.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	return VIRTIO_NET_OK;
}

static void net_ctrl(struct virtio_net *n)
{
	struct virtq *vq = &n->vdev.queue[NET_CTRL];
	struct iovec iov[VIRTQ_SIZE_MAX];
	struct virtq_chain c = {.iov = iov};
	unsigned int turns = VIRTQ_SIZE_MAX;

	virtq_kicks_off(vq);
	while (turns-- && virtq_pop(vq, &c)) {
		if (!c.in_len) {
			virtio_dev_break(&n->vdev, "a command has no byte for its answer");
			return;
		}
		*iov_byte(c.iov + c.n_out, 0) = net_command(n, &c);
		virtq_push(vq, c.head, 1);
	}
	virtq_notify(vq);
	virtq_kicks_on(vq);
}

/* ---- vhost ---- */

/* Return: true if the kernel moves the frames now */
static bool net_start_vhost(struct virtio_net *n)
{
	struct err e = {0};

	if (!n->vhost.host || n->vhost_refused)
		return false;
	if (vhost_net_start(&n->vhost, &e) == 0)
		return true;
	n->vhost_refused = true;
	log_warn("vhost-net refuses the guest's queues, its frames go through this process: "
		 "interface=%s: %s; see the kernel's log",
		 n->tap->name, e.text);
	return false;
}

/* Frames made for a driver that took more than this one does: vhost would pass them on. */
static void net_drop_waiting(struct virtio_net *n)
{
	unsigned int turns = NET_WAITING_MAX;

	while (turns-- && read(n->tap->fd, n->frame, NET_FRAME_MAX) > 0)
		;
}

static bool net_has_used(struct virtio_dev *vdev)
{
	struct virtio_net *n = net_of(vdev);

	return n->vhost.running && vhost_net_has_used(&n->vhost);
}

/* ---- the device ---- */

static void net_go(struct virtio_net *n)
{
	if (n->vdev.broken || n->quiesced)
		net_watch_input(n, false);
	else
		net_watch_input(n, !net_start_vhost(n));
}

static void net_halt(struct virtio_net *n)
{
	vhost_net_stop(&n->vhost);
	net_watch_input(n, false);
}

static void net_queue_notify(struct virtio_dev *vdev, unsigned int queue)
{
	static void (*const work[NET_QUEUES])(struct virtio_net *) = {net_rx, net_tx, net_ctrl};
	struct virtio_net *n = net_of(vdev);

	/* a kick fetched before the kernel took the queue: it saw that one, too */
	if (n->vhost.running && queue < VHOST_NET_QUEUES)
		return;
	work[queue](n);
	if (vdev->broken)
		vhost_net_stop(&n->vhost);
}

static int net_activate(struct virtio_dev *vdev)
{
	struct virtio_net *n = net_of(vdev);
	unsigned int offloads = 0;

	if (net_has(n, F(GUEST_CSUM)))
		offloads |= TUN_F_CSUM;
	if (net_gso_ok(n, VIRTIO_NET_HDR_GSO_TCPV4, true))
		offloads |= TUN_F_TSO4;
	if (net_gso_ok(n, VIRTIO_NET_HDR_GSO_TCPV6, true))
		offloads |= TUN_F_TSO6;
	/* where this fails, the kernel goes on with that work itself */
	if (offloads)
		tap_set_offloads(n->tap, offloads);
	if (n->vhost.host && offloads != n->tap->offloads)
		net_drop_waiting(n);
	net_go(n);
	return 0;
}

static void net_reset(struct virtio_dev *vdev)
{
	struct virtio_net *n = net_of(vdev);

	net_halt(n);
	n->frame_len = 0;
	n->regs.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	/* the next driver may want less; an interface that is gone does not matter any more */
	if (n->vdev.features & F(GUEST_CSUM))
		tap_set_offloads(n->tap, 0);
}

/* Frames come by no kick: the tap is left alone. The transport holds the kicks back. */
static void net_set_quiesced(struct virtio_net *n, bool quiesced)
{
	pthread_mutex_lock(n->vdev.transport->lock);
	n->quiesced = quiesced;
	net_halt(n);
	if (n->vdev.active)
		net_go(n);
	pthread_mutex_unlock(n->vdev.transport->lock);
}

static void net_quiesce(struct virtio_dev *vdev)
{
	net_set_quiesced(net_of(vdev), true);
}

static void net_unquiesce(struct virtio_dev *vdev)
{
	net_set_quiesced(net_of(vdev), false);
}

/* The guest keeps its address here, over resets too; the link is the one of this host's tap. */
static int net_load(struct virtio_dev *vdev, const void *regs, struct err *e)
{
	const struct virtio_net_regs *r = regs;
	struct virtio_net *n = net_of(vdev);

	(void)e;
	memcpy(n->regs.mac, r->mac, ETH_ALEN);
	memcpy(n->tap->mac, r->mac, ETH_ALEN);
	n->regs.status |= r->status & VIRTIO_NET_S_ANNOUNCE;
	return 0;
}

static int net_check(const void *loaded, struct err *e)
{
	const struct virtio_net_regs *r = loaded;

	if (!tap_mac_ok(r->mac))
		return err_set(e, -EINVAL,
			       "virtio-net mac %02x:%02x:%02x:%02x:%02x:%02x is a group's or 0; it "
			       "must be one interface's",
			       r->mac[0], r->mac[1], r->mac[2], r->mac[3], r->mac[4], r->mac[5]);
	if (r->status & ~(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE))
		return err_set(e, -EINVAL, "virtio-net status %#x has unknown bits; 0x3 is all",
			       r->status);
	return 0;
}

static const struct state_field net_fields[] = {
	STATE_BYTES(struct virtio_net_regs, mac),
	STATE(struct virtio_net_regs, status),
	STATE_END,
};

static const struct virtio_dev_ops net_ops = {
	.name = "virtio-net",
	.device_id = VIRTIO_ID_NET,
	.activate = net_activate,
	.reset = net_reset,
	.queue_notify = net_queue_notify,
	.has_used = net_has_used,
	.quiesce = net_quiesce,
	.unquiesce = net_unquiesce,
	.state = {.offset = offsetof(struct virtio_net, regs),
		  .size = sizeof(struct virtio_net_regs),
		  .version = 1,
		  .fields = net_fields,
		  .check = net_check},
	.load = net_load,
};

static uint64_t net_features(const struct tap *tap)
{
	uint64_t f = F(MAC) | F(STATUS) | F(MRG_RXBUF) | F(CTRL_VQ) | F(GUEST_ANNOUNCE) | F(CSUM) |
		     F(HOST_TSO4) | F(HOST_TSO6);

	if (tap->offloads & TUN_F_CSUM)
		f |= F(GUEST_CSUM);
	if (tap->offloads & TUN_F_TSO4)
		f |= F(GUEST_TSO4);
	if (tap->offloads & TUN_F_TSO6)
		f |= F(GUEST_TSO6);
	return f;
}

int virtio_net_init(struct virtio_net *n, struct tap *tap, struct loop *loop, struct err *e)
{
	int ret;

	memset(n, 0, sizeof(*n));
	n->watch.fd = n->timer.fd = -1;
	n->tap = tap;
	n->loop = loop;
	memcpy(n->regs.mac, tap->mac, ETH_ALEN);
	n->regs.status = VIRTIO_NET_S_LINK_UP;
	virtio_dev_init(&n->vdev, &net_ops, net_features(tap), NET_QUEUES, VIRTQ_SIZE_MAX, &n->regs,
			sizeof(n->regs));
	if (tap->vhost.call) {
		n->vdev.offered = vhost_net_features(&tap->vhost, n->vdev.offered);
		ret = vhost_net_init(&n->vhost, &tap->vhost, &n->vdev, tap->fd, loop, e);
		if (ret < 0)
			return ret;
	}
	n->frame = malloc(NET_FRAME_MAX);
	if (!n->frame)
		return err_no_memory(e);
	ret = loop_add(loop, &n->watch, tap->fd, 0, net_tap_ready);
	if (ret)
		return err_set(e, ret,
			       "cannot watch network interface '%s': %s; raise "
			       "/proc/sys/fs/epoll/max_user_watches",
			       tap->name, strerror(-ret));
	return 0;
}

void virtio_net_fini(struct virtio_net *n)
{
	if (!n->loop)
		return;
	loop_del(n->loop, &n->watch);
	loop_del(n->loop, &n->timer);
	vhost_net_fini(&n->vhost);
	free(n->frame);
	n->frame = NULL;
}
