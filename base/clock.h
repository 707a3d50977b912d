/* What time it is: one way for all, in integers. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/** clock_ns - ns of a clock that every kernel has: CLOCK_MONOTONIC, CLOCK_REALTIME */
uint64_t clock_ns(clockid_t clock);

/** monotonic_ns, monotonic_ms - CLOCK_MONOTONIC, which no setting of the wall clock moves */
uint64_t monotonic_ns(void);
uint64_t monotonic_ms(void);

#endif
