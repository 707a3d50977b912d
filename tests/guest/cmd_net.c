/*
 * net: Ethernet frames by virtio-net, without a network stack.
 * net op=test|info|answer n=N (8) size=BYTES (1000) mrg=0|1 csum=0|1 ip=ADDR (10.77.0.2) peer=ADDR
 *   (10.77.0.1, both as numbers) port=N (7) rx=BYTES (2048, of a receive buffer) nic=N (0)
 *   info: what it is
 *   test: asks for the peer by ARP, sends n datagrams of size bytes to its port, and wants each
 *     back as it was
 *   answer: answers ARP and sends n datagrams that come to port back to where they came from
 * mrg=1: small buffers are merged; csum=1: the host completes the UDP checksum
 * Byte i of datagram k is (uint8_t)(i * 7 + i / 256 + k). Waits by polling, in ring 3.
 */
#include "tests/guest/guest.h"
#include "tests/guest/virtio.h"

#define NET_F_CSUM   (1ull << 0)
#define NET_F_MAC    (1ull << 5)
#define NET_F_MRG    (1ull << 15)
#define NET_F_STATUS (1ull << 16)
#define NET_CONFIG   VMMIO_CONFIG /* MAC address, 16 bits of status */
#define NET_LIMIT_US 10000000

#define NET_HDR	     12
#define ETH_HDR	     14
#define IP_HDR	     20
#define UDP_HDR	     8
#define ARP_LEN	     28
#define ETHERTYPE_IP 0x0800
#define ETHERTYPE_AR 0x0806
#define RX_BUFS	     32
#define FRAME_MAX    (16 * KIB)
#define PEER_TRIES   5

static struct {
	struct virtio_dev dev;
	struct virtqueue rx, tx;
	uint8_t mac[6], peer_mac[6];
	uint32_t ip, peer;
	uint16_t port;
	uint32_t n, size, rx_len;
	bool merge, csum;
	uint8_t *buf;	/* RX_BUFS of rx_len */
	uint8_t *frame; /* received, in one piece, with its header */
	uint8_t *out;	/* to send, with its header */
	const char *wrong;
} net;

static uint16_t be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* one's complement sum, RFC 1071 */
static uint32_t sum16(const uint8_t *p, uint32_t len, uint32_t sum)
{
	for (uint32_t i = 0; i + 1 < len; i += 2)
		sum += be16(p + i);
	if (len & 1)
		sum += (uint32_t)p[len - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* ---- the rings ---- */

static void rx_offer(uint16_t i)
{
	net.rx.desc[i] = (struct vring_desc) {
		.addr = (uint64_t)(net.buf + i * net.rx_len),
		.len = net.rx_len,
		.flags = VRING_DESC_F_WRITE,
	};
	net.rx.avail->ring[net.rx.avail->idx % net.rx.size] = i;
	barrier();
	WRITE_ONCE(net.rx.avail->idx, (uint16_t)(net.rx.avail->idx + 1));
}

/* One used buffer onto net.frame. Return: its length; 0 when there is none */
static uint32_t rx_take(uint32_t at)
{
	uint32_t id, len;

	if (READ_ONCE(net.rx.used->idx) == net.rx.seen)
		return 0;
	barrier();
	id = net.rx.used->ring[net.rx.seen % net.rx.size].id;
	len = net.rx.used->ring[net.rx.seen % net.rx.size].len;
	net.rx.seen++;
	if (id >= RX_BUFS || !len || len > net.rx_len || len > FRAME_MAX - at) {
		net.wrong = "the device says a wrong used element";
		return 0;
	}
	memcpy(net.frame + at, net.buf + id * net.rx_len, len);
	rx_offer((uint16_t)id);
	virtio_write(net.rx.base, VMMIO_QUEUE_NOTIFY, net.rx.index);
	return len;
}

/* Return: length of the frame in net.frame, header included; 0 when there is none now */
static uint32_t net_receive(void)
{
	uint32_t len = rx_take(0), more;

	if (!len)
		return 0;
	if (len < NET_HDR) {
		net.wrong = "a frame without a whole header";
		return 0;
	}
	more = net.frame[10] | (uint32_t)net.frame[11] << 8;
	if (!more || (more > 1 && !net.merge))
		net.wrong = "a wrong number of buffers";
	while (!net.wrong && --more) {
		uint32_t part = rx_take(len);

		if (!part)
			net.wrong = "a buffer of a frame is missing";
		len += part;
	}
	return net.wrong ? 0 : len;
}

static void net_transmit(uint32_t len)
{
	struct virtio_buf buf = {net.out, NET_HDR + len, false};
	uint32_t used;
	const char *wrong = virtqueue_run(&net.tx, &buf, 1, &used);

	if (!net.wrong)
		net.wrong = wrong;
}

/* ---- the protocols ---- */

static uint8_t *ethernet(const uint8_t *to, uint16_t type)
{
	memset(net.out, 0, NET_HDR);
	memcpy(net.out + NET_HDR, to, 6);
	memcpy(net.out + NET_HDR + 6, net.mac, 6);
	put16(net.out + NET_HDR + 12, type);
	return net.out + NET_HDR + ETH_HDR;
}

static void send_arp(const uint8_t *eth_to, const uint8_t *mac, uint32_t ip, uint16_t op)
{
	uint8_t *p = ethernet(eth_to, ETHERTYPE_AR);

	put16(p, 1);
	put16(p + 2, ETHERTYPE_IP);
	p[4] = 6;
	p[5] = 4;
	put16(p + 6, op);
	memcpy(p + 8, net.mac, 6);
	put32(p + 14, net.ip);
	memcpy(p + 18, mac, 6);
	put32(p + 24, ip);
	net_transmit(ETH_HDR + ARP_LEN);
}

static void send_udp(uint32_t ip, uint16_t from, uint16_t to, uint32_t len)
{
	uint8_t *p = ethernet(net.peer_mac, ETHERTYPE_IP), *udp = p + IP_HDR;

	memset(p, 0, IP_HDR);
	p[0] = 0x45;
	put16(p + 2, IP_HDR + UDP_HDR + len);
	p[8] = 64;
	p[9] = 17;
	put32(p + 12, net.ip);
	put32(p + 16, ip);
	put16(p + 10, ~sum16(p, IP_HDR, 0));
	put16(udp, from);
	put16(udp + 2, to);
	put16(udp + 4, UDP_HDR + len);
	put16(udp + 6, 0);
	if (net.csum) { /* the sum over the pseudo header; the host adds the rest */
		put16(udp + 6, sum16(p + 12, 8, 17 + UDP_HDR + len));
		net.out[0] = 1;
		net.out[6] = ETH_HDR + IP_HDR; /* csum_start and csum_offset, little-endian */
		net.out[8] = 6;
	}
	net_transmit(ETH_HDR + IP_HDR + UDP_HDR + len);
}

/* What came in: answers ARP requests. Return: the UDP header of a datagram for us, or NULL */
static const uint8_t *handle_frame(uint32_t len)
{
	const uint8_t *eth = net.frame + NET_HDR, *p = eth + ETH_HDR;

	len -= NET_HDR;
	if (len >= ETH_HDR + ARP_LEN && be16(eth + 12) == ETHERTYPE_AR && be32(p + 24) == net.ip) {
		memcpy(net.peer_mac, p + 8, 6);
		if (be16(p + 6) == 1)
			send_arp(p + 8, p + 8, be32(p + 14), 2);
		else
			net.peer = be32(p + 14);
		return NULL;
	}
	if (len < ETH_HDR + IP_HDR + UDP_HDR || be16(eth + 12) != ETHERTYPE_IP || p[0] != 0x45 ||
	    p[9] != 17 || be32(p + 16) != net.ip || be16(p + 2) > len - ETH_HDR ||
	    be16(p + IP_HDR + 4) + IP_HDR != be16(p + 2))
		return NULL;
	return p + IP_HDR;
}

/* Return: the UDP header of the next datagram for us; NULL when time is up or all went wrong */
static const uint8_t *next_datagram(uint64_t us)
{
	struct limit limit = limit_us(us);
	const uint8_t *udp = NULL;
	uint32_t len;

	while (!udp && !net.wrong && !limit_over(&limit)) {
		len = net_receive();
		if (len)
			udp = handle_frame(len);
		else
			cpu_pause();
	}
	return udp;
}

static bool knows_peer(void)
{
	return net.peer_mac[0] | net.peer_mac[1] | net.peer_mac[5];
}

static void find_peer(void)
{
	static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, none[6];

	for (uint32_t i = 0; i < PEER_TRIES && !knows_peer() && !net.wrong; i++) {
		uint64_t end;

		send_arp(all, none, net.peer, 1);
		end = rdtsc() + 200 * tsc_khz();
		while (!knows_peer() && rdtsc() < end)
			next_datagram(1000);
	}
	if (!net.wrong && !knows_peer())
		net.wrong = "nobody answers the ARP request";
}

static uint8_t data_byte(uint32_t i, uint32_t k)
{
	return (uint8_t)(i * 7 + i / 256 + k);
}

static void net_test(void *arg)
{
	uint8_t *data = net.out + NET_HDR + ETH_HDR + IP_HDR + UDP_HDR;
	uint32_t k, i, bad = 0;

	(void)arg;
	find_peer();
	for (k = 0; k < net.n && !net.wrong; k++) {
		const uint8_t *udp;

		for (i = 0; i < net.size; i++)
			data[i] = data_byte(i, k);
		send_udp(net.peer, 4000, net.port, net.size);
		do
			udp = next_datagram(NET_LIMIT_US);
		while (udp && be16(udp + 2) != 4000);
		if (!udp || be16(udp + 4) != UDP_HDR + net.size) {
			net.wrong = net.wrong ? net.wrong : "no echo, or one of another length";
			break;
		}
		for (i = 0; i < net.size; i++)
			bad += udp[UDP_HDR + i] != data_byte(i, k);
	}
	print("net echoes=%u bad_bytes=%u\n", k, bad);
	if (!net.wrong && bad)
		net.wrong = "an echo is not what was sent";
}

static void net_answer(void *arg)
{
	uint32_t k;

	(void)arg;
	print("net ready\n");
	for (k = 0; k < net.n && !net.wrong; k++) {
		const uint8_t *udp = next_datagram(6 * NET_LIMIT_US);
		uint32_t len;

		if (!udp || be16(udp + 2) != net.port) {
			k--;
			if (!udp)
				break;
			continue;
		}
		memcpy(net.peer_mac, net.frame + NET_HDR + 6, 6);
		len = be16(udp + 4) - UDP_HDR;
		memcpy(net.out + NET_HDR + ETH_HDR + IP_HDR + UDP_HDR, udp + UDP_HDR, len);
		send_udp(be32(udp - IP_HDR + 12), net.port, be16(udp), len);
	}
	print("net answered=%u\n", k);
	if (!net.wrong && k != net.n)
		net.wrong = "too few datagrams came";
}

static const char *net_open(uint32_t nth)
{
	const char *wrong;

	if (!virtio_find(&net.dev, VIRTIO_ID_NET, nth))
		return "there is no such network device";
	wrong = virtio_start(&net.dev, NET_F_MAC | NET_F_STATUS | (net.merge ? NET_F_MRG : 0) |
					       (net.csum ? NET_F_CSUM : 0));
	if (!wrong)
		wrong = virtqueue_init(&net.rx, &net.dev, 0);
	if (!wrong)
		wrong = virtqueue_init(&net.tx, &net.dev, 1);
	if (wrong)
		return wrong;
	net.buf = page_alloc(RX_BUFS * net.rx_len / PAGE_SIZE + 1);
	net.frame = page_alloc(FRAME_MAX / PAGE_SIZE);
	net.out = page_alloc(FRAME_MAX / PAGE_SIZE);
	for (uint16_t i = 0; i < RX_BUFS; i++)
		rx_offer(i);
	virtio_driver_ok(&net.dev);
	virtio_write(net.rx.base, VMMIO_QUEUE_NOTIFY, net.rx.index);
	for (uint32_t i = 0; i < 6; i++)
		net.mac[i] =
			(uint8_t)(virtio_read(net.dev.base, NET_CONFIG + i / 4 * 4) >> (i % 4 * 8));
	print("net slot=%u features=0x%lx mac=%02x:%02x:%02x:%02x:%02x:%02x link=%u\n",
	      net.dev.slot, net.dev.features, net.mac[0], net.mac[1], net.mac[2], net.mac[3],
	      net.mac[4], net.mac[5], virtio_read(net.dev.base, NET_CONFIG + 4) >> 16 & 1);
	return NULL;
}

const char *cmd_net(void)
{
	const char *op = opt_str("op", "test"), *wrong;

	net.n = (uint32_t)opt_u64("n", 8);
	net.size = (uint32_t)opt_u64("size", 1000);
	net.merge = opt_u64("mrg", 0);
	net.csum = opt_u64("csum", 0);
	net.ip = (uint32_t)opt_u64("ip", 0x0a4d0002);
	net.peer = (uint32_t)opt_u64("peer", 0x0a4d0001);
	net.port = (uint16_t)opt_u64("port", 7);
	net.rx_len = (uint32_t)opt_u64("rx", 2048);
	if (net.size > FRAME_MAX - KIB || net.rx_len > FRAME_MAX || net.rx_len < NET_HDR)
		return "size= or rx= is out of range";
	wrong = net_open((uint32_t)opt_u64("nic", 0));
	if (wrong || str_equal(op, "info"))
		return wrong;
	ring3_run(str_equal(op, "answer") ? net_answer : net_test, NULL,
		  (uint8_t *)page_alloc(2) + 2 * PAGE_SIZE, 0);
	virtio_reset(&net.dev);
	return net.wrong;
}
