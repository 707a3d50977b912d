/*
 * Any bytes as the state of a device (the first byte says which): refused with one line, or taken,
 * and then the device lives: its registers are read and written, its queues looked at, and what it
 * saves can be loaded again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "migration/state/buf.h"
#include "tests/fuzz/device_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_load(struct rig *r, enum rig_kind kind, const struct wbuf *w)
{
	struct rbuf again = rbuf_of(w->data, w->len);
	struct rig_device *d = malloc(sizeof(*d));
	struct err e = {0};

	rig_make(r, d, kind);
	if (w->failed || rig_load(d, &again, &e) < 0 || rbuf_left(&again))
		abort();
	rig_unmake(d);
	free(d);
}

/* The event loop's turns, without waiting. */
static void turn(struct loop *l)
{
	unsigned int i;

	for (i = 0; i < 16 && loop_turn(l, 0) > 0; i++)
		;
}

static void live(struct rig *r, struct rig_device *d)
{
	struct device *dev = d->kind == RIG_SERIAL ? &d->serial.dev : &d->mmio.dev;
	const unsigned int step = d->kind == RIG_SERIAL ? 1 : 4;
	const unsigned int end = d->kind == RIG_SERIAL ? 8 : 0x140;
	uint8_t raw[4] = {0};
	unsigned int at;

	if (d->kind == RIG_SERIAL)
		serial_resume(&d->serial);
	else
		virtio_mmio_resume(&d->mmio);
	turn(&r->loop);
	for (at = 0; at < end; at += step)
		dev->ops->read(dev, at, raw, step);
	memset(raw, 0, sizeof(raw));
	for (at = 0; at < end; at += step)
		dev->ops->write(dev, at, raw, step);
	turn(&r->loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct rig rig;
	static bool made;
	struct rig_device *d;
	struct err e = {0};
	struct wbuf w = {0};
	struct rbuf r;
	enum rig_kind kind;
	int ret;

	if (!made) {
		log_set_level(LOG_ERR); /* a driver that breaks rules is a warning */
		rig_init(&rig);
	}
	made = true;
	if (!size)
		return 0;
	kind = (enum rig_kind)(data[0] % RIG_KINDS);
	r = rbuf_of(data + 1, size - 1);
	d = malloc(sizeof(*d));
	rig_make(&rig, d, kind);
	ret = rig_load(d, &r, &e);
	if (ret < 0) {
		if (!e.text[0] || strchr(e.text, '\n'))
			abort();
	} else {
		rig_save(d, &w);
		live(&rig, d);
	}
	rig_unmake(d);
	if (!ret)
		must_load(&rig, kind, &w);
	wbuf_fini(&w);
	free(d);
	return 0;
}
