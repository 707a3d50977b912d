#include "migration/move/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/file_magic.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/description/description.h"
#include "migration/move/receive.h"
#include "migration/ram/file.h"
#include "migration/state/buf.h"
#include "migration/state/clock.h"
#include "migration/wire/channel.h"

#define TELL_NS UINT64_C(2000000000) /* between two lines of a check */

struct restoring {
	struct migration_restore *r;
	struct channel file;
	struct machine_description *description;
	struct ram_file *ram; /* @r's */
	struct frame state;
	bool running;
	char change[MIGRATE_TEXT_MAX];
	struct err *e;
};

/* A damaged one is found later, a file that never was one now. */
static int check_saved(const char *path, int fd, uint64_t size, struct err *e)
{
	const struct file_magic *m = file_magic_find(fd, size);
	char cure[FILE_CURE_MAX], head[8];
	ssize_t n;

	if (m && m->class == FILE_SAVED)
		return 0;
	if (m)
		return err_set(e, -EINVAL,
			       "--incoming file:%s: is %s, no guest that testudo save wrote; %s",
			       path, m->name, file_magic_cure(m, false, cure));
	n = pread(fd, head, sizeof(head), 0);
	if (n <= 0)
		return err_set(e, n < 0 ? -errno : -EINVAL,
			       "--incoming file:%s: %s; give a file that testudo save wrote", path,
			       n < 0 ? strerror(errno) : "is empty");
	return err_set(e, -EINVAL,
		       "--incoming file:%s: begins with %s, so testudo save did not write it; give "
		       "one that it wrote",
		       path, text_quote(head, (size_t)n).s);
}

int migration_restore_open(const char *path, struct err *e)
{
	/* a pipe in its place would otherwise block here */
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	int ret;

	if (fd < 0 && (errno != ENXIO || stat(path, &st) < 0)) /* a socket */
		return err_set(e, -errno,
			       "--incoming file:%s: %s; give a file that testudo save wrote", path,
			       strerror(errno));
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		if (fd >= 0)
			close(fd);
		return err_set(e, -EINVAL,
			       "--incoming file:%s: is %s, and memory is mapped from it; give a "
			       "regular file that testudo save wrote",
			       path, file_kind(st.st_mode));
	}
	ret = check_saved(path, fd, (uint64_t)st.st_size, e);
	if (ret < 0)
		close(fd);
	return ret < 0 ? ret : fd;
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
	c->ram->offset = m.offset;
	c->ram->n_bytes = m.size;
	return 0;
}

static int read_checksums(struct restoring *c)
{
	const uint64_t n = ram_file_parts(c->ram->n_bytes);
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
	c->ram->crc = ret ? NULL : calloc(n, sizeof(*c->ram->crc));
	if (!ret && !c->ram->crc)
		ret = err_no_memory(c->e);
	for (i = 0; !ret && i < n; i++)
		c->ram->crc[i] = get_le32(f.payload + 4 * i);
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
	if (!ret && lseek(c->ram->fd, 0, SEEK_CUR) > (off_t)c->ram->offset)
		ret = err_set(c->e, -EPROTO,
			      "its memory begins within what lies before it; the file is damaged, "
			      "use another copy");
	return ret;
}

static int read_front(struct restoring *c)
{
	int ret = read_hello(c);

	if (!ret)
		ret = receive_description(&c->file, &c->description, c->e);
	if (!ret)
		ret = read_memory(c);
	if (!ret)
		ret = channel_expect(&c->file, FRAME_STATE, &c->state, c->e);
	if (!ret)
		ret = read_checksums(c);
	return ret ? ret : read_finish(c);
}

/* A time of day that has not come yet: a line, or the end. Return: 0 or -EPERM */
static int judge_clock(const struct restoring *c, int64_t off_ns)
{
	const long long ahead_s = off_ns / CLOCK_NS_PER_S;

	if (!clock_is_apart(off_ns, 0))
		return 0;
	if (c->r->refuse_clock_difference)
		return err_set(
			c->e, -EPERM,
			"--clock-realtime: the guest was saved %lld s after this host's "
			"time of day (policy clock-difference: refuse); let NTP set the wall "
			"clock, or leave --clock-realtime out",
			ahead_s);
	log_warn("--clock-realtime: the guest was saved %lld s after this host's time of day: no "
		 "time passes for it; let NTP set the wall clock",
		 ahead_s);
	return 0;
}

/* The guest's clocks stand still in a file, unless the time of day is to count. */
static int load(struct restoring *c)
{
	const struct migration_guest *g = &c->r->guest;
	const struct clock_reading now = clock_now();
	const struct clock_window when =
		c->r->clock_realtime ? clock_window_wall(&now) : clock_window_still();
	struct rbuf in = rbuf_of(c->state.payload, c->state.len);
	int64_t off_ns = 0;
	int ret = g->ops->load(g->ctx, &when, &off_ns, &in, c->change, c->e);

	return ret ? ret : judge_clock(c, off_ns);
}

static int build(struct restoring *c)
{
	const struct migration_guest *g = &c->r->guest;
	const struct migration_memory memory = {
		.how = MEMORY_FILE, .fd = c->ram->fd, .offset = c->ram->offset, .path = c->r->path};

	return g->ops->build(g->ctx, c->description, 0, &memory, c->change, c->e);
}

void migration_restore_stats(struct migration_restore *r, struct migrate_stats *stats)
{
	const uint64_t since = __atomic_load_n(&r->check_ns, __ATOMIC_ACQUIRE);

	*stats = (struct migrate_stats) {.status = MIGRATE_NONE};
	if (!since)
		return;
	*stats = (struct migrate_stats) {
		.status = MIGRATE_ACTIVE,
		.into_file = true,
		.begin_ns = since,
		.round_ns = since,
		.ram_total = r->ram.n_bytes,
		.ram_left = r->ram.n_bytes,
	};
	migrate_progress_show(&r->ram.progress, monotonic_ns(), stats);
}

/* On the thread that reads: whoever waits for a large file hears how far it is. */
static void tell_check(struct ram_file *f)
{
	struct migration_restore *r = container_of(f, struct migration_restore, ram);
	const uint64_t now = monotonic_ns();
	struct migrate_stats s;

	if (now - r->told_ns < TELL_NS)
		return;
	migration_restore_stats(r, &s);
	if (s.status == MIGRATE_NONE)
		return;
	r->told_ns = now;
	log_info("saved guest: its memory is checked: mib=%llu of=%llu mb_per_s=%llu left_s=%llu",
		 (unsigned long long)((s.ram_total - s.ram_left) / MiB),
		 (unsigned long long)(s.ram_total / MiB),
		 (unsigned long long)(s.bytes_per_s / 1000000),
		 (unsigned long long)(s.time_left_ns / 1000000000));
}

static int check(struct restoring *c)
{
	int ret;

	c->ram->tell = tell_check;
	c->r->told_ns = monotonic_ns();
	__atomic_store_n(&c->r->check_ns, c->r->told_ns, __ATOMIC_RELEASE);
	ret = ram_file_check(c->ram, c->e);
	__atomic_store_n(&c->r->check_ns, 0, __ATOMIC_RELEASE);
	return ret;
}

static int restore(struct restoring *c)
{
	const struct migration_guest *g = &c->r->guest;
	int ret = read_front(c);

	if (!ret && c->r->verify)
		ret = check(c);
	if (!ret)
		ret = build(c);
	if (!ret)
		ret = load(c);
	if (!ret)
		ret = g->ops->take_over(g->ctx, c->e);
	if (!ret)
		ret = g->ops->start(g->ctx, c->running, c->e);
	if (!ret && c->change[0])
		log_info("mitigations of the restored guest: %s", c->change);
	return ret;
}

int migration_restore(struct migration_restore *r, struct err *e)
{
	struct restoring c = {.r = r, .ram = &r->ram, .e = e};
	const int fd = r->fd;
	int ret;

	r->fd = -1;
	ret = channel_init(&c.file, fd, FRAME_FROM_SOURCE, r->cancel_fd, 0);
	if (ret < 0)
		return err_set(e, ret, "%s", strerror(-ret));
	c.ram->fd = fd; /* lent by the channel */
	c.ram->cancel_fd = r->cancel_fd;
	ret = restore(&c);
	channel_fini(&c.file);
	description_free(c.description);
	frame_fini(&c.state);
	free(c.ram->crc);
	c.ram->crc = NULL;
	return ret;
}
