/*
 * How fast guest RAM moves, beside a raw probe: the same bytes by plain write(2), read(2) and
 * pwrite(2) into cold memory, with no format, no checksum and no copy. Both in turn, each with a
 * receiver in a process of its own; the clock runs until the receiver has it all.
 *
 * usage: ram_move [unix|tcp] [random|zero|none] [runs] [MiB] [channels]
 * One line a run: contestant, milliseconds, CPU milliseconds of both sides. Then medians.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/ram/recv.h"
#include "migration/ram/send.h"
#include "vmm/kvm/memory.h"

#define RUNS_MAX 101
#define CHUNK	 (256 * KiB)

enum contestant { RAW, OURS, CONTESTANTS };
static const char *const names[] = {"raw", "testudo"};

struct bench {
	uint64_t size;
	unsigned int n;
	bool tcp, untouched;
	struct memory src;
};

struct job {
	const struct bench *b;
	struct memory *m; /* of the receiver */
	unsigned int i;
	int fd;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static double cpu_ms(int who)
{
	struct rusage r;

	getrusage(who, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e3 +
	       (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e3;
}

static void connect_pair(const struct bench *b, int pair[2])
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t len = sizeof(addr);
	const int on = 1;
	int l;

	if (!b->tcp) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
			die("socketpair");
		return;
	}
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	l = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || bind(l, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (struct sockaddr *)&addr, &len) < 0)
		die("listen");
	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(pair[0], (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die("connect");
	pair[1] = accept(l, NULL, NULL);
	close(l);
	if (setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		die("TCP_NODELAY");
}

static void *raw_send(void *arg)
{
	const struct job *j = arg;
	uint64_t at, done;

	for (at = j->i * CHUNK; at < j->b->size; at += CHUNK * j->b->n)
		for (done = 0; done < CHUNK;) {
			const ssize_t n =
				write(j->fd, j->b->src.map + at + done, CHUNK - (size_t)done);

			if (n <= 0)
				die("write");
			done += (uint64_t)n;
		}
	return NULL;
}

static void *raw_recv(void *arg)
{
	const struct job *j = arg;
	uint8_t *staging = aligned_alloc(GUEST_PAGE, CHUNK);
	uint64_t at, done;

	for (at = j->i * CHUNK; at < j->b->size; at += CHUNK * j->b->n) {
		for (done = 0; done < CHUNK;) {
			const ssize_t n = read(j->fd, staging + done, CHUNK - (size_t)done);

			if (n <= 0)
				die("read");
			done += (uint64_t)n;
		}
		if (pwrite(j->m->fd, staging, CHUNK, (off_t)at) != (ssize_t)CHUNK)
			die("pwrite");
	}
	free(staging);
	return NULL;
}

static void raw_side(const struct bench *b, struct memory *m, const int *fds, void *(*side)(void *))
{
	pthread_t thread[RAM_CHANNELS_MAX];
	struct job job[RAM_CHANNELS_MAX];
	unsigned int i;

	for (i = 0; i < b->n; i++) {
		job[i] = (struct job) {b, m, i, fds[i]};
		if (pthread_create(&thread[i], NULL, side, &job[i]))
			die("pthread_create");
	}
	for (i = 0; i < b->n; i++)
		pthread_join(thread[i], NULL);
}

/* no guest runs: nothing gets dirty */
static int no_watch(void *ctx, uint32_t slot, const struct guest_mem_region *r, bool on)
{
	(void)ctx, (void)slot, (void)r, (void)on;
	return 0;
}

static int no_get(void *ctx, uint32_t slot, uint64_t *bits)
{
	(void)ctx, (void)slot, (void)bits;
	return 0;
}

static int no_clear(void *ctx, uint32_t slot, uint64_t first, uint32_t n, const uint64_t *bits)
{
	(void)ctx, (void)slot, (void)first, (void)n, (void)bits;
	return 0;
}

static void check(int ret, const struct err *e)
{
	if (!ret)
		return;
	fprintf(stderr, "ram_move: %s\n", e->text);
	exit(1);
}

static void our_send(struct bench *b, const int *fds)
{
	static const struct dirty_log_ops ops = {
		.watch = no_watch, .get = no_get, .clear = no_clear};
	struct ram_send_config c = {
		.map = b->src.map,
		.hole_fd = b->src.fd,
		.fds = fds,
		.n = b->n,
		.cancel_fd = -1,
		.stall_ms = 30000,
	};
	struct dirty_log log;
	struct ram_round round;
	struct ram_send s;
	struct err e = {0};

	check(dirty_log_init(&log, &b->src.guest, &ops, NULL, &e), &e);
	c.log = &log;
	check(ram_send_init(&s, &c, &e), &e);
	check(ram_send_round(&s, RAM_ROUND_FIRST, &round, &e), &e);
	check(ram_send_round(&s, RAM_ROUND_LAST, &round, &e), &e);
	ram_send_fini(&s);
	dirty_log_fini(&log);
}

static void our_recv(const struct bench *b, const struct memory *m, const int *fds)
{
	const struct ram_recv_config c = {
		.map = m->map,
		.fd = m->fd,
		.n_pages = b->size / GUEST_PAGE,
		.fds = fds,
		.n = b->n,
		.cancel_fd = -1,
		.stall_ms = 30000,
	};
	struct ram_recv r;
	struct err e = {0};

	check(ram_recv_start(&r, &c, &e), &e);
	check(ram_recv_join(&r, &e), &e);
	ram_recv_fini(&r);
}

/* The receiver's process: says when it is ready and when it has everything, then its CPU time. */
static void receiver(const struct bench *b, enum contestant who, const int *fds, int ctl)
{
	const struct memory_options opt = {.size_bytes = b->size};
	struct memory m;
	struct err e = {0};
	double cpu;

	check(memory_init(&m, &opt, &e), &e);
	if (write(ctl, "r", 1) != 1)
		die("write");
	cpu = cpu_ms(RUSAGE_SELF);
	if (who == RAW)
		raw_side(b, &m, fds, raw_recv);
	else
		our_recv(b, &m, fds);
	cpu = cpu_ms(RUSAGE_SELF) - cpu;
	if (write(ctl, &cpu, sizeof(cpu)) != sizeof(cpu))
		die("write");
	/* looking at a hole would fill it for the next run */
	if (!b->untouched && memcmp(m.map, b->src.map, b->size) != 0) {
		fprintf(stderr, "ram_move: memory differs\n");
		exit(1);
	}
	exit(0);
}

static double run(struct bench *b, enum contestant who, double *cpu)
{
	int src[RAM_CHANNELS_MAX], dst[RAM_CHANNELS_MAX], ctl[2], status;
	double start, end, theirs;
	unsigned int i;
	char ready;
	pid_t pid;

	for (i = 0; i < b->n; i++) {
		int pair[2];

		connect_pair(b, pair);
		src[i] = pair[0];
		dst[i] = pair[1];
	}
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ctl) < 0)
		die("socketpair");
	fflush(stdout);
	pid = fork();
	if (!pid)
		receiver(b, who, dst, ctl[1]);
	if (read(ctl[0], &ready, 1) != 1)
		die("read");
	*cpu = cpu_ms(RUSAGE_SELF);
	start = now_ms();
	if (who == RAW)
		raw_side(b, NULL, src, raw_send);
	else
		our_send(b, src);
	*cpu = cpu_ms(RUSAGE_SELF) - *cpu;
	if (read(ctl[0], &theirs, sizeof(theirs)) != sizeof(theirs))
		die("read");
	end = now_ms();
	*cpu += theirs;
	waitpid(pid, &status, 0);
	if (status)
		exit(1);
	for (i = 0; i < b->n; i++) {
		close(src[i]);
		close(dst[i]);
	}
	close(ctl[0]);
	close(ctl[1]);
	return end - start;
}

static void fill(struct bench *b, const char *what)
{
	uint64_t i, x = 88172645463325252;

	if (strcmp(what, "zero") == 0)
		memset(b->src.map, 0, b->size);
	for (i = 0; strcmp(what, "random") == 0 && i < b->size; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		put_le64(b->src.map + i, x);
	}
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	const char *transport = argc > 1 ? argv[1] : "unix", *what = argc > 2 ? argv[2] : "random";
	const int runs = argc > 3 ? atoi(argv[3]) : 5;
	const struct memory_options opt = {
		.size_bytes = (argc > 4 ? strtoull(argv[4], NULL, 10) : 1024) * MiB};
	double ms[CONTESTANTS][RUNS_MAX], cpu[CONTESTANTS][RUNS_MAX];
	struct bench b = {
		.size = opt.size_bytes,
		.n = argc > 5 ? (unsigned int)atoi(argv[5]) : 2,
		.tcp = strcmp(transport, "tcp") == 0,
		.untouched = strcmp(what, "none") == 0,
	};
	struct err e = {0};
	int i, who;

	if (runs < 1 || runs > RUNS_MAX || b.n < 1 || b.n > RAM_CHANNELS_MAX) {
		fprintf(stderr, "usage: ram_move [unix|tcp] [random|zero|none] [runs] [MiB] "
				"[channels]\n");
		return 2;
	}
	check(memory_init(&b.src, &opt, &e), &e);
	fill(&b, what);
	for (i = 0; i < runs; i++)
		for (who = 0; who < CONTESTANTS; who++) {
			/* without data there is nothing that the probe could be compared in */
			if (who == RAW && strcmp(what, "random") != 0)
				continue;
			ms[who][i] = run(&b, (enum contestant)who, &cpu[who][i]);
			printf("%s %s %s ms=%.1f cpu_ms=%.1f\n", transport, what, names[who],
			       ms[who][i], cpu[who][i]);
		}
	for (who = strcmp(what, "random") == 0 ? RAW : OURS; who < CONTESTANTS; who++) {
		qsort(ms[who], (size_t)runs, sizeof(double), compare);
		qsort(cpu[who], (size_t)runs, sizeof(double), compare);
		printf("# %s %s %s: min %.1f median %.1f ms, CPU min %.1f median %.1f ms\n",
		       transport, what, names[who], ms[who][0], ms[who][runs / 2], cpu[who][0],
		       cpu[who][runs / 2]);
	}
	memory_fini(&b.src);
	return 0;
}
