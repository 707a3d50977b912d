/* Two ends of a socket pair; the far one is a thread, or bytes written by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "migration/state/buf.h"
#include "migration/wire/channel.h"

struct pair {
	struct channel src, dst; /* each named after who holds it */
	int cancel;
};

static void pair_open(struct pair *p, unsigned int timeout_ms)
{
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	p->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(p->cancel >= 0);
	assert_int_equal(
		channel_init(&p->src, sv[0], FRAME_FROM_DESTINATION, p->cancel, timeout_ms), 0);
	assert_int_equal(channel_init(&p->dst, sv[1], FRAME_FROM_SOURCE, p->cancel, timeout_ms), 0);
}

static void pair_close(struct pair *p)
{
	channel_fini(&p->src);
	channel_fini(&p->dst);
	close(p->cancel);
}

static void expect_text(const struct err *e, const char *word)
{
	if (!strstr(e->text, word))
		fail_msg("'%s' is not in: %s", word, e->text);
	assert_null(strchr(e->text, '\n'));
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static const uint8_t eight[8] = {1, 2, 3, 4, 5, 6, 7, 8};

/* Who is no testudo, what is said of it where a source is due, and where a destination is. */
static const struct {
	const char *bytes;
	size_t len;
	const char *as_source, *as_destination;
} strangers[] = {
	{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27, "'GET / HTTP/1.1?\?' (HTTP)", NULL},
	{"HTTP/1.1 400 Bad Request\r\n", 26, NULL, "'HTTP/1.1 400 Bad' (HTTP)"},
	{"SSH-2.0-OpenSSH_9.2p1\r\n", 23, "(SSH)", "'SSH-2.0-OpenSSH_' (SSH)"},
	{"\x16\x03\x01\x02\0\1\0\1\xfc\3\3ABCDEF", 18, "1603010200010001fc03034142434445 (TLS)",
	 "(TLS)"},
	{"{\"QMP\": {\"version\": {}}}", 24, "(a QMP monitor)", "(a QMP monitor)"},
	{"QEVM\0\0\0\3\2\0\0\0\1\6ra", 16, "(QEMU's migration)", "(QEMU's migration)"},
	{"\x1b[2Jclear it now\n", 17, "1b5b324a", NULL},
	{"hello, who is there?\n", 21, "'hello, who is th'", "'hello, who is th'"},
	{"QUIT\r\n", 6, "only 'QUIT?\?' came", NULL},
	{"TSTUDOMX and more", 17, "no migration stream", NULL},
};

static void strangers_are_told(void **state)
{
	struct stream_head h;
	uint64_t session;
	struct frame f;
	struct pair p;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(strangers); i++) {
		struct err e = {0};

		pair_open(&p, 1000);
		if (strangers[i].as_source) {
			assert_int_equal(write(p.src.transport->fd, strangers[i].bytes,
					       strangers[i].len),
					 strangers[i].len);
			shutdown(p.src.transport->fd, SHUT_WR);
			assert_int_equal(channel_recv_head(&p.dst, &h, &session, &e), -EPROTO);
			expect_text(&e, "no migration stream of testudo");
			expect_text(&e, strangers[i].as_source);
			assert_null(strchr(e.text, '\x1b'));
		}
		e = (struct err) {0};
		if (strangers[i].as_destination) {
			assert_int_equal(write(p.dst.transport->fd, strangers[i].bytes,
					       strangers[i].len),
					 strangers[i].len);
			assert_int_equal(channel_recv(&p.src, &f, &e), -EBADMSG);
			expect_text(&e, "no testudo that waits for a guest");
			expect_text(&e, strangers[i].as_destination);
			assert_null(strstr(e.text, "damaged"));
		}
		pair_close(&p);
	}
}

/* One of testudo's that was damaged stays that, also when it is the first. */
static void damaged_is_no_stranger(void **state)
{
	uint8_t head[FRAME_HEAD_SIZE];
	unsigned int byte, n;
	struct frame f;
	struct pair p;

	(void)state;
	for (byte = 0; byte < FRAME_HEAD_SIZE; byte++)
		for (n = 0; n < 2; n++) {
			struct err e = {0};

			pair_open(&p, 1000);
			if (n)
				assert_int_equal(channel_send(&p.dst, FRAME_ACK, eight, 8, NULL),
						 0);
			frame_head_encode(FRAME_ACK, eight, 8, head);
			head[byte] ^= 0x20;
			assert_int_equal(write(p.dst.transport->fd, head, sizeof(head)),
					 sizeof(head));
			if (n) {
				assert_int_equal(channel_recv(&p.src, &f, NULL), 0);
				frame_fini(&f);
			}
			assert_int_equal(channel_recv(&p.src, &f, &e), -EBADMSG);
			expect_text(&e, "damaged on its way");
			pair_close(&p);
		}
}

static void frames_arrive(void **state)
{
	struct pair p;
	struct frame f;

	(void)state;
	pair_open(&p, 1000);
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, NULL), 0);
	assert_true(p.src.send_started);
	assert_int_equal(channel_send(&p.src, FRAME_STATE, eight, 1, NULL), 0);
	assert_int_equal(p.src.sent_bytes, 16 + 8 + 16 + 1);
	assert_int_equal(channel_recv(&p.dst, &f, NULL), 0);
	assert_int_equal(f.type, FRAME_COMMIT);
	assert_int_equal(f.len, 8);
	assert_memory_equal(f.payload, eight, 8);
	frame_fini(&f);
	assert_int_equal(channel_recv(&p.dst, &f, NULL), 0);
	assert_int_equal(f.type, FRAME_STATE);
	assert_int_equal(f.len, 1);
	frame_fini(&f);
	assert_int_equal(p.dst.received_bytes, 41);
	pair_close(&p);
}

static void heads_arrive(void **state)
{
	struct stream_head h;
	uint64_t session;
	struct pair p;

	(void)state;
	pair_open(&p, 1000);
	assert_int_equal(channel_send_head(&p.src, 0, 99, NULL), 0);
	assert_int_equal(channel_send_head(&p.src, 2, 99, NULL), 0);
	assert_int_equal(p.src.sent_bytes, 16 + 24);
	assert_int_equal(channel_recv_head(&p.dst, &h, &session, NULL), 0);
	assert_int_equal(h.channel, 0);
	assert_int_equal(session, 0);
	assert_int_equal(channel_recv_head(&p.dst, &h, &session, NULL), 0);
	assert_int_equal(h.channel, 2);
	assert_int_equal(session, 99);
	pair_close(&p);
}

static void wrong_length_is_not_sent(void **state)
{
	struct err e = {0};
	struct pair p;

	(void)state;
	pair_open(&p, 1000);
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 7, &e), -EMSGSIZE);
	expect_text(&e, "commit frame of 7 bytes");
	assert_int_equal(p.src.sent_bytes, 0);
	assert_false(p.src.send_started);
	pair_close(&p);
}

/* ---- damage ---- */

/* A commit frame with one byte changed: every place of head and payload. */
static void flipped_bytes(void **state)
{
	unsigned int at;

	(void)state;
	for (at = 0; at < FRAME_HEAD_SIZE + 8; at++) {
		uint8_t raw[FRAME_HEAD_SIZE + 8];
		struct err e = {0};
		struct frame f;
		struct pair p;

		pair_open(&p, 1000);
		frame_head_encode(FRAME_COMMIT, eight, 8, raw);
		memcpy(raw + FRAME_HEAD_SIZE, eight, 8);
		raw[at] ^= 0x10;
		assert_int_equal(channel_write(&p.src, raw, sizeof(raw), NULL), 0);
		assert_int_equal(channel_recv(&p.dst, &f, &e), -EBADMSG);
		expect_text(&e, "damaged");
		assert_null(f.payload);
		pair_close(&p);
	}
}

static void closed_before_and_within(void **state)
{
	unsigned int sent;

	(void)state;
	for (sent = 0; sent < FRAME_HEAD_SIZE + 8; sent++) {
		uint8_t raw[FRAME_HEAD_SIZE + 8];
		struct err e = {0};
		struct frame f;
		struct pair p;

		pair_open(&p, 1000);
		frame_head_encode(FRAME_COMMIT, eight, 8, raw);
		memcpy(raw + FRAME_HEAD_SIZE, eight, 8);
		assert_int_equal(channel_write(&p.src, raw, sent, NULL), 0);
		channel_fini(&p.src);
		assert_int_equal(channel_recv(&p.dst, &f, &e), -ECONNRESET);
		if (sent == 0)
			assert_string_equal(e.text, "the other side closed the connection");
		else
			expect_text(&e, "the other side closed the connection");
		if (sent && sent < FRAME_HEAD_SIZE)
			expect_text(&e, "of 16 bytes");
		assert_null(f.payload);
		pair_close(&p);
	}
}

static void unknown_frames(void **state)
{
	uint8_t raw[FRAME_HEAD_SIZE + 5000];
	struct err e = {0};
	struct frame f;
	struct pair p;
	unsigned int i;

	(void)state;
	pair_open(&p, 1000);
	memset(raw, 7, sizeof(raw));
	put_le16(raw, 500);
	put_le16(raw + 2, 0);
	put_le32(raw + 4, 5000);
	put_le32(raw + 8, crc32c(0, raw + FRAME_HEAD_SIZE, 5000));
	put_le32(raw + 12, crc32c(0, raw, 12));
	assert_int_equal(channel_write(&p.src, raw, sizeof(raw), NULL), 0);
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, NULL), 0);
	assert_int_equal(channel_recv(&p.dst, &f, NULL), 0);
	assert_int_equal(f.type, FRAME_COMMIT); /* the other one was skipped */
	frame_fini(&f);

	raw[FRAME_HEAD_SIZE + 4999] ^= 1;
	assert_int_equal(channel_write(&p.src, raw, sizeof(raw), NULL), 0);
	assert_int_equal(channel_recv(&p.dst, &f, &e), -EBADMSG);
	expect_text(&e, "skipped frame of type 500");
	pair_close(&p);

	/* nothing but unknown frames for ever */
	pair_open(&p, 1000);
	put_le32(raw + 4, 0);
	put_le32(raw + 8, 0);
	put_le32(raw + 12, crc32c(0, raw, 12));
	for (i = 0; i <= CHANNEL_SKIP_MAX; i++)
		assert_int_equal(channel_write(&p.src, raw, FRAME_HEAD_SIZE, NULL), 0);
	e = (struct err) {0};
	assert_int_equal(channel_recv(&p.dst, &f, &e), -EPROTO);
	expect_text(&e, "unknown frames in a row");
	pair_close(&p);
}

/* ---- waiting ---- */

static void stalled_peer(void **state)
{
	static uint8_t big[4 << 20];
	struct err e = {0};
	struct frame f;
	struct pair p;
	uint64_t t;

	(void)state;
	pair_open(&p, 50);
	t = now_ms();
	assert_int_equal(channel_recv(&p.dst, &f, &e), -ETIMEDOUT);
	assert_in_range(now_ms() - t, 45, 2000);
	expect_text(&e, "the source has sent no byte for 50 ms");

	/* nobody reads: a part leaves, the rest does not */
	e = (struct err) {0};
	assert_int_equal(channel_send(&p.src, FRAME_STATE, big, sizeof(big), &e), -ETIMEDOUT);
	expect_text(&e, "the destination has taken no byte for 50 ms");
	assert_true(p.src.send_started);
	assert_true(p.src.send_broken);
	assert_in_range(p.src.sent_bytes, 1, sizeof(big));

	/* now the socket is full: of the next frame not a byte leaves */
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, NULL), -ETIMEDOUT);
	assert_false(p.src.send_started);
	pair_close(&p);
}

struct slow {
	struct pair *p;
	size_t left;
	unsigned int part;
	unsigned int pause_us;
};

static void *read_slowly(void *arg)
{
	struct slow *s = arg;
	uint8_t buf[65536];

	while (s->left) {
		ssize_t n = read(s->p->dst.transport->fd, buf, s->part);

		if (n <= 0)
			break;
		s->left -= (size_t)n;
		usleep(s->pause_us);
	}
	return NULL;
}

/* Slow is not stalled: it takes several times timeout_ms in all, and ends well. */
static void slow_peer(void **state)
{
	static uint8_t big[2 << 20];
	struct pair p;
	struct slow s = {&p, sizeof(big) + FRAME_HEAD_SIZE, 65536, 10000};
	pthread_t t;

	(void)state;
	pair_open(&p, 200);
	assert_int_equal(pthread_create(&t, NULL, read_slowly, &s), 0);
	assert_int_equal(channel_send(&p.src, FRAME_STATE, big, sizeof(big), NULL), 0);
	assert_false(p.src.send_broken);
	assert_int_equal(p.src.sent_bytes, sizeof(big) + FRAME_HEAD_SIZE);
	pthread_join(t, NULL);
	assert_int_equal(s.left, 0);
	pair_close(&p);
}

static void *send_bytewise(void *arg)
{
	struct pair *p = arg;
	uint8_t raw[FRAME_HEAD_SIZE + 8];
	unsigned int i;

	frame_head_encode(FRAME_COMMIT, eight, 8, raw);
	memcpy(raw + FRAME_HEAD_SIZE, eight, 8);
	for (i = 0; i < sizeof(raw); i++) {
		if (write(p->src.transport->fd, raw + i, 1) != 1)
			break;
		usleep(500);
	}
	return NULL;
}

static void byte_by_byte(void **state)
{
	struct frame f;
	struct pair p;
	pthread_t t;

	(void)state;
	pair_open(&p, 1000);
	assert_int_equal(pthread_create(&t, NULL, send_bytewise, &p), 0);
	assert_int_equal(channel_recv(&p.dst, &f, NULL), 0);
	assert_int_equal(f.type, FRAME_COMMIT);
	assert_memory_equal(f.payload, eight, 8);
	frame_fini(&f);
	pthread_join(t, NULL);
	pair_close(&p);
}

static void *cancel_soon(void *arg)
{
	usleep(20000);
	eventfd_write(*(int *)arg, 1);
	return NULL;
}

/* When the first bytes have come through */
static void *cancel_begun(void *arg)
{
	const struct pair *p = arg;
	struct pollfd in = {.fd = p->dst.transport->fd, .events = POLLIN};

	poll(&in, 1, 10000);
	eventfd_write(p->cancel, 1);
	return NULL;
}

static void cancel_wakes(void **state)
{
	static uint8_t big[4 << 20];
	struct frame_fail fail;
	struct err e = {0};
	struct frame f;
	struct pair p;
	pthread_t t;

	(void)state;
	pair_open(&p, 0); /* for ever */
	assert_int_equal(pthread_create(&t, NULL, cancel_soon, &p.cancel), 0);
	assert_int_equal(channel_recv(&p.dst, &f, &e), -ECANCELED);
	expect_text(&e, "cancelled");
	pthread_join(t, NULL);
	/* it stays so, for data that would fit as well */
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, NULL), -ECANCELED);
	assert_false(p.src.send_started);
	assert_int_equal(p.src.sent_bytes, 0);
	/* but goodbye is said */
	channel_send_fail(&p.src, FRAME_CODE_CANCELLED, "by the user");
	assert_true(channel_recv_reason(&p.dst, &fail));
	assert_int_equal(fail.code, FRAME_CODE_CANCELLED);
	pair_close(&p);

	pair_open(&p, 0);
	assert_int_equal(pthread_create(&t, NULL, cancel_begun, &p), 0);
	assert_int_equal(channel_send(&p.src, FRAME_STATE, big, sizeof(big), NULL), -ECANCELED);
	assert_true(p.src.send_started);
	pthread_join(t, NULL);
	/* in the middle of a frame there is nothing sensible to say */
	channel_send_fail(&p.src, FRAME_CODE_CANCELLED, "by the user");
	pair_close(&p);
}

static void closed_while_sending(void **state)
{
	struct frame_fail fail;
	struct err e = {0};
	struct pair p;

	(void)state;
	pair_open(&p, 1000);
	channel_send_fail(&p.dst, FRAME_CODE_FAILED, "no space left");
	channel_fini(&p.dst);
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, &e), -ECONNRESET);
	expect_text(&e, "the other side closed the connection");
	assert_false(p.src.send_started);
	assert_true(channel_recv_reason(&p.src, &fail));
	assert_int_equal(fail.code, FRAME_CODE_FAILED);
	assert_string_equal(fail.text, "no space left");
	assert_false(channel_recv_reason(&p.src, &fail));
	pair_close(&p);
}

/* A destination that has judged says so while the source still sends its description. */
static void refused_while_sending(void **state)
{
	const struct frame_verdict no = {.code = FRAME_CODE_POLICY, .text = "bhi is on"};
	const struct frame_verdict yes = {.code = FRAME_CODE_OK};
	struct frame_fail fail;
	struct wbuf w = {0};
	struct err e = {0};
	struct pair p;

	(void)state;
	pair_open(&p, 1000);
	frame_verdict_encode(&yes, &w);
	assert_int_equal(channel_send_built(&p.dst, FRAME_VERDICT, &w, NULL), 0);
	frame_verdict_encode(&no, &w);
	assert_int_equal(channel_send_built(&p.dst, FRAME_VERDICT, &w, NULL), 0);
	channel_fini(&p.dst);
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, &e), -ECONNRESET);
	assert_true(channel_recv_reason(&p.src, &fail));
	assert_int_equal(fail.code, FRAME_CODE_POLICY);
	assert_string_equal(fail.text, "bhi is on");
	assert_false(channel_recv_reason(&p.src, &fail));
	pair_close(&p);
}

/* ---- what is due ---- */

static void expecting(void **state)
{
	static const struct {
		const char *name;
		enum frame_code code;
		int ret;
		const char *says;
	} rows[] = {
		{"policy", FRAME_CODE_POLICY, -EPERM, "the source refuses: why"},
		{"mismatch", FRAME_CODE_MISMATCH, -EREMOTEIO, "the source refuses: why"},
		{"failed", FRAME_CODE_FAILED, -EREMOTEIO, "the source failed: why"},
		{"protocol", FRAME_CODE_PROTOCOL, -EREMOTEIO, "the source failed: why"},
		{"cancelled", FRAME_CODE_CANCELLED, -ECANCELED, "the source cancelled: why"},
	};
	struct frame f;
	struct pair p;
	unsigned int i;

	(void)state;
	pair_open(&p, 1000);
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err e = {0};

		print_message("%s\n", rows[i].name);
		channel_send_fail(&p.src, rows[i].code, "why");
		assert_int_equal(channel_expect(&p.dst, FRAME_COMMIT, &f, &e), rows[i].ret);
		expect_text(&e, rows[i].says);
		assert_null(f.payload);
	}
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, NULL), 0);
	assert_int_equal(channel_expect(&p.dst, FRAME_FINISH, &f, NULL), -EPROTO);
	assert_int_equal(channel_send(&p.src, FRAME_COMMIT, eight, 8, NULL), 0);
	assert_int_equal(channel_expect(&p.dst, FRAME_COMMIT, &f, NULL), 0);
	frame_fini(&f);
	pair_close(&p);
}

/* ---- descriptors ---- */

static unsigned int open_fds(void)
{
	unsigned int n = 0;
	int fd;

	for (fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void memory_frame(struct wbuf *w)
{
	struct frame_memory m = {.how = FRAME_MEMORY_PASSED, .n_fds = 1, .size = 4096};

	frame_memory_encode(&m, w);
}

static void descriptors_arrive(void **state)
{
	unsigned int before = open_fds(), n;
	struct wbuf w = {0};

	(void)state;
	memory_frame(&w);
	for (n = 1; n <= CHANNEL_FDS_MAX; n++) {
		int fds[CHANNEL_FDS_MAX], got[CHANNEL_FDS_MAX];
		struct stat a, b;
		struct frame f;
		struct pair p;
		unsigned int i;

		pair_open(&p, 1000);
		for (i = 0; i < n; i++)
			fds[i] = open(i % 2 ? "/dev/zero" : "/dev/null", O_RDONLY | O_CLOEXEC);
		assert_int_equal(channel_send_fds(&p.src, FRAME_MEMORY, w.data, (uint32_t)w.len,
						  fds, n, NULL),
				 0);
		assert_int_equal(channel_recv_fds(&p.dst, FRAME_MEMORY, &f, got, n, NULL), 0);
		assert_int_equal(f.len, w.len);
		frame_fini(&f);
		for (i = 0; i < n; i++) {
			fstat(fds[i], &a);
			fstat(got[i], &b);
			assert_int_equal(a.st_rdev, b.st_rdev);
			assert_int_equal(fcntl(got[i], F_GETFD), FD_CLOEXEC);
			close(fds[i]);
			close(got[i]);
		}
		pair_close(&p);
	}
	wbuf_fini(&w);
	assert_int_equal(open_fds(), before);
}

/* Too few, too many, the wrong frame, or none expected at all: refused, and nothing stays open. */
static void descriptors_refused(void **state)
{
	static const struct {
		const char *name;
		unsigned int send, expect;
		enum frame_type type;
		const char *says;
	} rows[] = {
		{"none", 0, 1, FRAME_MEMORY, "0 descriptors; 1 belong"},
		{"too few", 1, 2, FRAME_MEMORY, "1 descriptors; 2 belong"},
		{"too many", 4, 1, FRAME_MEMORY, "4 descriptors; 1 belong"},
		{"another frame", 1, 1, FRAME_STATE, "a state frame where memory is due"},
	};
	unsigned int before = open_fds(), i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		int fds[CHANNEL_FDS_MAX], got[CHANNEL_FDS_MAX];
		struct wbuf w = {0};
		struct err e = {0};
		struct frame f;
		struct pair p;

		print_message("%s\n", rows[i].name);
		pair_open(&p, 1000);
		for (j = 0; j < rows[i].send; j++)
			fds[j] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (rows[i].type == FRAME_MEMORY)
			memory_frame(&w);
		else
			wbuf_u8(&w, 0);
		if (rows[i].send)
			assert_int_equal(channel_send_fds(&p.src, rows[i].type, w.data,
							  (uint32_t)w.len, fds, rows[i].send, NULL),
					 0);
		else
			assert_int_equal(channel_send(&p.src, rows[i].type, w.data, (uint32_t)w.len,
						      NULL),
					 0);
		assert_true(channel_recv_fds(&p.dst, FRAME_MEMORY, &f, got, rows[i].expect, &e) <
			    0);
		expect_text(&e, rows[i].says);
		assert_null(f.payload);
		for (j = 0; j < rows[i].send; j++)
			close(fds[j]);
		wbuf_fini(&w);
		pair_close(&p);
	}
	assert_int_equal(open_fds(), before);
}

static void descriptors_not_expected(void **state)
{
	unsigned int before = open_fds();
	struct wbuf w = {0};
	struct frame f;
	struct pair p;
	int fd = 0;

	(void)state;
	pair_open(&p, 1000);
	memory_frame(&w);
	assert_int_equal(
		channel_send_fds(&p.src, FRAME_MEMORY, w.data, (uint32_t)w.len, &fd, 1, NULL), 0);
	assert_int_equal(channel_recv(&p.dst, &f, NULL), 0);
	assert_int_equal(f.type, FRAME_MEMORY);
	frame_fini(&f);
	wbuf_fini(&w);
	pair_close(&p);
	assert_int_equal(open_fds(), before);
}

/* ---- other carriers ---- */

static void files_and_pipes(void **state)
{
	char path[] = "/tmp/test_channel.XXXXXX";
	int fd = mkstemp(path), pipes[2];
	struct err e = {0};
	struct channel ch;
	struct frame f;

	(void)state;
	unlink(path);
	assert_int_equal(channel_init(&ch, dup(fd), FRAME_FROM_SOURCE, -1, 100), 0);
	assert_int_equal(channel_send(&ch, FRAME_COMMIT, eight, 8, NULL), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(channel_recv(&ch, &f, NULL), 0);
	assert_memory_equal(f.payload, eight, 8);
	frame_fini(&f);
	assert_int_equal(channel_recv(&ch, &f, &e), -ECONNRESET);
	expect_text(&e, "the file or pipe ends");
	channel_fini(&ch);
	close(fd);

	/* a disk that is full */
	e = (struct err) {0};
	assert_int_equal(channel_init(&ch, open("/dev/full", O_WRONLY | O_CLOEXEC),
				      FRAME_FROM_DESTINATION, -1, 100),
			 0);
	assert_int_equal(channel_send(&ch, FRAME_COMMIT, eight, 8, &e), -ENOSPC);
	expect_text(&e, "No space left");
	assert_false(ch.send_started);
	channel_fini(&ch);

	/* a pipe does not block beyond the deadline */
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(channel_init(&ch, pipes[0], FRAME_FROM_SOURCE, -1, 50), 0);
	assert_int_equal(channel_recv(&ch, &f, NULL), -ETIMEDOUT);
	channel_fini(&ch);
	close(pipes[1]);
}

/* A transport of one's own: everything turned round by one bit, as encryption would. */
struct turned {
	struct transport t;
	struct transport plain;
};

static ssize_t turned_read(struct transport *t, void *buf, size_t len, short *wait)
{
	struct turned *x = container_of(t, struct turned, t);
	ssize_t n = x->plain.ops->read(&x->plain, buf, len, wait), i;

	for (i = 0; i < n; i++)
		((uint8_t *)buf)[i] ^= 0x80;
	return n;
}

static ssize_t turned_writev(struct transport *t, const struct iovec *iov, int n, short *wait)
{
	struct turned *x = container_of(t, struct turned, t);
	uint8_t buf[64];
	size_t len = iov->iov_len < sizeof(buf) ? iov->iov_len : sizeof(buf), i;
	struct iovec out = {buf, len};

	(void)n;
	for (i = 0; i < len; i++)
		buf[i] = ((const uint8_t *)iov->iov_base)[i] ^ 0x80;
	return x->plain.ops->writev(&x->plain, &out, 1, wait);
}

static void turned_close(struct transport *t)
{
	struct turned *x = container_of(t, struct turned, t);

	x->plain.ops->close(&x->plain);
}

static const struct transport_ops turned_ops = {
	.ended = "the other side closed the connection",
	.read = turned_read,
	.writev = turned_writev,
	.close = turned_close,
};

static void another_transport(void **state)
{
	struct turned a = {.t.ops = &turned_ops}, b = {.t.ops = &turned_ops};
	struct channel src, dst;
	struct frame f;
	int sv[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(transport_plain(&a.plain, sv[0]), 0);
	assert_int_equal(transport_plain(&b.plain, sv[1]), 0);
	a.t.fd = sv[0];
	b.t.fd = sv[1];
	channel_init_transport(&src, &a.t, FRAME_FROM_DESTINATION, -1, 1000);
	channel_init_transport(&dst, &b.t, FRAME_FROM_SOURCE, -1, 1000);
	assert_int_equal(channel_send(&src, FRAME_COMMIT, eight, 8, NULL), 0);
	assert_int_equal(channel_recv(&dst, &f, NULL), 0);
	assert_memory_equal(f.payload, eight, 8);
	frame_fini(&f);
	channel_fini(&src);
	assert_int_equal(channel_recv(&dst, &f, NULL), -ECONNRESET);
	channel_fini(&dst);
}

static void zeroed_is_closed(void **state)
{
	struct channel ch;

	(void)state;
	channel_zero(&ch);
	channel_send_fail(&ch, FRAME_CODE_FAILED, "nobody hears");
	channel_fini(&ch);
	channel_fini(&ch);
	assert_true(channel_init(&ch, -1, FRAME_FROM_SOURCE, -1, 0) < 0);
	channel_fini(&ch);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_arrive),
		cmocka_unit_test(strangers_are_told),
		cmocka_unit_test(damaged_is_no_stranger),
		cmocka_unit_test(heads_arrive),
		cmocka_unit_test(wrong_length_is_not_sent),
		cmocka_unit_test(flipped_bytes),
		cmocka_unit_test(closed_before_and_within),
		cmocka_unit_test(unknown_frames),
		cmocka_unit_test(stalled_peer),
		cmocka_unit_test(slow_peer),
		cmocka_unit_test(byte_by_byte),
		cmocka_unit_test(cancel_wakes),
		cmocka_unit_test(closed_while_sending),
		cmocka_unit_test(refused_while_sending),
		cmocka_unit_test(expecting),
		cmocka_unit_test(descriptors_arrive),
		cmocka_unit_test(descriptors_refused),
		cmocka_unit_test(descriptors_not_expected),
		cmocka_unit_test(files_and_pipes),
		cmocka_unit_test(another_transport),
		cmocka_unit_test(zeroed_is_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
