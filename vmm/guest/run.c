/*
 * testudo run: open what the guest needs from the host, then build a machine, run it and take it
 * apart, once for each reset of the guest.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vmm/guest/run.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "devices/char/char.h"
#include "devices/char/terminal.h"
#include "policy/policy_file.h"
#include "vmm/cmd.h"
#include "vmm/exit_code.h"
#include "vmm/guest/config.h"
#include "vmm/guest/control.h"
#include "vmm/guest/dump_dtb.h"
#include "vmm/guest/mitigation_watch.h"
#include "vmm/guest/sandbox.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"
#include "vmm/kvm/memory_fault.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/cpu_option.h"
#include "vmm/machine/machine.h"

static void raise_event(struct vm_event_sink *sink, enum vm_event event)
{
	struct run *r = container_of(sink, struct run, sink);
	const uint64_t one = 1;
	int none = VM_EVENT_NONE;

	/* the user's wish to end must not get lost behind a reset */
	if (event == VM_EVENT_QUIT)
		__atomic_store_n(&r->event, (int)event, __ATOMIC_RELEASE);
	else if (!__atomic_compare_exchange_n(&r->event, &none, (int)event, false, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE))
		return;
	if (write(r->wake_fd, &one, sizeof(one)) < 0)
		log_err("cannot wake the event loop: %s", strerror(errno));
}

/* With on-refuse: stop. On the vCPU's thread: the loop ends the machine. */
static void verdict_changed(struct mitigation_listener *l, uint32_t vcpu,
			    enum mitigation_change what)
{
	struct run *r = container_of(l, struct run, refusal);

	(void)what;
	if (mitigation_refused(&r->mitigation, vcpu, NULL, 0))
		raise_event(&r->sink, VM_EVENT_REFUSED);
}

static int end_refused(struct run *r)
{
	char why[896];
	uint32_t i;

	for (i = 0; i < r->config.machine.n_vcpus; i++)
		if (mitigation_refused(&r->mitigation, i, why, sizeof(why)))
			log_err("stopped by policy (on-refuse: stop): vCPU %u: %s", i, why);
	return EXIT_POLICY;
}

static void wake_ready(struct loop_watch *w, uint32_t events)
{
	struct run *r = container_of(w, struct run, wake);
	uint64_t n;

	(void)events;
	if (read(r->wake_fd, &n, sizeof(n)) == sizeof(n) &&
	    __atomic_load_n(&r->event, __ATOMIC_ACQUIRE) != VM_EVENT_NONE)
		loop_stop(&r->loop);
}

static void signal_ready(struct loop_watch *w, uint32_t events)
{
	struct run *r = container_of(w, struct run, signals);
	struct signalfd_siginfo info;

	(void)events;
	if (read(r->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGTSTP:
		char_stop(&r->serial);
		raise(SIGSTOP);
		break;
	case SIGCONT:
		char_continue(&r->serial);
		break;
	default:
		r->fatal_signal = (int)info.ssi_signo;
		raise_event(&r->sink, VM_EVENT_QUIT);
	}
}

/* Guest memory is gone; of a handler. */
static void end_at_once(void *arg)
{
	struct run *r = arg;

	terminal_restore();
	rundir_remove(&r->control.dir);
	unix_listener_fini(&r->serial.listener);
}

static bool is_ignored(int sig)
{
	struct sigaction now;

	return sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

/* Signals come as events on the loop; every thread made later inherits the mask. */
static int open_signals(struct run *r, struct err *e)
{
	static const int wanted[] = {SIGTERM, SIGINT, SIGHUP, SIGTSTP, SIGCONT};
	sigset_t set;
	size_t i;
	int ret;

	sigemptyset(&set);
	for (i = 0; i < ARRAY_SIZE(wanted); i++)
		if (wanted[i] != SIGHUP || !is_ignored(SIGHUP)) /* nohup(1) */
			sigaddset(&set, wanted[i]);
	pthread_sigmask(SIG_BLOCK, &set, &r->old_mask);
	/* a reader that goes away, a file that may not grow: errors of the call, no more */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	ret = r->signal_fd < 0
		      ? -errno
		      : loop_add(&r->loop, &r->signals, r->signal_fd, EPOLLIN, signal_ready);
	if (ret < 0)
		return err_set(e, ret, "signalfd: %s", strerror(-ret));
	ret = vcpu_init_kick(e);
	return ret ? ret : memory_fault_open(end_at_once, r, EXIT_VMM_ERROR, e);
}

static int open_loop(struct run *r, struct err *e)
{
	int ret = loop_init(&r->loop);

	r->sink.raise = raise_event;
	r->wake_fd = ret < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!ret)
		ret = r->wake_fd < 0
			      ? -errno
			      : loop_add(&r->loop, &r->wake, r->wake_fd, EPOLLIN, wake_ready);
	if (ret < 0)
		return err_set(e, ret,
			       "no event loop: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	return open_signals(r, e);
}

static void memory_due(struct loop_watch *w, uint32_t events)
{
	struct run *r = container_of(w, struct run, memory);
	uint64_t n;

	(void)events;
	if (read(r->memory_fd, &n, sizeof(n)) == sizeof(n) && memory_fault_explains(false))
		raise_event(&r->sink, VM_EVENT_FAILED);
}

/*
 * A page that is no more in a saved guest's file need not end KVM_RUN: where KVM lets the guest
 * wait for a page (asynchronous page faults) it tries again for ever.
 */
static int watch_memory(struct run *r, struct err *e)
{
	const struct itimerspec every = {.it_interval.tv_sec = 1, .it_value.tv_sec = 1};
	int ret;

	r->memory_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	ret = r->memory_fd < 0 || timerfd_settime(r->memory_fd, 0, &every, NULL) < 0
		      ? -errno
		      : loop_add(&r->loop, &r->memory, r->memory_fd, EPOLLIN, memory_due);
	if (ret < 0)
		return err_set(e, ret, "no timer: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	return 0;
}

/* Both directions: where a guest may come from, and how this one may leave. */
static int open_migration(struct run *r, struct err *e)
{
	struct utsname host;
	int ret = loop_call_init(&r->calls, &r->loop);

	if (ret < 0)
		return err_set(e, ret, "eventfd: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	if (uname(&host) == 0)
		host_info_set(r->host_name, sizeof(r->host_name), host.nodename);
	r->incoming = r->config.incoming;
	r->control.hold = r->config.paused;
	if (r->incoming)
		ret = migrate_dest_open(&r->dest, r->config.incoming, e);
	if (!ret && r->incoming && r->dest.uri.kind == URI_FILE)
		ret = watch_memory(r, e);
	if (!ret)
		ret = migrate_source_init(&r->source, r, e);
	if (!ret)
		migrate_qmp_init(&r->migrate, r);
	return ret;
}

/* The user's files and interfaces. An error in here is bad input, one anywhere else is ours or the
 * host's. */
static int open_input(struct run *r, struct err *e)
{
	const struct run_config *c = &r->config;
	unsigned int i;
	int ret;

	r->kernel.kernel_path = c->kernel;
	r->kernel.initrd_path = c->initrd;
	r->kernel.cmdline = c->params;
	ret = c->kernel ? kernel_open(&r->kernel, e) : 0;
	for (i = 0; !ret && i < c->machine.n_disks; i++) {
		/* the guest's present owner holds the locks until it hands over */
		r->config.machine.disk[i].unlocked = c->incoming;
		ret = blk_file_open(&r->disk[i], &c->machine.disk[i], e);
		r->n_disks = i + 1;
	}
	if (!ret)
		ret = dump_dtb_open(r, e);
	for (i = 0; !ret && i < c->machine.n_nets; i++) {
		ret = tap_open(&r->tap[i], &c->machine.net[i], e);
		r->n_taps = i + 1;
	}
	return ret;
}

static void run_close(struct run *r)
{
	unsigned int i;

	char_close(&r->serial);
	migrate_source_fini(&r->source);
	migrate_dest_fini(&r->dest);
	mitigation_watch_close(&r->watch);
	mitigation_rebuild_close(&r->rebuild);
	mitigation_fini(&r->mitigation);
	cpu_msrs_fini(&r->cpu_msrs);
	for (i = 0; i < r->n_disks; i++)
		blk_file_close(&r->disk[i]);
	for (i = 0; i < r->n_taps; i++)
		tap_close(&r->tap[i]);
	kernel_close(&r->kernel);
	file_replace_close(&r->dtb);
	kvm_close(&r->kvm);
	if (r->signal_fd >= 0)
		close(r->signal_fd);
	if (r->memory_fd >= 0)
		close(r->memory_fd);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	guest_name_close(&r->name);
	/* late: clients take the end of their connection for the end of everything above */
	control_close(&r->control);
	ready_close(&r->ready);
	loop_call_fini(&r->calls);
	loop_fini(&r->loop);
	closer_wait(&r->closer); /* nothing that anybody could want is in it any more */
	config_fini(&r->config);
}

bool run_event_waits(const struct run *r)
{
	return __atomic_load_n(&r->event, __ATOMIC_ACQUIRE) != VM_EVENT_NONE;
}

int run_build_machine(struct run *r, struct memory *memory, struct err *e)
{
	int ret;

	r->host = (struct machine_host) {
		.config = &r->config.machine,
		.kvm = &r->kvm,
		.kernel = &r->kernel,
		.cpuid = &r->cpuid,
		.cpu_msrs = &r->cpu_msrs,
		.mitigation = &r->mitigation,
		.isolation = &r->isolation,
		.disks = r->disk,
		.taps = r->tap,
		.serial = &r->serial.dev,
		.loop = &r->loop,
		.sink = &r->sink,
		.closer = &r->closer,
	};
	r->built = true;
	ret = machine_init(&r->machine, &r->host, memory, e);
	return ret ? ret : dump_dtb_write(r, e);
}

/* Whoever waits for it may pause, save and move the guest from here on, or send one. */
static void tell_ready(struct run *r)
{
	const bool served = r->control.dir.dir_fd >= 0, waits = r->control.state == RUN_INMIGRATE;

	ready_tell(&r->ready, served ? r->control.dir.name : NULL, run_state_name(r->control.state),
		   waits && r->dest.where[0] ? r->dest.where : NULL);
}

int run_start_arrived(struct run *r, bool running, struct err *e)
{
	int ret = control_arrive(&r->control, &r->machine, running && !r->config.paused, e);

	if (!ret) {
		guest_name_take(&r->name, r->dest.uri.kind != URI_FILE);
		machine_announce(&r->machine);
		mitigation_started(&r->mitigation);
		r->watch.machine = &r->machine;
		tell_ready(r); /* of a guest from a file */
	}
	return ret;
}

/* Boot: an empty machine, the kernel in it. Return: 0, or -errno and the exit code */
static int boot_machine(struct run *r, int *code, struct err *e)
{
	int ret = run_build_machine(r, NULL, e);

	if (ret == -ENOTSUP) /* of the user's CPU, by this host's KVM */
		*code = EXIT_BAD_INPUT;
	if (!ret) {
		ret = machine_load(&r->machine, e);
		if (ret < 0)
			*code = EXIT_BAD_INPUT;
	}
	if (!ret && control_begin(&r->control, &r->machine))
		ret = machine_start(&r->machine, e);
	if (!ret) {
		mitigation_started(&r->mitigation);
		r->watch.machine = &r->machine;
		tell_ready(r);
	}
	return ret;
}

static int await_machine(struct run *r, struct err *e)
{
	r->incoming = false; /* the next life is a boot */
	control_set_state(&r->control, RUN_INMIGRATE);
	if (r->dest.uri.kind != URI_FILE)
		tell_ready(r);
	return migrate_dest_start(&r->dest, e);
}

/* A file is the user's input; only what the host lacks is not its fault. */
static int arrival_code(const struct run *r, int ret)
{
	if (ret == -EPERM)
		return EXIT_POLICY;
	return r->dest.uri.kind == URI_FILE && ret != -ENOMEM ? EXIT_BAD_INPUT : EXIT_VMM_ERROR;
}

/* One life of the guest, from reset to whatever ends it; *code is set when it could not begin. */
static enum vm_event run_machine(struct run *r, int *code, struct err *e)
{
	int ret, event;

	*code = EXIT_VMM_ERROR;
	ret = r->incoming ? await_machine(r, e) : boot_machine(r, code, e);
	if (!ret) {
		ret = loop_run(&r->loop);
		if (ret < 0)
			err_set(e, ret, "event loop: %s", strerror(-ret));
	}
	r->watch.machine = NULL;
	migrate_source_stop(&r->source);
	migrate_dest_stop(&r->dest);
	control_end(&r->control);
	if (r->built)
		machine_fini(&r->machine);
	r->built = false;
	event = __atomic_exchange_n(&r->event, VM_EVENT_NONE, __ATOMIC_ACQ_REL);
	if (!ret && event == VM_EVENT_FAILED && r->dest.code < 0) {
		ret = err_set(e, r->dest.code, "%s: %s",
			      r->dest.uri.kind == URI_FILE ? r->config.incoming
							   : "incoming migration",
			      r->dest.err.text);
		*code = arrival_code(r, ret);
	}
	return ret < 0 ? VM_EVENT_FAILED : (enum vm_event)event;
}

static int run_guest(struct run *r, struct err *e)
{
	enum vm_event event;
	int code;

	for (;;) {
		event = run_machine(r, &code, e);
		if (event == VM_EVENT_RESET && r->kernel.kernel_fd < 0) {
			log_warn("the guest reset, and no kernel was given (-k) to boot it "
				 "again");
		} else if (event == VM_EVENT_RESET && !r->config.no_reboot) {
			log_debug("guest reset, starting it again");
			control_tell_reset(&r->control);
			continue;
		}
		control_tell_shutdown(&r->control, event, r->fatal_signal != 0);
		switch (event) {
		case VM_EVENT_RESET:
			return EXIT_GUEST_RESET;
		case VM_EVENT_POWEROFF:
		case VM_EVENT_QUIT:
			return EXIT_POWEROFF;
		case VM_EVENT_PANIC:
			log_err("guest panicked; its last words are on its console");
			return EXIT_GUEST_PANIC;
		case VM_EVENT_CRASH:
			return EXIT_GUEST_CRASH;
		case VM_EVENT_REFUSED:
			return end_refused(r);
		default:
			return code;
		}
	}
}

static void isolation_from_policy(const struct policy *p, struct isolation_options *o)
{
	const struct isolation_policy *i = &p->isolation;

	*o = (struct isolation_options) {
		.indirect_branch = i->isolate_indirect_branch,
		.core_scheduling = i->core_scheduling,
		.observe_ibpb = i->observe_ibpb,
		.n_pins = i->n_pins,
		.nested = p->nested_shown,
		.cannot = p->mitigation.cannot,
	};
	memcpy(o->pin, i->pin, sizeof(o->pin));
}

/* What the user says about the host and what is wanted there. Return: 0 or the exit code */
static int open_policy(struct run *r, struct err *e)
{
	if (policy_load(r->config.policy, &r->policy, e) < 0)
		return EXIT_BAD_INPUT;
	if (r->config.host_facts && host_facts_load(r->config.host_facts, &r->facts, e) < 0)
		return EXIT_BAD_INPUT;
	return 0;
}

/* What KVM supports, made into the CPU that the user chose. */
static int choose_cpu(struct run *r, bool nested, struct mitigation_options *options, struct err *e)
{
	struct cpu_option *cpu = NULL;
	int ret = 0;

	r->cpuid = r->kvm.cpuid;
	if (r->config.cpu) {
		ret = cpu_option_load(r->config.cpu, &r->kvm, &cpu, e);
		if (!ret)
			ret = cpu_option_apply(cpu, &r->cpuid, e);
		if (!ret)
			ret = cpu_option_msrs(cpu, &r->kvm, &r->cpu_msrs, e);
	}
	if (!ret && cpu) {
		options->arch_cap_set = cpu_option_arch_cap(cpu, 0);
		options->arch_cap_clear = ~cpu_option_arch_cap(cpu, ~UINT64_C(0));
	}
	cpu_option_free(cpu);
	if (!ret)
		vcpu_base_cpuid(&r->cpuid, &r->kvm, nested);
	return ret;
}

/* The processor that the guest is shown, and what is held for it. Return: 0 or the exit code */
static int open_mitigation(struct run *r, struct err *e)
{
	struct isolation_options isolation;
	struct mitigation_options options = {
		.policy = r->policy.mitigation,
		.facts = r->config.host_facts ? &r->facts.facts : NULL,
		.force_cap = r->config.force_cap,
		.observe_ibpb = r->policy.isolation.observe_ibpb,
	};
	struct mitigation *m = &r->mitigation;
	uint32_t n_vcpus;
	int ret, isolated;

	isolation_from_policy(&r->policy, &isolation);
	ret = choose_cpu(r, isolation.nested, &options, e);
	if (ret < 0)
		return ret == -EINVAL && !cpu_option_is_path(r->config.cpu) ? EXIT_USAGE
									    : EXIT_BAD_INPUT;
	n_vcpus = r->config.machine.n_vcpus;
	if (r->incoming && !r->config.cpus_given && isolation.n_pins)
		n_vcpus = isolation.n_pins;
	/* before any thread; a refusal is told in the report, too, so it waits for that */
	isolated = isolation_enter(&r->isolation, &isolation, n_vcpus, e);
	ret = mitigation_init(m, &options, &r->kvm, r->config.machine.n_vcpus, e);
	if (ret < 0)
		return isolated < 0 ? EXIT_POLICY : EXIT_VMM_ERROR;
	ret = mitigation_watch_open_file(&r->watch, m, &r->isolation, r->config.mitigation_report,
					 e);
	if (isolated < 0) {
		mitigation_watch_write(&r->watch, "refused", e->text);
		return EXIT_POLICY;
	}
	if (ret < 0)
		return EXIT_BAD_INPUT;
	ret = policy_load_pool(&r->policy, r->config.policy,
			       &(struct pool_host) {m->host, mitigation_backend_facts(m)},
			       &m->options.pool, e);
	if (ret < 0)
		return EXIT_BAD_INPUT;
	if (!r->incoming && mitigation_make_contract(m, &r->cpuid, e) < 0) {
		mitigation_watch_write(&r->watch, "refused", e->text);
		return EXIT_POLICY;
	}
	r->refusal.changed = verdict_changed;
	if (r->policy.stop_on_refuse)
		mitigation_listen(m, &r->refusal);
	if (mitigation_watch_open(&r->watch, &r->loop, e) < 0)
		return EXIT_VMM_ERROR;
	return mitigation_rebuild_open(&r->rebuild, r, e) < 0 ? EXIT_VMM_ERROR : 0;
}

static void write_last_report(struct run *r, bool refused, const struct err *e)
{
	char why[896] = "";
	uint32_t i;

	for (i = 0; refused && !e->code && !why[0] && i < r->config.machine.n_vcpus; i++)
		mitigation_refused(&r->mitigation, i, why, sizeof(why)); /* on-refuse: stop */
	mitigation_watch_write(&r->watch, refused ? "refused" : "ended",
			       !refused	 ? NULL
			       : e->code ? e->text
			       : why[0]	 ? why
					 : NULL);
}

static int run_all(struct run *r, struct err *e)
{
	struct sandbox_needs needs;
	unsigned int phys_bits;
	int ret, code;

	if (open_loop(r, e) < 0)
		return EXIT_VMM_ERROR;
	if (control_open(&r->control, &r->config, &r->loop, &r->sink, e) < 0)
		return EXIT_BAD_INPUT;
	if (open_migration(r, e) < 0)
		return r->dest.uri.kind == URI_FILE	   ? EXIT_BAD_INPUT
		       : r->incoming && e->code == -EINVAL ? EXIT_USAGE
							   : EXIT_VMM_ERROR;
	if (guest_name_open(&r->name, &r->control, &r->loop, r->config.name, r->incoming, e) < 0)
		return EXIT_VMM_ERROR;
	if (open_input(r, e) < 0)
		return EXIT_BAD_INPUT;
	code = open_policy(r, e);
	if (code)
		return code;
	if (kvm_open(&r->kvm, e) < 0)
		return EXIT_VMM_ERROR;
	if (r->config.machine.dirty_ring &&
	    dirty_ring_check(r->kvm.fd, r->config.machine.dirty_ring, e) < 0)
		return EXIT_VMM_ERROR;
	phys_bits = cpuid_phys_bits(&r->kvm.cpuid);
	ret = r->incoming ? 0 : memory_check(&r->config.machine.memory, phys_bits, e);
	if (ret < 0)
		return ret == -EINVAL ? EXIT_USAGE : EXIT_VMM_ERROR;
	if (r->config.machine.n_vcpus > r->kvm.max_vcpus &&
	    (!r->incoming || r->config.cpus_given)) {
		err_set(e, -EINVAL, "-c: %u vCPUs, this host's KVM has room for %u; give fewer",
			r->config.machine.n_vcpus, r->kvm.max_vcpus);
		return EXIT_USAGE;
	}
	code = open_mitigation(r, e);
	if (code)
		return code;
	if (control_set_mitigation(&r->control, &r->mitigation, &r->isolation, e) < 0)
		return EXIT_VMM_ERROR;
	/* last: from here on the terminal is raw */
	if (char_open(&r->serial, r->config.serial, &r->loop, &r->sink, e) < 0)
		return e->code == -EINVAL ? EXIT_USAGE : EXIT_BAD_INPUT;
	needs = (struct sandbox_needs) {
		.socket_path = {r->serial.listener.path[0] ? r->serial.listener.path : NULL,
				r->dest.listener.at.path[0] ? r->dest.listener.at.path : NULL},
		.report_fd = r->watch.file.file.dir_fd,
		.dtb_fd = r->dtb.dir_fd,
		.runbase_fd = r->control.dir.base_fd,
		.rundir_fd = r->control.dir.dir_fd,
		.rename = r->name.wanted,
	};
	if (r->config.sandbox && sandbox_enter(&needs, e) < 0)
		return EXIT_VMM_ERROR;
	code = run_guest(r, e);
	write_last_report(r, code == EXIT_POLICY, e);
	return code;
}

/* A signal came while files were opened, before the loop that hears signals. */
static void end_by_signal(struct run *r, struct err *e)
{
	struct signalfd_siginfo info;

	while (!r->fatal_signal && read(r->signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGTSTP && info.ssi_signo != SIGCONT)
			r->fatal_signal = (int)info.ssi_signo;
	*e = (struct err) {0};
}

/* Here, or in a child of which the parent waits. Return: the exit code, or a signal to die of */
static int run_ready(struct run *r, int *sig, struct err *e)
{
	int code = 0, ret = ready_open(&r->ready, &r->config, e);

	if (ret < 0)
		return EXIT_USAGE;
	ret = r->config.daemonize ? ready_daemonize(&r->ready, &code, sig, e) : 0;
	if (ret)
		return ret < 0 ? EXIT_VMM_ERROR : code;
	code = run_all(r, e);
	if (e->code == -EINTR && r->signal_fd >= 0)
		end_by_signal(r, e);
	*sig = r->fatal_signal;
	return code;
}

int cmd_run(int argc, char **argv)
{
	struct run *r = calloc(1, sizeof(*r));
	struct err e = {0};
	int code, sig = 0;

	if (!r) {
		log_err("out of memory");
		return EXIT_VMM_ERROR;
	}
	r->loop.epfd = r->wake_fd = r->memory_fd = r->signal_fd = r->kvm.fd = -1;
	file_replace_init(&r->dtb);
	ready_init(&r->ready);
	pthread_sigmask(SIG_SETMASK, NULL, &r->old_mask);
	mitigation_watch_init(&r->watch);
	mitigation_rebuild_init(&r->rebuild);
	control_init(&r->control);
	guest_name_init(&r->name);
	migrate_dest_init(&r->dest, r);
	r->kernel.kernel_fd = r->kernel.initrd_fd = -1;
	if (config_parse(&r->config, argc, argv, &e) < 0) {
		code = EXIT_USAGE;
	} else if (r->config.help) {
		config_print_help();
		code = 0;
	} else if (r->config.cpu_help) {
		cpu_option_print_names();
		code = 0;
	} else {
		log_set_level(r->config.log_level);
		code = run_ready(r, &sig, &e);
	}
	run_close(r);
	if (e.code)
		log_err("%s", e.text);
	if (sig) { /* die of it, as the parent expects */
		signal(sig, SIG_DFL);
		pthread_sigmask(SIG_SETMASK, &r->old_mask, NULL);
		raise(sig);
	}
	free(r);
	return code;
}
