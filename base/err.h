/*
 * Errors as values: a negative errno travels as the return value, the text for the user in
 * struct err. The place that knows the most writes the text; callers pass it up unchanged.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define ERR_TEXT_MAX 1024

/* Whose it is to mend: what the exit code of the process tells. */
enum err_class {
	ERR_HOST,   /* testudo's or the host's */
	ERR_USAGE,  /* of the command line */
	ERR_INPUT,  /* of a file, a name, an interface that the user gave */
	ERR_POLICY, /* this host cannot give what the policy demands */
};

struct err {
	int code;		 /* -errno of the first error set, 0 if none */
	enum err_class class;	 /* that err_is() said first */
	char text[ERR_TEXT_MAX]; /* one line: "what is wrong; what to do about it" */
};

/**
 * err_set - record an error and return its code, for `return err_set(...)`
 * @e: where to record; may be NULL when the caller wants only the code
 * @code: negative errno
 * @fmt: printf format of one line without newline. It names the file or option, the field and
 *       the value, then after "; " what would be right.
 *
 * A limit of open files may be met by any open; where the text has the words for it and not the
 * cure, this one stands in the place of what was thought to be right.
 *
 * The first error wins: a later call on the same @e keeps the text that is there, since it is
 * nearer to the cause.
 * Return: @code
 */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/**
 * err_is - say whose an error is, for `return err_is(e, ERR_INPUT, file_read(..., e))`
 * @ret: what a call returned; less than 0: an error, of @class unless a callee has said otherwise
 * Return: @ret
 */
int err_is(struct err *e, enum err_class class, int ret);

/** err_no_memory - for what needs no more words than that. Return: -ENOMEM */
int err_no_memory(struct err *e);

#ifdef __clang_analyzer__
/* It looks at one file at a time, and would think that an err_set() may return 0. */
int err_say(struct err *e, const char *fmt, ...);
static inline int err_code(int code)
{
	if (code >= 0)
		__builtin_unreachable();
	return code;
}
#define err_set(e, code, ...) (err_say(e, __VA_ARGS__), err_code(code))
#define err_no_memory(e)      err_set(e, -12, "") /* ENOMEM */
#define err_is(e, class, ret) (ret)
#endif

#endif
