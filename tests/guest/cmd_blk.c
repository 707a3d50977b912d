/*
 * blk, reboot, rng: the devices that a test needs data from.
 * blk disk=N (0) start=SECTOR (0) sectors=N (64) seed=N (1) op=test|info|read|write irq=0|1
 *   test: what it is, write (which must fail where the disk is read-only), read back, flush, and a
 *   read beyond the end, which must fail
 *   read: compare with what an earlier write of the same seed left
 *   until=SECTOR: test again and again, each time with the next seed, until that sector, which the
 *   host writes, begins with a byte that is not 0
 * reboot n=N disk=N: resets until sector 0 has counted N starts
 * rng bytes=N (64)
 * The data is word by word (first word of a sector s: 64 * s + seed) * 0x9e3779b97f4a7c15.
 */
#include "tests/guest/guest.h"
#include "tests/guest/virtio.h"

#define BLK_F_RO	 (1ull << 5)
#define BLK_F_FLUSH	 (1ull << 9)
#define BLK_T_IN	 0
#define BLK_T_OUT	 1
#define BLK_T_FLUSH	 4
#define BLK_T_GET_ID	 8
#define BLK_S_OK	 0
#define NEVER		 UINT64_MAX
#define BLK_ID_BYTES	 20
#define BLK_CAPACITY	 VMMIO_CONFIG /* 64 bits, in sectors */
#define SECTOR_SIZE	 512
#define WORDS_PER_SECTOR (SECTOR_SIZE / 8)
#define CHUNK_SECTORS	 64 /* of a request; in CHUNK_SEGMENTS pieces */
#define CHUNK_SEGMENTS	 4
#define CHUNK_SIZE	 (CHUNK_SECTORS * SECTOR_SIZE)
#define VECTOR_BLK	 0x80

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct blk {
	struct virtio_dev dev;
	struct virtqueue vq;
	uint64_t capacity;
	uint64_t start, sectors, seed, until;
	uint32_t irqs;
	const char *op;
	uint8_t *data; /* CHUNK_SIZE */
	struct blk_header *header;
	uint8_t *status;
	const char *wrong;
};

static struct blk blk;

static const char *blk_open(uint32_t nth)
{
	const char *wrong;

	if (!virtio_find(&blk.dev, VIRTIO_ID_BLOCK, nth))
		return "there is no such disk";
	wrong = virtio_start(&blk.dev, BLK_F_RO | BLK_F_FLUSH);
	if (!wrong)
		wrong = virtqueue_init(&blk.vq, &blk.dev, 0);
	if (wrong)
		return wrong;
	virtio_driver_ok(&blk.dev);
	blk.capacity = virtio_read(blk.dev.base, BLK_CAPACITY) |
		       (uint64_t)virtio_read(blk.dev.base, BLK_CAPACITY + 4) << 32;
	blk.data = page_alloc(CHUNK_SIZE / PAGE_SIZE);
	blk.header = page_alloc(1);
	blk.status = (uint8_t *)(blk.header + 1);
	return NULL;
}

/* Return: NULL or what is wrong with the device; the device's own answer is in *blk.status */
static const char *blk_request(uint32_t type, uint64_t sector, uint32_t len, uint32_t pieces)
{
	struct virtio_buf buf[CHUNK_SEGMENTS + 2] = {{blk.header, sizeof(*blk.header), false}};
	uint32_t used, n = 1;
	const char *wrong;

	*blk.header = (struct blk_header) {.type = type, .sector = sector};
	*blk.status = 0xff;
	for (uint32_t i = 0; i < pieces; i++) {
		buf[n++] = (struct virtio_buf) {blk.data + i * (len / pieces), len / pieces,
						type != BLK_T_OUT};
	}
	buf[n++] = (struct virtio_buf) {blk.status, 1, true};
	wrong = virtqueue_run(&blk.vq, buf, (uint16_t)n, &used);
	if (!wrong && *blk.status == 0xff)
		wrong = "the device left no status";
	if (!wrong && *blk.status == BLK_S_OK && used != (type == BLK_T_OUT ? 1 : len + 1))
		wrong = "the device says a wrong used length";
	return wrong;
}

static uint64_t data_word(uint64_t sector, uint64_t word)
{
	return (sector * WORDS_PER_SECTOR + word + blk.seed) * 0x9e3779b97f4a7c15;
}

static const char *blk_info(void)
{
	char serial[BLK_ID_BYTES + 1] = "";
	const char *wrong = blk_request(BLK_T_GET_ID, 0, BLK_ID_BYTES, 1);

	if (wrong)
		return wrong;
	if (*blk.status == BLK_S_OK)
		memcpy(serial, blk.data, BLK_ID_BYTES);
	print("blk slot=%u capacity=%lu features=0x%lx ro=%u flush=%u serial=%s\n", blk.dev.slot,
	      blk.capacity, blk.dev.features, (blk.dev.features & BLK_F_RO) != 0,
	      (blk.dev.features & BLK_F_FLUSH) != 0, serial);
	return NULL;
}

static uint32_t chunk_sectors(uint64_t done)
{
	return (uint32_t)(blk.sectors - done < CHUNK_SECTORS ? blk.sectors - done : CHUNK_SECTORS);
}

static uint32_t chunk_pieces(uint32_t sectors)
{
	return sectors % CHUNK_SEGMENTS ? 1 : CHUNK_SEGMENTS;
}

static const char *blk_write(void)
{
	uint64_t bad = 0;
	uint32_t n;

	for (uint64_t done = 0; done < blk.sectors; done += n) {
		uint64_t *word = (uint64_t *)blk.data, sector = blk.start + done;
		const char *wrong;

		n = chunk_sectors(done);
		for (uint64_t i = 0; i < n * WORDS_PER_SECTOR; i++)
			word[i] = data_word(sector, i);
		wrong = blk_request(BLK_T_OUT, sector, n * SECTOR_SIZE, chunk_pieces(n));
		if (wrong)
			return wrong;
		bad += *blk.status != BLK_S_OK;
	}
	print("blk write start=%lu sectors=%lu failed=%lu\n", blk.start, blk.sectors, bad);
	if (blk.dev.features & BLK_F_RO)
		return bad ? NULL : "a read-only disk took a write";
	return bad ? "the disk refused a write" : NULL;
}

static const char *blk_read(bool compare)
{
	uint64_t bad_words = 0, hash = 0;
	uint32_t n;

	for (uint64_t done = 0; done < blk.sectors; done += n) {
		const uint64_t *word = (const uint64_t *)blk.data;
		uint64_t sector = blk.start + done;
		const char *wrong;

		n = chunk_sectors(done);
		memset(blk.data, 0x5a, n * SECTOR_SIZE);
		wrong = blk_request(BLK_T_IN, sector, n * SECTOR_SIZE, chunk_pieces(n));
		if (wrong)
			return wrong;
		if (*blk.status != BLK_S_OK)
			return "the disk refused a read";
		hash ^= fnv64(blk.data, n * SECTOR_SIZE);
		for (uint64_t i = 0; i < n * WORDS_PER_SECTOR; i++)
			bad_words += word[i] != data_word(sector, i);
	}
	print("blk read start=%lu sectors=%lu hash=0x%lx bad_words=%lu\n", blk.start, blk.sectors,
	      hash, bad_words);
	return compare && bad_words ? "the disk does not hold what was written" : NULL;
}

static const char *blk_flush(void)
{
	const char *wrong = NULL;

	if (blk.dev.features & BLK_F_FLUSH) {
		wrong = blk_request(BLK_T_FLUSH, 0, 0, 0);
		if (!wrong) {
			print("blk flush status=%u\n", *blk.status);
			wrong = *blk.status ? "the disk refused a flush" : NULL;
		}
	}
	return wrong;
}

/* the last sector and one more: all or nothing */
static const char *blk_beyond(void)
{
	const char *wrong =
		blk_request(BLK_T_IN, blk.capacity ? blk.capacity - 1 : 0, 2 * SECTOR_SIZE, 1);

	if (wrong)
		return wrong;
	print("blk beyond status=%u\n", *blk.status);
	return *blk.status == BLK_S_OK ? "the disk has more sectors than it says" : NULL;
}

static void blk_round(void)
{
	bool test = str_equal(blk.op, "test");
	bool ro = blk.dev.features & BLK_F_RO;

	if (!blk.wrong && (test || str_equal(blk.op, "write")))
		blk.wrong = blk_write();
	if (!blk.wrong && (test || str_equal(blk.op, "read")))
		blk.wrong = blk_read(!test || !ro);
	if (!blk.wrong && (test || str_equal(blk.op, "write")))
		blk.wrong = blk_flush();
	if (!blk.wrong && test)
		blk.wrong = blk_beyond();
}

static bool blk_told_to_end(void)
{
	if (blk.until == NEVER || blk.wrong)
		return true;
	blk.wrong = blk_request(BLK_T_IN, blk.until, SECTOR_SIZE, 1);
	if (!blk.wrong && *blk.status != BLK_S_OK)
		blk.wrong = "the disk refused a read";
	return blk.wrong || *blk.data != 0;
}

static void blk_main(void *arg)
{
	(void)arg;
	blk.wrong = blk_info();
	blk_round();
	while (!blk_told_to_end()) {
		blk.seed++;
		blk_round();
	}
}

static void on_blk(struct trap_frame *f)
{
	(void)f;
	virtio_write(blk.dev.base, VMMIO_INTERRUPT_ACK,
		     virtio_read(blk.dev.base, VMMIO_INTERRUPT_STATUS));
	WRITE_ONCE(blk.irqs, blk.irqs + 1);
	apic_eoi();
}

static const char *blk_irq_setup(void)
{
	const char *wrong = acpi_init();

	if (wrong)
		return wrong;
	pic_mask_all();
	apic_init();
	trap_set(VECTOR_BLK, on_blk);
	ioapic_route(blk.dev.gsi, VECTOR_BLK);
	blk.vq.irqs = &blk.irqs;
	return NULL;
}

const char *cmd_blk(void)
{
	bool irq = opt_u64("irq", 0);
	const char *wrong = blk_open((uint32_t)opt_u64("disk", 0));

	if (wrong)
		return wrong;
	blk.op = opt_str("op", "test");
	blk.start = opt_u64("start", 0);
	blk.sectors = opt_u64("sectors", CHUNK_SECTORS);
	blk.seed = opt_u64("seed", 1);
	blk.until = opt_u64("until", NEVER);
	if (blk.start + blk.sectors > blk.capacity)
		blk.sectors = blk.start < blk.capacity ? blk.capacity - blk.start : 0;
	if (irq)
		wrong = blk_irq_setup();
	if (wrong)
		return wrong;
	ring3_run(blk_main, NULL, (uint8_t *)page_alloc(2) + 2 * PAGE_SIZE, irq ? RFLAGS_IF : 0);
	if (irq)
		print("blk interrupts=%u requests=%u\n", blk.irqs, blk.vq.seen);
	virtio_reset(&blk.dev);
	return blk.wrong;
}

const char *cmd_reboot(void)
{
	uint64_t want = opt_u64("n", 2), *count;
	const char *wrong = blk_open((uint32_t)opt_u64("disk", 0));

	if (!wrong)
		wrong = blk_request(BLK_T_IN, 0, SECTOR_SIZE, 1);
	if (wrong)
		return wrong;
	count = (uint64_t *)blk.data;
	++*count;
	print("reboot count=%lu\n", *count);
	wrong = blk_request(BLK_T_OUT, 0, SECTOR_SIZE, 1);
	if (wrong || *blk.status != BLK_S_OK)
		return "the counter cannot be written";
	if (*count < want)
		guest_end_as(opt_str("by", "reset"));
	return NULL;
}

const char *cmd_rng(void)
{
	struct virtio_dev dev;
	struct virtqueue vq;
	uint64_t bytes = opt_u64("bytes", 64);
	uint8_t *data = page_alloc(1);
	const char *wrong;

	if (!virtio_find(&dev, VIRTIO_ID_RNG, 0))
		return "there is no rng";
	if (bytes > PAGE_SIZE)
		return "bytes= is above 4096";
	wrong = virtio_start(&dev, 0);
	if (!wrong)
		wrong = virtqueue_init(&vq, &dev, 0);
	if (wrong)
		return wrong;
	virtio_driver_ok(&dev);
	for (uint64_t done = 0; done < bytes;) {
		struct virtio_buf buf = {data + done, (uint32_t)(bytes - done), true};
		uint32_t used = 0;

		wrong = virtqueue_run(&vq, &buf, 1, &used);
		if (wrong)
			return wrong;
		if (!used || used > buf.len)
			return "the rng says a wrong used length";
		done += used;
	}
	print("rng bytes=%lu hex=", bytes);
	for (uint64_t i = 0; i < bytes; i++)
		print("%02x", data[i]);
	print("\n");
	return NULL;
}
