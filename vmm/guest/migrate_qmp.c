#include "vmm/guest/migrate_qmp.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "control/qmp_server.h"
#include "migration/move/save.h"
#include "migration/wire/uri.h"
#include "vmm/guest/guest.h"
#include "vmm/guest/incoming.h"
#include "vmm/guest/outgoing.h"

#define MS UINT64_C(1000000) /* ns */
#define S  (1000 * MS)

static const char *const on_timeout_names[] = {
	[ON_TIMEOUT_CANCEL] = "cancel",
	[ON_TIMEOUT_FORCE] = "force",
	[ON_TIMEOUT_THROTTLE] = "throttle",
};

/* ---- query-migrate ---- */

static json_t *query_ram(const struct migrate_stats *s)
{
	return json_pack("{sI sI sI sI sI sI sI sI sf}", "transferred", (json_int_t)s->sent_bytes,
			 "remaining", (json_int_t)s->ram_left, "total", (json_int_t)s->ram_total,
			 "duplicate", (json_int_t)s->pages_zero, "normal",
			 (json_int_t)s->pages_normal, "dirty-sync-count", (json_int_t)s->rounds,
			 "dirty-pages-rate", (json_int_t)s->dirty_pages_per_s, "page-size",
			 (json_int_t)GUEST_PAGE, "mbps", (double)s->bytes_per_s * 8 / 1e6);
}

static void set_ms(json_t *o, const char *name, uint64_t ns)
{
	/* rounded up: a pause is never called 0 */
	json_object_set_new(o, name, json_integer((json_int_t)((ns + MS - 1) / MS)));
}

/* The event MIGRATION, for all clients. */
static void told(struct guest_listener *l, enum migrate_status status,
		 const enum migrate_outcome *outcome)
{
	struct migrate_qmp *q = container_of(l, struct migrate_qmp, listener);
	json_t *data = json_pack("{ss}", "status", migrate_status_name(status));

	if (outcome)
		json_object_set_new(data, "x-testudo-outcome",
				    json_string(migrate_outcome_name(*outcome)));
	control_event(&q->guest->control, "MIGRATION", data);
}

static json_t *migrate_query(const struct migrate_stats *s)
{
	json_t *o = json_pack("{ss}", "status", migrate_status_name(s->status));
	const uint64_t now = s->end_ns ? s->end_ns : monotonic_ns();

	if (!o || s->status == MIGRATE_NONE)
		return o;
	set_ms(o, "total-time", now - s->begin_ns);
	if (s->setup_ns)
		set_ms(o, "setup-time", s->setup_ns);
	if (s->downtime_ns)
		set_ms(o, "downtime", s->downtime_ns);
	else if (s->expected_downtime_ns)
		set_ms(o, "expected-downtime", s->expected_downtime_ns);
	if (s->downtime_ns)
		json_object_set_new(o, "x-testudo-downtime-us",
				    json_integer((json_int_t)(s->downtime_ns / 1000)));
	if (s->throttle_percent)
		json_object_set_new(o, "cpu-throttle-percentage",
				    json_integer(s->throttle_percent));
	if (s->stuck)
		json_object_set_new(o, "x-testudo-stuck", json_true());
	if (s->time_left_ns && !s->end_ns)
		set_ms(o, "x-testudo-time-left", s->time_left_ns);
	if (s->dry_run)
		json_object_set_new(o, "x-testudo-dry-run", json_true());
	json_object_set_new(o, "ram", query_ram(s));
	json_object_set_new(o, "x-testudo-outcome", json_string(migrate_outcome_name(s->outcome)));
	if (s->change[0])
		json_object_set_new(o, "x-testudo-mitigation", json_string(s->change));
	if (s->clocks_known)
		json_object_set_new(o, "x-testudo-clock-difference-ms",
				    json_integer(s->clocks_apart_ns / (int64_t)MS));
	if (s->error[0])
		json_object_set_new(o, "error-desc", json_string(s->error));
	if (s->into_file && s->status == MIGRATE_COMPLETED)
		json_object_set_new(o, "x-testudo-writable-disks", json_integer(s->writable_disks));
	if (s->code == -EPERM)
		json_object_set_new(o, "x-testudo-refused", json_true());
	return o;
}

/* What QEMU tells of the side that waits: where, as its SocketAddress, and whether one has come. */
static void add_incoming(const struct incoming *in, json_t *o)
{
	char port[8];

	if (in->arriving)
		json_object_set_new(o, "status", json_string(migrate_status_name(MIGRATE_ACTIVE)));
	if (!in->where[0])
		return;
	json_object_set_new(o, "x-testudo-incoming", json_string(in->where));
	snprintf(port, sizeof(port), "%u", in->port);
	json_object_set_new(o, "socket-address",
			    in->uri.kind == URI_TCP
				    ? json_pack("[{ss ss ss}]", "type", "inet", "host",
						in->uri.host, "port", port)
				    : json_pack("[{ss ss}]", "type", "unix", "path", in->uri.path));
}

static int run_query(struct qmp_call *call)
{
	struct migrate_qmp *q = call->ctx;
	struct migrate_stats stats;

	migration_restore_stats(&q->in->restore, &stats);
	if (stats.status == MIGRATE_NONE)
		outgoing_stats(q->out, &stats);
	call->ret = migrate_query(&stats);
	if (call->ret && q->guest->control.state == RUN_INMIGRATE)
		add_incoming(q->in, call->ret);
	return call->ret ? 0 : err_no_memory(call->e);
}

/* ---- migrate ---- */

static void close_fds(const int *fd, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		close(fd[i]);
}

static int take_fd(struct migrate_qmp *q, const char *name, struct err *e)
{
	int fd = qmp_take_fd(&q->guest->control.server, name);

	if (fd < 0)
		return err_set(e, -EINVAL,
			       "no descriptor is called '%s'; pass one with getfd first, on this "
			       "connection",
			       name);
	return fd;
}

/* fd:NAME and the channels beside it. Return: number of data channels, or -errno */
static int take_channels(struct migrate_qmp *q, const json_t *names, int *fd, struct err *e)
{
	const json_t *item;
	size_t i;

	if (json_array_size(names) > MIGRATE_MAX_CHANNELS)
		return err_set(e, -EINVAL, "x-testudo-channels: %zu; at most %d",
			       json_array_size(names), MIGRATE_MAX_CHANNELS);
	json_array_foreach(names, i, item)
	{
		const char *name = json_string_value(item);

		fd[i] = name ? take_fd(q, name, e)
			     : err_set(e, -EINVAL, "x-testudo-channels: give names of descriptors");
		if (fd[i] < 0) {
			const int ret = fd[i];

			close_fds(fd, (unsigned int)i);
			return ret;
		}
	}
	return (int)json_array_size(names);
}

static bool is_file(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/* testudo save: the client looks after the file's name, this process fills it. */
static int start_on_file(struct migrate_qmp *q, const struct migrate_params *params, int fd,
			 const json_t *channels, struct err *e)
{
	int ret = migration_save_check(fd, e);

	if (!ret && (params->dry_run || params->local || json_array_size(channels)))
		ret = err_set(e, -EINVAL,
			      "a file takes neither x-testudo-channels nor x-testudo-dry-run nor "
			      "x-testudo-local; leave them out");
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return outgoing_save(q->out, params, fd, e);
}

static int start_on_fds(struct migrate_qmp *q, const struct migrate_params *params,
			const char *name, const json_t *channels, struct err *e)
{
	int data[MIGRATE_MAX_CHANNELS];
	int control, n;

	control = take_fd(q, name, e);
	if (control < 0)
		return control;
	if (is_file(control))
		return start_on_file(q, params, control, channels, e);
	n = take_channels(q, channels, data, e);
	if (n >= 0 && !n && !params->local && !params->dry_run)
		n = err_set(e, -EINVAL,
			    "x-testudo-channels: name at least one descriptor for memory; without "
			    "one only x-testudo-local can move a guest");
	if (n > 0 && params->local) {
		close_fds(data, (unsigned int)n);
		n = err_set(e, -EINVAL,
			    "x-testudo-channels: x-testudo-local hands the memory over; leave the "
			    "channels out");
	}
	if (n < 0) {
		close(control);
		return n;
	}
	return outgoing_start(q->out, params, control, data, (unsigned int)n, e);
}

static int run_migrate(struct qmp_call *call)
{
	struct migrate_qmp *q = call->ctx;
	struct migrate_params params = q->params;
	struct uri uri;
	int code = uri_parse("uri",
			     "fd:NAME (a descriptor passed by getfd), tcp:HOST:PORT or unix:PATH",
			     json_string_value(json_object_get(call->args, "uri")), &uri, call->e);

	if (code < 0)
		return code;
	params.dry_run = json_is_true(json_object_get(call->args, "x-testudo-dry-run"));
	params.local = json_is_true(json_object_get(call->args, "x-testudo-local"));
	params.keep_running = json_is_true(json_object_get(call->args, "x-testudo-keep-running"));
	if (params.local && q->guest->control.machine && q->guest->machine.memory.fd < 0)
		return err_set(
			call->e, -EINVAL,
			"this guest was restored from a file, and its memory cannot be handed "
			"over; leave --local out (x-testudo-local)");
	if (uri.kind == URI_FD && uri.name[0])
		return start_on_fds(q, &params, uri.name,
				    json_object_get(call->args, "x-testudo-channels"), call->e);
	if (uri.kind == URI_TCP || uri.kind == URI_UNIX)
		return outgoing_connect(q->out, &params, &uri, params.local ? 0 : q->n_channels,
					call->e);
	return err_set(call->e, -EINVAL,
		       "uri: give fd:NAME (a descriptor passed by getfd), tcp:HOST:PORT or "
		       "unix:PATH; testudo save writes files");
}

static int run_cancel(struct qmp_call *call)
{
	struct migrate_qmp *q = call->ctx;
	int code;

	code = outgoing_cancel(q->out, call->e);
	/* QEMU: nothing to cancel is no error */
	if (code == -ENOENT) {
		*call->e = (struct err) {0};
		code = 0;
	}
	return code;
}

/* ---- parameters ---- */

static int get_range(const json_t *args, const char *name, json_int_t max, json_int_t *value,
		     struct err *e)
{
	const json_t *v = json_object_get(args, name);

	if (!v)
		return 0;
	if (json_integer_value(v) < 0 || json_integer_value(v) > max)
		return err_set(e, -EINVAL, "%s: %lld; give 0 to %lld", name,
			       (long long)json_integer_value(v), (long long)max);
	*value = json_integer_value(v);
	return 0;
}

static int get_on_timeout(const json_t *args, enum converge_on_timeout *value, struct err *e)
{
	const json_t *v = json_object_get(args, "x-testudo-on-timeout");
	size_t i;

	if (!v)
		return 0;
	for (i = 0; i < ARRAY_SIZE(on_timeout_names); i++)
		if (strcmp(json_string_value(v), on_timeout_names[i]) == 0) {
			*value = (enum converge_on_timeout)i;
			return 0;
		}
	return err_set(e, -EINVAL, "x-testudo-on-timeout: give cancel, force or throttle");
}

static int run_set_parameters(struct qmp_call *call)
{
	struct migrate_qmp *q = call->ctx;
	struct migrate_params p = q->params;
	json_int_t limit = (json_int_t)(p.limit_ns / MS), timeout = (json_int_t)(p.timeout_ns / S);
	json_int_t channels = q->n_channels, stall = (json_int_t)(p.stall_ms / 1000);
	int code = get_range(call->args, "downtime-limit", 2000000, &limit, call->e);

	if (!code)
		code = get_range(call->args, "x-testudo-timeout", INT_MAX, &timeout, call->e);
	if (!code)
		code = get_range(call->args, "x-testudo-stall-timeout", 3600, &stall, call->e);
	if (!code)
		code = get_range(call->args, "multifd-channels", MIGRATE_MAX_CHANNELS, &channels,
				 call->e);
	if (!code)
		code = get_on_timeout(call->args, &p.on_timeout, call->e);
	if (!code && !channels)
		code = err_set(call->e, -EINVAL, "multifd-channels: 0; give 1 to %d",
			       MIGRATE_MAX_CHANNELS);
	if (!code && !stall)
		code = err_set(call->e, -EINVAL, "x-testudo-stall-timeout: 0; give 1 to 3600");
	if (code)
		return code;
	p.limit_ns = (uint64_t)limit * MS;
	p.timeout_ns = (uint64_t)timeout * S;
	p.stall_ms = (unsigned int)stall * 1000;
	q->params = p;
	q->n_channels = (unsigned int)channels;
	return 0;
}

static int run_query_parameters(struct qmp_call *call)
{
	const struct migrate_qmp *q = call->ctx;

	call->ret = json_pack("{sI sI sI sI ss}", "downtime-limit",
			      (json_int_t)(q->params.limit_ns / MS), "multifd-channels",
			      (json_int_t)q->n_channels, "x-testudo-timeout",
			      (json_int_t)(q->params.timeout_ns / S), "x-testudo-stall-timeout",
			      (json_int_t)(q->params.stall_ms / 1000), "x-testudo-on-timeout",
			      on_timeout_names[q->params.on_timeout]);
	return call->ret ? 0 : err_no_memory(call->e);
}

/* What QEMU can switch on and we always do; a client that asks for it is content. */
static const char *const always[] = {"events", "multifd", "auto-converge", "return-path"};

static int run_set_capabilities(struct qmp_call *call)
{
	const json_t *item;
	size_t i, k;

	json_array_foreach(json_object_get(call->args, "capabilities"), i, item)
	{
		const char *name = json_string_value(json_object_get(item, "capability"));
		const json_t *state = json_object_get(item, "state");
		bool known = false;

		if (!name || !json_is_boolean(state))
			return err_set(call->e, -EINVAL,
				       "capabilities: each is {\"capability\": NAME, \"state\": "
				       "BOOL}");
		for (k = 0; k < ARRAY_SIZE(always); k++)
			known |= strcmp(name, always[k]) == 0;
		if (known != json_is_true(state))
			return err_set(call->e, -EINVAL,
				       "capability '%.40s' cannot be switched %s; events, "
				       "multifd, auto-converge and return-path are always on",
				       name, json_is_true(state) ? "on" : "off");
	}
	return 0;
}

static int run_query_capabilities(struct qmp_call *call)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; list && i < ARRAY_SIZE(always); i++)
		json_array_append_new(list,
				      json_pack("{ss sb}", "capability", always[i], "state", 1));
	call->ret = list;
	return list ? 0 : err_no_memory(call->e);
}

static const struct qmp_arg migrate_args[] = {
	{"uri", QMP_STRING, false},
	{"x-testudo-channels", QMP_ARRAY, true},
	{"x-testudo-dry-run", QMP_BOOL, true},
	{"x-testudo-local", QMP_BOOL, true},
	{"x-testudo-keep-running", QMP_BOOL, true},
	{"detach", QMP_BOOL, true},
	{NULL, QMP_STRING, false},
};
static const struct qmp_arg parameters_args[] = {
	{"downtime-limit", QMP_INT, true},	    {"multifd-channels", QMP_INT, true},
	{"x-testudo-timeout", QMP_INT, true},	    {"x-testudo-stall-timeout", QMP_INT, true},
	{"x-testudo-on-timeout", QMP_STRING, true}, {NULL, QMP_STRING, false},
};
static const struct qmp_arg capabilities_args[] = {
	{"capabilities", QMP_ARRAY, false},
	{NULL, QMP_STRING, false},
};
static const struct qmp_command commands[] = {
	{"migrate", migrate_args, run_migrate},
	{"migrate_cancel", NULL, run_cancel},
	{"query-migrate", NULL, run_query},
	{"migrate-set-parameters", parameters_args, run_set_parameters},
	{"query-migrate-parameters", NULL, run_query_parameters},
	{"migrate-set-capabilities", capabilities_args, run_set_capabilities},
	{"query-migrate-capabilities", NULL, run_query_capabilities},
};

void migrate_qmp_init(struct migrate_qmp *q, struct guest *g, struct outgoing *out,
		      struct incoming *in)
{
	q->guest = g;
	q->out = out;
	q->in = in;
	q->params = (struct migrate_params) {.limit_ns = MIGRATE_DEFAULT_LIMIT_MS * MS,
					     .stall_ms = MIGRATE_STALL_MS};
	q->n_channels = MIGRATE_DEFAULT_CHANNELS;
	q->table = (struct qmp_table) {.commands = commands, .n = ARRAY_SIZE(commands), .ctx = q};
	q->listener.migration = told;
	guest_listen(g, &q->listener);
	control_add_commands(&g->control, &q->table);
}
