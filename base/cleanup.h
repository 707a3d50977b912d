/* Scope-bound release of a descriptor or a heap block, for locals with several ways out. */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

/* AUTO_CLOSE int fd = -1;  closes at end of scope unless it is -1 by then. */
#define AUTO_CLOSE __attribute__((cleanup(cleanup_close)))
/* AUTO_FREE char *s = NULL;  frees at end of scope. */
#define AUTO_FREE __attribute__((cleanup(cleanup_free)))

#endif
