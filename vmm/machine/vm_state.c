#include "vmm/machine/vm_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/state/section.h"
#include "vmm/kvm/vm.h"

#define VERSION	       1
#define PIT_MODE_RESET 0xff /* KVM's, of a channel that was never programmed */

static int call(const struct vm *vm, unsigned long request, void *arg, const char *name,
		struct err *e)
{
	if (ioctl(vm->fd, request, arg) >= 0)
		return 0;
	return err_set(e, -errno, "%s: %s; see the kernel's log", name, strerror(errno));
}

/* ---- interrupt controllers and PIT ---- */

static const struct {
	const char *name;
	uint32_t id;
	size_t size;
} chips[] = {
	{"pic", KVM_IRQCHIP_PIC_MASTER, sizeof(struct kvm_pic_state)},
	{"pic", KVM_IRQCHIP_PIC_SLAVE, sizeof(struct kvm_pic_state)},
	{"ioapic", KVM_IRQCHIP_IOAPIC, sizeof(struct kvm_ioapic_state)},
};

/*
 * KVM counts a channel from count_load_time, in this host's monotonic time: an age is what another
 * host understands.
 */
static int save_pit(const struct vm *vm, struct wbuf *w, struct err *e)
{
	struct kvm_pit_state2 pit;
	const struct wbuf body = {.data = (uint8_t *)&pit, .len = sizeof(pit)};
	const uint64_t now = monotonic_ns();
	size_t i;
	int ret = call(vm, KVM_GET_PIT2, &pit, "KVM_GET_PIT2", e);

	if (ret < 0)
		return ret;
	for (i = 0; i < ARRAY_SIZE(pit.channels); i++)
		pit.channels[i].count_load_time = (int64_t)now - pit.channels[i].count_load_time;
	section_put(w, "pit", 0, VERSION, &body);
	return 0;
}

int vm_save_chips(const struct vm *vm, struct wbuf *w, struct err *e)
{
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = {.chip_id = chips[i].id};
		const struct wbuf body = {.data = (uint8_t *)&chip.chip, .len = chips[i].size};

		ret = call(vm, KVM_GET_IRQCHIP, &chip, "KVM_GET_IRQCHIP", e);
		if (!ret)
			section_put(w, chips[i].name, (uint16_t)chips[i].id, VERSION, &body);
	}
	return ret ? ret : save_pit(vm, w, e);
}

/* A section that is one struct of KVM's. */
static int read_struct(struct rbuf *r, const char *name, uint32_t instance, void *to, size_t size,
		       struct err *e)
{
	struct section s;
	const uint8_t *from;
	int ret = section_expect(r, name, (uint16_t)instance, VERSION, &s, e);

	if (ret < 0)
		return ret;
	from = rbuf_bytes(&s.body, size);
	ret = section_end(&s, e);
	if (!ret)
		memcpy(to, from, size);
	return ret;
}

/* KVM trusts these fields as far as not to crash; what it would misread is refused here. */
static int check_pit(const struct kvm_pit_state2 *pit, struct err *e)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(pit->channels); i++) {
		const struct kvm_pit_channel_state *c = &pit->channels[i];

		if (c->count > 0x10000 || (c->mode > 7 && c->mode != PIT_MODE_RESET) ||
		    c->rw_mode > 4)
			return err_set(e, -EINVAL,
				       "state: section 'pit': channel %zu: count %u, mode %u, "
				       "access %u are no PIT's; the stream is damaged",
				       i, c->count, c->mode, c->rw_mode);
	}
	return 0;
}

static int restore_pit(const struct vm *vm, struct rbuf *r, struct err *e)
{
	struct kvm_pit_state2 pit;
	const uint64_t now = monotonic_ns();
	size_t i;
	int ret = read_struct(r, "pit", 0, &pit, sizeof(pit), e);

	if (!ret)
		ret = check_pit(&pit, e);
	if (ret)
		return ret;
	for (i = 0; i < ARRAY_SIZE(pit.channels); i++)
		pit.channels[i].count_load_time =
			(int64_t)(now - (uint64_t)pit.channels[i].count_load_time);
	return call(vm, KVM_SET_PIT2, &pit, "KVM_SET_PIT2", e);
}

int vm_restore_chips(const struct vm *vm, struct rbuf *r, struct err *e)
{
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < ARRAY_SIZE(chips); i++) {
		struct kvm_irqchip chip = {.chip_id = chips[i].id};

		ret = read_struct(r, chips[i].name, chips[i].id, &chip.chip, chips[i].size, e);
		if (!ret)
			ret = call(vm, KVM_SET_IRQCHIP, &chip, "KVM_SET_IRQCHIP", e);
	}
	return ret ? ret : restore_pit(vm, r, e);
}
