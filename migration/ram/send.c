#include "migration/ram/send.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "migration/ram/progress.h"

/* Words that a thread takes at a time: 4 MiB of guest memory, one call of KVM. */
#define GROUP_WORDS 16
/* A round of fewer pages is sent by the caller alone: waking threads takes longer. */
#define ALONE_PAGES 64

struct group {
	uint64_t word;
	unsigned int n;
	uint64_t bits[GROUP_WORDS];
};

/* The first failure ends the work of all threads. */
static int fail(struct ram_send *s, int ret, const struct err *e)
{
	const uint64_t one = 1;

	pthread_mutex_lock(&s->lock);
	if (!s->result) {
		s->result = ret;
		s->err = *e;
	}
	pthread_mutex_unlock(&s->lock);
	if (write(s->io.stop_fd, &one, sizeof(one)) < 0)
		return ret; /* counted up already */
	return ret;
}

/* The next page at or after @page that is in the memory file; the end if there is none */
static uint64_t next_data(const struct ram_send *s, uint64_t page)
{
	const uint64_t end = s->config.log->n_pages;
	uint64_t next;
	off_t data;

	if (s->config.hole_fd < 0 || (page >= s->data_first && page < s->data_end))
		return page;
	data = lseek(s->config.hole_fd, (off_t)(page * GUEST_PAGE), SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? end : page; /* cannot be told: read it */
	next = (uint64_t)data / GUEST_PAGE;
	return next < end ? next : end;
}

/*
 * How far data reaches from @page on, which is data. The kernel looks at each page for that: what
 * was found is kept, so that it does so once.
 */
static uint64_t end_of_data(struct ram_send *s, uint64_t page)
{
	off_t hole;

	if (page >= s->data_first && page < s->data_end)
		return s->data_end;
	hole = s->config.hole_fd < 0
		       ? -1
		       : lseek(s->config.hole_fd, (off_t)(page * GUEST_PAGE), SEEK_HOLE);
	s->data_first = page;
	s->data_end =
		hole < 0 ? s->config.log->n_pages : ((uint64_t)hole + GUEST_PAGE - 1) / GUEST_PAGE;
	return s->data_end;
}

/* Bits of the pages of @word that are data, in memory of which nothing was taken away since */
static uint64_t data_bits(struct ram_send *s, uint64_t word)
{
	const uint64_t first = word * DIRTY_WORD_PAGES, n_pages = s->config.log->n_pages;
	const uint64_t end =
		first + DIRTY_WORD_PAGES < n_pages ? first + DIRTY_WORD_PAGES : n_pages;
	uint64_t page = first, bits = 0;

	while ((page = next_data(s, page)) < end) {
		uint64_t upto = end_of_data(s, page);

		if (upto <= page) /* it was taken away between the two looks */
			upto = page + 1;
		if (upto > end)
			upto = end;
		bits |= (UINT64_MAX >> (DIRTY_WORD_PAGES - (upto - page))) << (page - first);
		page = upto;
	}
	return bits;
}

/* Pages of the words from @word up to @end; the last word may not be a whole one. */
static uint64_t pages_in(const struct ram_send *s, uint64_t word, uint64_t end)
{
	const uint64_t n_pages = s->config.log->n_pages;

	return (end * DIRTY_WORD_PAGES < n_pages ? end * DIRTY_WORD_PAGES : n_pages) -
	       word * DIRTY_WORD_PAGES;
}

/*
 * First round: watch, and only then look for holes. A page that is a hole after it is watched holds
 * zeros, and who fills it later makes it dirty.
 */
static int hand_out_all(struct ram_send *s, struct group *g, struct err *e)
{
	struct dirty_log *log = s->config.log;
	unsigned int i;
	int ret;

	for (;;) {
		const uint64_t word = s->next_word;
		uint64_t data;

		g->word = word;
		g->n = log->n_words - word < GROUP_WORDS ? (unsigned int)(log->n_words - word)
							 : GROUP_WORDS;
		if (!g->n)
			return 0;
		data = next_data(s, word * DIRTY_WORD_PAGES) / DIRTY_WORD_PAGES;
		if (data < word + GROUP_WORDS) {
			s->next_word += g->n;
			ret = dirty_log_take_all(log, word, g->n, e);
			for (i = 0; i < g->n; i++)
				g->bits[i] = data_bits(s, word + i);
			return ret;
		}
		/* a long hole, at one go */
		if (data > log->n_words)
			data = log->n_words;
		ret = dirty_log_take_all(log, word, data - word, e);
		if (ret < 0)
			return ret;
		if (next_data(s, word * DIRTY_WORD_PAGES) / DIRTY_WORD_PAGES < data)
			continue; /* somebody filled it in the meantime */
		migrate_progress_add(s->config.progress, 0, pages_in(s, word, data) * GUEST_PAGE);
		s->next_word = data;
	}
}

static void hand_out_dirty(struct ram_send *s, struct group *g)
{
	const struct dirty_log *log = s->config.log;
	const uint64_t word = dirty_log_next(log, s->next_word);

	g->word = word;
	g->n = log->n_words - word < GROUP_WORDS ? (unsigned int)(log->n_words - word)
						 : GROUP_WORDS;
	s->next_word = word + g->n;
}

/* Return: 0, with g->n = 0 when the round is handed out */
static int hand_out(struct ram_send *s, struct group *g, struct err *e)
{
	int ret = 0;

	g->n = 0;
	pthread_mutex_lock(&s->lock);
	if (s->result)
		ret = -ECANCELED;
	else if (s->first)
		ret = hand_out_all(s, g, e);
	else
		hand_out_dirty(s, g);
	pthread_mutex_unlock(&s->lock);
	if (!ret && !s->first && g->n)
		ret = dirty_log_take(s->config.log, g->word, g->n, !s->last, g->bits, e);
	return ret;
}

static int flush(struct ram_send_channel *c, struct err *e)
{
	uint8_t head[RAM_HEAD_BYTES + RAM_FRAME_RUNS * RAM_RUN_BYTES];
	const size_t table = (size_t)c->n_runs * RAM_RUN_BYTES;
	const size_t pages = (size_t)c->n_pages * GUEST_PAGE;
	int ret;
	struct iovec iov[] = {
		{.iov_base = head, .iov_len = RAM_HEAD_BYTES + table},
		{.iov_base = c->ch.staging, .iov_len = pages},
	};
	struct ram_head h = {
		.kind = RAM_PAGES,
		.round = c->send->round,
		.n_runs = c->n_runs,
		.n_pages = c->n_pages,
	};

	if (!c->n_runs)
		return 0;
	h.table_crc = ram_table_put(head + RAM_HEAD_BYTES, c->run, c->n_runs);
	h.pages_crc = crc32c_pages(c->ch.staging, c->n_pages);
	ram_head_put(head, &h);
	c->count.bytes += RAM_HEAD_BYTES + table + pages;
	c->n_runs = c->n_pages = 0;
	ret = ram_io_send(&c->send->io, c->ch.fd, iov, ARRAY_SIZE(iov), e);
	if (!ret)
		migrate_progress_add(c->send->config.progress, RAM_HEAD_BYTES + table + pages, 0);
	return ret;
}

/*
 * Who writes to the page meanwhile makes it dirty once more, and what was torn is sent again. A
 * function of its own, so that a checker of races can be told (tests/tsan.supp).
 */
static void copy_page(uint8_t *to, const uint8_t *page)
{
	memcpy(to, page, GUEST_PAGE);
}

static int send_word(struct ram_send_channel *c, uint64_t word, uint64_t bits, struct err *e)
{
	const struct ram_send *s = c->send;
	const uint64_t first = word * DIRTY_WORD_PAGES;
	struct ram_run r = {.first_page = first};
	int ret = 0;

	for (; !ret && bits; bits &= bits - 1) {
		const unsigned int i = (unsigned int)__builtin_ctzll(bits);
		const uint8_t *page = s->config.map + (first + i) * GUEST_PAGE;

		if (ram_page_is_zero(page)) {
			c->count.zero_pages++;
			if (!s->first)
				r.zero |= 1ULL << i;
			continue;
		}
		if (c->n_pages == RAM_FRAME_PAGES) {
			if (r.data | r.zero)
				c->run[c->n_runs++] = r;
			r.data = r.zero = 0;
			ret = flush(c, e);
		}
		copy_page(c->ch.staging + (size_t)c->n_pages * GUEST_PAGE, page);
		c->n_pages++;
		c->count.pages++;
		r.data |= 1ULL << i;
	}
	if (r.data | r.zero)
		c->run[c->n_runs++] = r;
	if (!ret && c->n_runs == RAM_FRAME_RUNS)
		ret = flush(c, e);
	return ret;
}

/* A busy channel never waits, so it has to ask. */
static int check_cancel(const struct ram_send *s, struct err *e)
{
	struct pollfd p = {.fd = s->io.cancel_fd, .events = POLLIN};

	if (poll(&p, 1, 0) <= 0)
		return 0;
	return err_set(e, -ECANCELED, "the migration was cancelled");
}

/* What a word was of the round: in the first one all of its pages, whatever is in them. */
static uint64_t pages_of(const struct ram_send *s, uint64_t word, uint64_t bits)
{
	return s->first ? pages_in(s, word, word + 1) : (uint64_t)__builtin_popcountll(bits);
}

static void run_round(struct ram_send_channel *c)
{
	struct err e = {0};
	struct group g;
	unsigned int i;
	int ret;

	c->n_runs = c->n_pages = 0;
	memset(&c->count, 0, sizeof(c->count));
	do {
		ret = hand_out(c->send, &g, &e);
		for (i = 0; !ret && i < g.n; i++) {
			ret = send_word(c, g.word + i, g.bits[i], &e);
			migrate_progress_add(c->send->config.progress, 0,
					     pages_of(c->send, g.word + i, g.bits[i]) * GUEST_PAGE);
		}
		if (!ret)
			ret = check_cancel(c->send, &e);
	} while (!ret && g.n);
	if (!ret)
		ret = flush(c, &e);
	if (ret < 0)
		fail(c->send, ret, &e);
}

static void *channel_thread(void *arg)
{
	struct ram_send_channel *c = arg;
	struct ram_send *s = c->send;
	uint32_t seen = 0;

	pthread_setname_np(pthread_self(), "ram-send");
	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (seen == s->generation && !s->quit)
			pthread_cond_wait(&s->work, &s->lock);
		if (s->quit)
			break;
		seen = s->generation;
		pthread_mutex_unlock(&s->lock);
		run_round(c);
		pthread_mutex_lock(&s->lock);
		if (!--s->busy)
			pthread_cond_signal(&s->done);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int start_channel(struct ram_send *s, unsigned int i, struct err *e)
{
	struct ram_send_channel *c = &s->channel[i];
	int ret = ram_channel_open(&c->ch, s->config.fds[i], s->config.n, e);

	c->send = s;
	/* the first one is the caller's own */
	return ret || !i ? ret : ram_channel_start(&c->ch, i, channel_thread, c, e);
}

int ram_send_init(struct ram_send *s, const struct ram_send_config *config, struct err *e)
{
	unsigned int i;
	int ret;

	memset(s, 0, sizeof(*s));
	s->config = *config;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->done, NULL);
	ret = ram_io_init(&s->io, config->n, config->cancel_fd, config->stall_ms, "destination", e);
	if (ret < 0)
		return ret;
	s->channel = calloc(config->n, sizeof(*s->channel));
	if (!s->channel)
		return err_set(e, -ENOMEM, "migration: no memory for %u data channels", config->n);
	for (i = 0; !ret && i < config->n; i++)
		ret = start_channel(s, i, e);
	s->config.fds = NULL;
	return ret;
}

void ram_send_fini(struct ram_send *s)
{
	unsigned int i;

	if (!s->config.map)
		return;
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
	for (i = 0; s->channel && i < s->config.n; i++)
		ram_channel_close(&s->channel[i].ch);
	free(s->channel);
	if (s->io.stop_fd >= 0)
		close(s->io.stop_fd);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->done);
	pthread_mutex_destroy(&s->lock);
	memset(s, 0, sizeof(*s));
}

static int end_round(struct ram_send *s, struct ram_round *out, struct err *e)
{
	const struct ram_head h = {
		.kind = s->last ? RAM_LAST_END : RAM_ROUND_END,
		.round = s->round,
	};
	uint8_t head[RAM_HEAD_BYTES];
	unsigned int i;
	int ret = 0;

	ram_head_put(head, &h);
	for (i = 0; !ret && i < s->config.n; i++) {
		struct iovec iov = {.iov_base = head, .iov_len = sizeof(head)};

		out->bytes += sizeof(head);
		ret = ram_io_send(&s->io, s->channel[i].ch.fd, &iov, 1, e);
	}
	return ret;
}

/* By the caller alone, or by all threads */
static void work_together(struct ram_send *s, unsigned int n)
{
	pthread_mutex_lock(&s->lock);
	if (n > 1) {
		s->busy = n - 1;
		s->generation++;
		pthread_cond_broadcast(&s->work);
	}
	pthread_mutex_unlock(&s->lock);
	run_round(&s->channel[0]);
	pthread_mutex_lock(&s->lock);
	while (s->busy)
		pthread_cond_wait(&s->done, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

/* Return: 0, or what went wrong, which is in s->err */
static int send_round(struct ram_send *s, struct ram_round *out)
{
	uint64_t pages = UINT64_MAX;
	struct err e = {0};
	unsigned int i, n;
	int ret = 0;

	if (!s->first)
		ret = dirty_log_harvest(s->config.log, &pages, &e);
	if (ret < 0)
		return fail(s, ret, &e);
	n = pages < ALONE_PAGES ? 1 : s->config.n;
	work_together(s, n);
	for (i = 0; i < n; i++) {
		out->pages += s->channel[i].count.pages;
		out->zero_pages += s->channel[i].count.zero_pages;
		out->bytes += s->channel[i].count.bytes;
	}
	if (s->first)
		out->hole_pages = s->config.log->n_pages - out->pages - out->zero_pages;
	if (s->result)
		return s->result;
	ret = end_round(s, out, &e);
	return ret < 0 ? fail(s, ret, &e) : 0;
}

int ram_send_round(struct ram_send *s, unsigned int flags, struct ram_round *out, struct err *e)
{
	const uint64_t start = monotonic_ns();
	int ret;

	memset(out, 0, sizeof(*out));
	s->first = flags & RAM_ROUND_FIRST;
	s->last = flags & RAM_ROUND_LAST;
	s->next_word = s->data_first = s->data_end = 0;
	out->number = ++s->round;
	ret = send_round(s, out);
	if (ret < 0)
		err_set(e, ret, "%s", s->err.text);
	out->ns = monotonic_ns() - start;
	return ret;
}
