#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "devices/tap.h"
#include "devices/virtio/net.h"
#include "migration/state/buf.h"
#include "migration/state/state.h"
#include "ring.h"

#define RX 0
#define TX 1
#define CT 2

#define HDR	   12u
#define RING_SIZE  16u
#define RING_GPA   (RAM_GPA + 0x4000ULL * queue)
#define HDR_GPA	   (RAM_GPA + 0x10000)
#define DATA_GPA   (RAM_GPA + 0x20000) /* to the network */
#define BUF_GPA	   (RAM_GPA + 0x80000) /* from the network */
#define BUF_STRIDE 0x20000

#define N    VRING_DESC_F_NEXT
#define W    VRING_DESC_F_WRITE
#define F(x) (1ULL << VIRTIO_NET_F_##x)
#define F_ALL                                                                                 \
	(F(MAC) | F(STATUS) | F(MRG_RXBUF) | F(CTRL_VQ) | F(GUEST_ANNOUNCE) | F(CSUM) |       \
	 F(HOST_TSO4) | F(HOST_TSO6) | F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_TSO6) | F_V1 | \
	 F_EVENT | F_INDIRECT)

static const uint8_t mac[ETH_ALEN] = {0x52, 0x54, 0, 1, 2, 3};

/* A network device whose tap is one end of a socket pair. */
struct net {
	struct rig rig;
	struct ring ring[3];
	struct tap tap;
	struct virtio_net net;
	int wire; /* the other end */
};

static void net_start(struct net *n, uint64_t features)
{
	unsigned int queue;

	rig_negotiate(&n->rig, features);
	for (queue = 0; queue < 3; queue++) {
		ring_init(&n->ring[queue], &n->rig.ram, RING_GPA, RING_SIZE);
		rig_set_queue(&n->rig, queue, &n->ring[queue]);
	}
	rig_write(&n->rig, VIRTIO_MMIO_STATUS, GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(rig_status(&n->rig), GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
}

static struct net *net_build(void)
{
	struct net *n = calloc(1, sizeof(*n));
	struct err e = {0};
	int pair[2];

	assert_non_null(n);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	rig_prepare(&n->rig);
	n->wire = pair[1];
	n->tap.fd = pair[0];
	n->tap.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	n->tap.offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	memcpy(n->tap.mac, mac, ETH_ALEN);
	strcpy(n->tap.name, "tap-test");
	assert_int_equal(virtio_net_init(&n->net, &n->tap, &n->rig.loop, &e), 0);
	rig_init(&n->rig, &n->net.vdev);
	return n;
}

static struct net *net_new(uint64_t features)
{
	struct net *n = net_build();

	net_start(n, features);
	return n;
}

static void net_free(struct net *n)
{
	virtio_mmio_fini(&n->rig.m);
	virtio_net_fini(&n->net);
	tap_close(&n->tap);
	if (n->wire >= 0)
		close(n->wire);
	rig_fini(&n->rig);
	free(n);
}

static void net_settle(struct net *n)
{
	unsigned int turns = 0;

	while (rig_turn(&n->rig, 0))
		assert_true(++turns < 1000); /* a loop that never sleeps would go on */
}

static void net_kick(struct net *n, unsigned int queue)
{
	rig_write(&n->rig, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
	net_settle(n);
}

/* Receive buffer @i of @len bytes, in two pieces to make it harder */
static void net_offer(struct net *n, uint16_t i, uint32_t len)
{
	const gpa_t at = BUF_GPA + (gpa_t)i * BUF_STRIDE;
	const uint32_t first = len > 5 ? 5 : 0;

	memset(ram_at(&n->rig.ram, at), 0xee, len + 1);
	ring_desc(&n->ring[RX], (uint16_t)(2 * i), at, first, W | N, (uint16_t)(2 * i + 1));
	ring_desc(&n->ring[RX], (uint16_t)(2 * i + 1), at + first, len - first, W, 0);
	ring_offer(&n->ring[RX], (uint16_t)(2 * i));
}

/* A frame from the network: header @h and @len bytes that count up from @seed */
static void wire_send(struct net *n, const struct virtio_net_hdr_v1 *h, uint32_t len, uint8_t seed)
{
	const struct virtio_net_hdr_v1 none = {0};
	uint8_t *frame = malloc(HDR + len);
	uint32_t i;

	assert_non_null(frame);
	memcpy(frame, h ? h : &none, HDR);
	for (i = 0; i < len; i++)
		frame[HDR + i] = (uint8_t)(seed + i + i / 256);
	assert_int_equal(write(n->wire, frame, HDR + len), HDR + len);
	free(frame);
}

static void check_bytes(const uint8_t *p, uint32_t from, uint32_t len, uint8_t seed)
{
	uint32_t i;

	for (i = from; i < from + len; i++, p++) {
		if (*p != (uint8_t)(seed + i + i / 256))
			fail_msg("byte %u of the frame is %#x", i, *p);
	}
}

/* Takes one used element. Return: its id */
static uint32_t net_take(struct net *n, unsigned int queue, uint32_t *len)
{
	uint32_t id = 0;

	if (!ring_take(&n->ring[queue], &id, len))
		fail_msg("nothing in the used ring");
	return id;
}

static bool net_is_empty(struct net *n, unsigned int queue)
{
	uint32_t id, len;

	return !ring_take(&n->ring[queue], &id, &len);
}

static uint16_t net_status(const struct net *n)
{
	uint8_t data[2];

	bus_read(&n->rig.bus, 0x106, data, 2);
	return get_le16(data);
}

static void test_state_table(void **state)
{
	struct net *n = net_new(F_ALL);
	const struct state_desc *desc = &n->net.vdev.ops->state;
	struct virtio_net_regs r = n->net.regs;
	struct err e = {0};

	(void)state;
	if (state_check_desc(desc, &e))
		fail_msg("%s", e.text);
	assert_int_equal(desc->size, sizeof(struct virtio_net_regs));
	assert_int_equal(desc->check(&r, NULL), 0);
	r.status = 4;
	assert_int_equal(desc->check(&r, NULL), -EINVAL);
	r.status = 3;
	assert_int_equal(desc->check(&r, NULL), 0);
	r.mac[0] |= 1;
	assert_int_equal(desc->check(&r, NULL), -EINVAL);
	memset(r.mac, 0, sizeof(r.mac));
	assert_int_equal(desc->check(&r, NULL), -EINVAL);
	net_free(n);
}

static void test_config(void **state)
{
	struct net *n = net_new(F_ALL);
	uint8_t data[8];
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(data); i++)
		bus_read(&n->rig.bus, 0x100 + i, data + i, 1);
	assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_DEVICE_ID), 1);
	assert_memory_equal(data, mac, ETH_ALEN);
	assert_int_equal(get_le16(data + 6), VIRTIO_NET_S_LINK_UP);
	assert_true(n->net.vdev.offered == F_ALL);
	net_free(n);
}

static void test_tx(void **state)
{
	struct net *n = net_new(F_ALL);
	uint8_t *data = ram_at(&n->rig.ram, DATA_GPA), got[4096];
	uint32_t len;
	uint16_t i;

	(void)state;
	for (i = 0; i < 2000; i++)
		data[i] = (uint8_t)(7 + i + i / 256);
	/* header apart, header and data together, header cut in two */
	memset(ram_at(&n->rig.ram, HDR_GPA), 0, HDR);
	ring_desc(&n->ring[TX], 0, HDR_GPA, HDR, N, 1);
	ring_desc(&n->ring[TX], 1, DATA_GPA, 60, 0, 0);
	memset(data + 2000, 0, HDR);
	memcpy(data + 2000 + HDR, data, 60);
	ring_desc(&n->ring[TX], 2, DATA_GPA + 2000, HDR + 60, 0, 0);
	ring_desc(&n->ring[TX], 3, HDR_GPA, 5, N, 4);
	ring_desc(&n->ring[TX], 4, HDR_GPA + 5, 7, N, 5);
	ring_desc(&n->ring[TX], 5, DATA_GPA, 1, N, 6);
	ring_desc(&n->ring[TX], 6, DATA_GPA + 1, 1513, 0, 0);
	rig_edges(&n->rig);
	ring_offer(&n->ring[TX], 0);
	ring_offer(&n->ring[TX], 2);
	ring_offer(&n->ring[TX], 3);
	net_kick(n, TX);
	assert_int_equal(rig_edges(&n->rig), 1); /* one interrupt for the batch */
	for (i = 0; i < 3; i++) {
		const ssize_t want = i == 2 ? 1514 : 60;

		assert_int_equal(read(n->wire, got, sizeof(got)), HDR + want);
		check_bytes(got + HDR, 0, (uint32_t)want, 7);
		assert_int_equal(net_take(n, TX, &len), i == 0 ? 0 : i + 1);
		assert_int_equal(len, 0);
	}
	assert_true(read(n->wire, got, sizeof(got)) < 0);
	net_free(n);
}

#define CSUM	 VIRTIO_NET_HDR_F_NEEDS_CSUM
#define TSO4	 VIRTIO_NET_HDR_GSO_TCPV4
#define TSO6	 VIRTIO_NET_HDR_GSO_TCPV6
#define SEND_LEN 1000

/* What of a guest's header reaches the kernel, on a frame of SEND_LEN bytes */
static const struct {
	const char *name;
	uint64_t features;
	struct virtio_net_hdr_v1 in;
	bool sent;
	struct virtio_net_hdr_v1 out;
} headers[] = {
	{"nothing", F_V1, {0}, true, {0}},
	{"rubbish without a flag is not passed on",
	 F_ALL,
	 {.hdr_len = 9, .gso_size = 9, .csum_start = 9999, .csum_offset = 9999, .num_buffers = 7},
	 true,
	 {0}},
	{"unknown flags are not passed on", F_ALL, {.flags = 0xfe}, true, {0}},
	{"checksum",
	 F_ALL,
	 {.flags = CSUM, .csum_start = 34, .csum_offset = 16},
	 true,
	 {.flags = CSUM, .csum_start = 34, .csum_offset = 16}},
	{"checksum, not negotiated", F_V1, {.flags = CSUM, .csum_start = 34}, false, {0}},
	{"checksum at the very end",
	 F_ALL,
	 {.flags = CSUM, .csum_start = 900, .csum_offset = 98},
	 true,
	 {.flags = CSUM, .csum_start = 900, .csum_offset = 98}},
	{"checksum behind the end",
	 F_ALL,
	 {.flags = CSUM, .csum_start = 900, .csum_offset = 99},
	 false,
	 {0}},
	{"checksum far away",
	 F_ALL,
	 {.flags = CSUM, .csum_start = 65535, .csum_offset = 65535},
	 false,
	 {0}},
	{"checksum from the Ethernet header on",
	 F_ALL,
	 {.flags = CSUM, .csum_start = 13},
	 false,
	 {0}},
	{"segments",
	 F_ALL,
	 {.flags = CSUM, .gso_type = TSO4, .hdr_len = 54, .gso_size = 100, .csum_start = 34},
	 true,
	 {.flags = CSUM, .gso_type = TSO4, .hdr_len = 54, .gso_size = 100, .csum_start = 34}},
	{"segments of IPv6",
	 F_ALL,
	 {.flags = CSUM, .gso_type = TSO6, .gso_size = 100, .csum_start = 54},
	 true,
	 {.flags = CSUM, .gso_type = TSO6, .gso_size = 100, .csum_start = 54}},
	{"segments, not negotiated",
	 F_ALL & ~F(HOST_TSO4),
	 {.flags = CSUM, .gso_type = TSO4, .gso_size = 100, .csum_start = 34},
	 false,
	 {0}},
	{"segments without checksums negotiated",
	 F_ALL & ~F(CSUM),
	 {.gso_type = TSO4, .gso_size = 100},
	 false,
	 {0}},
	{"segments without a checksum",
	 F_ALL,
	 {.gso_type = TSO4, .gso_size = 100, .csum_start = 34},
	 false,
	 {0}},
	{"segments of nothing",
	 F_ALL,
	 {.flags = CSUM, .gso_type = TSO4, .csum_start = 34},
	 false,
	 {0}},
	{"segments whose header is longer than the frame",
	 F_ALL,
	 {.flags = CSUM, .gso_type = TSO4, .hdr_len = 1001, .gso_size = 9, .csum_start = 34},
	 false,
	 {0}},
	{"segments of UDP",
	 F_ALL,
	 {.flags = CSUM, .gso_type = VIRTIO_NET_HDR_GSO_UDP, .gso_size = 9, .csum_start = 34},
	 false,
	 {0}},
	{"segments with ECN",
	 F_ALL,
	 {.flags = CSUM, .gso_type = TSO4 | 0x80, .gso_size = 9, .csum_start = 34},
	 false,
	 {0}},
	{"segments of an unknown kind",
	 F_ALL,
	 {.flags = CSUM, .gso_type = 77, .gso_size = 9},
	 false,
	 {0}},
};

static void test_tx_headers(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(headers); i++) {
		struct net *n = net_new(headers[i].features);
		uint8_t got[2048];
		uint32_t len;
		ssize_t ret;

		memcpy(ram_at(&n->rig.ram, HDR_GPA), &headers[i].in, HDR);
		ring_desc(&n->ring[TX], 0, HDR_GPA, HDR, N, 1);
		ring_desc(&n->ring[TX], 1, DATA_GPA, SEND_LEN, 0, 0);
		ring_offer(&n->ring[TX], 0);
		net_kick(n, TX);
		ret = read(n->wire, got, sizeof(got));
		if (ret != (headers[i].sent ? (ssize_t)(HDR + SEND_LEN) : -1))
			fail_msg("%s: read says %zd", headers[i].name, ret);
		if (ret > 0 && memcmp(got, &headers[i].out, HDR) != 0)
			fail_msg("%s: another header", headers[i].name);
		net_take(n, TX, &len); /* handed back in any case */
		assert_int_equal(rig_status(&n->rig), GOOD_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
		net_free(n);
	}
}

static const struct {
	const char *name;
	uint32_t out_len;
	uint16_t flags; /* of the only descriptor */
	bool sent;
} lengths[] = {
	{"empty", 0, 0, false},
	{"less than a header", 11, 0, false},
	{"only a header", 12, 0, false},
	{"less than an Ethernet header", 12 + 13, 0, false},
	{"an Ethernet header", 12 + 14, 0, true},
	{"64 KiB", 12 + 14 + 65535, 0, true},
	{"more than any frame", 128 * 1024, 0, false},
	{"nothing to read", 100, W, false},
};

static void test_tx_lengths(void **state)
{
	struct net *n = net_new(F_ALL);
	static uint8_t got[128 * 1024];
	uint32_t len;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		const ssize_t want = lengths[i].sent ? (ssize_t)lengths[i].out_len : -1;

		ring_desc(&n->ring[TX], 0, DATA_GPA, lengths[i].out_len, lengths[i].flags, 0);
		ring_offer(&n->ring[TX], 0);
		net_kick(n, TX);
		if (read(n->wire, got, sizeof(got)) != want)
			fail_msg("%s", lengths[i].name);
		net_take(n, TX, &len);
	}
	net_free(n);
}

static void test_rx(void **state)
{
	struct net *n = net_new(F_ALL);
	const uint8_t *buf = ram_at(&n->rig.ram, BUF_GPA);
	struct virtio_net_hdr_v1 h = {.flags = CSUM,
				      .gso_type = TSO4,
				      .gso_size = 100,
				      .csum_start = 34,
				      .num_buffers = 9};
	uint32_t len;

	(void)state;
	net_offer(n, 0, 2000);
	net_offer(n, 1, 2000);
	net_kick(n, RX);
	rig_edges(&n->rig);
	wire_send(n, NULL, 60, 1);
	wire_send(n, &h, 1000, 2);
	net_settle(n);
	assert_int_equal(rig_edges(&n->rig), 1);
	assert_int_equal(net_take(n, RX, &len), 0);
	assert_int_equal(len, HDR + 60);
	assert_int_equal(get_le16(buf + 10), 1);
	check_bytes(buf + HDR, 0, 60, 1);
	assert_int_equal(buf[HDR + 60], 0xee);
	assert_int_equal(net_take(n, RX, &len), 2);
	assert_int_equal(len, HDR + 1000);
	h.num_buffers = 1;
	assert_memory_equal(buf + BUF_STRIDE, &h, HDR);
	check_bytes(buf + BUF_STRIDE + HDR, 0, 1000, 2);
	net_free(n);
}

/* Frames of 3000 bytes over buffers of 1000; the second one finds two and waits for a third. */
static void test_rx_merged(void **state)
{
	struct net *n = net_new(F_ALL);
	const uint8_t *buf = ram_at(&n->rig.ram, BUF_GPA);
	uint32_t len, at = 0;
	uint16_t i;

	(void)state;
	for (i = 0; i < 6; i++)
		net_offer(n, i, 1000);
	net_kick(n, RX);
	wire_send(n, NULL, 3000, 3);
	wire_send(n, NULL, 3000, 4);
	net_settle(n); /* ends: the loop does not spin on a tap that has more */
	assert_int_equal(get_le16(buf + 10), 4);
	for (i = 0; i < 4; i++) {
		const uint32_t head = i ? 0 : HDR, want = i == 3 ? 12 : 1000;

		assert_int_equal(net_take(n, RX, &len), 2 * i);
		assert_int_equal(len, want);
		check_bytes(buf + i * BUF_STRIDE + head, at, want - head, 3);
		at += want - head;
	}
	assert_true(net_is_empty(n, RX));
	assert_int_equal(n->rig.m.regs.queue[RX].last_avail, 4); /* two were put back */
	net_offer(n, 6, 3000);
	net_kick(n, RX);
	assert_int_equal(get_le16(buf + 4 * BUF_STRIDE + 10), 3);
	for (i = 4; i < 7; i++)
		assert_int_equal(net_take(n, RX, &len), 2 * i);
	check_bytes(buf + 6 * BUF_STRIDE, 2000 - HDR, 1012, 4);
	assert_true(net_is_empty(n, RX));
	net_free(n);
}

/* A frame that never fits is dropped, and the next one comes through. */
static void test_rx_too_large(void **state)
{
	struct net *n = net_new(F_ALL & ~F(MRG_RXBUF));
	uint32_t len;
	uint16_t i;

	(void)state;
	net_offer(n, 0, HDR + 1514);
	net_kick(n, RX);
	wire_send(n, NULL, 1515, 1);
	wire_send(n, NULL, 1514, 2);
	net_settle(n);
	assert_int_equal(net_take(n, RX, &len), 0);
	assert_int_equal(len, HDR + 1514);
	net_free(n);

	/* larger than the whole ring */
	n = net_new(F_ALL);
	for (i = 0; i < RING_SIZE; i++) {
		ring_desc(&n->ring[RX], i, BUF_GPA + i * 64ULL, 64, W, 0);
		ring_offer(&n->ring[RX], i);
	}
	net_kick(n, RX);
	wire_send(n, NULL, RING_SIZE * 64, 1);
	wire_send(n, NULL, 52, 2);
	net_settle(n);
	assert_int_equal(net_take(n, RX, &len), 0);
	assert_int_equal(len, 64);
	assert_true(net_is_empty(n, RX));
	/* and frames that no network has */
	wire_send(n, NULL, 13, 1);
	wire_send(n, NULL, 65536 + 1000, 1);
	wire_send(n, NULL, 52, 2);
	net_settle(n);
	assert_int_equal(net_take(n, RX, &len), 1);
	assert_true(net_is_empty(n, RX));
	net_free(n);
}

/* What the kernel says of a frame, and what the driver asked for */
static const struct {
	const char *name;
	uint64_t features;
	struct virtio_net_hdr_v1 in;
	bool received;
	uint8_t flags; /* that the guest sees */
} arrivals[] = {
	{"plain", F_V1, {0}, true, 0},
	{"valid checksum, not asked for", F_V1, {.flags = 2}, true, 0},
	{"valid checksum", F_ALL, {.flags = 2}, true, 2},
	{"partial checksum, not asked for", F_V1, {.flags = 1}, false, 0},
	{"partial checksum", F_ALL, {.flags = 1}, true, 1},
	{"unknown flags", F_ALL, {.flags = 0xf8}, true, 0},
	{"segments, not asked for", F_ALL & ~F(GUEST_TSO4), {.gso_type = TSO4}, false, 0},
	{"segments of IPv6, not asked for", F_ALL & ~F(GUEST_TSO6), {.gso_type = TSO6}, false, 0},
	{"segments of an unknown kind", F_ALL, {.gso_type = 5}, false, 0},
};

static void test_rx_headers(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(arrivals); i++) {
		struct net *n = net_new(arrivals[i].features);
		uint32_t len;

		net_offer(n, 0, 2000);
		net_kick(n, RX);
		wire_send(n, &arrivals[i].in, 100, 1);
		net_settle(n);
		if (net_is_empty(n, RX) == arrivals[i].received)
			fail_msg("%s", arrivals[i].name);
		else if (arrivals[i].received)
			assert_int_equal(*(uint8_t *)ram_at(&n->rig.ram, BUF_GPA),
					 arrivals[i].flags);
		(void)len;
		net_free(n);
	}
}

static void test_rx_broken(void **state)
{
	struct net *n = net_new(F_ALL);
	uint32_t len;

	(void)state;
	log_set_level(LOG_ERR);
	/* a good buffer, then one too small for a header */
	net_offer(n, 0, 100);
	net_offer(n, 1, 11);
	net_kick(n, RX);
	wire_send(n, NULL, 150, 1);
	net_settle(n);
	assert_true(rig_status(&n->rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_true(net_is_empty(n, RX));
	wire_send(n, NULL, 60, 1);
	net_settle(n); /* no spinning on a broken device either */
	/* all is well after a reset, and what waited is delivered */
	net_start(n, F_ALL);
	net_offer(n, 0, 100);
	net_kick(n, RX);
	assert_int_equal(net_take(n, RX, &len), 0);
	assert_int_equal(len, HDR + 60);
	/* a readable descriptor is no buffer */
	ring_desc(&n->ring[RX], 0, BUF_GPA, 2000, 0, 0);
	ring_offer(&n->ring[RX], 0);
	net_kick(n, RX);
	wire_send(n, NULL, 60, 1);
	net_settle(n);
	assert_true(rig_status(&n->rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
	log_set_level(LOG_INFO);
	net_free(n);
}

static uint8_t net_command(struct net *n, uint8_t class, uint8_t cmd, uint32_t out_len)
{
	uint8_t *p = ram_at(&n->rig.ram, DATA_GPA);
	uint32_t len;

	p[0] = class;
	p[1] = cmd;
	p[64] = 0xee;
	ring_desc(&n->ring[CT], 0, DATA_GPA, out_len, N, 1);
	ring_desc(&n->ring[CT], 1, DATA_GPA + 64, 1, W, 0);
	ring_offer(&n->ring[CT], 0);
	net_kick(n, CT);
	assert_int_equal(net_take(n, CT, &len), 0);
	assert_int_equal(len, 1);
	return p[64];
}

static void test_announce_by_guest(void **state)
{
	struct net *n = net_new(F_ALL);

	(void)state;
	rig_edges(&n->rig);
	virtio_net_announce(&n->net);
	assert_int_equal(rig_edges(&n->rig), 1);
	assert_int_equal(rig_read(&n->rig, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(net_status(n), 3);
	assert_int_equal(net_command(n, 4, 0, 2), VIRTIO_NET_ERR);
	assert_int_equal(net_command(n, VIRTIO_NET_CTRL_ANNOUNCE, 1, 2), VIRTIO_NET_ERR);
	assert_int_equal(net_command(n, VIRTIO_NET_CTRL_ANNOUNCE, 0, 1), VIRTIO_NET_ERR);
	assert_int_equal(net_status(n), 3);
	assert_int_equal(net_command(n, VIRTIO_NET_CTRL_ANNOUNCE, 0, 2), VIRTIO_NET_OK);
	assert_int_equal(net_status(n), 1);
	/* a command without a place for the answer */
	log_set_level(LOG_ERR);
	ring_desc(&n->ring[CT], 0, DATA_GPA, 2, 0, 0);
	ring_offer(&n->ring[CT], 0);
	net_kick(n, CT);
	assert_true(rig_status(&n->rig) & VIRTIO_CONFIG_S_NEEDS_RESET);
	log_set_level(LOG_INFO);
	net_free(n);
}

static void test_announce_by_host(void **state)
{
	static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2,
				       3,    0x80, 0x35, 0,    1,    8,	   0,	 6,    4, 0, 3};
	struct net *n = net_new(F_ALL & ~F(GUEST_ANNOUNCE));
	unsigned int frames = 0;
	uint8_t got[128];

	(void)state;
	virtio_net_announce(&n->net);
	virtio_net_announce(&n->net); /* again before the first is over: it starts anew */
	while (rig_turn(&n->rig, 1500))
		;
	while (read(n->wire, got, sizeof(got)) == HDR + 60) {
		assert_memory_equal(got + HDR, head, sizeof(head));
		assert_memory_equal(got + HDR + 22, mac, ETH_ALEN);
		assert_memory_equal(got + HDR + 32, mac, ETH_ALEN);
		frames++;
	}
	assert_int_equal(frames, 1 + 5);
	net_free(n);
}

static void test_quiesce(void **state)
{
	struct net *n = net_new(F_ALL);
	uint8_t got[128];
	uint32_t len;

	(void)state;
	net_offer(n, 0, 2000);
	net_kick(n, RX);
	virtio_mmio_pause(&n->rig.m);
	wire_send(n, NULL, 60, 1);
	memset(ram_at(&n->rig.ram, DATA_GPA), 0, HDR + 60);
	ring_desc(&n->ring[TX], 0, DATA_GPA, HDR + 60, 0, 0);
	ring_offer(&n->ring[TX], 0);
	net_kick(n, TX);
	net_kick(n, RX);
	assert_true(net_is_empty(n, RX));
	assert_true(net_is_empty(n, TX));
	virtio_mmio_resume(&n->rig.m);
	net_settle(n);
	assert_int_equal(net_take(n, RX, &len), 0);
	assert_int_equal(net_take(n, TX, &len), 0);
	assert_int_equal(read(n->wire, got, sizeof(got)), HDR + 60);
	net_free(n);
}

/* To another host, whose device has another address and gets frames before the guest runs there. */
static void test_move(void **state)
{
	struct net *from = net_new(F_ALL), *to = net_build();
	const uint8_t *buf = ram_at(&to->rig.ram, BUF_GPA);
	struct wbuf w = {0};
	struct rbuf r;
	struct err e = {0};
	uint32_t len;

	(void)state;
	to->net.regs.mac[5] = to->tap.mac[5] = 99;
	net_offer(from, 0, 2000);
	net_kick(from, RX);
	virtio_net_announce(&from->net);
	virtio_mmio_pause(&from->rig.m);
	virtio_mmio_save(&from->rig.m, 3, &w);
	memcpy(ram_at(&to->rig.ram, RAM_GPA), ram_at(&from->rig.ram, RAM_GPA), RAM_SIZE);
	to->ring[RX] = from->ring[RX];
	to->ring[RX].ram = &to->rig.ram;

	virtio_mmio_pause(&to->rig.m);
	r = rbuf_of(w.data, w.len);
	if (virtio_mmio_load(&to->rig.m, 3, &r, &e))
		fail_msg("%s", e.text);
	wire_send(to, NULL, 60, 1);
	net_settle(to);
	assert_true(net_is_empty(to, RX));
	assert_memory_equal(to->net.regs.mac, mac, ETH_ALEN);
	assert_memory_equal(to->tap.mac, mac, ETH_ALEN); /* also after a reset of the guest */
	assert_int_equal(net_status(to), 3);
	virtio_mmio_resume(&to->rig.m);
	net_settle(to);
	assert_int_equal(net_take(to, RX, &len), 0);
	check_bytes(buf + HDR, 0, 60, 1);
	wbuf_fini(&w);
	net_free(from);
	net_free(to);
}

static void test_lost_tap(void **state)
{
	struct net *n = net_new(F_ALL);

	(void)state;
	log_set_level(LOG_ERR);
	rig_edges(&n->rig);
	close(n->wire);
	n->wire = -1;
	net_settle(n);
	assert_int_equal(net_status(n), 0);
	assert_int_equal(rig_edges(&n->rig), 1);
	ring_desc(&n->ring[TX], 0, DATA_GPA, 100, 0, 0);
	ring_offer(&n->ring[TX], 0);
	net_kick(n, TX);
	assert_false(net_is_empty(n, TX));
	net_start(n, F_ALL); /* a new driver finds the link down, too */
	assert_int_equal(net_status(n), 0);
	log_set_level(LOG_INFO);
	net_free(n);
}

/* Random rings: whatever the driver does, the device stays within RAM and within the loop. */
static void test_random_rings(void **state)
{
	unsigned int round, i, queue;
	uint8_t got[70000];

	(void)state;
	log_set_level(LOG_ERR);
	srandom(7);
	for (round = 0; round < 300; round++) {
		struct net *n = net_new(round & 1 ? F_ALL : F_V1);

		for (queue = 0; queue < 3; queue++) {
			for (i = 0; i < RING_SIZE; i++)
				ring_desc(&n->ring[queue], (uint16_t)i,
					  RAM_GPA + (gpa_t)random() % (RAM_SIZE + 4096),
					  (uint32_t)random() % (random() & 1 ? 40 : 70000),
					  (uint16_t)(random() % 4), (uint16_t)(random() % 18));
			for (i = 0; i < 8; i++)
				ring_offer(&n->ring[queue], (uint16_t)(random() % 17));
		}
		for (i = 0; i < 4; i++)
			wire_send(n, NULL, (uint32_t)random() % 40000, 1);
		for (queue = 0; queue < 3; queue++)
			net_kick(n, queue);
		while (read(n->wire, got, sizeof(got)) > 0)
			;
		net_free(n);
	}
	log_set_level(LOG_INFO);
}

static const struct {
	const char *text;
	bool ok;
} macs[] = {
	{"52:54:00:12:34:56", true},
	{"02:aB:Cd:eF:00:01", true},
	{"00:00:00:00:00:00", false},
	{"01:00:5e:00:00:01", false},
	{"ff:ff:ff:ff:ff:ff", false},
	{"52:54:00:12:34", false},
	{"52:54:00:12:34:5", false},
	{"52:54:00:12:34:5g", false},
	{"52-54-00-12-34-56", false},
	{"52:54:00:12:34:56:7", false},
	{"", false},
	{"5254:00:12:34:56:", false},
};

static void test_mac(void **state)
{
	uint8_t out[ETH_ALEN];
	struct err e;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(macs); i++) {
		memset(&e, 0, sizeof(e));
		if ((tap_parse_mac("-n mac", macs[i].text, out, &e) == 0) != macs[i].ok)
			fail_msg("'%s'", macs[i].text);
		assert_true(macs[i].ok || strstr(e.text, macs[i].text));
	}
	assert_int_equal(tap_parse_mac("-n mac", "02:aB:Cd:eF:00:1f", out, NULL), 0);
	assert_memory_equal(out, ((uint8_t[]) {2, 0xab, 0xcd, 0xef, 0, 0x1f}), ETH_ALEN);
}

static void test_no_tap(void **state)
{
	struct tap_options o = {.name = "no-such-if"};
	struct err e = {0};
	struct tap t;

	(void)state;
	assert_int_equal(tap_open(&t, &o, &e), -ENODEV);
	assert_non_null(strstr(e.text, "ip tuntap add no-such-if"));
	tap_close(&t);
	o = (struct tap_options) {.fd = 999};
	memset(&e, 0, sizeof(e));
	assert_int_equal(tap_open(&t, &o, &e), -EBADF);
	assert_non_null(strstr(e.text, "fd=999"));
	tap_close(&t);
	o.fd = open("/dev/null", O_RDWR);
	memset(&e, 0, sizeof(e));
	assert_int_equal(tap_open(&t, &o, &e), -EINVAL);
	assert_non_null(strstr(e.text, "not a tap"));
	tap_close(&t);
	close(o.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_table),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_tx),
		cmocka_unit_test(test_tx_headers),
		cmocka_unit_test(test_tx_lengths),
		cmocka_unit_test(test_rx),
		cmocka_unit_test(test_rx_merged),
		cmocka_unit_test(test_rx_too_large),
		cmocka_unit_test(test_rx_headers),
		cmocka_unit_test(test_rx_broken),
		cmocka_unit_test(test_announce_by_guest),
		cmocka_unit_test(test_announce_by_host),
		cmocka_unit_test(test_quiesce),
		cmocka_unit_test(test_move),
		cmocka_unit_test(test_lost_tap),
		cmocka_unit_test(test_random_rings),
		cmocka_unit_test(test_mac),
		cmocka_unit_test(test_no_tap),
	};

	return cmocka_run_group_tests_name("virtio_net", tests, NULL, NULL);
}
