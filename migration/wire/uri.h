/*
 * Where a guest goes to or comes from, as users write it:
 *   tcp:HOST:PORT  tcp:[V6]:PORT  unix:PATH  fd:NUMBER  fd:NAME  file:PATH
 * PURE.
 */
#ifndef MIGRATION_WIRE_URI_H
#define MIGRATION_WIRE_URI_H

#include <stdint.h>

struct err;

#define URI_HOST_MAX	  256
#define URI_PATH_MAX	  4096
#define URI_UNIX_PATH_MAX 108 /* sun_path of unix(7), NUL included */
#define URI_NAME_MAX	  64

enum uri_kind { URI_TCP, URI_UNIX, URI_FD, URI_FILE };

struct uri {
	enum uri_kind kind;
	char host[URI_HOST_MAX]; /* tcp: without brackets; "" is every address, to listen on */
	uint16_t port;		 /* tcp: 0 lets the system choose, to listen on */
	int fd;			 /* fd:NUMBER; -1: it has a name */
	char name[URI_NAME_MAX]; /* fd:NAME, as QMP's getfd knows it */
	char path[URI_PATH_MAX]; /* unix, file */
};

/**
 * uri_parse - read a URI
 * @what: what names it, for messages: "--incoming"
 * @legal: those of the forms above that the caller takes, for messages too: "tcp:HOST:PORT or
 *         fd:NAME". All of them are read; the others are the caller's to refuse.
 * Return: 0, or -EINVAL with @what, the text and @legal in @e
 */
int uri_parse(const char *what, const char *legal, const char *text, struct uri *u, struct err *e);

/** uri_kind_name - "tcp" */
const char *uri_kind_name(enum uri_kind kind);

#endif
