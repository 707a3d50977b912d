/*
 * A guest into a file and out of it, in one process, on a guest that is an array of bytes: what was
 * saved is what comes back, and a file that was changed or cut short starts no guest that differs.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "byte_guest.h"
#include "migration/move/restore.h"
#include "migration/move/save.h"
#include "migration/move/source.h"

struct saved {
	struct byte_world world;
	struct byte_guest guest[2];
	int fd, cancel_fd;
	struct migrate_stats stats;
	enum migrate_status end;
};

static int new_file(void)
{
	char path[] = "/tmp/testudo-saved-XXXXXX";
	const int fd = mkostemp(path, O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

/* @keep: it goes on afterwards; @fails: a call that does */
static void save(struct saved *s, bool keep, enum byte_call fails)
{
	struct migration_source source;

	memset(s, 0, sizeof(*s));
	byte_world_init(&s->world, s->guest, 7);
	s->guest[0].fails = fails;
	s->guest[0].fails_with = -EIO;
	s->fd = new_file();
	s->cancel_fd = eventfd(0, EFD_CLOEXEC);
	migration_source_init(&source);
	source.guest = (struct migration_guest) {
		.ops = &byte_guest_ops, .ctx = &s->guest[0], .host_name = "here"};
	source.params.keep_running = keep;
	source.cancel_fd = s->cancel_fd;
	source.base = clock_now();
	source.file = (struct ram_file) {.fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0),
					 .n_bytes = (uint64_t)BYTE_PAGES * GUEST_PAGE,
					 .cancel_fd = s->cancel_fd};
	assert_int_equal(migration_save_check(s->fd, NULL), 0);
	migration_save(&source);
	s->stats = source.stats;
	s->end = source.end;
	migration_source_fini(&source);
}

/* @verify: all of its memory is compared with the checksums first */
static int restore(struct saved *s, bool verify, struct err *e)
{
	struct migration_restore r = {
		.guest = {.ops = &byte_guest_ops, .ctx = &s->guest[1], .host_name = "there"},
		.fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0),
		.cancel_fd = s->cancel_fd,
		.path = "web.saved",
		.verify = verify,
	};

	/* the process that had it has ended */
	byte_guest_stop(&s->guest[0]);
	__atomic_store_n(&s->world.disk, 0, __ATOMIC_SEQ_CST);
	assert_int_equal(lseek(s->fd, 0, SEEK_SET), 0);
	return migration_restore(&r, e);
}

static void end(struct saved *s)
{
	byte_guest_stop(&s->guest[1]);
	byte_guest_fini(&s->guest[0]);
	byte_guest_fini(&s->guest[1]);
	close(s->fd);
	close(s->cancel_fd);
}

static bool same(const struct saved *s)
{
	return s->guest[0].counter == s->guest[1].counter &&
	       memcmp(s->guest[0].map, s->guest[1].map, (size_t)BYTE_PAGES * GUEST_PAGE) == 0;
}

static void test_there_and_back(void **state)
{
	unsigned int keep, verify;

	(void)state;
	for (keep = 0; keep < 2; keep++)
		for (verify = 0; verify < 2; verify++) {
			struct err e = {0};
			struct saved s;

			save(&s, keep, CALL_NONE);
			assert_int_equal(s.end, MIGRATE_COMPLETED);
			assert_int_equal(s.guest[0].runs, keep);
			assert_int_equal(s.guest[0].stays, !keep);
			assert_int_equal(s.world.disk, 1);
			if (restore(&s, verify, &e) < 0)
				fail_msg("%s", e.text);
			assert_true(same(&s) && s.guest[1].runs && s.world.disk == 2);
			end(&s);
		}
}

/* The guest goes on as it was, and what is in the file is no guest. */
static void test_every_call_that_fails(void **state)
{
	static const enum byte_call calls[] = {CALL_PAUSE, CALL_DESCRIBE, CALL_SAVE};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		struct err e = {0};
		struct saved s;

		save(&s, false, calls[i]);
		assert_int_equal(s.end, MIGRATE_FAILED);
		assert_non_null(strstr(s.stats.error, "fails"));
		assert_true(s.guest[0].runs && s.world.disk == 1);
		assert_true(restore(&s, false, &e) < 0 && e.text[0]);
		assert_false(s.guest[1].started);
		end(&s);
	}
}

/* One byte after the other of what lies before RAM, and of RAM where it is compared. */
static void test_changed_files(void **state)
{
	unsigned int refused = 0, tried = 0;
	struct stat st;
	struct saved s;
	off_t at, ram;

	(void)state;
	save(&s, false, CALL_NONE);
	assert_int_equal(fstat(s.fd, &st), 0);
	ram = st.st_size - (off_t)BYTE_PAGES * GUEST_PAGE;
	for (at = 0; at < st.st_size; at += at < 2048 ? 5 : at < 65536 ? 499 : 65537) {
		struct err e = {0};
		uint8_t byte = 0, other;
		int ret;

		assert_int_equal(pread(s.fd, &byte, 1, at), 1);
		other = byte ^ 0x20;
		assert_int_equal(pwrite(s.fd, &other, 1, at), 1);
		ret = restore(&s, true, &e);
		assert_true(ret == 0 ? same(&s) : !s.guest[1].started && e.text[0]);
		if (at >= ram)
			assert_int_equal(ret, -EILSEQ);
		refused += ret < 0;
		tried++;
		byte_guest_stop(&s.guest[1]);
		byte_guest_fini(&s.guest[1]);
		s.guest[1].gm.n_regions = 0;
		s.guest[1].started = false;
		assert_int_equal(pwrite(s.fd, &byte, 1, at), 1);
	}
	print_message("# %u bytes changed, %u refused\n", tried, refused);
	assert_true(refused > 100);
	end(&s);
}

static void test_cut_files(void **state)
{
	static const double parts[] = {0, 0.001, 0.1, 0.7, 0.99};
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		struct err e = {0};
		struct stat st;
		struct saved s;

		save(&s, false, CALL_NONE);
		assert_int_equal(fstat(s.fd, &st), 0);
		assert_int_equal(ftruncate(s.fd, (off_t)((double)st.st_size * parts[i])), 0);
		assert_true(restore(&s, false, &e) < 0 && e.text[0]);
		assert_false(s.guest[1].started);
		end(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_every_call_that_fails),
		cmocka_unit_test(test_changed_files),
		cmocka_unit_test(test_cut_files),
	};

	log_set_level(LOG_ERR);
	return cmocka_run_group_tests_name("move_file", tests, NULL, NULL);
}
