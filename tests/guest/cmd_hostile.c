/*
 * hostile: what a broken or malicious guest may do to the devices. The VMM has to survive, and
 * every device has to work again after a reset. n=N (300)  random rounds a device
 * seed=N (1) ports=0	leave out the sweep over all I/O ports
 * netq=1|2 (1)	the queue of a network device: to the network or control
 * Runs in ring 3. It only spares what ends the guest or garbles its output.
 */
#include "tests/guest/guest.h"
#include "tests/guest/uart.h"
#include "tests/guest/virtio.h"

#define ANSWER_LIMIT_US	  1000
#define VIRTIO_F_INDIRECT (1ull << 28)
#define CHAIN		  3 /* descriptors of a good request */
#define STRING_BYTES	  5000
#define WINDOW_TAIL	  0x200 /* registers beyond this are not known to any device */

static uint64_t hostile_seed;
static const char *hostile_wrong;

static uint64_t any(void)
{
	return prng_next(&hostile_seed);
}

/* ---- ports ---- */

/* ports where a write may end the guest or stop its output; QEMU's are here for test runs there */
static const struct {
	uint16_t first, last;
} spared[] = {
	{LAYOUT_PORT_KBD, LAYOUT_PORT_KBD},
	{0x92, 0x92},
	{0xb2, 0xb3},
	{LAYOUT_PORT_COM1, LAYOUT_PORT_COM1 + 7},
	{0xcf9, 0xcf9},
	{QEMU_PORT_EXIT, LAYOUT_PORT_PVPANIC},
	{LAYOUT_PORT_RESET, LAYOUT_PORT_SLEEP_ST},
};

static bool is_spared(uint32_t port, uint32_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(spared); i++) {
		if (port <= spared[i].last && port + len > spared[i].first)
			return true;
	}
	return false;
}

static void sweep_port(uint16_t port)
{
	in8(port);
	in16(port);
	in32(port);
	if (!is_spared(port, 1))
		out8(port, (uint8_t)any());
	if (!is_spared(port, 2))
		out16(port, (uint16_t)any());
	if (!is_spared(port, 4))
		out32(port, (uint32_t)any());
}

static void sweep_ports(void)
{
	uint32_t n = 0;

	/* all where devices are; a sample, with the last one, where none should be */
	for (uint32_t port = 0; port <= 0xffff; port += port < 0x1000 ? 1 : 61, n++)
		sweep_port((uint16_t)port);
	sweep_port(0xffff);
	print("hostile ports=%u\n", n + 1);
}

static void string_io(uint8_t *buffer)
{
	uint8_t *p = buffer;
	uint64_t n = STRING_BYTES;

	__asm__ volatile("rep insb" : "+D"(p), "+c"(n) : "d"(UART_SCR) : "memory");
	p = buffer;
	n = STRING_BYTES;
	__asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(UART_SCR) : "memory");
	p = buffer;
	n = STRING_BYTES / 4;
	__asm__ volatile("rep insl" : "+D"(p), "+c"(n) : "d"(0x2f8) : "memory");
	print("hostile strings bytes=%u\n", 3 * STRING_BYTES);
}

/* In loopback mode nothing leaves the UART, so its data port is fair game too. */
static void fuzz_uart(uint64_t rounds)
{
	const uint8_t loop = 0x10;

	print("hostile uart rounds=%lu\n", rounds);
	while (!(in8(UART_LSR) & UART_LSR_THRE))
		cpu_pause();
	for (uint64_t i = 0; i < rounds; i++) {
		uint16_t port = (uint16_t)(UART_DATA + any() % 8);
		uint8_t value = (uint8_t)any();

		if (port == UART_MCR)
			value |= loop;
		if (port == UART_DATA)
			out8(UART_MCR, loop);
		out8(port, value);
		in8((uint16_t)(UART_DATA + any() % 8));
		if (i % 64 == 0)
			in32((uint16_t)(UART_DATA + any() % 8));
	}
	out8(UART_LCR, 0);
	serial_init();
}

/* ---- registers of the virtio windows ---- */

static void mmio_access(uint64_t addr, uint32_t size, bool write, uint64_t value)
{
	uint64_t v = 0;

	switch (size | (write ? 16 : 0)) {
	case 1:
		__asm__ volatile("movb (%1), %b0" : "=q"(v) : "r"(addr));
		break;
	case 2:
		__asm__ volatile("movw (%1), %w0" : "=r"(v) : "r"(addr));
		break;
	case 4:
		__asm__ volatile("movl (%1), %k0" : "=r"(v) : "r"(addr));
		break;
	case 8:
		__asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(addr));
		break;
	case 16 + 1:
		__asm__ volatile("movb %b0, (%1)" : : "q"(value), "r"(addr) : "memory");
		break;
	case 16 + 2:
		__asm__ volatile("movw %w0, (%1)" : : "r"(value), "r"(addr) : "memory");
		break;
	case 16 + 4:
		__asm__ volatile("movl %k0, (%1)" : : "r"(value), "r"(addr) : "memory");
		break;
	default:
		__asm__ volatile("movq %0, (%1)" : : "r"(value), "r"(addr) : "memory");
	}
}

/* Random values must not make a device write its used ring over this program. */
static uint64_t harmless(uint64_t offset, const uint8_t *scratch)
{
	const uint64_t at = (uint64_t)scratch;
	const uint64_t low[] = {at, at + 1, at + PAGE_SIZE - 16, 0xffffffff, 0xfffffff0};
	const uint64_t high[] = {0, 0, 0xffffffff, 0x7fffffff, 0x100000};
	const uint64_t small[] = {0, 1, 2, 3, 4, 8, 15, 64, 255, 256, 0x8000, 0x10000, 0xffffffff};

	if (offset >= VMMIO_QUEUE_DESC && offset < VMMIO_QUEUE_DEVICE + 8)
		return offset & 4 ? high[any() % ARRAY_SIZE(high)] : low[any() % ARRAY_SIZE(low)];
	return any() % 4 ? small[any() % ARRAY_SIZE(small)] : any();
}

static void fuzz_registers(uint64_t base, uint64_t rounds, const uint8_t *scratch)
{
	for (uint64_t i = 0; i < rounds; i++) {
		uint64_t offset = any() % (any() % 8 ? WINDOW_TAIL : LAYOUT_VIRTIO_SIZE);
		uint32_t size = 1u << any() % 4;

		/* three in four as a driver would, or no state is ever reached */
		if (any() % 4) {
			offset &= ~3ull;
			size = 4;
		} else if (offset + size > VMMIO_QUEUE_DESC && offset < VMMIO_QUEUE_DEVICE + 8) {
			continue; /* pieces of an address could add up to a bad one */
		}
		mmio_access(base + offset, size, any() % 2, harmless(offset, scratch));
	}
	virtio_write(base, VMMIO_STATUS, 0);
}

static void sweep_registers(uint64_t base)
{
	for (uint64_t offset = 0; offset < WINDOW_TAIL; offset++) {
		for (uint32_t size = 1; size <= 8; size *= 2)
			mmio_access(base + offset, size, false, 0);
	}
	/* across the end of the window, which KVM splits */
	for (uint32_t size = 2; size <= 8; size *= 2) {
		mmio_access(base + LAYOUT_VIRTIO_SIZE - 1, size, false, 0);
		mmio_access(base + LAYOUT_VIRTIO_SIZE - 1, size, true, any());
	}
}

/* ---- queues ---- */

struct attack {
	struct virtio_dev dev;
	struct virtqueue vq;
	uint8_t *scratch; /* the last page of RAM below the hole: whatever is too long leaves RAM */
	uint64_t bad_addr[8];
	uint64_t tried, answered, needs_reset, silent;
};

static const uint32_t bad_lens[] = {0, 1, 15, 17, 511, 0x10000, 0x7fffffff, 0xffffffff};

/* A device fresh from reset, its queue placed but not ready, a good request in the descriptors. */
static void attack_prepare(struct attack *a, uint64_t features)
{
	struct vring_desc *d = a->vq.desc;
	bool header = a->dev.id == VIRTIO_ID_BLOCK || a->dev.id == VIRTIO_ID_NET;

	hostile_wrong = virtio_start(&a->dev, features);
	memset(a->vq.desc, 0, PAGE_SIZE);
	memset(a->vq.avail, 0, PAGE_SIZE);
	memset(a->vq.used, 0, PAGE_SIZE);
	memset(a->scratch, 0, PAGE_SIZE);
	virtqueue_place(&a->vq);
	for (uint16_t i = 0; i < CHAIN; i++) {
		d[i].addr = (uint64_t)a->scratch + i * 1024;
		d[i].len = i == 0 ? 16 : i == 1 ? 512 : 1;
		d[i].flags = (uint16_t)((i + 1 < CHAIN ? VRING_DESC_F_NEXT : 0) |
					(header && i == 0 ? 0 : VRING_DESC_F_WRITE));
		d[i].next = (uint16_t)(i + 1);
	}
}

static void attack_run(struct attack *a, uint16_t head, uint16_t idx)
{
	uint64_t end = rdtsc() + ANSWER_LIMIT_US * tsc_khz() / 1000;

	virtio_write(a->dev.base, VMMIO_QUEUE_READY, 1);
	virtio_driver_ok(&a->dev);
	for (uint32_t i = 0; i < VQ_MAX_SIZE; i++)
		a->vq.avail->ring[i] = head;
	barrier();
	a->vq.avail->idx = idx;
	virtio_write(a->dev.base, VMMIO_QUEUE_NOTIFY, a->vq.index);
	a->tried++;
	do {
		if (virtio_read(a->dev.base, VMMIO_STATUS) & VIRTIO_STATUS_NEEDS_RESET) {
			a->needs_reset++;
			return;
		}
		if (READ_ONCE(a->vq.used->idx)) {
			a->answered++;
			return;
		}
	} while (rdtsc() < end);
	a->silent++;
}

static void attack_report(struct attack *a, const char *name)
{
	print("hostile %s slot=%u tried=%lu answered=%lu needs_reset=%lu silent=%lu\n", name,
	      a->dev.slot, a->tried, a->answered, a->needs_reset, a->silent);
	a->tried = a->answered = a->needs_reset = a->silent = 0;
}

/* Rings in places where there is no RAM, or half of it. */
static void attack_rings(struct attack *a)
{
	static const uint32_t regs[] = {VMMIO_QUEUE_DESC, VMMIO_QUEUE_DRIVER, VMMIO_QUEUE_DEVICE};

	for (size_t r = 0; r < ARRAY_SIZE(regs); r++) {
		for (size_t i = 0; i < ARRAY_SIZE(a->bad_addr); i++) {
			attack_prepare(a, 0);
			virtio_write(a->dev.base, regs[r], (uint32_t)a->bad_addr[i]);
			virtio_write(a->dev.base, regs[r] + 4, (uint32_t)(a->bad_addr[i] >> 32));
			attack_run(a, 0, 1);
		}
	}
}

static void attack_sizes(struct attack *a)
{
	static const uint32_t sizes[] = {0, 1, 3, 5, 100, 257, 32768, 65535, 65536, 0xffffffff};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		attack_prepare(a, 0);
		virtio_write(a->dev.base, VMMIO_QUEUE_NUM, sizes[i]);
		attack_run(a, 0, 1);
	}
}

static void attack_buffers(struct attack *a)
{
	for (uint32_t d = 0; d < CHAIN; d++) {
		for (size_t i = 0; i < ARRAY_SIZE(a->bad_addr); i++) {
			for (size_t l = 0; l < ARRAY_SIZE(bad_lens); l++) {
				attack_prepare(a, 0);
				a->vq.desc[d].addr = a->bad_addr[i];
				a->vq.desc[d].len = bad_lens[l];
				attack_run(a, 0, 1);
			}
		}
	}
}

/* Wrong directions, endless chains, descriptors that do not exist, indirect ones not agreed on. */
static void attack_links(struct attack *a)
{
	static const uint16_t next[] = {0, 1, 3, VQ_MAX_SIZE, 0xffff};

	for (uint32_t d = 0; d < CHAIN; d++) {
		for (uint16_t flags = 0; flags < 8; flags++) {
			for (size_t i = 0; i < ARRAY_SIZE(next); i++) {
				attack_prepare(a, 0);
				a->vq.desc[d].flags = flags;
				a->vq.desc[d].next = next[i];
				attack_run(a, 0, 1);
			}
		}
	}
}

static void attack_avail(struct attack *a)
{
	static const uint16_t idx[] = {0, 1, 2, VQ_MAX_SIZE, VQ_MAX_SIZE + 1, 0x7fff, 0xffff};
	static const uint16_t head[] = {0, 1, CHAIN, VQ_MAX_SIZE, 0x8000, 0xffff};

	for (size_t i = 0; i < ARRAY_SIZE(idx); i++) {
		for (size_t h = 0; h < ARRAY_SIZE(head); h++) {
			attack_prepare(a, 0);
			attack_run(a, head[h], idx[i]);
		}
	}
}

static void attack_indirect(struct attack *a)
{
	static const uint32_t lens[] = {0, 1, 15, 16, 24, 48, 4096, 0x10000, 0xfffffff0};

	for (uint32_t negotiated = 0; negotiated < 2; negotiated++) {
		for (size_t i = 0; i <= ARRAY_SIZE(a->bad_addr); i++) {
			for (size_t l = 0; l < ARRAY_SIZE(lens); l++) {
				/* the table: the good chain, then one that points at itself */
				struct vring_desc *table = (struct vring_desc *)(a->scratch + 3072);

				attack_prepare(a, negotiated ? VIRTIO_F_INDIRECT : 0);
				memcpy(table, a->vq.desc, CHAIN * sizeof(*table));
				table[CHAIN - 1].flags |= l % 2 ? VRING_DESC_F_NEXT : 0;
				table[CHAIN - 1].next = 0;
				if (l % 3 == 0)
					table[1].flags |= VRING_DESC_F_INDIRECT;
				a->vq.desc[0].addr = i < ARRAY_SIZE(a->bad_addr) ? a->bad_addr[i]
										 : (uint64_t)table;
				a->vq.desc[0].len = lens[l];
				a->vq.desc[0].flags = VRING_DESC_F_INDIRECT;
				attack_run(a, 0, 1);
			}
		}
	}
}

/* A request header is the device's business: types, sectors and lengths that do not exist. */
static void attack_requests(struct attack *a)
{
	static const uint32_t types[] = {0, 1, 2, 4, 8, 9, 11, 13, 0x80000000, 0xffffffff};
	static const uint64_t sectors[] = {0, 1ull << 55, 1ull << 63, ~0ull};

	for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
		for (size_t s = 0; s < ARRAY_SIZE(sectors); s++) {
			for (size_t l = 0; l < ARRAY_SIZE(bad_lens) - 3; l += 2) {
				attack_prepare(a, 0);
				*(uint32_t *)a->scratch = types[t];
				*(uint64_t *)(a->scratch + 8) = sectors[s];
				a->vq.desc[1].len = bad_lens[l];
				if (types[t] == 1)
					a->vq.desc[1].flags &= (uint16_t)~VRING_DESC_F_WRITE;
				attack_run(a, 0, 1);
			}
		}
	}
}

/* Steps of the set-up in a wrong order, and registers of queues that are not there. */
static void attack_order(struct attack *a)
{
	static const uint32_t queues[] = {1, 2, 7, 255, 1024, 0xffff, 0xffffffff};
	uint64_t base = a->dev.base;

	for (size_t i = 0; i < ARRAY_SIZE(queues); i++) {
		attack_prepare(a, 0);
		virtio_write(base, VMMIO_QUEUE_SEL, queues[i]);
		virtio_write(base, VMMIO_QUEUE_NUM, 8);
		virtio_write(base, VMMIO_QUEUE_READY, 1);
		virtio_write(base, VMMIO_QUEUE_NOTIFY, queues[i]);
		attack_run(a, 0, 1);
	}
	for (uint32_t status = 0; status < 256; status += 7) {
		attack_prepare(a, 0);
		virtio_write(base, VMMIO_STATUS, status);
		attack_run(a, 0, 1);
	}
	/* notified before and after its time, moved while in use, reset while busy */
	attack_prepare(a, 0);
	virtio_write(base, VMMIO_QUEUE_NOTIFY, a->vq.index);
	attack_run(a, 0, 1);
	virtio_write(base, VMMIO_QUEUE_NUM, 2);
	virtio_write(base, VMMIO_QUEUE_DESC + 4, 0xffffffff);
	virtio_write(base, VMMIO_QUEUE_NOTIFY, a->vq.index);
	virtio_write(base, VMMIO_QUEUE_READY, 0);
	virtio_write(base, VMMIO_QUEUE_NOTIFY, a->vq.index);
	for (uint32_t i = 0; i < 100; i++) {
		attack_prepare(a, 0);
		virtio_write(base, VMMIO_QUEUE_READY, 1);
		virtio_driver_ok(&a->dev);
		a->vq.avail->idx = VQ_MAX_SIZE;
		virtio_write(base, VMMIO_QUEUE_NOTIFY, a->vq.index);
		virtio_write(base, VMMIO_STATUS, 0);
		virtio_write(base, VMMIO_QUEUE_NOTIFY, a->vq.index);
	}
	/* features that nobody offered */
	virtio_reset(&a->dev);
	virtio_write(base, VMMIO_STATUS, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	for (uint32_t sel = 0; sel < 4; sel++) {
		virtio_write(base, VMMIO_DRIVER_FEATURES_SEL, sel);
		virtio_write(base, VMMIO_DRIVER_FEATURES, 0xffffffff);
	}
	virtio_write(base, VMMIO_STATUS,
		     VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
	if (virtio_read(base, VMMIO_STATUS) & VIRTIO_STATUS_FEATURES_OK)
		hostile_wrong = "a device took features that it does not offer";
}

static void attack_random(struct attack *a)
{
	uint64_t rounds = opt_u64("n", 300);

	for (uint64_t i = 0; i < rounds; i++) {
		attack_prepare(a, any() % 2 ? VIRTIO_F_INDIRECT : 0);
		for (uint32_t k = any() % 4; k < 4; k++) {
			struct vring_desc *d = &a->vq.desc[any() % CHAIN];

			switch (any() % 5) {
			case 0:
				d->addr = a->bad_addr[any() % ARRAY_SIZE(a->bad_addr)];
				break;
			case 1:
				d->len = bad_lens[any() % ARRAY_SIZE(bad_lens)];
				break;
			case 2:
				d->flags = (uint16_t)(any() % 16);
				break;
			case 3:
				d->next = (uint16_t)(any() % (VQ_MAX_SIZE + 2));
				break;
			default:
				a->scratch[any() % 16] = (uint8_t)any();
			}
		}
		attack_run(a, (uint16_t)(any() % 4), (uint16_t)(any() % 3));
	}
}

static const struct {
	const char *name;
	void (*fn)(struct attack *a);
} attacks[] = {
	{"rings", attack_rings},       {"sizes", attack_sizes}, {"buffers", attack_buffers},
	{"links", attack_links},       {"avail", attack_avail}, {"indirect", attack_indirect},
	{"requests", attack_requests}, {"order", attack_order}, {"random", attack_random},
};

static bool attack_open(struct attack *a, uint32_t slot)
{
	uint64_t top = ARENA_START;

	if (!virtio_probe(&a->dev, slot))
		return false;
	for (uint32_t i = 0; i < boot.n_regions; i++) {
		const struct boot_region *r = &boot.region[i];

		if (r->type == BOOT_RAM && r->addr + r->size > top && r->addr < 4 * GIB)
			top = (r->addr + r->size) & ~(PAGE_SIZE - 1);
	}
	a->scratch = (uint8_t *)(top - PAGE_SIZE);
	a->bad_addr[0] = top;
	a->bad_addr[1] = top - 8;
	a->bad_addr[2] = top - PAGE_SIZE + 1; /* is RAM: harmless, but not aligned */
	a->bad_addr[3] = LAYOUT_VIRTIO_BASE;
	a->bad_addr[4] = LAYOUT_LAPIC;
	a->bad_addr[5] = 1ull << 47;
	a->bad_addr[6] = ~0ull - 7;
	a->bad_addr[7] = 0xfffffffffffff000;
	hostile_wrong = virtio_start(&a->dev, 0);
	if (!hostile_wrong)
		hostile_wrong = virtqueue_init(
			&a->vq, &a->dev,
			a->dev.id == VIRTIO_ID_NET ? (uint16_t)opt_u64("netq", 1) : 0);
	return true;
}

/* After all that a good request must work. */
static const char *attack_alive(struct attack *a)
{
	uint64_t end = rdtsc() + 2000000 / 1000 * tsc_khz();

	attack_prepare(a, 0);
	virtio_write(a->dev.base, VMMIO_QUEUE_READY, 1);
	virtio_driver_ok(&a->dev);
	a->vq.avail->idx = 1;
	virtio_write(a->dev.base, VMMIO_QUEUE_NOTIFY, a->vq.index);
	while (!READ_ONCE(a->vq.used->idx) && rdtsc() < end)
		cpu_pause();
	if (!a->vq.used->idx)
		return "a device does not work any more";
	print("hostile alive slot=%u id=%u used_len=%u\n", a->dev.slot, a->dev.id,
	      a->vq.used->ring[0].len);
	virtio_reset(&a->dev);
	return NULL;
}

static void hostile_main(void *arg)
{
	uint64_t rounds = opt_u64("n", 300);
	uint8_t *buffer = page_alloc(4);

	(void)arg;
	hostile_seed = opt_u64("seed", 1) * 0x9e3779b97f4a7c15;
	if (opt_u64("ports", 1))
		sweep_ports();
	string_io(buffer);
	fuzz_uart(rounds);
	for (uint32_t slot = 0; slot < virtio_slots() && !hostile_wrong; slot++) {
		struct attack a = {0};
		uint64_t base = opt_u64("mmio_base", LAYOUT_VIRTIO_BASE) +
				slot * opt_u64("mmio_size", LAYOUT_VIRTIO_SIZE);

		/* windows without a device too */
		sweep_registers(base);
		fuzz_registers(base, rounds, buffer);
		if (!attack_open(&a, slot))
			continue;
		print("hostile registers slot=%u rounds=%lu\n", slot, rounds);
		for (size_t i = 0; i < ARRAY_SIZE(attacks) && !hostile_wrong; i++) {
			attacks[i].fn(&a);
			attack_report(&a, attacks[i].name);
		}
		if (!hostile_wrong)
			hostile_wrong = attack_alive(&a);
	}
}

const char *cmd_hostile(void)
{
	ring3_run(hostile_main, NULL, (uint8_t *)page_alloc(4) + 4 * PAGE_SIZE, 0);
	return hostile_wrong;
}
