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
#include "vmm/guest/control_commands.h"
#include "vmm/guest/dump_dtb.h"
#include "vmm/guest/guest.h"
#include "vmm/guest/incoming.h"
#include "vmm/guest/migrate_qmp.h"
#include "vmm/guest/mitigation_rebuild.h"
#include "vmm/guest/mitigation_watch.h"
#include "vmm/guest/outgoing.h"
#include "vmm/guest/ready.h"
#include "vmm/guest/sandbox.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"
#include "vmm/kvm/memory_fault.h"
#include "vmm/machine/cpu_msrs.h"
#include "vmm/machine/cpu_option.h"
#include "vmm/machine/machine.h"

/* One `testudo run`, and what looks after its guest. */
struct run {
	struct guest guest;
	struct guest_listener listener;
	struct outgoing out;
	struct incoming in;
	struct migrate_qmp migrate;
	struct mitigation_rebuild rebuild;
	struct mitigation_watch watch;
	struct mitigation_listener refusal;
	struct ready ready;
	bool comes; /* the first life comes from another process, or from a file */

	int memory_fd; /* timer; is a saved guest's file still whole? -1: there is none */
	struct loop_watch memory;

	sigset_t old_mask;
	struct loop_watch signals; /* of guest.signal_fd */
	int fatal_signal;	   /* 0: none */
};

/* With on-refuse: stop. On the vCPU's thread: the loop ends the machine. */
static void verdict_changed(struct mitigation_listener *l, uint32_t vcpu,
			    enum mitigation_change what)
{
	struct run *r = container_of(l, struct run, refusal);

	(void)what;
	if (mitigation_refused(&r->guest.mitigation, vcpu, NULL, 0))
		guest_raise(&r->guest, VM_EVENT_REFUSED);
}

static int end_refused(struct run *r)
{
	char why[896];
	uint32_t i;

	for (i = 0; i < r->guest.config.machine.n_vcpus; i++)
		if (mitigation_refused(&r->guest.mitigation, i, why, sizeof(why)))
			log_err("stopped by policy (on-refuse: stop): vCPU %u: %s", i, why);
	return EXIT_POLICY;
}

static void signal_ready(struct loop_watch *w)
{
	struct run *r = container_of(w, struct run, signals);
	struct signalfd_siginfo info;

	if (read(r->guest.signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGTSTP:
		char_stop(&r->guest.serial);
		raise(SIGSTOP);
		break;
	case SIGCONT:
		char_continue(&r->guest.serial);
		break;
	default:
		r->fatal_signal = (int)info.ssi_signo;
		guest_raise(&r->guest, VM_EVENT_QUIT);
	}
}

/* Guest memory is gone; of a handler. */
static void end_at_once(void *arg)
{
	struct run *r = arg;

	terminal_restore();
	rundir_remove(&r->guest.control.dir);
	unix_listener_fini(&r->guest.serial.listener);
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
	r->guest.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	ret = r->guest.signal_fd < 0 ? -errno
				     : loop_add(&r->guest.loop, &r->signals, r->guest.signal_fd,
						EPOLLIN, signal_ready);
	if (ret < 0)
		return err_set(e, ret, "signalfd: %s", strerror(-ret));
	ret = vcpu_init_kick(e);
	return ret ? ret : memory_fault_open(end_at_once, r, EXIT_VMM_ERROR, e);
}

static void memory_due(struct loop_watch *w)
{
	struct run *r = container_of(w, struct run, memory);
	uint64_t n;

	if (read(r->memory_fd, &n, sizeof(n)) == sizeof(n) && memory_fault_explains(false))
		guest_raise(&r->guest, VM_EVENT_FAILED);
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
		      : loop_add(&r->guest.loop, &r->memory, r->memory_fd, EPOLLIN, memory_due);
	if (ret < 0)
		return err_set(e, ret, "no timer: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	return 0;
}

/* Whoever waits for it may pause, save and move the guest from here on, or send one. */
static void tell_ready(struct run *r)
{
	const bool served = r->guest.control.dir.dir_fd >= 0,
		   waits = r->guest.control.state == RUN_INMIGRATE;

	ready_tell(&r->ready, served ? r->guest.control.dir.name : NULL,
		   run_state_name(r->guest.control.state),
		   waits && r->in.where[0] ? r->in.where : NULL);
}

static void arrived(struct guest_listener *l)
{
	struct run *r = container_of(l, struct run, listener);

	r->watch.machine = &r->guest.machine;
	tell_ready(r); /* of a guest from a file */
}

/* Both directions: where a guest may come from, and how this one may leave. */
static int open_migration(struct run *r, struct err *e)
{
	struct utsname host;
	int ret = loop_call_init(&r->guest.calls, &r->guest.loop);

	if (ret < 0)
		return err_set(e, ret, "eventfd: %s; raise the limit of open files (ulimit -n)",
			       strerror(-ret));
	if (uname(&host) == 0)
		host_info_set(r->guest.host_name, sizeof(r->guest.host_name), host.nodename);
	r->comes = r->guest.config.incoming;
	r->guest.control.hold = r->guest.config.paused;
	if (r->comes)
		ret = incoming_open(&r->in, r->guest.config.incoming, e);
	if (!ret && r->comes && r->in.uri.kind == URI_FILE)
		ret = watch_memory(r, e);
	if (!ret)
		ret = outgoing_init(&r->out, &r->guest, e);
	r->listener.arrived = arrived;
	guest_listen(&r->guest, &r->listener);
	if (!ret)
		migrate_qmp_init(&r->migrate, &r->guest, &r->out, &r->in);
	return ret;
}

static void run_close(struct run *r)
{
	char_close(&r->guest.serial);
	outgoing_fini(&r->out);
	incoming_fini(&r->in);
	mitigation_watch_close(&r->watch);
	mitigation_rebuild_close(&r->rebuild);
	mitigation_fini(&r->guest.mitigation);
	cpu_msrs_fini(&r->guest.cpu_msrs);
	guest_close_input(&r->guest);
	kvm_close(&r->guest.kvm);
	if (r->guest.signal_fd >= 0)
		close(r->guest.signal_fd);
	if (r->memory_fd >= 0)
		close(r->memory_fd);
	if (r->guest.wake_fd >= 0)
		close(r->guest.wake_fd);
	guest_name_close(&r->guest.name);
	/* late: clients take the end of their connection for the end of everything above */
	control_close(&r->guest.control);
	ready_close(&r->ready);
	loop_call_fini(&r->guest.calls);
	loop_fini(&r->guest.loop);
	closer_wait(&r->guest.closer); /* nothing that anybody could want is in it any more */
	config_fini(&r->guest.config);
}

/* Boot: an empty machine, the kernel in it. Return: 0, or -errno and the exit code */
static int boot_machine(struct run *r, int *code, struct err *e)
{
	int ret = guest_build_machine(&r->guest, NULL, e);

	if (!ret)
		ret = dump_dtb_write(&r->guest, e);
	if (ret == -ENOTSUP) /* of the user's CPU, by this host's KVM */
		*code = EXIT_BAD_INPUT;
	if (!ret) {
		ret = machine_load(&r->guest.machine, e);
		if (ret < 0)
			*code = EXIT_BAD_INPUT;
	}
	if (!ret && control_begin(&r->guest.control, &r->guest.machine))
		ret = machine_start(&r->guest.machine, e);
	if (!ret) {
		mitigation_started(&r->guest.mitigation);
		r->watch.machine = &r->guest.machine;
		tell_ready(r);
	}
	return ret;
}

static int await_machine(struct run *r, struct err *e)
{
	r->comes = false; /* the next life is a boot */
	control_set_state(&r->guest.control, RUN_INMIGRATE);
	if (r->in.uri.kind != URI_FILE)
		tell_ready(r);
	return incoming_start(&r->in, e);
}

/* A file is the user's input; only what the host lacks is not its fault. */
static int arrival_code(const struct run *r, int ret)
{
	if (ret == -EPERM)
		return EXIT_POLICY;
	return r->in.uri.kind == URI_FILE && ret != -ENOMEM ? EXIT_BAD_INPUT : EXIT_VMM_ERROR;
}

/* One life of the guest, from reset to whatever ends it; *code is set when it could not begin. */
static enum vm_event run_machine(struct run *r, int *code, struct err *e)
{
	int ret, event;

	*code = EXIT_VMM_ERROR;
	ret = r->comes ? await_machine(r, e) : boot_machine(r, code, e);
	if (!ret) {
		ret = loop_run(&r->guest.loop);
		if (ret < 0)
			err_set(e, ret, "event loop: %s", strerror(-ret));
	}
	r->watch.machine = NULL;
	outgoing_stop(&r->out);
	incoming_stop(&r->in);
	control_end(&r->guest.control);
	guest_end_machine(&r->guest);
	event = guest_take_event(&r->guest);
	if (!ret && event == VM_EVENT_FAILED && r->in.code < 0) {
		ret = err_set(e, r->in.code, "%s: %s",
			      r->in.uri.kind == URI_FILE ? r->guest.config.incoming
							 : "incoming migration",
			      r->in.err.text);
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
		if (event == VM_EVENT_RESET && r->guest.kernel.kernel_fd < 0) {
			log_warn("the guest reset, and no kernel was given (-k) to boot it "
				 "again");
		} else if (event == VM_EVENT_RESET && !r->guest.config.no_reboot) {
			log_debug("guest reset, starting it again");
			control_tell_reset(&r->guest.control);
			continue;
		}
		control_tell_shutdown(&r->guest.control, event, r->fatal_signal != 0);
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
	if (policy_load(r->guest.config.policy, &r->guest.policy, e) < 0)
		return EXIT_BAD_INPUT;
	if (r->guest.config.host_facts &&
	    host_facts_load(r->guest.config.host_facts, &r->guest.facts, e) < 0)
		return EXIT_BAD_INPUT;
	return 0;
}

/* What KVM supports, made into the CPU that the user chose. */
static int choose_cpu(struct run *r, bool nested, struct mitigation_options *options, struct err *e)
{
	struct cpu_option *cpu = NULL;
	int ret = 0;

	r->guest.cpuid = r->guest.kvm.cpuid;
	if (r->guest.config.cpu) {
		ret = cpu_option_load(r->guest.config.cpu, &r->guest.kvm, &cpu, e);
		if (!ret)
			ret = cpu_option_apply(cpu, &r->guest.cpuid, e);
		if (!ret)
			ret = cpu_option_msrs(cpu, &r->guest.kvm, &r->guest.cpu_msrs, e);
	}
	if (!ret && cpu) {
		options->arch_cap_set = cpu_option_arch_cap(cpu, 0);
		options->arch_cap_clear = ~cpu_option_arch_cap(cpu, ~UINT64_C(0));
	}
	cpu_option_free(cpu);
	if (!ret)
		vcpu_base_cpuid(&r->guest.cpuid, &r->guest.kvm, nested);
	return ret;
}

/* The processor that the guest is shown, and what is held for it. Return: 0 or the exit code */
static int open_mitigation(struct run *r, struct err *e)
{
	struct isolation_options isolation;
	struct mitigation_options options = {
		.policy = r->guest.policy.mitigation,
		.facts = r->guest.config.host_facts ? &r->guest.facts.facts : NULL,
		.force_cap = r->guest.config.force_cap,
		.observe_ibpb = r->guest.policy.isolation.observe_ibpb,
	};
	struct mitigation *m = &r->guest.mitigation;
	uint32_t n_vcpus;
	int ret, isolated;

	isolation_from_policy(&r->guest.policy, &isolation);
	ret = choose_cpu(r, isolation.nested, &options, e);
	if (ret < 0)
		return ret == -EINVAL && !cpu_option_is_path(r->guest.config.cpu) ? EXIT_USAGE
										  : EXIT_BAD_INPUT;
	n_vcpus = r->guest.config.machine.n_vcpus;
	if (r->comes && !r->guest.config.cpus_given && isolation.n_pins)
		n_vcpus = isolation.n_pins;
	/* before any thread; a refusal is told in the report, too, so it waits for that */
	isolated = isolation_enter(&r->guest.isolation, &isolation, n_vcpus, e);
	ret = mitigation_init(m, &options, &r->guest.kvm, r->guest.config.machine.n_vcpus, e);
	if (ret < 0)
		return isolated < 0 ? EXIT_POLICY : EXIT_VMM_ERROR;
	ret = mitigation_watch_open_file(&r->watch, m, &r->guest.isolation,
					 r->guest.config.mitigation_report, e);
	if (isolated < 0) {
		mitigation_watch_write(&r->watch, "refused", e->text);
		return EXIT_POLICY;
	}
	if (ret < 0)
		return EXIT_BAD_INPUT;
	ret = policy_load_pool(&r->guest.policy, r->guest.config.policy,
			       &(struct pool_host) {m->host, mitigation_backend_facts(m)},
			       &m->options.pool, e);
	if (ret < 0)
		return EXIT_BAD_INPUT;
	if (!r->comes && mitigation_make_contract(m, &r->guest.cpuid, e) < 0) {
		mitigation_watch_write(&r->watch, "refused", e->text);
		return EXIT_POLICY;
	}
	r->refusal.changed = verdict_changed;
	if (r->guest.policy.stop_on_refuse)
		mitigation_listen(m, &r->refusal);
	if (mitigation_watch_open(&r->watch, &r->guest.loop, e) < 0)
		return EXIT_VMM_ERROR;
	return mitigation_rebuild_open(&r->rebuild, &r->guest, e) < 0 ? EXIT_VMM_ERROR : 0;
}

static void write_last_report(struct run *r, bool refused, const struct err *e)
{
	char why[896] = "";
	uint32_t i;

	for (i = 0; refused && !e->code && !why[0] && i < r->guest.config.machine.n_vcpus; i++)
		mitigation_refused(&r->guest.mitigation, i, why, sizeof(why)); /* on-refuse: stop */
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

	if (guest_open_loop(&r->guest, e) < 0 || open_signals(r, e) < 0)
		return EXIT_VMM_ERROR;
	if (control_open(&r->guest.control, &r->guest.config, &r->guest.loop, &r->guest.sink, e) <
	    0)
		return EXIT_BAD_INPUT;
	control_commands_add(&r->guest.control);
	if (open_migration(r, e) < 0)
		return r->in.uri.kind == URI_FILE	? EXIT_BAD_INPUT
		       : r->comes && e->code == -EINVAL ? EXIT_USAGE
							: EXIT_VMM_ERROR;
	if (guest_name_open(&r->guest.name, &r->guest.control, &r->guest.loop, r->guest.config.name,
			    r->comes, e) < 0)
		return EXIT_VMM_ERROR;
	if (guest_open_input(&r->guest, e) < 0 || dump_dtb_open(&r->guest, e) < 0)
		return EXIT_BAD_INPUT;
	code = open_policy(r, e);
	if (code)
		return code;
	if (kvm_open(&r->guest.kvm, e) < 0)
		return EXIT_VMM_ERROR;
	if (r->guest.config.machine.dirty_ring &&
	    dirty_ring_check(r->guest.kvm.fd, r->guest.config.machine.dirty_ring, e) < 0)
		return EXIT_VMM_ERROR;
	phys_bits = cpuid_phys_bits(&r->guest.kvm.cpuid);
	ret = r->comes ? 0 : memory_check(&r->guest.config.machine.memory, phys_bits, e);
	if (ret < 0)
		return ret == -EINVAL ? EXIT_USAGE : EXIT_VMM_ERROR;
	if (r->guest.config.machine.n_vcpus > r->guest.kvm.max_vcpus &&
	    (!r->comes || r->guest.config.cpus_given)) {
		err_set(e, -EINVAL, "-c: %u vCPUs, this host's KVM has room for %u; give fewer",
			r->guest.config.machine.n_vcpus, r->guest.kvm.max_vcpus);
		return EXIT_USAGE;
	}
	code = open_mitigation(r, e);
	if (code)
		return code;
	if (control_set_mitigation(&r->guest.control, &r->guest.mitigation, &r->guest.isolation,
				   e) < 0)
		return EXIT_VMM_ERROR;
	/* last: from here on the terminal is raw */
	if (char_open(&r->guest.serial, r->guest.config.serial, &r->guest.loop, &r->guest.sink, e) <
	    0)
		return e->code == -EINVAL ? EXIT_USAGE : EXIT_BAD_INPUT;
	needs = (struct sandbox_needs) {
		.socket_path = {r->guest.serial.listener.path[0] ? r->guest.serial.listener.path
								 : NULL,
				r->in.dest.listener.at.path[0] ? r->in.dest.listener.at.path
							       : NULL},
		.report_fd = r->watch.file.file.dir_fd,
		.dtb_fd = r->guest.dtb.dir_fd,
		.runbase_fd = r->guest.control.dir.base_fd,
		.rundir_fd = r->guest.control.dir.dir_fd,
		.rename = r->guest.name.wanted,
	};
	if (r->guest.config.sandbox && sandbox_enter(&needs, e) < 0)
		return EXIT_VMM_ERROR;
	code = run_guest(r, e);
	write_last_report(r, code == EXIT_POLICY, e);
	return code;
}

/* A signal came while files were opened, before the loop that hears signals. */
static void end_by_signal(struct run *r, struct err *e)
{
	struct signalfd_siginfo info;

	while (!r->fatal_signal && read(r->guest.signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo != SIGTSTP && info.ssi_signo != SIGCONT)
			r->fatal_signal = (int)info.ssi_signo;
	*e = (struct err) {0};
}

/* Here, or in a child of which the parent waits. Return: the exit code, or a signal to die of */
static int run_ready(struct run *r, int *sig, struct err *e)
{
	int code = 0, ret = ready_open(&r->ready, &r->guest.config, e);

	if (ret < 0)
		return EXIT_USAGE;
	ret = r->guest.config.daemonize ? ready_daemonize(&r->ready, &code, sig, e) : 0;
	if (ret)
		return ret < 0 ? EXIT_VMM_ERROR : code;
	code = run_all(r, e);
	if (e->code == -EINTR && r->guest.signal_fd >= 0)
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
	guest_init(&r->guest);
	r->memory_fd = -1;
	ready_init(&r->ready);
	pthread_sigmask(SIG_SETMASK, NULL, &r->old_mask);
	mitigation_watch_init(&r->watch);
	mitigation_rebuild_init(&r->rebuild);
	incoming_init(&r->in, &r->guest);
	if (config_parse(&r->guest.config, argc, argv, &e) < 0) {
		code = EXIT_USAGE;
	} else if (r->guest.config.help) {
		config_print_help();
		code = 0;
	} else if (r->guest.config.cpu_help) {
		cpu_option_print_names();
		code = 0;
	} else {
		log_set_level(r->guest.config.log_level);
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
