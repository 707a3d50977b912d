#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migration/wire/uri.h"

static const struct {
	const char *text;
	enum uri_kind kind;
	const char *host, *path, *name;
	uint16_t port;
	int fd;
} good[] = {
	{"tcp:host:4444", URI_TCP, "host", "", "", 4444, -1},
	{"tcp:10.0.0.1:1", URI_TCP, "10.0.0.1", "", "", 1, -1},
	{"tcp:[fe80::1%eth0]:65535", URI_TCP, "fe80::1%eth0", "", "", 65535, -1},
	{"tcp::0", URI_TCP, "", "", "", 0, -1},
	{"tcp:[]:7", URI_TCP, "", "", "", 7, -1},
	{"unix:/run/a b", URI_UNIX, "", "/run/a b", "", 0, -1},
	{"unix:x:y", URI_UNIX, "", "x:y", "", 0, -1},
	{"fd:0", URI_FD, "", "", "", 0, 0},
	{"fd:17", URI_FD, "", "", "", 0, 17},
	{"fd:mig-0", URI_FD, "", "", "mig-0", 0, -1},
	{"file:snap", URI_FILE, "", "snap", "", 0, -1},
};

static void good_uris(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(good); i++) {
		struct err e = {0};
		struct uri u;

		print_message("%s\n", good[i].text);
		assert_int_equal(uri_parse("--incoming", "", good[i].text, &u, &e), 0);
		assert_int_equal(u.kind, good[i].kind);
		assert_string_equal(u.host, good[i].host);
		assert_string_equal(u.path, good[i].path);
		assert_string_equal(u.name, good[i].name);
		assert_int_equal(u.port, good[i].port);
		assert_int_equal(u.fd, good[i].fd);
	}
}

static const struct {
	const char *text, *says;
} bad[] = {
	{"", "tcp:HOST:PORT"},
	{"tcp", "file:PATH"},
	{"exec:cat", "not an address"},
	{"TCP:a:1", "not an address"},
	{"tcp:host", "port is missing"},
	{"tcp:host:", "--incoming"},
	{"tcp:host:65536", "65535"},
	{"tcp:host:-1", "--incoming"},
	{"tcp:host:http", "--incoming"},
	{"tcp:fe80::1:5", "brackets"},
	{"tcp:[fe80::1:5", "']:'"},
	{"tcp:[fe80::1]5", "']:'"},
	{"unix:", "path is missing"},
	{"file:", "path is missing"},
	{"fd:", "descriptor is missing"},
	{"fd:3x", "--incoming"},
	{"fd:99999999999", "--incoming"},
	{"fd:a b", "not printable"},
	{"fd:a\nb", "not printable"},
};

static void bad_uris(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = {0};
		struct uri u;

		print_message("%s\n", bad[i].text);
		assert_int_equal(uri_parse("--incoming", "tcp:HOST:PORT or file:PATH", bad[i].text,
					   &u, &e),
				 -EINVAL);
		assert_non_null(strstr(e.text, bad[i].says));
		assert_null(strchr(e.text, '\n'));
		assert_null(strstr(e.text, "unix:PATH")); /* not taken by this caller */
	}
}

static void too_long(void **state)
{
	static const struct {
		const char *prefix, *suffix;
		size_t fits;
	} rows[] = {
		{"unix:", "", URI_UNIX_PATH_MAX - 1},
		{"file:", "", URI_PATH_MAX - 1},
		{"tcp:", ":1", URI_HOST_MAX - 1},
		{"fd:", "", URI_NAME_MAX - 1},
	};
	static char text[2 * URI_PATH_MAX];
	unsigned int i, extra;
	struct uri u;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		for (extra = 0; extra < 2; extra++) {
			size_t n = strlen(rows[i].prefix);

			strcpy(text, rows[i].prefix);
			memset(text + n, 'x', rows[i].fits + extra);
			strcpy(text + n + rows[i].fits + extra, rows[i].suffix);
			assert_int_equal(uri_parse("uri", "", text, &u, NULL), extra ? -EINVAL : 0);
		}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_uris),
		cmocka_unit_test(bad_uris),
		cmocka_unit_test(too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
