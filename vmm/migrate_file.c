#include "vmm/migrate_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/buf.h"
#include "migration/description.h"
#include "vmm/describe.h"
#include "vmm/machine_state.h"
#include "vmm/ram_file.h"
#include "vmm/run.h"
#include "vmm/version.h"

/* Where RAM may begin: a map of it can then use large pages wherever the file system has them. */
#define RAM_ALIGN (2 * MiB)

/* ---- saving ---- */

struct saving {
	struct migrate_source *s;
	struct run *run;
	struct machine_description *description;
	struct wbuf state;
	struct frame_finish finish;
	bool stopped, resume;
	struct err *e;
};

int migrate_file_check(int fd, struct err *e)
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

static int stop_on_loop(void *arg)
{
	struct saving *c = arg;
	struct run *r = c->run;
	int ret;

	pthread_mutex_lock(&c->s->lock);
	c->s->stats.pause_ns = migrate_now_ns();
	pthread_mutex_unlock(&c->s->lock);
	c->finish.running = r->control.state == RUN_RUNNING;
	control_pause(&r->control, RUN_FINISH_MIGRATE);
	c->stopped = true;
	if (run_event_waits(r))
		return err_set(c->e, -ECANCELED, "the guest ended or reset while it was saved");
	ret = describe_guest(r, c->description, c->e);
	return ret ? ret : machine_save(&r->machine, &c->state, c->e);
}

static int go_on_on_loop(void *arg)
{
	struct saving *c = arg;

	if (c->resume && c->finish.running)
		return control_resume(&c->run->control, c->e);
	control_set_state(&c->run->control, RUN_PAUSED);
	return 0;
}

static int call(struct run *r, int (*fn)(void *), void *arg, struct err *e)
{
	int ret = loop_call(&r->calls, fn, arg);

	if (ret == -ECANCELED && (!e || !e->code))
		err_set(e, ret, "testudo was told to end meanwhile");
	return ret;
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
	int ret = payload->failed ? err_set(e, -ENOMEM, "out of memory")
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
	return !ret && w->failed ? err_set(c->e, -ENOMEM, "out of memory") : ret;
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

static int flush_disks(const struct saving *c)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && !c->s->params.keep_running && i < c->run->n_disks; i++)
		ret = blk_file_flush(&c->run->disk[i], c->e);
	return ret;
}

static int write_file(struct saving *c)
{
	const struct memory *mem = &c->run->machine.memory;
	struct ram_file *f = &c->s->file;
	struct wbuf front = {0};
	int ret;

	f->crc = calloc(ram_file_parts(f->n_bytes), sizeof(*f->crc));
	ret = !f->crc || c->state.failed ? err_set(c->e, -ENOMEM, "out of memory")
					 : make_front(c, &front);
	if (!ret)
		ret = flush_disks(c);
	if (!ret) {
		f->offset = (front.len + RAM_ALIGN - 1) / RAM_ALIGN * RAM_ALIGN;
		ret = ram_file_save(f, mem->map, mem->hugepages ? -1 : mem->fd, c->e);
	}
	if (!ret) {
		c->finish.data_pages = f->written / GUEST_PAGE;
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
	int ret;

	c->description = description_new();
	ret = c->description ? call(c->run, stop_on_loop, c, c->e)
			     : err_set(c->e, -ENOMEM, "out of memory");
	if (!ret) {
		migrate_source_set_status(c->s, MIGRATE_ACTIVE);
		ret = write_file(c);
	}
	description_free(c->description);
	wbuf_fini(&c->state);
	return ret;
}

/* The guest as it was; what fails here is told, and does not hide why the saving failed. */
static int let_go_on(struct saving *c, int ret)
{
	struct err again = {0}, *cause = c->e;
	int failed;

	if (!c->stopped)
		return ret;
	c->resume = ret < 0 || c->s->params.keep_running;
	c->e = &again;
	failed = loop_call(&c->run->calls, go_on_on_loop, c);
	c->e = cause;
	if (failed < 0 && failed != -ECANCELED)
		log_err("the guest stays paused: %s; testudo resume goes on when that is settled",
			again.text);
	return ret;
}

static void note_end(struct saving *c, int ret)
{
	struct migrate_source *s = c->s;
	struct migrate_stats *st = &s->stats;
	unsigned int i;

	pthread_mutex_lock(&s->lock);
	st->end_ns = migrate_now_ns();
	if (st->pause_ns && !ret && s->params.keep_running)
		st->downtime_ns = st->end_ns - st->pause_ns;
	for (i = 0; i < c->run->n_disks; i++)
		st->writable_disks += !c->run->disk[i].readonly;
	st->pages_normal = s->file.written / GUEST_PAGE;
	st->code = ret;
	snprintf(st->error, sizeof(st->error), "%s", ret ? c->e->text : "");
	pthread_mutex_unlock(&s->lock);
	s->end = !ret ? MIGRATE_COMPLETED : ret == -ECANCELED ? MIGRATE_CANCELLED : MIGRATE_FAILED;
	if (!ret)
		log_info("the guest was saved%s",
			 s->params.keep_running ? " and goes on" : "; it stays paused until quit");
}

void migrate_file_save(struct migrate_source *s)
{
	struct err e = {0};
	struct saving c = {.s = s, .run = s->run, .e = &e};
	int ret = save(&c);

	/* before anybody hears of the end: a file without a name takes its time to go */
	close(s->file.fd);
	note_end(&c, let_go_on(&c, ret));
}

/* ---- restoring ---- */

struct restoring {
	struct migrate_dest *d;
	struct run *run;
	struct channel file;
	struct machine_description *description;
	struct ram_file ram;
	struct frame state;
	bool running;
	char change[ERR_TEXT_MAX];
	struct err *e;
};

int migrate_file_open(const char *path, struct err *e)
{
	/* a pipe in its place would otherwise block here */
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return err_set(e, -errno, "--incoming file:%s: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return err_set(e, -EINVAL,
			       "--incoming file:%s: not a regular file; give one that testudo "
			       "save wrote",
			       path);
	}
	return fd;
}

static int read_hello(struct restoring *c)
{
	struct frame_hello hello;
	struct stream_head h;
	struct frame f;
	uint64_t session;
	int ret = channel_recv_head(&c->file, &h, &session, c->e);

	if (!ret)
		ret = channel_expect(&c->file, FRAME_HELLO, &f, c->e);
	if (ret < 0)
		return ret;
	ret = frame_hello_decode(&f, &hello, c->e);
	frame_fini(&f);
	if (!ret && (h.channel || hello.flags != FRAME_HELLO_FILE || hello.n_data))
		ret = err_set(c->e, -EPROTO,
			      "a stream of a migration and no saved guest; give a file that "
			      "testudo save wrote");
	return ret;
}

static int read_description(struct restoring *c)
{
	struct frame f;
	int ret = channel_expect(&c->file, FRAME_DESCRIPTION, &f, c->e);

	if (ret < 0)
		return ret;
	ret = description_from_fdt(f.payload, f.len, &c->description, c->e);
	frame_fini(&f);
	return ret;
}

static int read_memory(struct restoring *c)
{
	struct frame_memory m;
	struct frame f;
	int ret = channel_expect(&c->file, FRAME_MEMORY, &f, c->e);

	if (ret < 0)
		return ret;
	ret = frame_memory_decode(&f, &m, c->e);
	frame_fini(&f);
	if (ret < 0)
		return ret;
	if (m.how != FRAME_MEMORY_IN_FILE || m.size != description_memory_size(c->description))
		return err_set(c->e, -EPROTO,
			       "its memory has %llu bytes, the guest it describes %llu; the file "
			       "is damaged, use another copy",
			       (unsigned long long)m.size,
			       (unsigned long long)description_memory_size(c->description));
	c->ram.offset = m.offset;
	c->ram.n_bytes = m.size;
	return 0;
}

static int read_checksums(struct restoring *c)
{
	const uint64_t n = ram_file_parts(c->ram.n_bytes);
	struct frame f;
	uint64_t i;
	int ret = channel_expect(&c->file, FRAME_CHECKSUMS, &f, c->e);

	if (ret < 0)
		return ret;
	if (f.len != n * 4)
		ret = err_set(c->e, -EPROTO,
			      "frame checksums has %u bytes, its memory needs %llu; the file is "
			      "damaged, use another copy",
			      f.len, (unsigned long long)n * 4);
	c->ram.crc = ret ? NULL : calloc(n, sizeof(*c->ram.crc));
	if (!ret && !c->ram.crc)
		ret = err_set(c->e, -ENOMEM, "out of memory");
	for (i = 0; !ret && i < n; i++)
		c->ram.crc[i] = get_le32(f.payload + 4 * i);
	frame_fini(&f);
	return ret;
}

static int read_finish(struct restoring *c)
{
	struct frame_finish finish;
	struct frame f;
	int ret = channel_expect(&c->file, FRAME_FINISH, &f, c->e);

	if (ret < 0)
		return ret;
	ret = frame_finish_decode(&f, &finish, c->e);
	frame_fini(&f);
	c->running = finish.running;
	if (!ret && lseek(c->ram.fd, 0, SEEK_CUR) > (off_t)c->ram.offset)
		ret = err_set(c->e, -EPROTO,
			      "its memory begins within what lies before it; the file is damaged, "
			      "use another copy");
	return ret;
}

static int read_front(struct restoring *c)
{
	int ret = read_hello(c);

	if (!ret)
		ret = read_description(c);
	if (!ret)
		ret = read_memory(c);
	if (!ret)
		ret = channel_expect(&c->file, FRAME_STATE, &c->state, c->e);
	if (!ret)
		ret = read_checksums(c);
	return ret ? ret : read_finish(c);
}

static int build_on_loop(void *arg)
{
	struct restoring *c = arg;
	struct run *r = c->run;
	const struct memory_file memory = {.fd = c->ram.fd, .offset = c->ram.offset};
	struct rbuf in = rbuf_of(c->state.payload, c->state.len);
	unsigned int i;
	int ret = describe_apply(r, c->description, c->change, sizeof(c->change), c->e);

	if (!ret)
		ret = run_build_saved(r, &memory, c->e);
	if (!ret)
		ret = machine_restore(&r->machine, &in, c->e);
	for (i = 0; !ret && i < r->n_disks; i++)
		ret = blk_file_take_over(&r->disk[i], c->e);
	return ret ? ret : run_start_arrived(r, c->running, c->e);
}

static int restore(struct restoring *c)
{
	int ret = read_front(c);

	if (!ret && c->run->config.verify_snapshot)
		ret = ram_file_check(&c->ram, c->e);
	if (!ret)
		ret = call(c->run, build_on_loop, c, c->e);
	if (!ret && c->change[0])
		log_info("mitigations of the restored guest: %s", c->change);
	return ret;
}

int migrate_file_restore(struct migrate_dest *d, struct err *e)
{
	struct restoring c = {.d = d, .run = d->run, .e = e};
	const int fd = d->fd;
	int ret;

	d->fd = -1;
	ret = channel_init(&c.file, fd, FRAME_FROM_SOURCE, d->cancel_fd, 0);
	if (ret < 0)
		return err_set(e, ret, "%s", strerror(-ret));
	c.ram.fd = fd; /* lent by the channel */
	c.ram.cancel_fd = d->cancel_fd;
	ret = restore(&c);
	channel_fini(&c.file);
	description_free(c.description);
	frame_fini(&c.state);
	free(c.ram.crc);
	return ret;
}
