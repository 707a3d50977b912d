/*
 * What is held for the guest, as one JSON object, and the file that keeps it true. The file is
 * replaced as a whole: a reader sees the old state or the new one.
 */
#ifndef VMM_GUEST_MITIGATION_REPORT_H
#define VMM_GUEST_MITIGATION_REPORT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/file_write.h"
#include "vmm/guest/sandbox.h"

struct err;
struct isolation;
struct mitigation;

/**
 * mitigation_report - the object; free it with json_decref()
 * @state: "running", "ended" or "refused"
 * @reason: of the refusal, in one line; NULL: there is none
 * Return: NULL when memory runs out
 */
json_t *mitigation_report(struct mitigation *m, const struct isolation *iso, const char *state,
			  const char *reason);

struct report_file {
	struct file_replace file;
	bool failed; /* the last write did; the log knows */
};

/**
 * report_file_open - find out where the file is while the file system is still there
 * @path: replaced or made by the first report_file_write(); a FIFO or a device is written into
 * Return: 0 or -errno; @f may be given to report_file_close() in any case
 */
int report_file_open(struct report_file *f, const char *path, struct err *e);
void report_file_close(struct report_file *f);
/** report_file_is_open - is a report wanted? */
bool report_file_is_open(const struct report_file *f);

/** report_file_write - write @report to a new file beside the old one and put it in its place.
 * Logs the first of several failures. */
void report_file_write(struct report_file *f, const json_t *report);

#endif
