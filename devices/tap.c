/* Opens tap interfaces. What may be missing is a right or a command: each refusal says which. */
#include "devices/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"

#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

bool tap_mac_ok(const uint8_t mac[ETH_ALEN])
{
	static const uint8_t zero[ETH_ALEN];

	return !(mac[0] & 1) && memcmp(mac, zero, ETH_ALEN) != 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 'a' ^ 'A';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int tap_parse_mac(const char *what, const char *s, uint8_t mac[ETH_ALEN], struct err *e)
{
	bool ok = strlen(s) == 3 * ETH_ALEN - 1;
	unsigned int i;

	for (i = 0; ok && i < ETH_ALEN; i++) {
		const int high = hex_digit(s[3 * i]), low = hex_digit(s[3 * i + 1]);

		ok = high >= 0 && low >= 0 && (i == ETH_ALEN - 1 || s[3 * i + 2] == ':');
		if (ok)
			mac[i] = (uint8_t)(high << 4 | low);
	}
	if (!ok || !tap_mac_ok(mac))
		return err_set(e, -EINVAL,
			       "%s: '%s' is not the MAC address of an interface; give six bytes "
			       "like 52:54:00:12:34:56, the first one even, not all of them 0",
			       what, s);
	return 0;
}

static int fail_attach(const char *name, int code, struct err *e)
{
	switch (code) {
	case -EPERM:
	case -EACCES:
		return err_set(e, code,
			       "no permission to use tap interface '%s'; have root make it yours: "
			       "ip tuntap add %s mode tap user NAME, or pass an open one with -n "
			       "fd=N",
			       name, name);
	case -EBUSY:
		return err_set(e, code,
			       "tap interface '%s' is in use by another process; end that one, or "
			       "make another: ip tuntap add NAME mode tap",
			       name);
	case -EINVAL:
		return err_set(e, code,
			       "interface '%s' is not a tap interface with one queue; make one: ip "
			       "tuntap add NAME mode tap",
			       name);
	default:
		return err_set(e, code,
			       "cannot use tap interface '%s': %s; make one: ip tuntap add NAME "
			       "mode tap",
			       name, strerror(-code));
	}
}

static int open_name(struct tap *t, const char *name, struct err *e)
{
	struct ifreq ifr = {.ifr_flags = TAP_FLAGS};

	/* TUNSETIFF would make an interface of this name, for those who may: a typo, not a wish */
	if (!if_nametoindex(name))
		return err_set(e, -ENODEV,
			       "there is no interface '%s'; make it: ip tuntap add %s mode tap "
			       "user NAME",
			       name, name);
	t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (t->fd < 0)
		return err_set(e, -errno, "cannot open /dev/net/tun for tap interface '%s': %s; %s",
			       name, strerror(errno),
			       errno == EACCES ? "have root allow it: chmod 666 /dev/net/tun, or "
						 "pass an open tap with -n fd=N"
					       : "have root load the module: modprobe tun");
	strncpy(ifr.ifr_name, name, sizeof(ifr.ifr_name) - 1);
	if (ioctl(t->fd, TUNSETIFF, &ifr) < 0)
		return fail_attach(name, -errno, e);
	memcpy(t->name, ifr.ifr_name, sizeof(t->name) - 1);
	return 0;
}

static int take_fd(struct tap *t, int fd, struct err *e)
{
	struct ifreq ifr = {0};
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(e, -errno,
			       "-n fd=%d: no descriptor of that number is open; pass one that the "
			       "starting program leaves open",
			       fd);
	if (ioctl(fd, TUNGETIFF, &ifr) < 0)
		return err_set(e, -EINVAL,
			       "-n fd=%d: not a tap: %s; pass /dev/net/tun after TUNSETIFF", fd,
			       errno == EBADFD ? "TUNSETIFF was not called" : "no tun device");
	if ((ifr.ifr_flags & TAP_FLAGS) != TAP_FLAGS)
		return err_set(e, -EINVAL,
			       "-n fd=%d: interface '%.*s' has flags %#x; open it with IFF_TAP | "
			       "IFF_NO_PI | IFF_VNET_HDR, %#x",
			       fd, IFNAMSIZ, ifr.ifr_name, (unsigned int)(uint16_t)ifr.ifr_flags,
			       TAP_FLAGS);
	t->fd = fd; /* ours from here on */
	memcpy(t->name, ifr.ifr_name, sizeof(t->name) - 1);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_set(e, -errno, "-n fd=%d: cannot make it non-blocking: %s", fd,
			       strerror(errno));
	return 0;
}

int tap_set_offloads(const struct tap *t, unsigned int offloads)
{
	return ioctl(t->fd, TUNSETOFFLOAD, (unsigned long)offloads) < 0 ? -errno : 0;
}

static int set_up(struct tap *t, struct err *e)
{
	static const unsigned int wishes[] = {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6, TUN_F_CSUM, 0};
	int hdr = sizeof(struct virtio_net_hdr_v1);
	const unsigned int *wish = wishes;

	if (ioctl(t->fd, TUNSETVNETHDRSZ, &hdr) < 0)
		return err_set(e, -errno,
			       "tap interface '%s' takes no virtio header of %d bytes: %s; give "
			       "another",
			       t->name, hdr, strerror(errno));
	while (*wish && tap_set_offloads(t, *wish) < 0)
		wish++;
	t->offloads = *wish;
	/* nothing before a driver asks for it */
	if (*wish)
		tap_set_offloads(t, 0);
	t->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (t->timer_fd < 0)
		return err_set(e, -errno, "no timer for tap interface '%s': %s; raise ulimit -n",
			       t->name, strerror(errno));
	return 0;
}

static int choose_mac(struct tap *t, const struct tap_options *o, struct err *e)
{
	if (o->has_mac) {
		memcpy(t->mac, o->mac, ETH_ALEN);
		return 0;
	}
	if (getrandom(t->mac, ETH_ALEN, 0) != ETH_ALEN)
		return err_set(e, -EIO, "no random numbers for a MAC address; give one with mac=");
	t->mac[0] = (uint8_t)((t->mac[0] & ~1u) | 2); /* one interface's, locally administered */
	return 0;
}

int tap_open(struct tap *t, const struct tap_options *o, struct err *e)
{
	int ret;

	memset(t, 0, sizeof(*t));
	t->fd = t->timer_fd = -1;
	ret = o->name ? open_name(t, o->name, e) : take_fd(t, o->fd, e);
	if (!ret)
		ret = set_up(t, e);
	if (!ret)
		ret = choose_mac(t, o, e);
	if (!ret && o->vhost)
		ret = vhost_open(&t->vhost, o->vhost_fd, e);
	if (!ret)
		log_debug("network: interface=%s mac=%02x:%02x:%02x:%02x:%02x:%02x offloads=%#x "
			  "vhost=%s",
			  t->name, t->mac[0], t->mac[1], t->mac[2], t->mac[3], t->mac[4], t->mac[5],
			  t->offloads, t->vhost.call ? "on" : "off");
	return ret;
}

void tap_close(struct tap *t)
{
	if (t->fd >= 0)
		close(t->fd);
	if (t->timer_fd >= 0)
		close(t->timer_fd);
	t->fd = t->timer_fd = -1;
	vhost_close(&t->vhost);
}
