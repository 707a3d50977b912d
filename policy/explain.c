#include "policy/explain.h"

#include <string.h>

#include "base/text.h"
#include "cpuid/feature.h"
#include "msr/arch_caps.h"

#define TEXT_COLUMNS 100
#define LABEL_WIDTH  12

/* What decisions look at. */
#define SHOWN_7_0 (CPUID_BIT(7_0_EDX, spec_ctrl) | CPUID_BIT(7_0_EDX, arch_capabilities))
#define SHOWN_7_2                                                          \
	(CPUID_BIT(7_2_EDX, ipred_ctrl) | CPUID_BIT(7_2_EDX, rrsba_ctrl) | \
	 CPUID_BIT(7_2_EDX, bhi_ctrl))
#define SHOWN_CAPS                                                                                \
	(ARCH_CAP_IBRS_ALL | ARCH_CAP_RSBA | ARCH_CAP_RRSBA | ARCH_CAP_BHI_NO | ARCH_CAP_ITS_NO | \
	 ARCH_CAP_VIRTUAL_ENUM)

const char *explain_bits(uint64_t bits, char *buf, size_t size)
{
	unsigned int shift;
	char number[16];

	buf[0] = '\0';
	for (shift = 0; shift < 64; shift++) {
		const char *name = spec_ctrl_bit_name(1ULL << shift);

		if (!(bits & 1ULL << shift))
			continue;
		snprintf(number, sizeof(number), "bit %u", shift);
		text_list_add(buf, size, name ? name : number);
	}
	if (!buf[0])
		snprintf(buf, size, "none");
	return buf;
}

/*
 * @text broken into lines at blanks; the first line goes on where @column is, the rest at @indent
 */
static void print_wrapped(FILE *f, int column, int indent, const char *text)
{
	while (*text) {
		const char *end = text + strcspn(text, " ");
		int len = (int)(end - text);

		if (column > indent && column + 1 + len > TEXT_COLUMNS) {
			fprintf(f, "\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			fputc(' ', f);
			column++;
		}
		fprintf(f, "%.*s", len, text);
		column += len;
		text = end + strspn(end, " ");
	}
	fputc('\n', f);
}

static void print_line(FILE *f, const char *label, const char *text)
{
	fprintf(f, "%-*s", LABEL_WIDTH, label);
	print_wrapped(f, LABEL_WIDTH, LABEL_WIDTH, text);
}

static const char *bhb_name(enum bhb_kind kind)
{
	switch (kind) {
	case BHB_SHORT:
		return "short";
	case BHB_LONG:
		return "long";
	default:
		return "unknown";
	}
}

static const char *yes_no(bool yes)
{
	return yes ? "yes" : "no";
}

/* Is it one of those that say how speculation is controlled, and set? */
static bool controls(const struct cpu_feature *f, uint32_t leaf7_0_edx, uint32_t leaf7_2_edx)
{
	const uint32_t bit = 1u << f->bit;

	if (f->leaf != 7 || f->reg != CPUID_EDX)
		return false;
	return f->subleaf == 0 ? leaf7_0_edx & SPECULATION_7_0_EDX & bit
			       : f->subleaf == 2 && leaf7_2_edx & SPECULATION_7_2_EDX & bit;
}

/* A feature's name as the manuals and this program's reports spell it. */
static const char *in_capitals(const char *name, char *buf, size_t size)
{
	size_t i;

	for (i = 0; name[i] && i + 1 < size; i++)
		buf[i] = name[i] >= 'a' && name[i] <= 'z' ? (char)(name[i] - 'a' + 'A') : name[i];
	buf[i] = '\0';
	return buf;
}

void explain_features(uint32_t leaf7_0_edx, uint32_t leaf7_2_edx, uint64_t arch_cap, char *buf,
		      size_t size)
{
	const struct cpu_feature *features;
	const struct arch_cap_bit *caps;
	unsigned int n, i;
	char name[32];

	buf[0] = '\0';
	features = cpu_features(&n);
	for (i = 0; i < n; i++)
		if (controls(&features[i], leaf7_0_edx, leaf7_2_edx))
			text_list_add(buf, size, in_capitals(features[i].name, name, sizeof(name)));
	caps = arch_cap_bits(&n);
	for (i = 0; i < n; i++)
		if (arch_cap & 1ULL << caps[i].bit)
			text_list_add(buf, size, caps[i].name);
	if (!buf[0])
		snprintf(buf, size, "none");
}

/* The features that decisions look at, as a guest or a host shows them. */
static void list_features(uint32_t leaf7_0_edx, uint32_t leaf7_2_edx, uint64_t arch_cap, char *buf,
			  size_t size)
{
	explain_features(leaf7_0_edx & SHOWN_7_0, leaf7_2_edx & SHOWN_7_2, arch_cap & SHOWN_CAPS,
			 buf, size);
	if (strcmp(buf, "none") == 0)
		snprintf(buf, size, "none of the features that matter");
}

/* What this KVM does, and can be told; nothing of a host whose file does not say. */
static void explain_host_barriers(FILE *f, const struct barrier_facts *b)
{
	static const char *const nested[] = {
		[NESTED_EXIT_UNSAID] = "",
		[NESTED_EXIT_BARE] = "; none between a guest and its own guests",
		[NESTED_EXIT_BARRIER] = "; one between a guest and its own guests",
	};
	char text[256], version[48], kernel[64] = "of a kernel of unknown version";

	if (!barrier_facts_known(b))
		return;
	barrier_kernel_name(b, version, sizeof(version));
	if (b->major)
		snprintf(kernel, sizeof(kernel), "of Linux %s", version);
	snprintf(text, sizeof(text),
		 "KVM %s, IBPB %s; when vCPUs change, each VM's barriers can %s%s", kernel,
		 host_ibpb_name(b->ibpb), b->driven ? "be chosen" : "not be chosen",
		 nested[b->nested_exit]);
	print_line(f, "barriers", text);
}

/* What the guest gets of them. */
static void explain_got_barriers(FILE *f, const struct mitigation_input *in)
{
	const struct barrier_facts *b = &in->backend.barrier;
	struct barrier_plan plan;
	char text[256];

	barrier_plan(b, cpu_vendor_from_id(in->host.vendor_id), &in->policy.barrier, &plan);
	if (plan.on_switch == BARRIER_UNKNOWN && plan.on_move == BARRIER_UNKNOWN)
		return;
	snprintf(text, sizeof(text),
		 "between vCPUs of the guest on one CPU: %s; when a vCPU moves to another CPU: "
		 "%s%s",
		 barrier_got_name(plan.on_switch), barrier_got_name(plan.on_move),
		 plan.by_accident ? ", by a side effect of this kernel" : "");
	print_line(f, "barriers", text);
}

/* Its BHB is nobody's concern. */
static bool is_unaffected(const struct host_traits *t)
{
	return t->vendor != CPU_VENDOR_INTEL && t->vendor != CPU_VENDOR_OTHER;
}

void explain_host(FILE *f, const struct host_facts *h, const struct backend_facts *b)
{
	struct host_traits t;
	char text[1024], features[768], bits[256];

	host_traits_derive(h, &t);
	list_features(h->leaf7_0_edx, h->leaf7_2_edx, h->kvm_arch_cap, features, sizeof(features));
	snprintf(text, sizeof(text), "%s (%s family %u model %#x stepping %u)%s; %s%s%s%s; has %s",
		 t.name, h->vendor_id, h->family, h->model, h->stepping,
		 h->hypervisor ? ", itself a guest, so the model may lie" : "",
		 is_unaffected(&t) ? "not affected by BHI" : bhb_name(t.bhb),
		 is_unaffected(&t) ? "" : " BHB", t.atom_only ? ", Atom cores only" : "",
		 t.hybrid ? ", hybrid" : "", features);
	print_line(f, "host", text);
	snprintf(text, sizeof(text), "%s, can hold %s", backend_name(b->kind),
		 explain_bits(b->can_force, bits, sizeof(bits)));
	print_line(f, "back end", text);
	explain_host_barriers(f, &b->barrier);
}

/* A 0 in the report says no of a bit that was offered, and was read to be. */
static const char *answer_name(const struct vcpu_report *r, uint64_t offered)
{
	if (!r->enum_read && !r->written)
		return "knows the virtual MSRs, has not reported yet";
	if (!r->enum_read)
		return "reports nothing, has not read what it could report";
	switch (offered & MITIGATION_ALL) {
	case MITIGATION_ALL:
		return "reports that it uses neither the short BHB sequence nor retpolines";
	case MITIGATION_BHB_CLEAR_SEQ_S:
		return "reports that it does not use the short BHB sequence";
	case MITIGATION_RETPOLINE_S:
		return "reports that it does not use retpolines";
	default:
		return "knows the virtual MSRs, is offered nothing to report";
	}
}

static const char *report_name(const struct mitigation_input *in)
{
	const uint64_t c = in->report.ctrl;

	if (!in->report.aware)
		return "reports nothing (does not know the virtual MSRs)";
	if ((c & MITIGATION_ALL) == MITIGATION_ALL)
		return "reports the short BHB sequence and retpolines";
	if (c & MITIGATION_BHB_CLEAR_SEQ_S)
		return "reports the short BHB sequence";
	if (c & MITIGATION_RETPOLINE_S)
		return "reports retpolines";
	return answer_name(&in->report, in->guest.mitigation_enum);
}

static void print_guest(FILE *f, const struct mitigation_input *in)
{
	const struct guest_contract *g = &in->guest;
	char features[768], text[1024];

	list_features(g->leaf7_0_edx, g->leaf7_2_edx, g->arch_cap, features, sizeof(features));
	snprintf(text, sizeof(text), "%s; sees %s%s", report_name(in), features,
		 g->virt_enum & VIRT_ENUM_MITIGATION ? "; is offered the virtual MSRs" : "");
	print_line(f, "guest", text);
}

static void print_pool(FILE *f, const struct pool_facts *p)
{
	char text[256];

	if (p->n_hosts <= 1) {
		print_line(f, "pool", "this host only");
		return;
	}
	snprintf(text, sizeof(text),
		 "%u hosts or more, %s; all with a long BHB can hold BHI_DIS_S: %s; all with RRSBA "
		 "can hold RRSBA_DIS_S: %s",
		 p->n_hosts,
		 p->mixed	   ? "short and long branch history buffers"
		 : p->any_long_bhb ? "long branch history buffers"
				   : "short branch history buffers",
		 yes_no(p->long_can_force_bhi), yes_no(!p->any_rrsba || p->rrsba_can_force));
	print_line(f, "pool", text);
}

/* "bhi row 13, BHI_DIS_S at 1"; where the guest's own value stands, no value is named. */
static void step_name(const struct decision_step *s, char *buf, size_t size)
{
	const uint64_t one = s->bit & s->at_1, zero = s->bit & ~s->at_1;
	char bits[256];
	size_t at;

	snprintf(buf, size, "%s row %u", decision_table_name(s->table), s->row);
	at = strlen(buf);
	if (s->verdict == VERDICT_ALLOW && s->bit)
		snprintf(buf + at, size - at, ", %s", explain_bits(s->bit, bits, sizeof(bits)));
	else if (one)
		snprintf(buf + at, size - at, ", %s at 1", explain_bits(one, bits, sizeof(bits)));
	at = strlen(buf);
	if (s->verdict != VERDICT_ALLOW && zero)
		snprintf(buf + at, size - at, ", %s at 0", explain_bits(zero, bits, sizeof(bits)));
}

/* The end of the alternative of a cure that begins at @text: ", or " or "; " or the text's end */
static const char *phrase_end(const char *text)
{
	const char * or = strstr(text, ", or "), *then = strstr(text, "; ");

	if (! or)
		return then ? then : text + strlen(text);
	return then && then < or ? then : or ;
}

/* A step in one line, less what of its cure is in @said already. */
static void step_unsaid(const struct decision_step *s, const char *said, char *buf, size_t size)
{
	const char *at = s->cure, *separator = "; ";
	char phrase[EXPLAIN_STEP_MAX / 2], name[640];
	size_t len;

	step_name(s, name, sizeof(name));
	snprintf(buf, size, "%s: %s", name, s->reason);
	while (at && *at) {
		const char *end = phrase_end(at);

		snprintf(phrase, sizeof(phrase), "%.*s", (int)(end - at), at);
		len = strlen(buf);
		if (!strstr(said, phrase)) {
			snprintf(buf + len, size - len, "%s%s", separator, phrase);
			separator = ", or ";
		}
		if (*end == ';')
			separator = "; ";
		at = end + (*end == ';' ? 2 : *end ? strlen(", or ") : 0);
	}
}

const char *explain_reasons(const struct mitigation_decision *d, char *buf, size_t size)
{
	char step[EXPLAIN_STEP_MAX];
	unsigned int i, left_out = 0;
	size_t at = 0, len;

	buf[0] = '\0';
	for (i = 0; i < d->n_steps; i++) {
		if (d->step[i].verdict != d->verdict)
			continue;
		step_unsaid(&d->step[i], buf, step, sizeof(step));
		len = strlen(step) + (at ? 2 : 0);
		/* whole ones only, with room for the count of the others */
		if (at && (left_out || at + len + sizeof(" (and 99 more)") > size))
			left_out++;
		else
			at += (size_t)snprintf(buf + at, size - at, "%s%s", at ? ". " : "", step);
		if (at >= size)
			at = size - 1;
	}
	if (left_out)
		snprintf(buf + at, size - at, " (and %u more)", left_out);
	return buf;
}

static void print_step(FILE *f, const struct decision_step *s)
{
	char name[640], head[704];

	step_name(s, name, sizeof(name));
	snprintf(head, sizeof(head), "  %s: %s:", name, verdict_name(s->verdict));
	fputs(head, f);
	print_wrapped(f, (int)strlen(head), 6, s->reason);
	if (s->cure) {
		fputs("      cure:", f);
		print_wrapped(f, 6 + (int)strlen("cure:"), 6, s->cure);
	}
	if (s->source && *s->source) {
		fputs("      source:", f);
		print_wrapped(f, 6 + (int)strlen("source:"), 6, s->source);
	}
}

const char *explain_short(const struct mitigation_input *in, const struct mitigation_decision *d)
{
	struct host_traits t;

	host_traits_derive(&in->host, &t);
	if (is_unaffected(&t))
		return "no BHB sequence is needed: parts of this vendor are not affected by BHI";
	if (!d->short_adequate && d->value & SPEC_CTRL_BHI_DIS_S)
		return "the short BHB sequence is adequate on this host with BHI_DIS_S, which is "
		       "held; that it is wherever the guest may go is not assured";
	if (!d->short_adequate && t.bhb == BHB_SHORT)
		return "the short BHB sequence is adequate on this part, whose BHB is short; that "
		       "it is wherever the guest may go is not assured";
	if (!d->short_adequate)
		return "nothing on this host assures that the short BHB sequence is adequate";
	if (d->value & SPEC_CTRL_BHI_DIS_S)
		return t.bhb == BHB_LONG
			       ? "too short alone for this part's long BHB; adequate with "
				 "BHI_DIS_S, which is held"
			       : "the short BHB sequence is adequate with BHI_DIS_S, which is held";
	if (t.bhi_no)
		return "the short BHB sequence is adequate: the host has BHI_NO";
	return t.atom_only ? "the short BHB sequence is adequate on this part, Atom cores only"
			   : "the short BHB sequence is adequate on this part, whose BHB is short";
}

void explain_text(FILE *f, const struct mitigation_input *in, const struct mitigation_decision *d)
{
	char bits[256], off[256], text[640];
	unsigned int i;

	explain_host(f, &in->host, &in->backend);
	print_guest(f, in);
	print_pool(f, &in->pool);
	if (in->promise.valid) {
		snprintf(text, sizeof(text), "comes from a host that held %s for it%s",
			 explain_bits(in->promise.value, bits, sizeof(bits)),
			 in->promise.weak ? ", needed BHI_DIS_S and could not hold it" : "");
		print_line(f, "moved", text);
	}
	fputc('\n', f);

	print_line(f, "verdict", verdict_name(d->verdict));
	if (d->mask)
		snprintf(text, sizeof(text), "%s at 1, %s at 0 (mask %#llx, value %#llx)",
			 explain_bits(d->value, bits, sizeof(bits)),
			 explain_bits(d->mask & ~d->value, off, sizeof(off)),
			 (unsigned long long)d->mask, (unsigned long long)d->value);
	else
		snprintf(text, sizeof(text), "nothing; the guest's own value stands");
	print_line(f, "holds", text);
	print_line(f, "short", explain_short(in, d));
	explain_got_barriers(f, in);
	fputs("because\n", f);
	for (i = 0; i < d->n_steps; i++)
		print_step(f, &d->step[i]);
}

/* ---- JSON ---- */

static json_t *json_hex(uint64_t v)
{
	return json_sprintf("0x%llx", (unsigned long long)v);
}

static json_t *json_bits(uint64_t bits)
{
	json_t *a = json_array();
	unsigned int shift;

	for (shift = 0; shift < 64; shift++) {
		const char *name = spec_ctrl_bit_name(1ULL << shift);

		if (bits & 1ULL << shift)
			json_array_append_new(a, name ? json_string(name)
						      : json_sprintf("bit %u", shift));
	}
	return a;
}

json_t *explain_bits_json(uint64_t mask, uint64_t value)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "mask", json_hex(mask), "value", json_hex(value),
			 "at-1", json_bits(mask & value), "at-0", json_bits(mask & ~value));
}

json_t *explain_names_json(uint64_t bits)
{
	return json_bits(bits);
}

json_t *explain_steps_json(const struct mitigation_decision *d)
{
	json_t *steps = json_array();
	unsigned int i;

	for (i = 0; i < d->n_steps; i++) {
		const struct decision_step *s = &d->step[i];

		json_array_append_new(
			steps, json_pack("{s:s, s:i, s:o, s:o, s:s, s:s, s:s*, s:s}", "table",
					 decision_table_name(s->table), "row", (int)s->row, "bits",
					 json_bits(s->bit), "at-1", json_bits(s->bit & s->at_1),
					 "verdict", verdict_name(s->verdict), "reason", s->reason,
					 "cure", s->cure, "source", s->source ? s->source : ""));
	}
	return steps;
}

json_t *explain_decision_json(const struct mitigation_decision *d)
{
	json_t *o = explain_bits_json(d->mask, d->value);

	json_object_update_new(o, json_pack("{s:s, s:b, s:o}", "verdict", verdict_name(d->verdict),
					    "short-sequence-adequate", d->short_adequate, "steps",
					    explain_steps_json(d)));
	return o;
}

json_t *explain_contract_json(const struct guest_contract *g)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "cpuid-7-0-edx", json_hex(g->leaf7_0_edx),
			 "cpuid-7-2-edx", json_hex(g->leaf7_2_edx), "arch-capabilities",
			 json_hex(g->arch_cap), "virtual-enumeration", json_hex(g->virt_enum),
			 "mitigation-enum", json_hex(g->mitigation_enum));
}

json_t *explain_report_json(const struct vcpu_report *r)
{
	return json_pack("{s:b, s:b, s:b, s:o}", "aware", r->aware, "enum-read", r->enum_read,
			 "written", r->written, "ctrl", json_hex(r->ctrl));
}

json_t *explain_barriers_json(const struct barrier_plan *p)
{
	return json_pack("{s:s, s:s, s:b}", "vcpu-switch", barrier_got_name(p->on_switch),
			 "pcpu-move", barrier_got_name(p->on_move), "chosen", p->drive);
}

static json_t *host_json(const struct host_facts *h)
{
	struct host_traits t;

	host_traits_derive(h, &t);
	return json_pack("{s:s, s:s, s:i, s:i, s:i, s:b, s:s, s:b, s:b, s:b, s:b, s:b, s:b, s:b, "
			 "s:b}",
			 "name", t.name, "vendor", h->vendor_id, "family", (int)h->family, "model",
			 (int)h->model, "stepping", (int)h->stepping, "hypervisor", h->hypervisor,
			 "bhb", bhb_name(t.bhb), "atom-only", t.atom_only, "hybrid", t.hybrid,
			 "bhi-ctrl", t.bhi_ctrl, "rrsba-ctrl", t.rrsba_ctrl, "eibrs", t.eibrs,
			 "rrsba", t.rrsba, "rsba", t.rsba, "bhi-no", t.bhi_no);
}

static json_t *pool_json(const struct pool_facts *p)
{
	return json_pack("{s:i, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "hosts", (int)p->n_hosts,
			 "any-long-bhb", p->any_long_bhb, "all-atom-or-short", p->all_atom_or_short,
			 "long-can-hold-bhi", p->long_can_force_bhi, "any-rsba", p->any_rsba,
			 "any-rrsba", p->any_rrsba, "rrsba-can-hold", p->rrsba_can_force, "mixed",
			 p->mixed);
}

json_t *explain_json(const struct mitigation_input *in, const struct mitigation_decision *d)
{
	struct barrier_plan plan;

	barrier_plan(&in->backend.barrier, cpu_vendor_from_id(in->host.vendor_id),
		     &in->policy.barrier, &plan);
	return json_pack("{s:o, s:{s:s, s:o}, s:o, s:o, s:o, s:{s:b, s:o, s:o, s:b}, s:o, s:o}",
			 "host", host_json(&in->host), "backend", "name",
			 backend_name(in->backend.kind), "can-hold",
			 json_bits(in->backend.can_force), "guest",
			 explain_contract_json(&in->guest), "report",
			 explain_report_json(&in->report), "pool", pool_json(&in->pool), "promise",
			 "valid", in->promise.valid, "mask", json_hex(in->promise.mask), "value",
			 json_hex(in->promise.value), "weak", in->promise.weak, "decision",
			 explain_decision_json(d), "barriers", explain_barriers_json(&plan));
}
