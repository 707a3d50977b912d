/*
 * Section "mitigation" of a saved machine: the contract, and what each vCPU reported and was
 * promised. Values only; what they mean for a host is mitigation_state.c's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "migration/state/section.h"
#include "msr/spec_ctrl.h"
#include "vmm/hold/mitigation_state.h"

#define VERSION	  3
#define VCPUS_MAX 4096 /* KVM's own limit; bounds an allocation */

void mitigation_saved_fini(struct mitigation_saved *s)
{
	free(s->vcpu);
	s->vcpu = NULL;
	s->n_vcpus = 0;
}

void mitigation_saved_encode(const struct mitigation_saved *s, struct wbuf *w)
{
	const struct guest_contract *g = &s->contract;
	struct wbuf body = {0};
	uint32_t i;

	wbuf_u8(&body, (uint8_t)s->backend);
	wbuf_u8(&body, s->ibpb_seen);
	wbuf_u8(&body, (uint8_t)g->vendor);
	wbuf_u32(&body, g->leaf7_0_edx);
	wbuf_u32(&body, g->leaf7_2_edx);
	wbuf_u32(&body, g->leaf80000008_ebx);
	wbuf_u64(&body, g->arch_cap);
	wbuf_u64(&body, g->virt_enum);
	wbuf_u64(&body, g->mitigation_enum);
	wbuf_u32(&body, s->n_vcpus);
	for (i = 0; i < s->n_vcpus; i++) {
		const struct mitigation_saved_vcpu *v = &s->vcpu[i];

		wbuf_u8(&body, v->report.aware);
		wbuf_u8(&body, v->report.enum_read);
		wbuf_u8(&body, v->report.written);
		wbuf_u64(&body, v->report.ctrl);
		wbuf_u8(&body, v->promise.valid);
		wbuf_u64(&body, v->promise.mask);
		wbuf_u64(&body, v->promise.value);
		wbuf_u8(&body, v->promise.weak);
		wbuf_u64(&body, v->held);
		wbuf_u64(&body, v->shadow);
		wbuf_u8(&body, v->ibpb_issued);
	}
	section_put(w, "mitigation", 0, VERSION, &body);
	wbuf_fini(&body);
}

/*
 * The report may have any bit that exists: a VMM with the RFC's rule lets a guest report what was
 * not offered. Other bits than these were never legal anywhere.
 */
static int check_vcpu(uint32_t id, const struct mitigation_saved_vcpu *v, struct err *e)
{
	if (v->report.ctrl & ~MITIGATION_ALL)
		return err_set(e, -EINVAL,
			       "mitigation state: vCPU %u: report %#llx has bits beside "
			       "%#llx; the stream is damaged",
			       id, (unsigned long long)v->report.ctrl, MITIGATION_ALL);
	if ((v->promise.mask & ~SPEC_CTRL_ALL) || (v->promise.value & ~v->promise.mask))
		return err_set(e, -EINVAL,
			       "mitigation state: vCPU %u: held bits mask=%#llx value=%#llx are "
			       "impossible; the stream is damaged",
			       id, (unsigned long long)v->promise.mask,
			       (unsigned long long)v->promise.value);
	if (v->shadow & ~SPEC_CTRL_ALL)
		return err_set(e, -EINVAL,
			       "mitigation state: vCPU %u: SPEC_CTRL %#llx has reserved bits; the "
			       "stream is damaged",
			       id, (unsigned long long)v->shadow);
	return 0;
}

int mitigation_saved_check(const struct mitigation_saved *s, struct err *e)
{
	const struct guest_contract *g = &s->contract;
	uint32_t i;
	int ret = 0;

	if (g->vendor > CPU_VENDOR_ZHAOXIN || s->backend > BACKEND_FORCE_VCPU)
		return err_set(e, -EINVAL,
			       "mitigation state: vendor %d, back end %d: unknown; use a newer "
			       "testudo at the destination",
			       g->vendor, s->backend);
	if ((g->virt_enum & ~VIRT_ENUM_MITIGATION) || (g->mitigation_enum & ~MITIGATION_ALL) ||
	    (!g->virt_enum && g->mitigation_enum))
		return err_set(e, -EINVAL,
			       "mitigation state: virtual MSRs %#llx and %#llx offer what is "
			       "unknown; use a newer testudo at the destination",
			       (unsigned long long)g->virt_enum,
			       (unsigned long long)g->mitigation_enum);
	for (i = 0; !ret && i < s->n_vcpus; i++)
		ret = check_vcpu(i, &s->vcpu[i], e);
	return ret;
}

int mitigation_saved_decode(struct rbuf *r, struct mitigation_saved *s, struct err *e)
{
	struct guest_contract *g = &s->contract;
	struct section sec;
	struct rbuf *b = &sec.body;
	uint32_t i, n;
	int ret;

	memset(s, 0, sizeof(*s));
	ret = section_expect(r, "mitigation", 0, VERSION, &sec, e);
	if (ret < 0)
		return ret;
	s->backend = (enum backend_kind)rbuf_u8(b);
	s->ibpb_seen = rbuf_u8(b);
	g->vendor = (enum cpu_vendor)rbuf_u8(b);
	g->leaf7_0_edx = rbuf_u32(b);
	g->leaf7_2_edx = rbuf_u32(b);
	g->leaf80000008_ebx = rbuf_u32(b);
	g->arch_cap = rbuf_u64(b);
	g->virt_enum = rbuf_u64(b);
	g->mitigation_enum = rbuf_u64(b);
	n = rbuf_u32(b);
	if (n > VCPUS_MAX)
		return err_set(e, -EINVAL,
			       "mitigation state: %u vCPUs, at most %d are possible; the stream is "
			       "damaged",
			       n, VCPUS_MAX);
	s->vcpu = calloc(n ? n : 1, sizeof(*s->vcpu));
	if (!s->vcpu)
		return err_no_memory(e);
	s->n_vcpus = n;
	for (i = 0; i < n; i++) {
		struct mitigation_saved_vcpu *v = &s->vcpu[i];

		v->report.aware = rbuf_u8(b);
		v->report.enum_read = rbuf_u8(b);
		v->report.written = rbuf_u8(b);
		v->report.ctrl = rbuf_u64(b);
		v->promise.valid = rbuf_u8(b);
		v->promise.mask = rbuf_u64(b);
		v->promise.value = rbuf_u64(b);
		v->promise.weak = sec.version >= 2 && rbuf_u8(b);
		v->held = rbuf_u64(b);
		v->shadow = rbuf_u64(b);
		v->ibpb_issued = sec.version >= 3 && rbuf_u8(b);
	}
	if (sec.version < 3 &&
	    n) /* which vCPU issued one was not told; for KVM, one is the guest */
		s->vcpu[0].ibpb_issued = s->ibpb_seen;
	ret = section_end(&sec, e);
	return ret ? ret : mitigation_saved_check(s, e);
}
