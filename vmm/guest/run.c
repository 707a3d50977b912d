/*
 * testudo run: open what the guest needs from the host, then build a machine, run it and take it
 * apart, once for each reset of the guest.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "devices/char/char.h"
#include "devices/char/terminal.h"
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
	return err_is(e,
		      r->in.uri.kind == URI_FILE && r->in.uri.path[0] ? ERR_INPUT
		      : r->comes && ret == -EINVAL		      ? ERR_USAGE
								      : ERR_HOST,
		      ret);
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

/* Boot: an empty machine, the kernel in it. */
static int boot_machine(struct run *r, struct err *e)
{
	struct guest *g = &r->guest;
	int ret = guest_build_machine(g, NULL, e);

	if (!ret)
		ret = dump_dtb_write(g, e);
	if (ret == -ENOTSUP) /* of the user's CPU, by this host's KVM */
		err_is(e, ERR_INPUT, ret);
	if (!ret)
		ret = err_is(e, ERR_INPUT, machine_load(&g->machine, e));
	if (!ret && control_begin(&g->control, &g->machine))
		ret = machine_start(&g->machine, e);
	if (!ret) {
		mitigation_started(&g->mitigation);
		r->watch.machine = &g->machine;
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

/* Why no guest came. A file is the user's input; only what the host lacks is not its fault. */
static int say_arrival(const struct run *r, struct err *e)
{
	const bool file = r->in.uri.kind == URI_FILE;
	const int ret =
		err_set(e, r->in.code, "%s: %s",
			file ? r->guest.config.incoming : "incoming migration", r->in.err.text);

	if (ret == -EPERM)
		return err_is(e, ERR_POLICY, ret);
	return err_is(e, file && ret != -ENOMEM ? ERR_INPUT : ERR_HOST, ret);
}

/* One life of the guest, from reset to whatever ends it. */
static enum vm_event run_machine(struct run *r, struct err *e)
{
	struct guest *g = &r->guest;
	int ret = r->comes ? await_machine(r, e) : boot_machine(r, e);
	enum vm_event event;

	if (!ret) {
		ret = loop_run(&g->loop);
		if (ret < 0)
			err_set(e, ret, "event loop: %s", strerror(-ret));
	}
	r->watch.machine = NULL;
	outgoing_stop(&r->out);
	incoming_stop(&r->in);
	control_end(&g->control);
	guest_end_machine(g);
	event = guest_take_event(g);
	if (!ret && event == VM_EVENT_FAILED && r->in.code < 0)
		ret = say_arrival(r, e);
	return ret < 0 ? VM_EVENT_FAILED : event;
}

static int exit_code_of(const struct err *e)
{
	static const enum exit_code codes[] = {
		[ERR_HOST] = EXIT_VMM_ERROR,
		[ERR_USAGE] = EXIT_USAGE,
		[ERR_INPUT] = EXIT_BAD_INPUT,
		[ERR_POLICY] = EXIT_POLICY,
	};

	return (int)codes[e->class];
}

static int run_guest(struct run *r, struct err *e)
{
	enum vm_event event;

	for (;;) {
		event = run_machine(r, e);
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
			return exit_code_of(e);
		}
	}
}

/* The processor that the guest is shown, and what is held for it. */
static int open_mitigation(struct run *r, struct err *e)
{
	struct guest *g = &r->guest;
	int ret = guest_open_cpu(g, e), reported = 0;

	/* a refusal is in the report, too */
	if (!ret || (e->class == ERR_POLICY && g->mitigation.backend.ops))
		reported = mitigation_watch_open_file(&r->watch, &g->mitigation, &g->isolation,
						      g->config.mitigation_report, e);
	if (!ret)
		ret = err_is(e, ERR_INPUT, reported);
	if (!ret)
		ret = guest_open_contract(g, e);
	if (ret < 0)
		return ret;
	r->refusal.changed = verdict_changed;
	if (g->policy.stop_on_refuse)
		mitigation_listen(&g->mitigation, &r->refusal);
	ret = mitigation_watch_open(&r->watch, &g->loop, e);
	if (!ret)
		ret = mitigation_rebuild_open(&r->rebuild, g, e);
	return ret ? ret : control_set_mitigation(&g->control, &g->mitigation, &g->isolation, e);
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

static int open_serial(struct guest *g, struct err *e)
{
	const int ret = char_open(&g->serial, g->config.serial, &g->loop, &g->sink, e);

	return err_is(e, ret == -EINVAL ? ERR_USAGE : ERR_INPUT, ret);
}

/* Nothing of the host is opened by name from here on. */
static int lock_in(struct run *r, struct err *e)
{
	const struct guest *g = &r->guest;
	const char *serial = g->serial.listener.path, *incoming = r->in.dest.listener.at.path;
	const struct sandbox_needs needs = {
		.socket_path = {serial[0] ? serial : NULL, incoming[0] ? incoming : NULL},
		.report_fd = r->watch.file.file.dir_fd,
		.dtb_fd = g->dtb.dir_fd,
		.runbase_fd = g->control.dir.base_fd,
		.rundir_fd = g->control.dir.dir_fd,
		.rename = g->name.wanted,
	};

	return g->config.sandbox ? sandbox_enter(&needs, e) : 0;
}

static int open_all(struct run *r, struct err *e)
{
	struct guest *g = &r->guest;
	int ret = guest_open_loop(g, e);

	if (!ret)
		ret = open_signals(r, e);
	if (!ret)
		ret = err_is(e, ERR_INPUT,
			     control_open(&g->control, &g->config, &g->loop, &g->sink, e));
	if (!ret)
		control_commands_add(&g->control);
	if (!ret)
		ret = open_migration(r, e);
	if (!ret)
		ret = guest_name_open(&g->name, &g->control, &g->loop, g->config.name, r->comes, e);
	if (!ret)
		ret = guest_open_input(g, e);
	if (!ret)
		ret = err_is(e, ERR_INPUT, dump_dtb_open(g, e));
	if (!ret)
		ret = guest_open_policy(g, e);
	if (!ret)
		ret = guest_open_kvm(g, e);
	if (!ret)
		ret = open_mitigation(r, e);
	if (!ret) /* last: from here on the terminal is raw */
		ret = open_serial(g, e);
	return ret ? ret : lock_in(r, e);
}

static int run_all(struct run *r, struct err *e)
{
	int code;

	if (open_all(r, e) < 0) {
		if (e->class == ERR_POLICY)
			mitigation_watch_write(&r->watch, "refused", e->text);
		return exit_code_of(e);
	}
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
		code = config_print_help() ? 0 : EXIT_VMM_ERROR;
	} else if (r->guest.config.cpu_help) {
		code = cpu_option_print_names() ? 0 : EXIT_VMM_ERROR;
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
