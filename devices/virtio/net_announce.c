/* A guest is somewhere else: it tells its network so itself, or frames of ours do. */
#include "devices/virtio/net.h"

#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/tap.h"

#define NET_ANNOUNCE	     5
#define NET_ANNOUNCE_MS	     50
#define NET_ANNOUNCE_MS_MORE 100

#define HDR_LEN sizeof(struct virtio_net_hdr_v1)

/* what a guest needs that can announce itself */
#define GUEST_ANNOUNCES                                                       \
	(1ULL << VIRTIO_NET_F_GUEST_ANNOUNCE | 1ULL << VIRTIO_NET_F_CTRL_VQ | \
	 1ULL << VIRTIO_NET_F_STATUS)

/* RFC 903: "who has my address?" in the guest's name, which teaches switches where it is. */
static void net_send_rarp(const struct virtio_net *n)
{
	uint8_t frame[HDR_LEN + ETH_ZLEN] = {0};
	uint8_t *eth = frame + HDR_LEN, *arp = eth + ETH_HLEN;

	memset(eth, 0xff, ETH_ALEN);
	memcpy(eth + ETH_ALEN, n->regs.mac, ETH_ALEN);
	memcpy(eth + 12, (const uint8_t[]) {ETH_P_RARP >> 8, ETH_P_RARP & 0xff}, 2);
	memcpy(arp, (const uint8_t[]) {0, ARPHRD_ETHER, ETH_P_IP >> 8, 0, ETH_ALEN, 4, 0, 3}, 8);
	memcpy(arp + 8, n->regs.mac, ETH_ALEN);	 /* sender */
	memcpy(arp + 18, n->regs.mac, ETH_ALEN); /* target; both without an IP address */
	if (write(n->tap->fd, frame, sizeof(frame)) < 0)
		return; /* others follow */
}

static void net_announce_step(struct virtio_net *n)
{
	const long ms = NET_ANNOUNCE_MS + NET_ANNOUNCE_MS_MORE * (long)n->n_announced;
	const struct itimerspec in = {.it_value.tv_nsec = ms * 1000000};

	net_send_rarp(n);
	if (++n->n_announced == NET_ANNOUNCE || timerfd_settime(n->tap->timer_fd, 0, &in, NULL) < 0)
		loop_del(n->loop, &n->timer);
}

static void net_timer_ready(struct loop_watch *w)
{
	struct virtio_net *n = container_of(w, struct virtio_net, timer);
	uint64_t count;

	if (read(n->tap->timer_fd, &count, sizeof(count)) == sizeof(count))
		net_announce_step(n);
}

void virtio_net_announce(struct virtio_net *n)
{
	struct virtio_transport *t = n->vdev.transport;
	bool by_guest;

	pthread_mutex_lock(t->lock);
	by_guest = n->vdev.active && !n->vdev.broken &&
		   (n->vdev.features & GUEST_ANNOUNCES) == GUEST_ANNOUNCES;
	if (by_guest) {
		n->regs.status |= VIRTIO_NET_S_ANNOUNCE;
		t->config_changed(t);
	}
	pthread_mutex_unlock(t->lock);
	if (by_guest)
		return;
	n->n_announced = 0;
	loop_del(n->loop, &n->timer);
	if (loop_add(n->loop, &n->timer, n->tap->timer_fd, EPOLLIN, net_timer_ready))
		log_warn("cannot wait between announcements, only one is sent: interface=%s",
			 n->tap->name);
	net_announce_step(n);
}
