/*
 * A QMP command as its owner describes it: name, arguments, function. The server checks the rest.
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

/* One command of one client, for which an owner's function is called. */
struct qmp_call {
	void *ctx;	    /* of the command's table */
	const json_t *args; /* nothing but what the command takes, each of its kind; NULL: none */
	json_t *ret;	    /* the answer, a new reference; left alone for an empty one */
	struct err *e;	    /* the text of the answer if it fails */
};

struct qmp_command {
	const char *name;
	const struct qmp_arg *args; /* NULL: takes none */
	/** run - do it, on the loop's thread. Return: 0; -errno with the text in @call->e */
	int (*run)(struct qmp_call *call);
};

/* One owner's commands; several are looked through in turn. */
struct qmp_table {
	const struct qmp_command *commands;
	size_t n;
	void *ctx;		/* of their calls */
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
