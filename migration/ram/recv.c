#include "migration/ram/recv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"

static void fail(struct ram_recv *r, int ret, const struct err *e)
{
	const uint64_t one = 1;

	pthread_mutex_lock(&r->lock);
	if (!r->result) {
		r->result = ret;
		r->err = *e;
	}
	pthread_cond_broadcast(&r->met);
	pthread_mutex_unlock(&r->lock);
	if (write(r->io.stop_fd, &one, sizeof(one)) < 0)
		return; /* counted up already */
}

/* Wait until all channels are through with the round. Return: is there another one? */
static bool meet(struct ram_recv *r, bool last)
{
	const uint32_t round = r->round;
	bool more;

	pthread_mutex_lock(&r->lock);
	if (last)
		r->last = true;
	if (++r->waiting == r->config.n) {
		r->waiting = 0;
		r->complete = r->last;
		r->round++;
		pthread_cond_broadcast(&r->met);
	}
	while (r->round == round && !r->result)
		pthread_cond_wait(&r->met, &r->lock);
	more = !r->result && !r->complete;
	pthread_mutex_unlock(&r->lock);
	return more;
}

/*
 * Whole pages by pwrite(2): the kernel fills a new page with them at once, where a store through
 * the mapping would have it zeroed first.
 */
static int store(const struct ram_recv *r, uint64_t page, unsigned int n, const uint8_t *from,
		 struct err *e)
{
	const size_t len = (size_t)n * GUEST_PAGE;
	const uint64_t at = page * GUEST_PAGE;
	ssize_t done;

	if (r->config.fd < 0) {
		memcpy(r->config.map + at, from, len);
		return 0;
	}
	do
		done = pwrite(r->config.fd, from, len, (off_t)at);
	while (done < 0 && errno == EINTR);
	if (done != (ssize_t)len)
		return err_set(e, done < 0 ? -errno : -ENOSPC,
			       "no memory for guest page %#llx: %s; free some on this host",
			       (unsigned long long)page, done < 0 ? strerror(errno) : "it is full");
	return 0;
}

/* Back to what it was before anything came: no memory, and reads as zero */
static int store_zeros(const struct ram_recv *r, uint64_t page, unsigned int n, struct err *e)
{
	const uint64_t at = page * GUEST_PAGE, len = (uint64_t)n * GUEST_PAGE;

	if (r->config.fd < 0)
		memset(r->config.map + at, 0, len);
	else if (fallocate(r->config.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
			   (off_t)len) < 0)
		return err_set(e, -errno, "guest page %#llx cannot be emptied: %s",
			       (unsigned long long)page, strerror(errno));
	return 0;
}

static int store_run(const struct ram_recv *r, const struct ram_run *run, const uint8_t **from,
		     struct err *e)
{
	uint64_t bits = run->data;
	unsigned int at, n;
	int ret = 0;

	while (!ret && bits) {
		n = ram_bits_next(&bits, &at);
		ret = store(r, run->first_page + at, n, *from, e);
		*from += (size_t)n * GUEST_PAGE;
	}
	bits = run->zero;
	while (!ret && bits) {
		n = ram_bits_next(&bits, &at);
		ret = store_zeros(r, run->first_page + at, n, e);
	}
	return ret;
}

static int recv_pages(struct ram_recv_channel *c, const struct ram_head *h, struct err *e)
{
	struct ram_recv *r = c->recv;
	uint8_t table[RAM_FRAME_RUNS * RAM_RUN_BYTES];
	const size_t table_len = (size_t)h->n_runs * RAM_RUN_BYTES;
	const size_t pages_len = (size_t)h->n_pages * GUEST_PAGE;
	struct iovec iov[] = {
		{.iov_base = table, .iov_len = table_len},
		{.iov_base = c->ch.staging, .iov_len = pages_len},
	};
	const uint8_t *from = c->ch.staging;
	uint64_t zeros = 0;
	unsigned int i;
	int ret = ram_io_recv(&r->io, c->ch.fd, iov, ARRAY_SIZE(iov), false, e);

	if (!ret)
		ret = ram_table_get(c->run, table, h, r->config.n_pages, e);
	if (!ret && crc32c_pages(c->ch.staging, h->n_pages) != h->pages_crc)
		ret = err_set(e, -EILSEQ,
			      "memory stream: pages from %#llx on have a wrong checksum; the "
			      "network damages data, try again",
			      (unsigned long long)c->run[0].first_page);
	for (i = 0; !ret && i < h->n_runs; i++) {
		ret = store_run(r, &c->run[i], &from, e);
		zeros += (uint64_t)__builtin_popcountll(c->run[i].zero);
	}
	__atomic_fetch_add(&r->pages, h->n_pages, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->zero_pages, zeros, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->bytes, RAM_HEAD_BYTES + table_len + pages_len, __ATOMIC_RELAXED);
	return ret;
}

static void *channel_thread(void *arg)
{
	struct ram_recv_channel *c = arg;
	struct ram_recv *r = c->recv;
	struct err e = {0};
	bool more = true;
	int ret = 0;

	pthread_setname_np(pthread_self(), "ram-recv");
	while (more && !ret) {
		uint8_t head[RAM_HEAD_BYTES];
		struct iovec iov = {.iov_base = head, .iov_len = sizeof(head)};
		struct ram_head h;

		ret = ram_io_recv(&r->io, c->ch.fd, &iov, 1, true, &e);
		if (!ret)
			ret = ram_head_get(&h, head, r->round, &e);
		if (!ret && h.kind == RAM_PAGES)
			ret = recv_pages(c, &h, &e);
		else if (!ret)
			more = meet(r, h.kind == RAM_LAST_END);
	}
	if (ret < 0)
		fail(r, ret, &e);
	return NULL;
}

static int start_channel(struct ram_recv *r, unsigned int i, struct err *e)
{
	struct ram_recv_channel *c = &r->channel[i];
	int ret = ram_channel_open(&c->ch, r->config.fds[i], r->config.n, e);

	c->recv = r;
	return ret ? ret : ram_channel_start(&c->ch, i, channel_thread, c, e);
}

int ram_recv_start(struct ram_recv *r, const struct ram_recv_config *config, struct err *e)
{
	unsigned int i;
	int ret;

	memset(r, 0, sizeof(*r));
	r->config = *config;
	r->round = 1;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->met, NULL);
	ret = ram_io_init(&r->io, config->n, config->cancel_fd, config->stall_ms, "source", e);
	if (ret < 0)
		return ret;
	r->channel = calloc(config->n, sizeof(*r->channel));
	if (!r->channel)
		return err_set(e, -ENOMEM, "migration: no memory for %u data channels", config->n);
	for (i = 0; !ret && i < config->n; i++)
		ret = start_channel(r, i, e);
	r->config.fds = NULL;
	return ret;
}

static void join_all(struct ram_recv *r)
{
	unsigned int i;

	for (i = 0; r->channel && i < r->config.n; i++)
		ram_channel_join(&r->channel[i].ch);
}

int ram_recv_join(struct ram_recv *r, struct err *e)
{
	join_all(r);
	return r->result ? err_set(e, r->result, "%s", r->err.text) : 0;
}

void ram_recv_stop(struct ram_recv *r)
{
	const struct err e = {.text = "the migration was cancelled"};

	fail(r, -ECANCELED, &e);
}

bool ram_recv_failed(struct ram_recv *r)
{
	bool failed;

	pthread_mutex_lock(&r->lock);
	failed = r->result;
	pthread_mutex_unlock(&r->lock);
	return failed;
}

bool ram_recv_complete(struct ram_recv *r)
{
	bool complete;

	pthread_mutex_lock(&r->lock);
	complete = r->complete;
	pthread_mutex_unlock(&r->lock);
	return complete;
}

void ram_recv_fini(struct ram_recv *r)
{
	unsigned int i;

	if (!r->config.map)
		return;
	ram_recv_stop(r);
	for (i = 0; r->channel && i < r->config.n; i++)
		ram_channel_close(&r->channel[i].ch);
	free(r->channel);
	if (r->io.stop_fd >= 0)
		close(r->io.stop_fd);
	pthread_cond_destroy(&r->met);
	pthread_mutex_destroy(&r->lock);
	memset(r, 0, sizeof(*r));
}
