/*
 * The log: one line an event on stderr, never on stdout (that belongs to the guest).
 * err: an operation failed; warn: the operator should act; info: a state change worth keeping;
 * debug: the rest (-v). Form: a short sentence, then key=value facts.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/** log_set_level - print messages up to and including @level; the start value is LOG_INFO */
void log_set_level(enum log_level level);

/** log_enabled - would a message of @level be printed? For messages that are dear to make. */
int log_enabled(enum log_level level);

/**
 * log_msg - print one line "testudo: <level>: text"; use the macros below
 * Thread-safe: the line leaves in one write(2).
 */
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_err(...)  log_msg(LOG_ERR, __VA_ARGS__)
#define log_warn(...) log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                   \
	do {                                             \
		if (log_enabled(LOG_DEBUG))              \
			log_msg(LOG_DEBUG, __VA_ARGS__); \
	} while (0)

/* Lines made under a lock, for when none is held: printing waits for whoever reads them. */
struct log_lines {
	unsigned int n;
	struct {
		enum log_level level;
		char text[1280];
	} line[4]; /* more than one change has to say; what is beyond is dropped */
};

static inline void log_lines_init(struct log_lines *l)
{
	l->n = 0;
}
/** log_add - as log_msg(), later */
void log_add(struct log_lines *l, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/** log_lines_say - print them, in order */
void log_lines_say(const struct log_lines *l);

#endif
