/*
 * Any bytes as the saved state of a machine's vCPUs, chips, clock and mitigations, loaded into a
 * KVM that is none (state_rig.h): refused with one line, or taken, and then what is saved again is
 * taken, too. The first byte says which part, the second what that KVM refuses.
 */
#include "base/err.h"
#include "migration/state/buf.h"
#include "migration/state/section.h"
#include "tests/fuzz/state_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum part { MITIGATION, TIME, VCPUS, CHIPS, ALL, PARTS };

static void check(int ret, const struct err *e)
{
	if (ret < 0 && (!e->text[0] || strchr(e->text, '\n')))
		abort();
}

/* What was taken is within its bounds, and is the same after another trip. */
static int load_mitigation(struct rbuf *r, struct err *e)
{
	struct mitigation_saved s, again;
	struct wbuf w = {0}, w2 = {0};
	int ret = mitigation_saved_decode(r, &s, e);

	if (!ret) {
		struct rbuf back;

		mitigation_saved_encode(&s, &w);
		back = rbuf_of(w.data, w.len);
		if (w.failed || mitigation_saved_check(&s, NULL) < 0 ||
		    mitigation_saved_decode(&back, &again, NULL) < 0 || rbuf_left(&back))
			abort();
		mitigation_saved_encode(&again, &w2);
		if (w2.failed || w.len != w2.len || memcmp(w.data, w2.data, w.len) != 0)
			abort();
		mitigation_saved_fini(&again);
	}
	mitigation_saved_fini(&s);
	wbuf_fini(&w);
	wbuf_fini(&w2);
	return ret;
}

static int load_vcpus(const struct vm *vm, struct vcpu *vcpus, struct rbuf *r, struct err *e)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < RIG_VCPUS; i++)
		ret = vcpu_restore(&vcpus[i], vm, r, e);
	return ret;
}

static int load(enum part part, const struct vm *vm, struct vcpu *vcpus, struct rbuf *r,
		struct err *e)
{
	struct vm_time_load time = {.window = clock_window_between(0, 1, UINT64_MAX),
				    .invariant_tsc = true};
	int ret = 0;

	if (part == MITIGATION || part == ALL)
		ret = load_mitigation(r, e);
	if (!ret && (part == TIME || part == ALL))
		ret = vm_restore_time(vm, vcpus, RIG_VCPUS, &time, r, e);
	if (!ret && (part == VCPUS || part == ALL))
		ret = load_vcpus(vm, vcpus, r, e);
	if (!ret && (part == CHIPS || part == ALL))
		ret = vm_restore_chips(vm, r, e);
	return ret ? ret : section_finish(r, e);
}

/* Loaded once, vCPUs can be saved, and that loads again. */
static void check_again(const struct vm *vm, struct vcpu *vcpus)
{
	const struct kvm kvm = {.fd = RIG_KVM_FD};
	struct wbuf w = {0};
	struct err e = {0};
	struct rbuf r;
	uint32_t i;

	for (i = 0; i < RIG_VCPUS; i++)
		if (vcpu_save(&vcpus[i], &kvm, vm, &w, &e) < 0 || w.failed)
			abort();
	r = rbuf_of(w.data, w.len);
	if (load_vcpus(vm, vcpus, &r, &e) < 0 || rbuf_left(&r))
		abort();
	wbuf_fini(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig_kvm *kvm = rig_kvm();
	struct vcpu vcpus[RIG_VCPUS];
	struct err e = {0};
	enum part part;
	struct vm vm;
	struct rbuf r;
	int ret;

	if (size < 2)
		return 0;
	kvm->n_kept = kvm->n_msrs = kvm->next_msr = kvm->calls = 0;
	kvm->refuses = data[1];
	part = (enum part)(data[0] % PARTS);
	rig_machine(&vm, vcpus);
	r = rbuf_of(data + 2, size - 2);
	ret = load(part, &vm, vcpus, &r, &e);
	check(ret, &e);
	if (!ret && part == VCPUS && !kvm->refuses && kvm->n_msrs < RIG_MSRS / 2)
		check_again(&vm, vcpus);
	return 0;
}
