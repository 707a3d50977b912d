/*
 * One guest and the hosts that it runs on, all in one process: a struct guest as testudo run has it,
 * with a serial port that is a buffer. A hop saves the guest, takes its machine apart and
 * builds another one, with a mitigation engine of its own, around the same memory. Include after
 * cmocka.h.
 */
#ifndef TESTS_KVM_RIG_H
#define TESTS_KVM_RIG_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/loop.h"
#include "migration/state/buf.h"
#include "migration/state/clock.h"
#include "tests/guest/heartbeat.h"
#include "vmm/guest/guest.h"
#include "vmm/hold/mitigation_state.h"
#include "vmm/machine/machine_state.h"

#define RIG_TIMEOUT_MS 60000

struct rig {
	char *argv[32];
	struct guest guest;
	char out[64 * 1024];
	size_t out_len, out_limit; /* bytes taken so far, and before the port is blocked */
	int tick_fd;
	struct loop_watch tick;
	bool (*until)(struct rig *r);
	uint64_t target, deadline_ms;
	uint64_t beats[HEARTBEAT_MAX_CPUS]; /* that each processor is to reach */
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
	struct rig *r = container_of(c, struct rig, guest.serial.dev);

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

static inline void rig_ticked(struct loop_watch *w)
{
	struct rig *r = container_of(w, struct rig, tick);
	uint64_t n;

	if (read(r->tick_fd, &n, sizeof(n)) != sizeof(n))
		return;
	if (rig_now_ms() > r->deadline_ms || (r->until && r->until(r)))
		loop_stop(&r->guest.loop);
}

/* Run the loop until the guest raises an event, or @until says so. Fails when neither comes. */
static inline void rig_run(struct rig *r, bool (*until)(struct rig *r))
{
	r->until = until;
	r->deadline_ms = rig_now_ms() + RIG_TIMEOUT_MS;
	assert_int_equal(loop_run(&r->guest.loop), 0);
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
	return guest_event_waits(&r->guest);
}

static inline void rig_run_to_end(struct rig *r)
{
	while (!rig_ended(r))
		rig_run(r, NULL);
}

/* The host that this one is to stand for from now on; NULL: itself */
static inline void rig_stand_for(struct rig *r, const struct host_facts *facts)
{
	if (facts)
		r->guest.facts.facts = *facts;
	r->guest.config.host_facts = facts ? "of the test" : NULL;
}

/* Everything up to a machine whose vCPUs stand still. @words: as after `testudo run -k GUEST`;
 * @facts: NULL for this host */
static inline struct rig *rig_new(const char *const *words, const struct host_facts *facts)
{
	static const struct chardev_ops serial_ops = {rig_serial_write, rig_serial_kick};
	const struct itimerspec ms = {{0, 1000000}, {0, 1000000}};
	static const char *const first[] = {"run", "-k", GUEST};
	struct rig *r = calloc(1, sizeof(*r));
	struct guest *g = &r->guest;
	int argc = 0;
	unsigned int i;

	assert_non_null(r);
	guest_init(g);
	/* copies, since options are cut up in place */
	for (i = 0; i < ARRAY_SIZE(first); i++)
		r->argv[argc++] = strdup(first[i]);
	while (*words)
		r->argv[argc++] = strdup(*words++);
	rig_ok(r, config_parse(&g->config, argc, r->argv, &r->e));
	rig_ok(r, guest_open_loop(g, &r->e));
	r->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	timerfd_settime(r->tick_fd, 0, &ms, NULL);
	rig_ok(r, loop_add(&g->loop, &r->tick, r->tick_fd, EPOLLIN, rig_ticked));
	rig_ok(r, vcpu_init_kick(&r->e));
	rig_ok(r, guest_open_input(g, &r->e));
	rig_ok(r, guest_open_policy(g, &r->e));
	/* the host that this runs on may be one that the default would let nobody move to */
	if (!g->config.policy)
		g->policy.mitigation.incoming_cannot = CANNOT_WARN;
	rig_stand_for(r, facts);
	rig_ok(r, guest_open_kvm(g, &r->e));
	rig_ok(r, guest_open_cpu(g, &r->e));
	rig_ok(r, guest_open_contract(g, &r->e));
	g->serial.dev.ops = &serial_ops;
	r->out_limit = sizeof(r->out);
	rig_ok(r, guest_build_machine(g, NULL, &r->e));
	return r;
}

static inline struct rig *rig_boot_on(const char *const *words, const struct host_facts *facts)
{
	struct rig *r = rig_new(words, facts);

	rig_ok(r, machine_load(&r->guest.machine, &r->e));
	rig_ok(r, machine_start(&r->guest.machine, &r->e));
	return r;
}

static inline struct rig *rig_boot(const char *const *words)
{
	return rig_boot_on(words, NULL);
}

static inline void rig_free(struct rig *r)
{
	struct guest *g = &r->guest;
	unsigned int i;

	guest_end_machine(g);
	mitigation_fini(&g->mitigation);
	guest_close_input(g);
	kvm_close(&g->kvm);
	loop_fini(&g->loop);
	close(g->wake_fd);
	close(r->tick_fd);
	closer_wait(&g->closer);
	config_fini(&g->config);
	for (i = 0; i < ARRAY_SIZE(r->argv); i++)
		free(r->argv[i]);
	free(r);
}

/* Pause and save; the machine can go on. @fd: receives the guest's memory */
static inline void rig_save(struct rig *r, struct wbuf *state, struct mitigation_saved *s, int *fd)
{
	const struct clock_reading monotonic = {0};

	machine_pause(&r->guest.machine);
	rig_ok(r, mitigation_save(&r->guest.mitigation, true, s, &r->e));
	rig_ok(r, machine_save(&r->guest.machine, &monotonic, state, &r->e));
	*fd = fcntl(r->guest.machine.memory.fd, F_DUPFD_CLOEXEC, 0);
	assert_true(*fd >= 0);
}

/* What rig_save() saved, into the machine of the next host: the clocks go on by what passed. */
static inline int rig_restore(struct rig *r, struct rbuf *in)
{
	const struct clock_window here = clock_window_here();
	int64_t off_ns;

	return machine_restore(&r->guest.machine, &here, &off_ns, in, &r->e);
}

/* The machine of the next host, without state, and its mitigation engine. Takes @fd over. */
static inline int rig_next_host(struct rig *r, const struct mitigation_saved *s, int fd)
{
	struct guest *g = &r->guest;
	struct mitigation_options options = g->mitigation.options;
	struct memory memory;
	int ret;

	guest_end_machine(g);
	mitigation_fini(&g->mitigation);
	r->e = (struct err) {0};
	options.facts = g->config.host_facts ? &g->facts.facts : NULL;
	ret = memory_adopt(&memory, fd, &g->config.machine.memory, &r->e);
	if (!ret)
		ret = mitigation_init(&g->mitigation, &options, &g->kvm, g->config.machine.n_vcpus,
				      &r->e);
	if (!ret)
		ret = mitigation_adopt(&g->mitigation, &g->cpuid, s, &r->e);
	if (!ret)
		ret = guest_build_machine(g, &memory, &r->e);
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
	rig_ok(r, machine_start_restored(&r->guest.machine, false, &r->e));
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
