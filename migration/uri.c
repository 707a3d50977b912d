#include "migration/uri.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/num.h"
#include "base/text.h"

#define LEGAL "give tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, fd:NUMBER, fd:NAME or file:PATH"

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

static int bad(const char *what, const char *text, const char *why, struct err *e)
{
	return err_set(e, -EINVAL, "%s %s: %s; " LEGAL, what, text_quote(text, strlen(text)).s,
		       why);
}

/* @at: behind "tcp:" */
static int parse_tcp(const char *what, const char *text, const char *at, struct uri *u,
		     struct err *e)
{
	const char *host = at, *end, *colon = strrchr(at, ':');
	uint64_t port;
	size_t len;
	int ret;

	if (*at == '[') {
		host = at + 1;
		end = strchr(at, ']');
		if (!end || end[1] != ':')
			return bad(what, text, "'[' without ']:' behind it", e);
		colon = end + 1;
	} else {
		if (!colon)
			return bad(what, text, "the port is missing", e);
		end = colon;
		if (memchr(host, ':', (size_t)(end - host)))
			return bad(what, text, "an IPv6 address must stand in brackets", e);
	}
	len = (size_t)(end - host);
	if (len >= sizeof(u->host))
		return bad(what, text, "the host name is too long", e);
	memcpy(u->host, host, len);
	u->host[len] = '\0';
	ret = num_parse_u64(what, colon + 1, 0, UINT16_MAX, &port, e);
	u->port = (uint16_t)port;
	return ret;
}

static int parse_fd(const char *what, const char *text, const char *at, struct uri *u,
		    struct err *e)
{
	uint64_t fd;
	size_t i;
	int ret;

	if (!*at)
		return bad(what, text, "the descriptor is missing", e);
	if (*at >= '0' && *at <= '9') {
		ret = num_parse_u64(what, at, 0, INT32_MAX, &fd, e);
		if (!ret)
			u->fd = (int)fd;
		return ret;
	}
	if (strlen(at) >= sizeof(u->name))
		return bad(what, text, "the descriptor's name is too long", e);
	for (i = 0; at[i]; i++)
		if (at[i] <= ' ' || at[i] > '~')
			return bad(what, text, "the descriptor's name is not printable", e);
	memcpy(u->name, at, i + 1);
	return 0;
}

static int parse_path(const char *what, const char *text, const char *at, size_t size,
		      struct uri *u, struct err *e)
{
	if (!*at)
		return bad(what, text, "the path is missing", e);
	if (strlen(at) >= size)
		return err_set(e, -EINVAL, "%s %s: the path has %zu bytes; %s paths have up to %zu",
			       what, text_quote(text, strlen(text)).s, strlen(at),
			       uri_kind_name(u->kind), size - 1);
	memcpy(u->path, at, strlen(at) + 1);
	return 0;
}

int uri_parse(const char *what, const char *text, struct uri *u, struct err *e)
{
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
			return parse_tcp(what, text, at, u, e);
		case URI_UNIX:
			return parse_path(what, text, at, URI_UNIX_PATH_MAX, u, e);
		case URI_FD:
			return parse_fd(what, text, at, u, e);
		case URI_FILE:
			return parse_path(what, text, at, URI_PATH_MAX, u, e);
		}
	}
	return bad(what, text, "not an address of a migration", e);
}
