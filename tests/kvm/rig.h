/*
 * One guest and the hosts that it runs on, all in one process: what testudo run opens, built by
 * hand, with a serial port that is a buffer. A hop saves the guest, takes its machine apart and
 * builds another one, with a mitigation engine of its own, around the same memory. Include after
 * cmocka.h.
 */
#ifndef TESTS_KVM_RIG_H
#define TESTS_KVM_RIG_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/loop.h"
#include "devices/chardev.h"
#include "migration/state/buf.h"
#include "migration/state/clock.h"
#include "policy/facts.h"
#include "policy/policy.h"
#include "policy/policy_file.h"
#include "tests/guest/heartbeat.h"
#include "vmm/guest/config.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_state.h"

#define RIG_TIMEOUT_MS 60000

struct rig {
	char *argv[32];
	struct run_config config;
	struct loop loop;
	struct kvm kvm;
	struct cpuid_set cpuid;
	struct cpu_msrs cpu_msrs; /* none */
	struct host_facts facts;  /* of the host that this one stands for; zeroed: of this one */
	struct policy policy;
	struct isolation isolation;
	struct mitigation mitigation;
	struct kernel_config kernel;
	struct blk_file disk[2];
	struct chardev serial;
	char out[64 * 1024];
	size_t out_len, out_limit; /* bytes taken so far, and before the port is blocked */
	struct vm_event_sink sink;
	int event, wake_fd, tick_fd;
	struct loop_watch wake, tick;
	bool (*until)(struct rig *r);
	uint64_t target, deadline_ms;
	uint64_t beats[HEARTBEAT_MAX_CPUS]; /* that each processor is to reach */
	struct machine_host host;
	struct machine m;
	struct err e;
};

static inline uint64_t rig_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

#define rig_ok(r, call)                                         \
	do {                                                    \
		if ((call) != 0)                                \
			fail_msg("%s: %s", #call, (r)->e.text); \
	} while (0)

static inline size_t rig_serial_write(struct chardev *c, const uint8_t *data, size_t len)
{
	struct rig *r = container_of(c, struct rig, serial);

	if (len > r->out_limit - r->out_len)
		len = r->out_limit - r->out_len;
	memcpy(r->out + r->out_len, data, len);
	r->out_len += len;
	return len;
}

static inline void rig_serial_kick(struct chardev *c)
{
	(void)c;
}

static inline void rig_raise(struct vm_event_sink *sink, enum vm_event event)
{
	struct rig *r = container_of(sink, struct rig, sink);
	const uint64_t one = 1;

	__atomic_store_n(&r->event, (int)event, __ATOMIC_RELEASE);
	if (write(r->wake_fd, &one, sizeof(one)) < 0)
		abort();
}

static inline void rig_woken(struct loop_watch *w)
{
	struct rig *r = container_of(w, struct rig, wake);
	uint64_t n;

	if (read(r->wake_fd, &n, sizeof(n)) == sizeof(n))
		loop_stop(&r->loop);
}

static inline void rig_ticked(struct loop_watch *w)
{
	struct rig *r = container_of(w, struct rig, tick);
	uint64_t n;

	if (read(r->tick_fd, &n, sizeof(n)) != sizeof(n))
		return;
	if (rig_now_ms() > r->deadline_ms || (r->until && r->until(r)))
		loop_stop(&r->loop);
}

/* Run the loop until the guest raises an event, or @until says so. Fails when neither comes. */
static inline void rig_run(struct rig *r, bool (*until)(struct rig *r))
{
	r->until = until;
	r->deadline_ms = rig_now_ms() + RIG_TIMEOUT_MS;
	assert_int_equal(loop_run(&r->loop), 0);
	if (rig_now_ms() > r->deadline_ms)
		fail_msg("nothing in %d ms; the guest said: %.*s", RIG_TIMEOUT_MS, (int)r->out_len,
			 r->out);
}

static inline bool rig_time_is_up(struct rig *r)
{
	return rig_now_ms() >= r->target;
}

static inline void rig_run_ms(struct rig *r, unsigned int ms)
{
	r->target = rig_now_ms() + ms;
	rig_run(r, rig_time_is_up);
}

static inline bool rig_ended(const struct rig *r)
{
	return __atomic_load_n(&r->event, __ATOMIC_ACQUIRE) != VM_EVENT_NONE;
}

static inline void rig_run_to_end(struct rig *r)
{
	while (!rig_ended(r))
		rig_run(r, NULL);
}

/* The mitigation engine of a host; the guest boots here unless @from is given. */
static inline int rig_engine(struct rig *r, const struct mitigation_saved *from)
{
	struct mitigation_options options = {
		.policy = r->policy.mitigation,
		.facts = r->facts.vendor_id[0] ? &r->facts : NULL,
		.force_cap = r->config.force_cap,
	};
	int ret = mitigation_init(&r->mitigation, &options, &r->kvm, r->config.machine.n_vcpus,
				  &r->e);

	if (ret)
		return ret;
	return from ? mitigation_adopt(&r->mitigation, &r->cpuid, from, &r->e)
		    : mitigation_make_contract(&r->mitigation, &r->cpuid, &r->e);
}

/* Everything up to a machine whose vCPUs stand still. @words: as after `testudo run -k GUEST`;
 * @facts: NULL for this host */
static inline struct rig *rig_new(const char *const *words, const struct host_facts *facts)
{
	static const struct chardev_ops serial_ops = {rig_serial_write, rig_serial_kick};
	const struct itimerspec ms = {{0, 1000000}, {0, 1000000}};
	static const char *const first[] = {"run", "-k", GUEST};
	struct isolation_options isolation = {0};
	struct rig *r = calloc(1, sizeof(*r));
	int argc = 0;
	unsigned int i;

	assert_non_null(r);
	/* copies, since options are cut up in place */
	for (i = 0; i < ARRAY_SIZE(first); i++)
		r->argv[argc++] = strdup(first[i]);
	while (*words)
		r->argv[argc++] = strdup(*words++);
	rig_ok(r, config_parse(&r->config, argc, r->argv, &r->e));
	rig_ok(r, loop_init(&r->loop));
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	timerfd_settime(r->tick_fd, 0, &ms, NULL);
	rig_ok(r, loop_add(&r->loop, &r->wake, r->wake_fd, EPOLLIN, rig_woken));
	rig_ok(r, loop_add(&r->loop, &r->tick, r->tick_fd, EPOLLIN, rig_ticked));
	rig_ok(r, vcpu_init_kick(&r->e));
	rig_ok(r, kvm_open(&r->kvm, &r->e));
	rig_ok(r, policy_load(r->config.policy, &r->policy, &r->e));
	/* the host that this runs on may be one that the default would let nobody move to */
	if (!r->config.policy)
		r->policy.mitigation.incoming_cannot = CANNOT_WARN;
	if (facts)
		r->facts = *facts;
	rig_ok(r, isolation_enter(&r->isolation, &isolation, r->config.machine.n_vcpus, &r->e));
	r->cpuid = r->kvm.cpuid;
	vcpu_base_cpuid(&r->cpuid, &r->kvm, false);
	r->kernel = (struct kernel_config) {.kernel_path = r->config.kernel,
					    .cmdline = r->config.params,
					    .kernel_fd = -1,
					    .initrd_fd = -1};
	rig_ok(r, kernel_open(&r->kernel, &r->e));
	for (i = 0; i < r->config.machine.n_disks; i++)
		rig_ok(r, blk_file_open(&r->disk[i], &r->config.machine.disk[i], &r->e));
	r->serial.ops = &serial_ops;
	r->out_limit = sizeof(r->out);
	r->sink.raise = rig_raise;
	r->host = (struct machine_host) {
		.config = &r->config.machine,
		.kvm = &r->kvm,
		.kernel = &r->kernel,
		.cpuid = &r->cpuid,
		.cpu_msrs = &r->cpu_msrs,
		.mitigation = &r->mitigation,
		.isolation = &r->isolation,
		.disks = r->disk,
		.serial = &r->serial,
		.loop = &r->loop,
		.sink = &r->sink,
	};
	rig_ok(r, rig_engine(r, NULL));
	rig_ok(r, machine_init(&r->m, &r->host, NULL, &r->e));
	return r;
}

static inline struct rig *rig_boot_on(const char *const *words, const struct host_facts *facts)
{
	struct rig *r = rig_new(words, facts);

	rig_ok(r, machine_load(&r->m, &r->e));
	rig_ok(r, machine_start(&r->m, &r->e));
	return r;
}

static inline struct rig *rig_boot(const char *const *words)
{
	return rig_boot_on(words, NULL);
}

static inline void rig_free(struct rig *r)
{
	unsigned int i;

	machine_fini(&r->m);
	mitigation_fini(&r->mitigation);
	for (i = 0; i < r->config.machine.n_disks; i++)
		blk_file_close(&r->disk[i]);
	kernel_close(&r->kernel);
	kvm_close(&r->kvm);
	loop_fini(&r->loop);
	close(r->wake_fd);
	close(r->tick_fd);
	config_fini(&r->config);
	for (i = 0; i < ARRAY_SIZE(r->argv); i++)
		free(r->argv[i]);
	free(r);
}

/* Pause and save; the machine can go on. @fd: receives the guest's memory */
static inline void rig_save(struct rig *r, struct wbuf *state, struct mitigation_saved *s, int *fd)
{
	const struct clock_reading monotonic = {0};

	machine_pause(&r->m);
	rig_ok(r, mitigation_save(&r->mitigation, true, s, &r->e));
	rig_ok(r, machine_save(&r->m, &monotonic, state, &r->e));
	*fd = fcntl(r->m.memory.fd, F_DUPFD_CLOEXEC, 0);
	assert_true(*fd >= 0);
}

/* What rig_save() saved, into the machine of the next host: the clocks go on by what passed. */
static inline int rig_restore(struct rig *r, struct rbuf *in)
{
	const struct clock_window here = clock_window_here();
	int64_t off_ns;

	return machine_restore(&r->m, &here, &off_ns, in, &r->e);
}

/* The machine of the next host, without state. Takes @fd over. */
static inline int rig_next_host(struct rig *r, const struct mitigation_saved *s, int fd)
{
	struct memory memory;
	int ret;

	machine_fini(&r->m);
	mitigation_fini(&r->mitigation);
	r->e = (struct err) {0};
	ret = memory_adopt(&memory, fd, &r->config.machine.memory, &r->e);
	if (!ret)
		ret = rig_engine(r, s);
	if (!ret)
		ret = machine_init(&r->m, &r->host, &memory, &r->e);
	memory_fini(&memory);
	return ret;
}

static inline void rig_hop(struct rig *r)
{
	struct mitigation_saved s;
	struct wbuf state = {0};
	struct rbuf in;
	int fd;

	rig_save(r, &state, &s, &fd);
	in = rbuf_of(state.data, state.len);
	rig_ok(r, rig_next_host(r, &s, fd));
	rig_ok(r, rig_restore(r, &in));
	rig_ok(r, machine_start_restored(&r->m, false, &r->e));
	mitigation_saved_fini(&s);
	wbuf_fini(&state);
}

static inline bool rig_said(const struct rig *r, const char *text)
{
	return memmem(r->out, r->out_len, text, strlen(text)) != NULL;
}

static inline void rig_expect(const struct rig *r, const char *text)
{
	if (!rig_said(r, text))
		fail_msg("no '%s' in: %.*s", text, (int)r->out_len, r->out);
}

#endif
