#include "migration/wire/uri.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/num.h"
#include "base/text.h"

/* What is read, and what is said of it. */
struct reading {
	const char *what, *legal, *text;
	struct err *e;
};

static const char *const kind_names[] = {
	[URI_TCP] = "tcp",
	[URI_UNIX] = "unix",
	[URI_FD] = "fd",
	[URI_FILE] = "file",
};

const char *uri_kind_name(enum uri_kind kind)
{
	return kind_names[kind];
}

static int bad(const struct reading *r, const char *why)
{
	return err_set(r->e, -EINVAL, "%s %s: %s; give %s", r->what,
		       text_quote(r->text, strlen(r->text)).s, why, r->legal);
}

/* @at: behind "tcp:" */
static int parse_tcp(const struct reading *r, const char *at, struct uri *u)
{
	const char *host = at, *end, *colon = strrchr(at, ':');
	uint64_t port;
	size_t len;
	int ret;

	if (*at == '[') {
		host = at + 1;
		end = strchr(at, ']');
		if (!end || end[1] != ':')
			return bad(r, "'[' without ']:' behind it");
		colon = end + 1;
	} else {
		if (!colon)
			return bad(r, "the port is missing");
		end = colon;
		if (memchr(host, ':', (size_t)(end - host)))
			return bad(r, "an IPv6 address must stand in brackets");
	}
	len = (size_t)(end - host);
	if (len >= sizeof(u->host))
		return bad(r, "the host name is too long");
	memcpy(u->host, host, len);
	u->host[len] = '\0';
	ret = num_parse_u64(r->what, colon + 1, 0, UINT16_MAX, &port, r->e);
	u->port = (uint16_t)port;
	return ret;
}

static int parse_fd(const struct reading *r, const char *at, struct uri *u)
{
	uint64_t fd;
	size_t i;
	int ret;

	if (!*at)
		return bad(r, "the descriptor is missing");
	if (*at >= '0' && *at <= '9') {
		ret = num_parse_u64(r->what, at, 0, INT32_MAX, &fd, r->e);
		if (!ret)
			u->fd = (int)fd;
		return ret;
	}
	if (strlen(at) >= sizeof(u->name))
		return bad(r, "the descriptor's name is too long");
	for (i = 0; at[i]; i++)
		if (at[i] <= ' ' || at[i] > '~')
			return bad(r, "the descriptor's name is not printable");
	memcpy(u->name, at, i + 1);
	return 0;
}

static int parse_path(const struct reading *r, const char *at, size_t size, struct uri *u)
{
	if (!*at)
		return bad(r, "the path is missing");
	if (strlen(at) >= size)
		return err_set(r->e, -EINVAL,
			       "%s %s: the path has %zu bytes; %s paths have up to %zu", r->what,
			       text_quote(r->text, strlen(r->text)).s, strlen(at),
			       uri_kind_name(u->kind), size - 1);
	memcpy(u->path, at, strlen(at) + 1);
	return 0;
}

int uri_parse(const char *what, const char *legal, const char *text, struct uri *u, struct err *e)
{
	const struct reading r = {.what = what, .legal = legal, .text = text, .e = e};
	unsigned int i;

	*u = (struct uri) {.fd = -1};
	for (i = 0; i < ARRAY_SIZE(kind_names); i++) {
		size_t len = strlen(kind_names[i]);
		const char *at = text + len + 1;

		if (strncmp(text, kind_names[i], len) != 0 || text[len] != ':')
			continue;
		u->kind = (enum uri_kind)i;
		switch (u->kind) {
		case URI_TCP:
			return parse_tcp(&r, at, u);
		case URI_UNIX:
			return parse_path(&r, at, URI_UNIX_PATH_MAX, u);
		case URI_FD:
			return parse_fd(&r, at, u);
		case URI_FILE:
			return parse_path(&r, at, URI_PATH_MAX, u);
		}
	}
	return bad(&r, "not an address of a migration");
}
