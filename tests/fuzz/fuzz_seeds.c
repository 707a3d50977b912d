/* Writes first inputs for the fuzz targets of what migrates: DIR/TARGET/NAME, from real objects. */
#include <stdarg.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "migration/ram/frame.h"
#include "migration/state/buf.h"
#include "migration/wire/frame.h"
#include "tests/fuzz/device_rig.h"
#include "tests/fuzz/state_rig.h"
#include "tests/unit/description_sample.h"

static void put_file(const char *dir, const char *target, const char *name, const struct wbuf *w)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, target);
	mkdir(path, 0777);
	snprintf(path, sizeof(path), "%s/%s/%s", dir, target, name);
	f = fopen(path, "we");
	rig_must(f && !w->failed && fwrite(w->data, 1, w->len, f) == w->len && fclose(f) == 0,
		 path);
}

/* ---- devices ---- */

/* An input that is refused at its first byte would be worth little. */
static void check_loads(struct rig *rig, unsigned int kind, const struct wbuf *w)
{
	struct rbuf r = rbuf_of(w->data + 1, w->len - 1);
	struct rig_device *d = malloc(sizeof(*d));
	struct err e = {0};

	rig_must(d, "memory");
	rig_make(rig, d, (enum rig_kind)kind);
	rig_must(rig_load(d, &r, &e) == 0 && !rbuf_left(&r), e.text);
	rig_unmake(d);
	free(d);
}

static void poke(struct rig_device *d, unsigned int reg, uint32_t value)
{
	uint8_t raw[4];

	put_le32(raw, value);
	d->mmio.dev.ops->write(&d->mmio.dev, reg, raw, sizeof(raw));
}

/* As a driver does it (virtio 1.2, 3.1.1). */
static void start_driver(struct rig_device *d)
{
	const struct virtio_dev *v = rig_virtio(d);
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER, i;
	uint32_t at = RIG_RAM_GPA;

	poke(d, VIRTIO_MMIO_STATUS, status);
	for (i = 0; i < 2; i++) {
		poke(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		poke(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(v->offered >> 32 * i));
	}
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	poke(d, VIRTIO_MMIO_STATUS, status);
	for (i = 0; i < v->n_queues; i++, at += 0x3000) {
		poke(d, VIRTIO_MMIO_QUEUE_SEL, i);
		poke(d, VIRTIO_MMIO_QUEUE_NUM, 8);
		poke(d, VIRTIO_MMIO_QUEUE_DESC_LOW, at);
		poke(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, at + 0x1000);
		poke(d, VIRTIO_MMIO_QUEUE_USED_LOW, at + 0x2000);
		poke(d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	poke(d, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void put_devices(const char *dir)
{
	static const char *const names[] = {"serial", "rng", "blk", "net"};
	struct rig rig;
	unsigned int kind, started;

	rig_init(&rig);
	for (kind = 0; kind < RIG_KINDS; kind++)
		for (started = 0; started < 2; started++) {
			struct rig_device *d = malloc(sizeof(*d));
			struct wbuf w = {0};
			char name[32];

			rig_must(d, "memory");
			rig_make(&rig, d, (enum rig_kind)kind);
			if (started && kind == RIG_SERIAL)
				d->serial.dev.ops->write(&d->serial.dev, 1, (const uint8_t *)"\3",
							 1);
			else if (started) {
				start_driver(d);
				rig_must(rig_virtio(d)->active, names[kind]);
			}
			wbuf_u8(&w, (uint8_t)kind);
			rig_save(d, &w);
			snprintf(name, sizeof(name), "%s-%s", names[kind],
				 started ? "in-use" : "fresh");
			put_file(dir, "device", name, &w);
			rig_unmake(d);
			free(d);
			check_loads(&rig, kind, &w);
			wbuf_fini(&w);
		}
}

/* ---- the description ---- */

static void put_descriptions(const char *dir)
{
	static const unsigned int vcpus[] = {1, 4, 64};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vcpus); i++) {
		struct machine_description *d = description_sample(vcpus[i]);
		struct wbuf w = {0};
		char name[32];
		void *blob;
		size_t len;

		rig_must(description_to_fdt(d, &blob, &len, NULL) == 0, "description");
		wbuf_bytes(&w, blob, len);
		snprintf(name, sizeof(name), "vcpus-%u", vcpus[i]);
		put_file(dir, "description", name, &w);
		wbuf_fini(&w);
		description_free(d);
		free(blob);
	}
}

/* ---- frames ---- */

static void add_frame(struct wbuf *w, enum frame_type type, struct wbuf *payload)
{
	uint8_t head[FRAME_HEAD_SIZE];

	frame_head_encode(type, payload->data, (uint32_t)payload->len, head);
	wbuf_bytes(w, head, sizeof(head));
	wbuf_bytes(w, payload->data, payload->len);
	wbuf_fini(payload);
}

static void begin_stream(struct wbuf *w, uint8_t how)
{
	wbuf_u8(w, how);
	stream_head_encode(0, wbuf_reserve(w, STREAM_HEAD_SIZE));
}

#define ADD(w, TYPE, name, ...)                              \
	do {                                                 \
		const struct frame_##name v = {__VA_ARGS__}; \
		struct wbuf payload = {0};                   \
		frame_##name##_encode(&v, &payload);         \
		add_frame(w, TYPE, &payload);                \
	} while (0)

static void put_frames(const char *dir)
{
	struct wbuf w = {0}, raw = {0};
	uint8_t how;

	for (how = 0xf0; how < 0xf4; how++) { /* both sides, checksums left alone or made right */
		begin_stream(&w, how);
		if (how & 1) {
			ADD(&w, FRAME_HELLO, hello, .version_min = 1, .version_max = 1,
			    .session = 42, .n_data = 2, .program = "testudo");
			wbuf_reserve(&raw, 64);
			add_frame(&w, FRAME_DESCRIPTION, &raw);
			ADD(&w, FRAME_CLOCK, clock, .what = FRAME_CLOCK_ANSWER, .mono_ns = 1,
			    .wall_ns = 2, .tsc_khz = 3);
			ADD(&w, FRAME_MEMORY, memory, .how = FRAME_MEMORY_IN_FILE, .size = 4096);
			ADD(&w, FRAME_ROUND_END, round_end, .round = 1, .data_pages = 2);
			wbuf_reserve(&raw, 64);
			add_frame(&w, FRAME_STATE, &raw);
			ADD(&w, FRAME_FINISH, finish, .data_pages = 2, .running = true);
			ADD(&w, FRAME_COMMIT, commit, .session = 42);
		} else {
			ADD(&w, FRAME_VERDICT, verdict, .code = FRAME_CODE_POLICY, .text = "no");
			ADD(&w, FRAME_CLOCK, clock, .what = FRAME_CLOCK_APART, .apart_ns = -1);
			ADD(&w, FRAME_READY, ready, .load_ns = 1);
			ADD(&w, FRAME_ACK, ack, .resume_ns = 1);
		}
		ADD(&w, FRAME_FAIL, fail, .code = FRAME_CODE_FAILED, .text = "why");
		put_file(dir, "frames",
			 how & 1   ? how & 2 ? "source-fixed" : "source"
			 : how & 2 ? "destination-fixed"
				   : "destination",
			 &w);
		wbuf_fini(&w);
	}
}

/* ---- RAM ---- */

static void add_ram(struct wbuf *w, enum ram_kind kind, uint32_t round, const struct ram_run *run,
		    unsigned int n_runs, unsigned int n_pages)
{
	struct ram_head h = {.kind = kind, .round = round, .n_runs = n_runs, .n_pages = n_pages};
	uint8_t table[RAM_FRAME_RUNS * RAM_RUN_BYTES], pages[2 * GUEST_PAGE];

	memset(pages, 0x5a, sizeof(pages));
	h.table_crc = ram_table_put(table, run, n_runs);
	h.pages_crc = crc32c_pages(pages, n_pages);
	ram_head_put(wbuf_reserve(w, RAM_HEAD_BYTES), &h);
	wbuf_bytes(w, table, (size_t)n_runs * RAM_RUN_BYTES);
	wbuf_bytes(w, pages, (size_t)n_pages * GUEST_PAGE);
}

/* Two rounds on each channel; how: fuzz_ram.c */
static void put_ram(const char *dir)
{
	static const struct ram_run runs[] = {{0, 1, 6}, {128, 0, UINT64_MAX}, {12224, 2, 0}};
	unsigned int how, channel;

	for (how = 0; how < 8; how++) {
		struct wbuf w = {0}, one = {0};
		char name[32];

		add_ram(&one, RAM_PAGES, 1, runs, 3, 2);
		add_ram(&one, RAM_ROUND_END, 1, NULL, 0, 0);
		add_ram(&one, RAM_PAGES, 2, runs, 1, 1);
		add_ram(&one, RAM_LAST_END, 2, NULL, 0, 0);
		wbuf_u8(&w, (uint8_t)how);
		wbuf_u16(&w, (uint16_t)one.len);
		for (channel = 0; channel < (how & 4 ? 2 : 1); channel++)
			wbuf_bytes(&w, one.data, one.len);
		wbuf_fini(&one);
		snprintf(name, sizeof(name), "how-%u", how);
		put_file(dir, "ram", name, &w);
		wbuf_fini(&w);
	}
}

/* ---- the state of what KVM has, and of the mitigations ---- */

static void put_mitigation(struct wbuf *w)
{
	struct mitigation_saved_vcpu vcpu[RIG_VCPUS] = {
		{.report = {true, true, true, 1},
		 .promise = {true, SPEC_CTRL_BHI_DIS_S, SPEC_CTRL_BHI_DIS_S, false},
		 .held = SPEC_CTRL_BHI_DIS_S,
		 .shadow = 1},
		{.promise = {true, 0, 0, true}},
	};
	const struct mitigation_saved s = {
		.backend = BACKEND_MSR_FILTER,
		.contract = {.vendor = CPU_VENDOR_INTEL,
			     .leaf7_0_edx = 1u << 29,
			     .arch_cap = 1ULL << 63,
			     .virt_enum = 1,
			     .mitigation_enum = 3},
		.ibpb_seen = true,
		.n_vcpus = RIG_VCPUS,
		.vcpu = vcpu,
	};

	mitigation_saved_encode(&s, w);
}

/* In the order of fuzz_state.c's parts. */
static void put_states(const char *dir)
{
	static const char *const names[] = {"mitigation", "time", "vcpus", "chips", "all"};
	const struct kvm kvm = {.fd = RIG_KVM_FD};
	const struct clock_reading base = {.wall_ns = 1700000000000000000};
	struct vcpu vcpus[RIG_VCPUS];
	unsigned int part, i;
	struct vm vm;

	rig_machine(&vm, vcpus);
	for (part = 0; part < ARRAY_SIZE(names); part++) {
		const bool all = part == 4;
		struct wbuf w = {0};

		wbuf_u8(&w, (uint8_t)part);
		wbuf_u8(&w, 0);
		if (part == 0 || all)
			put_mitigation(&w);
		if (part == 1 || all)
			rig_must(vm_save_time(&vm, vcpus, RIG_VCPUS, &base, &w, NULL) == 0, "time");
		for (i = 0; (part == 2 || all) && i < RIG_VCPUS; i++)
			rig_must(vcpu_save(&vcpus[i], &kvm, &vm, &w, NULL) == 0, "vCPU");
		if (part == 3 || all)
			rig_must(vm_save_chips(&vm, &w, NULL) == 0, "chips");
		put_file(dir, "state", names[part], &w);
		wbuf_fini(&w);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		return 2;
	}
	put_frames(argv[1]);
	put_descriptions(argv[1]);
	put_devices(argv[1]);
	put_ram(argv[1]);
	put_states(argv[1]);
	return 0;
}
