/*
 * The form of the control stream: one head a stream, then frames with a type, a length and two
 * checksums. All integers little-endian. docs/migration.md explains the protocol; the table of
 * frames here is what both sides and the tools walk.
 *
 * PURE: bytes in, values out. What is decoded comes from another machine and is judged here.
 */
#ifndef MIGRATION_WIRE_FRAME_H
#define MIGRATION_WIRE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct rbuf;
struct wbuf;

#define STREAM_MAGIC	    "TSTUDOMG" /* 8 bytes, no NUL */
#define STREAM_VERSION	    1
#define STREAM_HEAD_SIZE    16
#define STREAM_SESSION_SIZE 8  /* after the head of a data channel */
#define STREAM_CHANNELS_MAX 16 /* data channels */

struct stream_head {
	uint16_t version;
	uint16_t channel; /* 0: control, from 1: data */
};

/** stream_head_encode - the first STREAM_HEAD_SIZE bytes of channel number @channel */
void stream_head_encode(uint16_t channel, uint8_t out[STREAM_HEAD_SIZE]);

/**
 * stream_head_decode - judge the first STREAM_HEAD_SIZE bytes
 * Return: 0; -EPROTO when they are no head of ours, -EPROTONOSUPPORT for another version, with what
 * was found and what would be right in @e
 */
int stream_head_decode(const uint8_t in[STREAM_HEAD_SIZE], struct stream_head *h, struct err *e);

#define FRAME_HEAD_SIZE	    16
#define FRAME_FLAG_CRITICAL (1u << 0)  /* who does not know the type must give up */
#define FRAME_UNKNOWN_MAX   (1u << 20) /* bytes of a frame that may be skipped */

/* Numbers are for ever; a number that was once used is never given away again. */
enum frame_type {
	FRAME_HELLO = 1,       /* struct frame_hello */
	FRAME_DESCRIPTION = 2, /* flattened device tree, migration/description/description.h */
	FRAME_VERDICT = 3,     /* struct frame_verdict */
	FRAME_MEMORY = 4,      /* struct frame_memory; descriptors may come with it */
	FRAME_ROUND_END = 5,   /* struct frame_round_end */
	FRAME_STATE = 6,       /* state of vCPUs, VM and devices, in sections */
	FRAME_FINISH = 7,      /* struct frame_finish */
	FRAME_READY = 8,       /* struct frame_ready */
	FRAME_COMMIT = 9,      /* struct frame_commit */
	FRAME_ACK = 10,	       /* struct frame_ack */
	FRAME_FAIL = 11,       /* struct frame_fail */
	/* 12 was the source's word that it cancels; nothing ever sent it */
	FRAME_CHECKSUMS = 13, /* of a saved guest's RAM: CRC-32C of each MiB of it, u32 each */
	FRAME_CLOCK = 14,     /* struct frame_clock */
};

/* Who a frame comes from. */
enum frame_side {
	FRAME_FROM_SOURCE = 1,
	FRAME_FROM_DESTINATION = 2,
	FRAME_FROM_BOTH = 3,
};

/* One line of the table of frames. */
struct frame_kind {
	enum frame_type type;
	const char *name;
	enum frame_side from;
	bool critical;
	uint16_t since;		   /* version of the stream that brought it */
	uint32_t min_len, max_len; /* bytes of payload */
};

/** frame_kinds - the table; @n receives the number of rows */
const struct frame_kind *frame_kinds(unsigned int *n);
/** frame_kind_of - the row of a type. Return: NULL for a type that is not in the table */
const struct frame_kind *frame_kind_of(uint16_t type);
/** frame_type_name - "hello"; "unknown" for a type that is not in the table */
const char *frame_type_name(uint16_t type);

struct frame_head {
	uint16_t type, flags;
	uint32_t len; /* bytes of payload; already within the table's bounds */
	uint32_t payload_crc;
	const struct frame_kind *kind; /* NULL: unknown and not critical, to be skipped */
};

/* A frame that was received whole; its checksum is right. */
struct frame {
	uint16_t type;
	uint32_t len;
	uint8_t *payload; /* owned; NULL when @len is 0 */
};

void frame_fini(struct frame *f);

/** frame_head_encode - the head of a frame of @type with @len bytes of @payload */
void frame_head_encode(enum frame_type type, const void *payload, uint32_t len,
		       uint8_t out[FRAME_HEAD_SIZE]);

/**
 * frame_head_decode - judge a frame's head
 * @from: who sent it: a frame that only the other side may send is refused
 * Return: 0; -EBADMSG for a wrong checksum, -EPROTO for a length, a flag, a direction or a critical
 * type that is not in the table, with what was found and what would be right in @e
 */
int frame_head_decode(const uint8_t in[FRAME_HEAD_SIZE], enum frame_side from, struct frame_head *h,
		      struct err *e);

/** frame_check_payload - is this the payload that the head promised? Return: 0 or -EBADMSG */
int frame_check_payload(const struct frame_head *h, const void *payload, struct err *e);

/* ---- payloads of the small frames ---- */

/* How a migration ended for the side that tells; also how it is told to the user. */
enum frame_code {
	FRAME_CODE_OK,
	FRAME_CODE_POLICY,   /* the mitigation policy refuses (exit code 4) */
	FRAME_CODE_MISMATCH, /* the destination is not made for this guest */
	FRAME_CODE_PROTOCOL, /* the stream is damaged or not understood */
	FRAME_CODE_FAILED,   /* a call to the system failed */
	FRAME_CODE_CANCELLED,
	FRAME_CODE_END,
};

/** frame_code_of - how a failure that is known as -errno is told */
enum frame_code frame_code_of(int ret);

#define FRAME_FEATURE_CLOCK (1u << 0) /* the source answers questions for its clocks */
#define FRAME_FEATURES	    FRAME_FEATURE_CLOCK

#define FRAME_HELLO_DRY_RUN (1u << 0) /* ends with VERDICT; nothing is moved */
#define FRAME_HELLO_PASS_FD (1u << 1) /* memory comes as a descriptor, in MEMORY */
#define FRAME_HELLO_FILE    (1u << 2) /* a snapshot: nobody answers */
#define FRAME_HELLO_FLAGS   7u

struct frame_hello {
	uint16_t version_min, version_max; /* of the stream that the source can speak */
	uint32_t features; /* FRAME_FEATURE_*: what the source could do beside the basics */
	uint64_t session;  /* random; data channels say it after their heads */
	uint16_t n_data;   /* data channels, up to STREAM_CHANNELS_MAX */
	uint16_t flags;	   /* FRAME_HELLO_* */
	char program[64];  /* "testudo 0.1.0" of the sender, for messages */
};

/* The destination's answer to HELLO and DESCRIPTION. */
struct frame_verdict {
	uint16_t code;		 /* enum frame_code */
	uint32_t features;	 /* those of HELLO that will be used */
	char text[ERR_TEXT_MAX]; /* why not; when all is well, what is held differently there */
};

enum frame_memory_how {
	FRAME_MEMORY_PASSED,  /* the descriptor of the memory comes with this frame */
	FRAME_MEMORY_IN_FILE, /* it lies in this file, at @offset */
};

struct frame_memory {
	uint16_t how;	 /* enum frame_memory_how */
	uint16_t n_fds;	 /* descriptors that come with the frame: 1 when passed, else 0 */
	uint64_t size;	 /* bytes */
	uint64_t offset; /* where it begins in the file, a multiple of GUEST_PAGE; 0 when passed */
};

/* After each round, when a marker went down each data channel. */
struct frame_round_end {
	uint32_t round;			 /* from 0 */
	uint64_t data_pages, zero_pages; /* sent in it, over all data channels */
};

/* The last frame of a source that still owns the guest. */
struct frame_finish {
	uint64_t data_pages, zero_pages; /* in all rounds */
	uint32_t rounds;
	bool running; /* the guest shall run on arrival; false: it was paused before */
};

/* The destination has loaded all of it, holds the disks and could run. */
struct frame_ready {
	uint64_t load_ns;	   /* from FINISH to here */
	char change[ERR_TEXT_MAX]; /* what it holds differently from the source, in words; or "" */
};

/* From here on the guest is the destination's. */
struct frame_commit {
	uint64_t session; /* the one of HELLO again */
};

struct frame_ack {
	uint64_t resume_ns; /* from COMMIT until the first vCPU ran; 0 when it stays paused */
};

enum frame_clock_what {
	FRAME_CLOCK_ASK,    /* the destination: what do your clocks show? */
	FRAME_CLOCK_ANSWER, /* the source, at once; in the handshake and before READY */
	FRAME_CLOCK_APART,  /* the destination: so far apart are the times of day */
};

/* Fields that a kind has no use for are 0. */
struct frame_clock {
	uint16_t what;	  /* enum frame_clock_what */
	uint64_t mono_ns; /* ANSWER: the source's CLOCK_MONOTONIC */
	uint64_t wall_ns; /* ANSWER: the same moment as a time of day: migration/state/clock.h */
	uint32_t tsc_khz; /* ANSWER: frequency of the guest's TSC; 0: not known */
	int64_t apart_ns; /* APART: the source's time of day less the destination's */
};

struct frame_fail {
	uint16_t code; /* enum frame_code, not FRAME_CODE_OK */
	char text[ERR_TEXT_MAX];
};

/* Each appends one payload to @w. Texts are cut to what the table allows. */
void frame_hello_encode(const struct frame_hello *v, struct wbuf *w);
void frame_verdict_encode(const struct frame_verdict *v, struct wbuf *w);
void frame_memory_encode(const struct frame_memory *v, struct wbuf *w);
void frame_round_end_encode(const struct frame_round_end *v, struct wbuf *w);
void frame_finish_encode(const struct frame_finish *v, struct wbuf *w);
void frame_ready_encode(const struct frame_ready *v, struct wbuf *w);
void frame_commit_encode(const struct frame_commit *v, struct wbuf *w);
void frame_ack_encode(const struct frame_ack *v, struct wbuf *w);
void frame_fail_encode(const struct frame_fail *v, struct wbuf *w);
void frame_clock_encode(const struct frame_clock *v, struct wbuf *w);

/*
 * Each reads one payload whole. Texts arrive printable and NUL-terminated.
 * Return: 0; -EPROTO with frame and field in @e when bytes are missing, left over or out of range
 */
int frame_hello_decode(const struct frame *f, struct frame_hello *v, struct err *e);
int frame_verdict_decode(const struct frame *f, struct frame_verdict *v, struct err *e);
int frame_memory_decode(const struct frame *f, struct frame_memory *v, struct err *e);
int frame_round_end_decode(const struct frame *f, struct frame_round_end *v, struct err *e);
int frame_finish_decode(const struct frame *f, struct frame_finish *v, struct err *e);
int frame_ready_decode(const struct frame *f, struct frame_ready *v, struct err *e);
int frame_commit_decode(const struct frame *f, struct frame_commit *v, struct err *e);
int frame_ack_decode(const struct frame *f, struct frame_ack *v, struct err *e);
int frame_fail_decode(const struct frame *f, struct frame_fail *v, struct err *e);
int frame_clock_decode(const struct frame *f, struct frame_clock *v, struct err *e);

#endif
