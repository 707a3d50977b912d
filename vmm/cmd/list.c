/* testudo list and stat: what runs here, by asking each guest's control socket. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/options.h"
#include "control/qmp_client.h"
#include "vmm/cmd.h"
#include "vmm/cmd/guest_wait.h"
#include "vmm/cmd/guest_words.h"
#include "vmm/exit_code.h"

#define LIST_MS 1000 /* a guest that stands still must not keep the others from view */
#define STAT_MS 2000

static const struct option_row list_rows[] = {
	{"json", 0, NULL, "for machines", OPTION_SETS(struct guest_words, json, true)},
	OPTION_QUIET_ROW("only what went wrong on standard error"),
	OPTION_HELP_ROW,
};

static const struct options list_options = {
	OPTIONS_TABLE(list_rows),
	.see = "testudo list --help",
	.head = "Usage: testudo list [--json]\n\n"
		"List the guests that run: name, process, state, virtual CPUs, memory.\n\n"
		"Options:\n",
	.tail = "\nA guest whose process is stopped or does not answer is listed as such.\n\n"
		"Exit codes: 0 listed, also if there are none; 1 the run directory cannot be read, "
		"2 wrong usage\n",
	.indent = 4,
};

static const struct option_row stat_rows[] = {
	{"json", 0, NULL, "for machines", OPTION_SETS(struct guest_words, json, true)},
	OPTION_QUIET_ROW("only what went wrong on standard error"),
	OPTION_HELP_ROW,
};

static const struct options stat_options = {
	OPTIONS_TABLE(stat_rows),
	.see = "testudo stat --help",
	.head = "Usage: testudo stat NAME [--json]\n\n"
		"Print the state of a guest: what is held for it in IA32_SPEC_CTRL and why, and "
		"for each\n"
		"virtual CPU its exits, the bits that are wanted and held, and the verdict.\n\n"
		"Options:\n",
	.tail = "\nExit codes: 0 printed, 1 it does not answer, 2 wrong usage, 3 no such guest\n",
	.indent = 4,
};

/* Ask @command and put the answer, or member @pick of it, into @o as @key. */
static int ask(struct qmp_client *c, const char *command, const char *pick, json_t *o,
	       const char *key, struct err *e)
{
	json_t *ret;
	int err = qmp_client_execute(c, command, NULL, NULL, 0, &ret, e);

	if (err < 0)
		return err;
	if (pick)
		json_object_set(o, key, json_object_get(ret, pick));
	else
		json_object_set(o, key, ret);
	json_decref(ret);
	return 0;
}

/* The same; null where the guest's process does not know: there is no machine yet. */
static int ask_size(struct qmp_client *c, const char *command, const char *pick, json_t *o,
		    const char *key, struct err *e)
{
	int err = ask(c, command, pick, o, key, e);

	if (err != -EREMOTEIO)
		return err;
	memset(e, 0, sizeof(*e));
	return json_object_set_new(o, key, json_null());
}

/* Name, process, state and size: what list has of a guest. */
static int ask_summary(struct qmp_client *c, json_t *o, struct err *e)
{
	int err;

	json_object_set_new(o, "name", json_string(c->name));
	json_object_set_new(o, "pid", json_integer(c->pid));
	err = ask(c, "query-status", "status", o, "status", e);
	if (!err)
		err = ask_size(c, "query-memory-size-summary", "base-memory", o, "memory", e);
	if (!err)
		err = ask_size(c, "query-cpus-fast", NULL, o, "cpus", e);
	return err;
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "-";
}

static long long number_of(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

/* Numbers for people: "-" for what is not known. */
struct number_text {
	char s[32];
};

static struct number_text count_text(const json_t *o, const char *key)
{
	const json_t *list = json_object_get(o, key);
	struct number_text t = {"-"};

	if (json_is_array(list))
		snprintf(t.s, sizeof(t.s), "%zu", json_array_size(list));
	return t;
}

static struct number_text memory_text(const json_t *o)
{
	struct number_text t = {"-"};

	if (json_is_integer(json_object_get(o, "memory")))
		snprintf(t.s, sizeof(t.s), "%lld MiB", number_of(o, "memory") / (long long)MiB);
	return t;
}

static struct number_text pid_text(const json_t *o)
{
	struct number_text t = {"-"};

	if (number_of(o, "pid") > 0)
		snprintf(t.s, sizeof(t.s), "%lld", number_of(o, "pid"));
	return t;
}

static int print_json(const json_t *o)
{
	char *text = json_dumps(o, JSON_INDENT(2));

	if (!text) {
		log_err("out of memory");
		return EXIT_VMM_ERROR;
	}
	puts(text);
	free(text);
	return 0;
}

static void print_list(const json_t *list)
{
	const json_t *o, *what;
	size_t i;

	if (!json_array_size(list)) {
		log_info("no guests run; the run directory is %s", rundir_where().s);
		return;
	}
	printf("%-24s %8s  %-14s %5s %10s\n", "NAME", "PID", "STATE", "VCPUS", "MEMORY");
	json_array_foreach(list, i, o)
		printf("%-24s %8s  %-14s %5s %10s\n", text_of(o, "name"), pid_text(o).s,
		       text_of(o, "status"), count_text(o, "cpus").s, memory_text(o).s);
	fflush(stdout);
	json_array_foreach(list, i, o)
	{
		what = json_object_get(o, "error");
		if (what)
			log_warn("%s", json_string_value(what));
	}
}

/* What is known of a guest whose process says nothing. */
static void describe_silent(json_t *o, const struct qmp_client *c, const char *status,
			    const struct err *e)
{
	json_object_set_new(o, "name", json_string(c->name));
	json_object_set_new(o, "pid", c->pid > 0 ? json_integer(c->pid) : json_null());
	json_object_set_new(o, "status", json_string(status));
	json_object_set_new(o, "memory", json_null());
	json_object_set_new(o, "cpus", json_null());
	json_object_set_new(o, "error", json_string(e->text));
}

/* NULL for a guest that is not there any more. One that does not answer is in the list. */
static json_t *list_one(const char *name)
{
	struct qmp_client c;
	struct err e = {0};
	json_t *o = json_object();
	int ret = qmp_client_connect(&c, name, LIST_MS, &e);

	if (!ret)
		ret = qmp_client_negotiate(&c, &e);
	if (!ret)
		ret = ask_summary(&c, o, &e);
	if (ret == -EHOSTDOWN || ret == -ETIMEDOUT || ret == -EAGAIN) {
		describe_silent(o, &c, ret == -EHOSTDOWN ? "stopped" : "no answer", &e);
		ret = 0;
	}
	qmp_client_close(&c);
	if (!ret)
		return o;
	json_decref(o);
	return NULL;
}

int cmd_list(int argc, char **argv)
{
	struct rundir_list names;
	struct err e = {0};
	struct guest_words w = {0};
	int code = guest_words_parse(&w, argc, argv, &list_options, false), ret;
	json_t *list;
	size_t i;

	if (code >= 0)
		return code;
	ret = rundir_list(&names, &e);
	if (ret < 0)
		return guest_words_finish(ret, &e);
	list = json_array();
	for (i = 0; i < names.n; i++) {
		json_t *o = list_one(names.name[i]);

		if (o)
			json_array_append_new(list, o);
	}
	rundir_list_free(&names);
	if (w.json)
		code = print_json(list);
	else
		print_list(list);
	json_decref(list);
	return code < 0 ? 0 : code;
}

/* "BHI_DIS_S,STIBP=0": the bits of @o, a "wanted" or "held" */
static const char *bits_text(const json_t *o, char *buf, size_t size)
{
	const json_t *name;
	size_t i, at = 0;

	buf[0] = '\0';
	json_array_foreach(json_object_get(o, "at-1"), i, name)
	{
		at = strlen(buf);
		snprintf(buf + at, size - at, "%s%s", at ? "," : "", json_string_value(name));
	}
	json_array_foreach(json_object_get(o, "at-0"), i, name)
	{
		at = strlen(buf);
		snprintf(buf + at, size - at, "%s%s=0", at ? "," : "", json_string_value(name));
	}
	return buf[0] ? buf : "-";
}

static void print_vcpus(const json_t *exits, const json_t *vcpus)
{
	char wanted[256], held[256];
	const json_t *x;
	size_t i;

	printf("\n%5s %12s %12s %12s %12s  %-10s %-12s %-12s %s\n", "VCPU", "EXITS", "IO", "MMIO",
	       "MSR", "SPEC_CTRL", "WANTED", "HELD", "VERDICT");
	json_array_foreach(exits, i, x)
	{
		const json_t *v = json_array_get(vcpus, i);
		const json_t *effective = json_object_get(v, "effective");

		printf("%5lld %12lld %12lld %12lld %12lld  %-10s %-12s %-12s %s\n",
		       number_of(x, "cpu-index"), number_of(x, "total"), number_of(x, "io"),
		       number_of(x, "mmio"), number_of(x, "msr"), text_of(effective, "value"),
		       bits_text(json_object_get(v, "wanted"), wanted, sizeof(wanted)),
		       bits_text(json_object_get(v, "held"), held, sizeof(held)),
		       text_of(v, "verdict"));
	}
}

/* Of a KVM that counts its branch predictor barriers. */
static void print_barriers(const json_t *vcpus)
{
	static const struct {
		const char *key, *head;
	} columns[] = {
		{"vcpu-switches", "SWITCHES"},	 {"pcpu-moves", "MOVES"},
		{"ibpb-other-vm", "IBPB-VM"},	 {"ibpb-vcpu-switch", "IBPB-SWITCH"},
		{"ibpb-pcpu-move", "IBPB-MOVE"}, {"ibpb-nested-exit", "IBPB-NESTED"},
	};
	const json_t *v, *b;
	size_t i, n;

	if (!json_is_object(json_object_get(json_array_get(vcpus, 0), "barriers")))
		return;
	printf("\n%5s", "VCPU");
	for (n = 0; n < ARRAY_SIZE(columns); n++)
		printf(" %12s", columns[n].head);
	printf("  ISSUED\n");
	json_array_foreach(vcpus, i, v)
	{
		b = json_object_get(v, "barriers");
		b = json_is_object(b) ? b : NULL;
		printf("%5lld", number_of(v, "id"));
		for (n = 0; n < ARRAY_SIZE(columns); n++)
			if (b) /* is counted */
				printf(" %12lld", number_of(b, columns[n].key));
			else
				printf(" %12s", "-");
		printf("  %s\n", json_is_true(json_object_get(v, "ibpb-issued")) ? "yes" : "no");
	}
}

/* One line for all vCPUs of which the same is to be said that stand beside each other. */
static void print_summaries(const json_t *vcpus)
{
	const size_t n = json_array_size(vcpus);
	size_t first, last;

	for (first = 0; first < n; first = last + 1) {
		const char *text = text_of(json_array_get(vcpus, first), "summary");

		for (last = first; last + 1 < n; last++)
			if (strcmp(text, text_of(json_array_get(vcpus, last + 1), "summary")) != 0)
				break;
		printf("%-12s", first ? "" : "protection");
		if (last > first && (first || last + 1 < n))
			printf("vCPU %zu-%zu: ", first, last);
		else if (n > 1 && last == first)
			printf("vCPU %zu: ", first);
		puts(text);
	}
}

static void print_stat(const json_t *o)
{
	const json_t *m = json_object_get(o, "mitigation");

	printf("name        %s\nprocess     %lld\nstate       %s\nvcpus       %s\n"
	       "memory      %s\n",
	       text_of(o, "name"), number_of(o, "pid"), text_of(o, "status"),
	       count_text(o, "cpus").s, memory_text(o).s);
	if (!m)
		return;
	printf("mitigation  %s, back end %s, host %s\n", text_of(m, "verdict"),
	       text_of(json_object_get(m, "backend"), "name"),
	       text_of(json_object_get(m, "host"), "name"));
	print_summaries(json_object_get(m, "vcpus"));
	print_vcpus(json_object_get(o, "exits"), json_object_get(m, "vcpus"));
	print_barriers(json_object_get(m, "vcpus"));
}

int cmd_stat(int argc, char **argv)
{
	struct qmp_client c;
	struct err e = {0};
	struct guest_words w = {0};
	json_t *o;
	int code = guest_words_parse(&w, argc, argv, &stat_options, true), ret;

	if (code >= 0)
		return code;
	o = json_object();
	ret = qmp_client_open(&c, w.name, STAT_MS, &e);
	if (!ret && guest_await_arriving(&c, NULL) == -ECONNRESET)
		ret = err_set(&e, -ECONNRESET, "guest '%s' ended", c.name);
	if (!ret)
		ret = ask_summary(&c, o, &e);
	if (!ret && json_array_size(json_object_get(o, "cpus"))) {
		ret = ask(&c, "x-testudo-query-exits", NULL, o, "exits", &e);
		if (!ret)
			ret = ask(&c, "x-testudo-query-mitigation", NULL, o, "mitigation", &e);
	}
	qmp_client_close(&c);
	code = guest_words_finish(ret, &e);
	if (!ret && w.json)
		code = print_json(o);
	else if (!ret)
		print_stat(o);
	json_decref(o);
	return code;
}
