#include "vmm/guest/mitigation_report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/version.h"
#include "policy/explain.h"
#include "policy/summary.h"
#include "vmm/hold/isolation.h"
#include "vmm/hold/mitigation.h"

#define REPORT_SCHEMA 1
#define REPORT_WAIT_MS \
	1000 /* for the reader of a FIFO; the guest is served meanwhile, its devices are not */

/* ---- the object ---- */

/* Registers are strings: JSON's numbers end at 53 bits, and people read hexadecimal. */
static json_t *hex(uint64_t value)
{
	return json_sprintf("0x%llx", (unsigned long long)value);
}

static json_t *effective(const struct backend_held *h)
{
	const char *how = h->read_back ? "read back" : "by construction";

	if (!h->known)
		return json_pack("{s:n, s:s}", "value", "known", "unknown");
	return json_pack("{s:o, s:s}", "value", hex(h->effective), "known", how);
}

static void add_count(json_t *o, const char *key, const uint64_t *counter)
{
	const uint64_t n = __atomic_load_n(counter, __ATOMIC_RELAXED);

	json_object_set_new(o, key, json_integer((json_int_t)n));
}

static json_t *exits(const struct mitigation_vcpu *v)
{
	json_t *o = json_object();

	add_count(o, "spec-ctrl", &v->exits_spec_ctrl);
	add_count(o, "spec-ctrl-per-second", &v->rate_per_sec);
	add_count(o, "virtual-msr", &v->exits_virtual);
	add_count(o, "efer", &v->exits_efer);
	add_count(o, "pred-cmd", &v->exits_pred_cmd);
	return o;
}

/* What this KVM counts; null where it counts none. */
static json_t *barriers(const struct barrier_stats *s)
{
	json_t *o = NULL;
	enum barrier_stat i;
	uint64_t n;

	for (i = 0; i < BARRIER_STATS; i++) {
		if (!barrier_stats_read(s, i, &n))
			continue;
		if (!o)
			o = json_object();
		json_object_set_new(o, barrier_stat_name(i), json_integer((json_int_t)n));
	}
	return o ? o : json_null();
}

static json_t *one_vcpu(const struct host_facts *facts, struct mitigation_vcpu *v,
			enum verdict *worst)
{
	const struct mitigation_decision *d = &v->decision;
	const struct backend_held *h = &v->held;
	struct summary_held held;
	char summary[SUMMARY_MAX];
	json_t *o;

	pthread_mutex_lock(&v->lock);
	held = (struct summary_held) {h->mask, h->value, v->failed};
	o = json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:s, s:b, s:o}", "id", (int)v->id,
		      "guest-spec-ctrl", h->known ? hex(h->guest) : json_null(), "wanted",
		      explain_bits_json(d->mask, d->value), "held",
		      explain_bits_json(h->mask, h->value), "effective", effective(h), "report",
		      explain_report_json(&v->msrs.report), "exits", exits(v), "failed", v->failed,
		      "verdict", verdict_name(d->verdict), "short-sequence-adequate",
		      d->short_adequate, "steps", explain_steps_json(d));
	json_object_set_new(o, "summary",
			    json_string(summary_text(facts, d, &held, summary, sizeof(summary))));
	json_object_set_new(o, "reasons", summary_json(facts, d, &held));
	add_count(o, "held-bits-lost", &v->lost);
	json_object_set_new(o, "ibpb-issued", json_boolean(v->ibpb_issued));
	json_object_set_new(o, "barriers", barriers(&v->barriers));
	if (d->verdict > *worst)
		*worst = d->verdict;
	pthread_mutex_unlock(&v->lock);
	return o;
}

static json_t *backend(const struct mitigation *m)
{
	const struct backend *b = &m->backend;
	json_t *trials = json_array();
	unsigned int i;

	for (i = 0; i < b->n_trials; i++)
		json_array_append_new(trials,
				      json_pack("{s:s, s:b, s:o, s:s}", "name", b->trial[i].name,
						"usable", b->trial[i].usable, "can-hold",
						explain_names_json(b->trial[i].can_force), "why",
						b->trial[i].why));
	return json_pack("{s:s, s:o, s:o, s:b, s:I, s:o}", "name", backend_name(b->ops->kind),
			 "can-hold", explain_names_json(b->can_force), "changes-at-run-time",
			 explain_names_json(b->run_time_bits & b->can_force), "guest-accesses-exit",
			 m->filter.spec_ctrl, "vm-rebuilds",
			 (json_int_t)__atomic_load_n(&m->rebuilds, __ATOMIC_RELAXED), "tried",
			 trials);
}

static json_t *item(const struct isolation_item *i)
{
	return json_pack("{s:b, s:b, s:s}", "wanted", i->wanted, "held", i->held, "how", i->note);
}

static json_t *host(const struct mitigation *m)
{
	const struct host_facts *f = &m->host;
	struct host_traits t;

	host_traits_derive(f, &t);
	return json_pack("{s:s, s:s, s:i, s:i, s:i, s:b}", "name", t.name, "vendor", f->vendor_id,
			 "family", (int)f->family, "model", (int)f->model, "stepping",
			 (int)f->stepping, "facts-given", m->options.facts != NULL);
}

static const char *ibpb(const struct mitigation *m)
{
	if (__atomic_load_n(&m->ibpb_seen, __ATOMIC_ACQUIRE))
		return "used";
	return mitigation_looks_for_barrier(m) ? "not seen" : "not observed";
}

static json_t *isolation(const struct mitigation *m, const struct isolation *iso)
{
	return json_pack("{s:o, s:o, s:o, s:b, s:s, s:o}", "indirect-branch",
			 item(&iso->indirect_branch), "core-scheduling",
			 item(&iso->core_scheduling), "vcpu-pinning", item(&iso->pin_vcpus),
			 "nested", m->nested, "guest-ibpb", ibpb(m), "barriers",
			 explain_barriers_json(&m->barrier));
}

json_t *mitigation_report(struct mitigation *m, const struct isolation *iso, const char *state,
			  const char *reason)
{
	json_t *vcpus = json_array();
	enum verdict worst = VERDICT_ALLOW;
	uint32_t i;

	for (i = 0; i < m->n_vcpus; i++)
		json_array_append_new(vcpus, one_vcpu(&m->host, &m->vcpu[i], &worst));
	if (reason)
		worst = VERDICT_REFUSE;
	return json_pack("{s:i, s:s, s:s, s:s*, s:o, s:o, s:o, s:s, s:o, s:o}", "schema",
			 REPORT_SCHEMA, "testudo", TESTUDO_VERSION, "state", state, "reason",
			 reason, "host", host(m), "backend", backend(m), "guest",
			 explain_contract_json(&m->contract), "verdict", verdict_name(worst),
			 "vcpus", vcpus, "isolation", isolation(m, iso));
}

/* ---- the file ---- */

int report_file_open(struct report_file *f, const char *path, struct err *e)
{
	f->failed = false;
	return file_replace_open(&f->file, "--mitigation-report", path, 0644, SANDBOX_REPORT_FD, e);
}

bool report_file_is_open(const struct report_file *f)
{
	return f->file.path;
}

void report_file_close(struct report_file *f)
{
	file_replace_close(&f->file);
}

void report_file_write(struct report_file *f, const json_t *report)
{
	AUTO_FREE char *text = NULL;
	int ret = -ENOMEM;

	if (!report_file_is_open(f))
		return;
	if (report)
		text = json_dumps(report, JSON_INDENT(2));
	if (text) {
		const size_t len = strlen(text);

		text[len] = '\n'; /* in place of the NUL: one write for a reader of a FIFO */
		ret = file_replace_write(&f->file, text, len + 1, -1, REPORT_WAIT_MS);
	}
	if (ret < 0 && !f->failed)
		log_warn("--mitigation-report %s: %s; the file is not true any more", f->file.path,
			 strerror(-ret));
	f->failed = ret < 0;
}
