#include "migration/move/save.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/guest_mem.h"
#include "base/log.h"
#include "base/version.h"
#include "migration/description/description.h"
#include "migration/move/source.h"
#include "migration/ram/file.h"
#include "migration/state/buf.h"

/* Where RAM may begin: a map of it can then use large pages wherever the file system has them. */
#define RAM_ALIGN (2 * MiB)

struct saving {
	struct migration_source *s;
	const struct migration_guest *guest; /* @s's */
	struct migration_pause pause;
	struct machine_description *description;
	struct wbuf state;
	struct frame_finish finish;
	struct err *e;
};

int migration_save_check(int fd, struct err *e)
{
	const int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || fstat(fd, &st) < 0)
		return err_set(e, -errno, "the file to save into: %s", strerror(errno));
	if ((flags & O_ACCMODE) == O_RDONLY || flags & (O_APPEND | O_DIRECT | O_PATH))
		return err_set(e, -EINVAL,
			       "the file to save into cannot be written at any place; open it for "
			       "writing, without O_APPEND and O_DIRECT");
	if (!S_ISREG(st.st_mode) || st.st_size)
		return err_set(e, -EINVAL,
			       "the file to save into has %lld bytes; give a new regular file",
			       (long long)st.st_size);
	return 0;
}

static int put_frame(struct wbuf *w, enum frame_type type, const void *payload, size_t len,
		     struct err *e)
{
	const struct frame_kind *kind = frame_kind_of((uint16_t)type);
	uint8_t head[FRAME_HEAD_SIZE];

	if (len > kind->max_len)
		return err_set(e, -EMSGSIZE, "the guest's %s has %zu bytes; a file has room for %u",
			       kind->name, len, kind->max_len);
	frame_head_encode(type, payload, (uint32_t)len, head);
	wbuf_bytes(w, head, sizeof(head));
	wbuf_bytes(w, payload, len);
	return 0;
}

static int put_small(struct wbuf *w, enum frame_type type, struct wbuf *payload, struct err *e)
{
	int ret = payload->failed ? err_no_memory(e)
				  : put_frame(w, type, payload->data, payload->len, e);

	wbuf_fini(payload);
	return ret;
}

static int put_hello(const struct saving *c, struct wbuf *w)
{
	struct frame_hello hello = {
		.version_min = STREAM_VERSION,
		.version_max = STREAM_VERSION,
		.features = FRAME_FEATURES,
		.session = c->s->session,
		.flags = FRAME_HELLO_FILE,
	};
	struct wbuf payload = {0};

	snprintf(hello.program, sizeof(hello.program), "testudo %s", TESTUDO_VERSION);
	frame_hello_encode(&hello, &payload);
	return put_small(w, FRAME_HELLO, &payload, c->e);
}

static int put_description(const struct saving *c, struct wbuf *w)
{
	void *blob = NULL;
	size_t len = 0;
	int ret = description_to_fdt(c->description, &blob, &len, c->e);

	if (!ret)
		ret = put_frame(w, FRAME_DESCRIPTION, blob, len, c->e);
	free(blob);
	return ret;
}

static int put_memory(const struct saving *c, struct wbuf *w)
{
	const struct frame_memory memory = {.how = FRAME_MEMORY_IN_FILE,
					    .size = c->s->file.n_bytes,
					    .offset = c->s->file.offset};
	struct wbuf payload = {0};

	frame_memory_encode(&memory, &payload);
	return put_small(w, FRAME_MEMORY, &payload, c->e);
}

static int put_checksums(const struct saving *c, struct wbuf *w)
{
	const uint64_t n = ram_file_parts(c->s->file.n_bytes);
	struct wbuf payload = {0};
	uint64_t i;

	for (i = 0; i < n; i++)
		wbuf_u32(&payload, c->s->file.crc[i]);
	return put_small(w, FRAME_CHECKSUMS, &payload, c->e);
}

/* All that lies before RAM. Its length does not depend on the offset and sums that are in it. */
static int make_front(const struct saving *c, struct wbuf *w)
{
	struct wbuf finish = {0};
	uint8_t head[STREAM_HEAD_SIZE];
	int ret;

	w->len = 0;
	stream_head_encode(0, head);
	wbuf_bytes(w, head, sizeof(head));
	ret = put_hello(c, w);
	if (!ret)
		ret = put_description(c, w);
	if (!ret)
		ret = put_memory(c, w);
	if (!ret)
		ret = put_frame(w, FRAME_STATE, c->state.data, c->state.len, c->e);
	if (!ret)
		ret = put_checksums(c, w);
	frame_finish_encode(&c->finish, &finish);
	if (!ret)
		ret = put_small(w, FRAME_FINISH, &finish, c->e);
	else
		wbuf_fini(&finish);
	return !ret && w->failed ? err_no_memory(c->e) : ret;
}

static int write_front(const struct saving *c, const struct wbuf *w)
{
	size_t at = 0;

	while (at < w->len) {
		const ssize_t n = pwrite(c->s->file.fd, w->data + at, w->len - at, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(c->e, n < 0 ? -errno : -ENOSPC,
				       "save: %s; give a file on a disk with more room",
				       n < 0 ? strerror(errno) : "no room");
		at += (size_t)n;
	}
	return 0;
}

static int write_file(struct saving *c)
{
	struct migration_ram memory;
	struct ram_file *f = &c->s->file;
	struct wbuf front = {0};
	int ret;

	c->guest->ops->ram(c->guest->ctx, &memory);
	f->crc = calloc(ram_file_parts(f->n_bytes), sizeof(*f->crc));
	ret = f->crc ? make_front(c, &front) : err_no_memory(c->e);
	if (!ret && !c->s->params.keep_running)
		ret = c->guest->ops->flush(c->guest->ctx, c->e);
	if (!ret) {
		f->offset = (front.len + RAM_ALIGN - 1) / RAM_ALIGN * RAM_ALIGN;
		migration_source_begin_round(c->s);
		ret = ram_file_save(f, memory.map, memory.no_pages ? -1 : memory.fd, c->e);
	}
	if (!ret) {
		c->finish.data_pages = f->progress.bytes / GUEST_PAGE;
		ret = make_front(c, &front);
	}
	if (!ret)
		ret = write_front(c, &front);
	wbuf_fini(&front);
	free(f->crc);
	f->crc = NULL;
	return ret;
}

static int save(struct saving *c)
{
	const struct migration_guest_ops *ops = c->guest->ops;
	void *ctx = c->guest->ctx;
	int ret;

	c->description = description_new();
	ret = c->description ? ops->pause(ctx, &c->pause, c->e) : err_no_memory(c->e);
	if (!ret)
		ret = ops->describe(ctx, c->description, c->e);
	if (!ret)
		ret = ops->save(ctx, &c->s->base, false, &c->state, c->e);
	if (!ret) {
		c->finish.running = c->pause.ran;
		migration_source_set_status(c->s, MIGRATE_ACTIVE);
		ret = write_file(c);
	}
	description_free(c->description);
	wbuf_fini(&c->state);
	return ret;
}

/* The guest as it was; what fails here is told, and does not hide why the saving failed. */
static void let_go_on(struct saving *c, int ret)
{
	const struct migration_guest_ops *ops = c->guest->ops;
	struct err e = {0};

	if (!c->pause.stopped)
		return;
	if (!ret && !c->s->params.keep_running)
		ret = ops->stay_paused(c->guest->ctx, &e);
	else
		ret = ops->take_back(c->guest->ctx, &c->pause, &e);
	if (ret < 0 && ret != -ECANCELED)
		log_err("the guest stays paused: %s; testudo resume goes on when that is settled",
			e.text);
}

static void note_end(struct saving *c, int ret)
{
	struct migration_source *s = c->s;
	struct migrate_stats *st = &s->stats;

	pthread_mutex_lock(&s->lock);
	st->end_ns = monotonic_ns();
	st->pause_ns = c->pause.at_ns;
	if (st->pause_ns && !ret && s->params.keep_running)
		st->downtime_ns = st->end_ns - st->pause_ns;
	st->pages_normal = s->file.progress.bytes / GUEST_PAGE;
	st->code = ret;
	snprintf(st->error, sizeof(st->error), "%s", ret ? c->e->text : "");
	pthread_mutex_unlock(&s->lock);
	s->end = !ret ? MIGRATE_COMPLETED : ret == -ECANCELED ? MIGRATE_CANCELLED : MIGRATE_FAILED;
	if (!ret)
		log_info("the guest was saved%s",
			 s->params.keep_running ? " and goes on" : "; it stays paused until quit");
}

void migration_save(struct migration_source *s)
{
	struct err e = {0};
	struct saving c = {.s = s, .guest = &s->guest, .e = &e};
	int ret = save(&c);

	/* before anybody hears of the end: a file without a name takes its time to go */
	close(s->file.fd);
	let_go_on(&c, ret);
	note_end(&c, ret);
}
