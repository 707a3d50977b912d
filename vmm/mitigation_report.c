#include "vmm/mitigation_report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/isolation.h"
#include "vmm/mitigation.h"
#include "vmm/version.h"

#define REPORT_SCHEMA 1
#define REPORT_WAIT_MS \
	1000 /* for the reader of a FIFO; the guest is served meanwhile, its devices are not */

/* ---- the object ---- */

/* Registers are strings: JSON's numbers end at 53 bits, and people read hexadecimal. */
static json_t *hex(uint64_t value)
{
	return json_sprintf("0x%llx", (unsigned long long)value);
}

static json_t *bit_names(uint64_t bits)
{
	json_t *list = json_array();
	uint64_t bit;

	for (bit = 1; bit && bit <= bits; bit <<= 1)
		if (bits & bit && spec_ctrl_bit_name(bit))
			json_array_append_new(list, json_string(spec_ctrl_bit_name(bit)));
	return list;
}

static json_t *mask_value(uint64_t mask, uint64_t value)
{
	return json_pack("{s:o, s:o, s:o}", "mask", hex(mask), "value", hex(value), "names",
			 bit_names(mask & value));
}

static json_t *steps(const struct mitigation_decision *d)
{
	json_t *list = json_array();
	unsigned int i;

	for (i = 0; i < d->n_steps; i++) {
		const struct decision_step *s = &d->step[i];

		json_array_append_new(
			list, json_pack("{s:s, s:i, s:o, s:o, s:s, s:s, s:s*, s:s}", "table",
					decision_table_name(s->table), "row", (int)s->row, "bit",
					hex(s->bit), "at_1", hex(s->bit & s->at_1), "verdict",
					verdict_name(s->verdict), "reason", s->reason, "cure",
					decision_cure(s), "source", s->source));
	}
	return list;
}

static json_t *effective(const struct backend_held *h)
{
	const char *how = h->read_back ? "read back" : "by construction";

	if (!h->known)
		return json_pack("{s:n, s:s}", "value", "known", "unknown");
	return json_pack("{s:o, s:s}", "value", hex(h->effective), "known", how);
}

static json_t *report(const struct vcpu_report *r)
{
	return json_pack("{s:b, s:b, s:b, s:o}", "aware", r->aware, "enum_read", r->enum_read,
			 "written", r->written, "ctrl", hex(r->ctrl));
}

static void add_count(json_t *o, const char *key, const uint64_t *counter)
{
	const uint64_t n = __atomic_load_n(counter, __ATOMIC_RELAXED);

	json_object_set_new(o, key, json_integer((json_int_t)n));
}

static json_t *exits(const struct mitigation_vcpu *v)
{
	json_t *o = json_object();

	add_count(o, "spec_ctrl", &v->exits_spec_ctrl);
	add_count(o, "spec_ctrl_per_second", &v->rate_per_sec);
	add_count(o, "virtual", &v->exits_virtual);
	add_count(o, "efer", &v->exits_efer);
	add_count(o, "pred_cmd", &v->exits_pred_cmd);
	return o;
}

static json_t *one_vcpu(struct mitigation_vcpu *v, enum verdict *worst)
{
	const struct mitigation_decision *d = &v->decision;
	const struct backend_held *h = &v->held;
	json_t *o;

	pthread_mutex_lock(&v->lock);
	o = json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:s, s:b, s:o}", "id", (int)v->id,
		      "guest_spec_ctrl", h->known ? hex(h->guest) : json_null(), "wanted",
		      mask_value(d->mask, d->value), "held", mask_value(h->mask, h->value),
		      "effective", effective(h), "report", report(&v->msrs.report), "exits",
		      exits(v), "failed", v->failed, "verdict", verdict_name(d->verdict),
		      "short_sequence_adequate", d->short_adequate, "steps", steps(d));
	add_count(o, "forced_bits_lost", &v->lost);
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
		json_array_append_new(
			trials, json_pack("{s:s, s:b, s:o, s:s}", "name", b->trial[i].name,
					  "usable", b->trial[i].usable, "can_force",
					  hex(b->trial[i].can_force), "why", b->trial[i].why));
	return json_pack("{s:s, s:o, s:o, s:o, s:b, s:I, s:o}", "name", backend_name(b->ops->kind),
			 "can_force", hex(b->can_force), "can_force_names", bit_names(b->can_force),
			 "changes_at_run_time", hex(b->run_time_bits & b->can_force),
			 "guest_accesses_exit", m->filter.spec_ctrl, "vm_rebuilds",
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
			 (int)f->stepping, "facts_given", m->options.facts != NULL);
}

static const char *ibpb(const struct mitigation *m)
{
	if (__atomic_load_n(&m->ibpb_seen, __ATOMIC_ACQUIRE))
		return "used";
	return m->options.observe_ibpb && m->backend.msr_exits ? "not seen" : "not observed";
}

static json_t *guest(const struct guest_contract *g)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "cpuid_7_0_edx", hex(g->leaf7_0_edx),
			 "cpuid_7_2_edx", hex(g->leaf7_2_edx), "arch_capabilities",
			 hex(g->arch_cap), "virtual_enumeration", hex(g->virt_enum),
			 "mitigation_enum", hex(g->mitigation_enum));
}

static json_t *isolation(const struct mitigation *m, const struct isolation *iso)
{
	return json_pack("{s:o, s:o, s:o, s:b, s:s}", "indirect_branch",
			 item(&iso->indirect_branch), "core_scheduling",
			 item(&iso->core_scheduling), "vcpu_pinning", item(&iso->pin_vcpus),
			 "nested", m->nested, "guest_ibpb", ibpb(m));
}

json_t *mitigation_report(struct mitigation *m, const struct isolation *iso, const char *state)
{
	json_t *vcpus = json_array();
	enum verdict worst = VERDICT_ALLOW;
	uint32_t i;

	for (i = 0; i < m->n_vcpus; i++)
		json_array_append_new(vcpus, one_vcpu(&m->vcpu[i], &worst));
	return json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:s, s:o, s:o}", "schema", REPORT_SCHEMA,
			 "testudo", TESTUDO_VERSION, "state", state, "host", host(m), "backend",
			 backend(m), "guest", guest(&m->contract), "verdict", verdict_name(worst),
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
