/* A running guest is paused, saved, and goes on in another machine: on this host's KVM. */
#include <cpuid.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>

#include "migration/state/section.h"
#include "tests/guest/heartbeat.h"
#include "tests/kvm/rig.h"

static volatile struct heartbeat *heart(struct rig *r)
{
	return gpa_span(&r->guest.machine.memory.guest, HEARTBEAT_GPA, sizeof(struct heartbeat));
}

static bool all_beat(struct rig *r)
{
	volatile struct heartbeat *h = heart(r);
	uint32_t i;

	if (h->magic != HEARTBEAT_MAGIC)
		return false;
	for (i = 0; i < h->n_cpus; i++)
		if (h->cpu[i].count < r->beats[i])
			return false;
	return true;
}

/* Every processor of the load beats @n more times. */
static void expect_beats(struct rig *r, uint64_t n)
{
	volatile struct heartbeat *h = heart(r);
	uint32_t i;

	for (i = 0; i < HEARTBEAT_MAX_CPUS; i++)
		r->beats[i] = (h->magic == HEARTBEAT_MAGIC ? h->cpu[i].count : 0) + n;
	rig_run(r, all_beat);
	assert_false(rig_ended(r));
}

static void expect_standstill(struct rig *r)
{
	volatile struct heartbeat *h = heart(r);
	const uint64_t count = h->cpu[0].count, pages = h->cpu[0].pages;

	rig_run_ms(r, 20);
	assert_int_equal(h->cpu[0].count, count);
	assert_int_equal(h->cpu[0].pages, pages);
}

static void test_pause(void **state)
{
	const char *words[] = {"-p", "dirty wss=4 cpus=2", "-c", "2", "-m", "64M", NULL};
	struct rig *r = rig_boot(words);
	int i;

	(void)state;
	for (i = 0; i < 20; i++) {
		expect_beats(r, 100);
		machine_pause(&r->guest.machine);
		machine_pause(&r->guest.machine); /* harmless */
		expect_standstill(r);
		machine_resume(&r->guest.machine);
		machine_resume(&r->guest.machine);
	}
	expect_beats(r, 100);
	machine_pause(&r->guest.machine);
	rig_free(r); /* a paused machine can be taken apart */
}

/* Hops under a load that checks its memory and, in the end, says what it found. */
static void load_hops(const char *cpus, int hops)
{
	char params[64];
	const char *words[] = {"-p", params, "-c", cpus, "-m", "64M", NULL};
	struct rig *r;
	uint32_t i;

	snprintf(params, sizeof(params), "dirty wss=4 cpus=%s", cpus);
	r = rig_boot(words);
	while (hops--) {
		expect_beats(r, 1000);
		rig_hop(r);
	}
	expect_beats(r, 1000);
	for (i = 0; i < heart(r)->n_cpus; i++)
		assert_int_equal(heart(r)->cpu[i].errors, 0);
	assert_true(heart(r)->cpu[0].generation > 1);
	rig_free(r);
}

static void test_hop_1(void **state)
{
	(void)state;
	load_hops("1", 20);
}

static void test_hop_2(void **state)
{
	(void)state;
	load_hops("2", 20);
}

static void test_hop_4(void **state)
{
	(void)state;
	load_hops("4", 10);
}

/* Hop every few ms until the guest ends by itself, and look at what it said. */
static void hop_to_the_end(const char *const *words, unsigned int every_ms, const char *said)
{
	struct rig *r = rig_boot(words);
	int hops = 0;

	for (;;) {
		rig_run_ms(r, every_ms);
		if (rig_ended(r))
			break;
		rig_hop(r);
		hops++;
	}
	print_message("hops: %d\n", hops);
	assert_true(hops > 2);
	assert_int_equal(r->guest.event, VM_EVENT_POWEROFF);
	rig_expect(r, said);
	rig_free(r);
}

static void test_timers(void **state)
{
	const char *words[] = {"-p", "timer n=100 extra=1", "-m", "64M", NULL};

	(void)state;
	hop_to_the_end(words, 7, "timer pit_pic=100\ndone timer");
}

static void test_smp(void **state)
{
	const char *words[] = {"-p", "smp", "-c", "4", "-m", "64M", NULL};

	(void)state;
	hop_to_the_end(words, 1, "done smp");
}

/* The back end is called with the device's lock held, by the vCPU's thread. */
static void block_serial(struct rig *r, bool on)
{
	pthread_mutex_lock(&r->guest.machine.serial.dev.lock);
	r->out_limit = on ? r->out_len : sizeof(r->out);
	pthread_mutex_unlock(&r->guest.machine.serial.dev.lock);
}

/* Not a byte is lost or doubled, whatever a hop falls into. */
static void test_serial(void **state)
{
	const char *words[] = {"-p", "hello", "-m", "64M", NULL};
	struct rig *quiet = rig_boot(words), *r;

	(void)state;
	rig_run_to_end(quiet);
	machine_pause(&quiet->guest.machine); /* it would wonder aloud why it still runs */
	r = rig_boot(words);
	for (;;) {
		block_serial(r, false);
		rig_run_ms(r, 1);
		if (rig_ended(r))
			break;
		block_serial(r, true); /* so that some bytes wait in the port */
		rig_run_ms(r, 1);
		block_serial(r, false);
		rig_hop(r);
	}
	assert_int_equal(r->guest.event, VM_EVENT_POWEROFF);
	assert_int_equal(r->out_len, quiet->out_len);
	assert_memory_equal(r->out, quiet->out, quiet->out_len);
	rig_free(quiet);
	rig_free(r);
}

static char *make_disk(char *path)
{
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 8 << 20), 0);
	close(fd);
	return path;
}

static void test_disk(void **state)
{
	char path[] = "/tmp/testudo-kvm-XXXXXX";
	const char *words[] = {
		"-p", "blk op=test irq=1 sectors=1024", "-d", make_disk(path), "-m", "64M", NULL};

	(void)state;
	hop_to_the_end(words, 5, "done blk");
	unlink(path);
}

static void test_rebuild(void **state)
{
	char path[] = "/tmp/testudo-kvm-XXXXXX";
	const char *words[] = {
		"-p", "dirty wss=4 cpus=2", "-c", "2", "-d", make_disk(path), "-m", "64M", NULL};
	struct rig *r = rig_boot(words);
	bool gone;
	int i;

	(void)state;
	for (i = 0; i < 5; i++) {
		expect_beats(r, 1000);
		rig_ok(r, machine_rebuild(&r->guest.machine, &gone, &r->e));
		assert_false(gone);
	}
	expect_beats(r, 1000);
	machine_pause(&r->guest.machine);
	rig_ok(r, machine_rebuild(&r->guest.machine, &gone, &r->e));
	expect_standstill(r);
	machine_resume(&r->guest.machine);
	expect_beats(r, 1000);
	assert_int_equal(heart(r)->cpu[1].errors, 0);
	rig_free(r);
	unlink(path);
}

/* ---- what is refused ---- */

struct saved {
	struct wbuf state;
	struct mitigation_saved mitigation;
	int fd;
	struct rig *r;
};

static void save_one(struct saved *s, const char *const *words)
{
	s->r = rig_boot(words);
	s->state = (struct wbuf) {0};
	expect_beats(s->r, 10);
	rig_save(s->r, &s->state, &s->mitigation, &s->fd);
}

static void saved_free(struct saved *s)
{
	mitigation_saved_fini(&s->mitigation);
	wbuf_fini(&s->state);
	close(s->fd);
	rig_free(s->r);
}

/* Load @len bytes at @data into a fresh machine. Return: what machine_restore() said */
static int load(struct saved *s, const uint8_t *data, size_t len)
{
	struct rbuf in = rbuf_of(data, len);
	const int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);

	rig_ok(s->r, rig_next_host(s->r, &s->mitigation, fd));
	s->r->e = (struct err) {0};
	return rig_restore(s->r, &in);
}

static void expect_refused(struct saved *s, const struct wbuf *w, const char *says)
{
	const int ret = load(s, w->data, w->len);

	if (ret >= 0)
		fail_msg("taken, though: %s", says);
	if (!strstr(s->r->e.text, says) || strchr(s->r->e.text, '\n'))
		fail_msg("'%s' is not in: %s", says, s->r->e.text);
}

static const char *const plain[] = {"-p", "heartbeat", "-m", "16M", NULL};

static void test_cut_short(void **state)
{
	struct saved s;
	struct rbuf r;
	struct section sec;
	size_t last = 0;

	(void)state;
	save_one(&s, plain);
	r = rbuf_of(s.state.data, s.state.len);
	for (;;) {
		const struct wbuf before = {.data = s.state.data, .len = last};
		struct wbuf inside = {.data = s.state.data};
		int ret = section_next(&r, &sec, &s.r->e);

		if (!ret)
			break;
		expect_refused(&s, &before, "is missing at the end");
		inside.len = last + (r.at - last) / 2;
		expect_refused(&s, &inside, "ends inside");
		last = r.at;
	}
	assert_int_equal(load(&s, s.state.data, s.state.len), 0);
	saved_free(&s);
}

/* Copy the sections; for number @which: 'd'rop it, 's'horten or 'l'engthen it by a byte. */
static bool edit(const struct wbuf *from, unsigned int which, char how, struct wbuf *to,
		 struct section *edited)
{
	struct rbuf r = rbuf_of(from->data, from->len);
	struct section s;
	unsigned int i;

	for (i = 0; section_next(&r, &s, NULL) == 1; i++) {
		struct wbuf body = {0};

		wbuf_bytes(&body, s.body.data, s.body.len);
		if (i == which)
			*edited = s;
		if (i == which && how == 'l')
			wbuf_u8(&body, 0);
		if (i == which && how == 's' && body.len)
			body.len--;
		if (i != which || how != 'd')
			section_put(to, s.name, s.instance, s.version, &body);
		wbuf_fini(&body);
	}
	return which < i;
}

static void test_sections(void **state)
{
	static const struct {
		char how;
		const char *says;
	} cases[] = {{'d', "'%s' %u belongs"}, {'s', "%s"}, {'l', "%s"}};
	struct saved s;
	unsigned int i;
	size_t c;

	(void)state;
	save_one(&s, plain);
	for (c = 0; c < ARRAY_SIZE(cases); c++)
		for (i = 0;; i++) {
			struct wbuf w = {0};
			struct section sec;
			bool more = edit(&s.state, i, cases[c].how, &w, &sec);
			int ret;

			if (!more) {
				wbuf_fini(&w);
				break;
			}
			/* its last bytes may be the zero end of an area that others have longer */
			ret = load(&s, w.data, w.len);
			if (ret >= 0 &&
			    !(strcmp(sec.name, "vcpu-xsave") == 0 && cases[c].how == 'l') &&
			    !(cases[c].how == 's' && !sec.body.len))
				fail_msg("section '%s' was taken after edit %c", sec.name,
					 cases[c].how);
			if (ret < 0 && (!*s.r->e.text || strchr(s.r->e.text, '\n')))
				fail_msg("no one line for '%s': %s", sec.name, s.r->e.text);
			wbuf_fini(&w);
		}
	{
		struct wbuf w = {0}, body = {0};

		wbuf_bytes(&w, s.state.data, s.state.len);
		section_put(&w, "telepathy", 0, 1, &body);
		expect_refused(&s, &w, "'telepathy' 0 is unknown here");
		wbuf_fini(&w);
	}
	saved_free(&s);
}

/* Sets @size bytes at @offset of the body of a section. */
static void poke(struct wbuf *w, const char *name, uint16_t instance, size_t offset, uint64_t value,
		 size_t size)
{
	struct rbuf r = rbuf_of(w->data, w->len);
	struct section s;

	while (section_next(&r, &s, NULL) == 1)
		if (strcmp(s.name, name) == 0 && s.instance == instance) {
			assert_true(offset + size <= s.body.len);
			memcpy((uint8_t *)s.body.data + offset, &value, size);
			return;
		}
	fail_msg("no section '%s' %u", name, instance);
}

/* SDM vol.2, CPUID.80000007H:EDX[8] */
static bool has_invariant_tsc(void)
{
	unsigned int a, b, c, d;

	return __get_cpuid(0x80000007, &a, &b, &c, &d) && d & 1u << 8;
}

static void test_values(void **state)
{
	/* offsets: virtio-mmio is 6 registers of 8, 8, 4, 4, 4, 4, 4, 4 bytes, then queues of 38 */
	static const struct {
		const char *name, *section;
		size_t offset;
		uint64_t value;
		size_t size;
		const char *says;
	} cases[] = {
		{"more vCPUs", "machine", 0, 3, 4, "the guest has 3 vCPUs"},
		{"other memory", "machine", 4, 1 << 20, 8, "1048576 bytes of memory"},
		{"another device", "machine", 16, 1, 4, "a device of type 1, here is virtio-blk"},
		{"offered more", "virtio-mmio", 0, ~UINT64_C(0), 8, "this host's device has"},
		{"accepted more", "virtio-mmio", 8, ~UINT64_C(0), 8, "driver_features"},
		{"status without features", "virtio-mmio", 28, 4, 4, "no driver can get there"},
		{"unknown status", "virtio-mmio", 28, 0x100, 4, "unknown bits"},
		{"ring index in a queue that is not in use", "virtio-mmio", 40 + 32, 5, 2,
		 "has none in flight"},
		{"queue that does not exist", "virtio-mmio", 40 + 38 + 28, 1, 4, "has 1 queues"},
		{"another disk", "virtio-blk", 0, 1, 8, "the guest's disk has 512 bytes"},
		{"other blocks", "virtio-blk", 8, 8192, 4, "blocks of 8192 bytes"},
		{"another serial number", "virtio-blk", 12, 'x', 1, "serial number 'x'"},
		{"FIFO too long", "serial", 10, 17, 1, "a FIFO holds 16 bytes"},
		{"modem control", "serial", 3, 0xff, 1, "no guest can bring these about"},
		{"report", "mitigation", 1 + 1 + 1 + 12 + 24 + 4 + 3, 0x10, 8, "report 0x10"},
		{"held bits", "mitigation", 1 + 1 + 1 + 12 + 24 + 4 + 3 + 8 + 1, 0x8000, 8,
		 "are impossible"},
		{"contract", "mitigation", 1 + 1 + 1, 0x1, 4, "contract changed"},
		{"TSC frequency 0", "time", 8 + 24, 0, 4, "TSC of 0 kHz"},
		{"TSC frequency", "time", 8 + 24, 1000, 4, "runs at 1000 kHz"},
		{"mitigation MSR", "vcpu-msrs", 0, 0x48, 4, "it is not restored by itself"},
		{"PVM's MSR", "vcpu-msrs", 0, 0x4b564df0, 4, "it is not restored by itself"},
		{"unknown MSR", "vcpu-msrs", 0, 0x12345678, 4, "does not have it"},
		{"CR4", "vcpu-sregs2", offsetof(struct kvm_sregs2, cr4), ~UINT64_C(0), 8, "CR4"},
		{"XCR0", "vcpu-xcrs", offsetof(struct kvm_xcrs, xcrs[0].value), 0, 8,
		 "KVM_SET_XCRS"},
		{"PIT", "pit", 0, 0xffffffff, 4, "are no PIT's"},
	};
	char path[] = "/tmp/testudo-kvm-XXXXXX";
	const char *words[] = {"-p", "heartbeat", "-m", "16M", "-d", make_disk(path), NULL};
	struct saved s;
	size_t i;

	(void)state;
	save_one(&s, words);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wbuf w = {0};

		/* refused only if the guest was told that its TSC is invariant, as this CPU's is */
		if (strcmp(cases[i].name, "TSC frequency") == 0 && !has_invariant_tsc())
			continue;
		print_message("case: %s\n", cases[i].name);
		wbuf_bytes(&w, s.state.data, s.state.len);
		poke(&w, cases[i].section, 0, cases[i].offset, cases[i].value, cases[i].size);
		if (strcmp(cases[i].name, "unknown MSR") ==
		    0) /* 0 in what is not there is no loss */
			poke(&w, "vcpu-msrs", 0, 4, 1, 8);
		expect_refused(&s, &w, cases[i].says);
		wbuf_fini(&w);
	}
	assert_int_equal(load(&s, s.state.data, s.state.len), 0);
	saved_free(&s);
	unlink(path);
}

/* Has the first queue given something back? */
static bool has_used(struct virtio_mmio *m)
{
	bool used;

	pthread_mutex_lock(&m->dev.lock);
	used = m->regs.queue[0].used_idx;
	pthread_mutex_unlock(&m->dev.lock);
	return used;
}

/* A disk in use, its driver in the middle of requests: rings that no driver could have left. */
static void test_rings(void **state)
{
	static const struct {
		const char *name;
		size_t offset;
		uint64_t value;
		size_t size;
		const char *says;
	} cases[] = {
		{"index ahead", 40 + 32, 0xfff0, 2, "has none in flight"},
		{"ring outside of memory", 40, UINT64_C(1) << 40, 8, "cannot be taken up again"},
		{"ring not aligned", 40 + 8, 0x1001, 8, "cannot be taken up again"},
		{"size that is no power of 2", 40 + 24, 3, 4, "cannot be taken up again"},
	};
	char path[] = "/tmp/testudo-kvm-XXXXXX";
	const char *words[] = {
		"-p", "blk op=test irq=1 sectors=8192", "-d", make_disk(path), "-m", "64M", NULL};
	struct saved s = {.r = rig_boot(words)};
	size_t i;

	(void)state;
	while (!has_used(&s.r->guest.machine.slot[0].mmio))
		rig_run_ms(s.r, 1);
	rig_save(s.r, &s.state, &s.mitigation, &s.fd);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wbuf w = {0};

		print_message("case: %s\n", cases[i].name);
		wbuf_bytes(&w, s.state.data, s.state.len);
		poke(&w, "virtio-mmio", 0, cases[i].offset, cases[i].value, cases[i].size);
		expect_refused(&s, &w, cases[i].says);
		wbuf_fini(&w);
	}
	assert_int_equal(load(&s, s.state.data, s.state.len), 0);
	rig_ok(s.r, machine_start_restored(&s.r->guest.machine, true, &s.r->e));
	rig_run_ms(s.r, 20);
	assert_false(rig_said(s.r, "done blk"));
	machine_resume(&s.r->guest.machine);
	rig_run_to_end(s.r);
	rig_expect(s.r, "done blk");
	saved_free(&s);
	unlink(path);
}

/* usage: test_machine_state [PATTERN]: only the tests whose names match */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pause),	 cmocka_unit_test(test_hop_1),
		cmocka_unit_test(test_hop_2),	 cmocka_unit_test(test_hop_4),
		cmocka_unit_test(test_timers),	 cmocka_unit_test(test_smp),
		cmocka_unit_test(test_serial),	 cmocka_unit_test(test_disk),
		cmocka_unit_test(test_rebuild),	 cmocka_unit_test(test_cut_short),
		cmocka_unit_test(test_sections), cmocka_unit_test(test_values),
		cmocka_unit_test(test_rings),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
