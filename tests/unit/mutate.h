/*
 * Seeded damage to a text, for parsers: the same seed gives the same damage on every machine.
 * Smoke, not search: tests/fuzz searches.
 */
#ifndef TESTS_UNIT_MUTATE_H
#define TESTS_UNIT_MUTATE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t mutate_random(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/**
 * mutate - damage @len bytes of @buf, which has room for @size, in 1 to 4 places
 * @words: texts that mean something to the parser; NULL ends the list
 * Return: the new length
 */
static inline size_t mutate(char *buf, size_t len, size_t size, const char *const *words,
			    uint64_t *state)
{
	uint64_t n_words = 0, times = 1 + mutate_random(state) % 4;

	while (words[n_words])
		n_words++;
	while (times--) {
		size_t at = len ? (size_t)(mutate_random(state) % len) : 0;
		size_t n = (size_t)(1 + mutate_random(state) % 16);
		const char *word = words[mutate_random(state) % n_words];

		switch (mutate_random(state) % 6) {
		case 0: /* a byte */
			if (len)
				buf[at] = (char)mutate_random(state);
			break;
		case 1: /* a bit */
			if (len)
				buf[at] ^= (char)(1 << mutate_random(state) % 8);
			break;
		case 2: /* a cut */
			if (n > len - at)
				n = len - at;
			memmove(buf + at, buf + at + n, len - at - n);
			len -= n;
			break;
		case 3: /* a repetition */
			if (n > len - at)
				n = len - at;
			if (len + n > size)
				break;
			memmove(buf + at + n, buf + at, len - at);
			len += n;
			break;
		case 4: /* a word */
			n = strlen(word);
			if (len + n > size)
				break;
			memmove(buf + at + n, buf + at, len - at);
			memcpy(buf + at, word, n);
			len += n;
			break;
		default: /* the end */
			if (mutate_random(state) % 8 == 0)
				len = at;
		}
	}
	return len;
}

#endif
