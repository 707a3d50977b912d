/*
 * Where does a JSON object end in a stream of bytes? QMP puts nothing between its messages that
 * could be relied on, so this knows as much of JSON as is needed: strings, escapes and depth. What
 * is between the braces is jansson's to judge. Pure.
 */
#ifndef CONTROL_QMP_SCAN_H
#define CONTROL_QMP_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#define QMP_DEPTH_MAX 32

struct qmp_scan {
	size_t pos;   /* bytes of the buffer that were looked at */
	size_t start; /* of the object at hand, if depth */
	unsigned int depth;
	bool in_string, escaped;
	bool skipping; /* garbage, up to the end of the line */
};

enum qmp_scan_result {
	QMP_SCAN_MORE,	   /* no object is complete */
	QMP_SCAN_OBJECT,   /* one is: from start up to pos */
	QMP_SCAN_GARBAGE,  /* something else begins here; its line will be skipped */
	QMP_SCAN_TOO_DEEP, /* more than QMP_DEPTH_MAX levels: give up, the scan cannot go on */
};

/** qmp_scan_next - look on in @buf, whose first pos bytes are as they were. Start from zeroes. */
enum qmp_scan_result qmp_scan_next(struct qmp_scan *s, const char *buf, size_t len_bytes);

/**
 * qmp_scan_drop - how many bytes at the front of the buffer are not needed any more
 * The caller removes that many before the next qmp_scan_next().
 */
size_t qmp_scan_drop(struct qmp_scan *s);

#endif
