/* A QMP command as its owner describes it: name, arguments, function. The server checks the rest.
 */
#ifndef CONTROL_QMP_COMMAND_H
#define CONTROL_QMP_COMMAND_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct err;

enum qmp_kind { QMP_STRING, QMP_INT, QMP_BOOL, QMP_OBJECT, QMP_ARRAY };

struct qmp_arg {
	const char *name; /* NULL ends the list */
	enum qmp_kind kind;
	bool optional;
};

struct qmp_command {
	const char *name;
	const struct qmp_arg *args; /* NULL: takes none */
	/**
	 * run - do it, on the loop's thread
	 * @args: an object that holds nothing but what the list names, each of its kind
	 * @ret: the answer, a new reference; left alone for an empty one
	 * Return: 0; -errno with the text of the answer in @e
	 */
	int (*run)(void *ctx, const json_t *args, json_t **ret, struct err *e);
};

/* One owner's commands; several are looked through in turn. */
struct qmp_table {
	const struct qmp_command *commands;
	size_t n;
	void *ctx;		/* for run() */
	struct qmp_table *next; /* the server's */
};

/**
 * qmp_check_args - are @args (NULL: none) what @c takes?
 * Return: 0; -EINVAL with the name of the argument in @e
 */
int qmp_check_args(const struct qmp_command *c, const json_t *args, struct err *e);

/** qmp_timestamp - {"seconds", "microseconds"} of now */
json_t *qmp_timestamp(void);

#endif
