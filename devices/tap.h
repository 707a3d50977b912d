/*
 * The host's side of a network device: an existing tap interface, or one that a descriptor stands
 * for, with frames that carry struct virtio_net_hdr_v1. Opened before the process is locked in and
 * kept over resets of the guest, together with the guest's MAC address.
 */
#ifndef DEVICES_TAP_H
#define DEVICES_TAP_H

#include <linux/if_ether.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/vhost.h"

struct err;

/* What the user asked for: a name, or a descriptor. */
struct tap_options {
	const char *name; /* NULL: @fd it is */
	int fd;
	bool has_mac;
	uint8_t mac[ETH_ALEN];
	bool vhost;   /* the kernel is to move the frames */
	int vhost_fd; /* its descriptor; 0: open one */
};

struct tap {
	int fd; /* non-blocking */
	int timer_fd;
	char name[IFNAMSIZ];
	uint8_t mac[ETH_ALEN]; /* of the guest */
	unsigned int offloads; /* TUN_F_*: what the interface can leave to the guest */
	struct vhost vhost;    /* moves the frames if it is in use */
};

/**
 * tap_parse_mac - xx:xx:xx:xx:xx:xx as the address of one interface
 * @what: the option, for the error text
 * Return: 0, or -EINVAL: another form, a group address or all zeroes
 */
int tap_parse_mac(const char *what, const char *s, uint8_t mac[ETH_ALEN], struct err *e);

/** tap_mac_ok - is @mac one interface's, and not all zeroes? */
bool tap_mac_ok(const uint8_t mac[ETH_ALEN]);

/**
 * tap_open - attach to the interface, or take the descriptor over, and learn what it can do
 * Without a MAC address in @o a random, locally administered one is made.
 * Return: 0, or -errno with cause and cure in @e; @t may be given to tap_close() either way
 */
int tap_open(struct tap *t, const struct tap_options *o, struct err *e);
void tap_close(struct tap *t);

/**
 * tap_set_offloads - what the guest takes: TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6; a subset of
 * t->offloads
 * The kernel does the rest itself for every frame from now on.
 * Return: 0 or -errno
 */
int tap_set_offloads(const struct tap *t, unsigned int offloads);

#endif
