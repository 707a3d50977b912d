/* Numbers and sizes as users write them. */
#ifndef BASE_NUM_H
#define BASE_NUM_H

#include <stdint.h>

struct err;

/**
 * num_parse_u64 - parse a decimal or 0x-hexadecimal number that fills the whole string
 * @what: the option's name, for the error text
 * @s: the text
 * @min: smallest value allowed
 * @max: largest value allowed
 * @out: receives the value; untouched on error
 * Return: 0, or -EINVAL with the option, the value and the legal range in @e
 */
int num_parse_u64(const char *what, const char *s, uint64_t min, uint64_t max, uint64_t *out,
		  struct err *e);

/**
 * num_parse_size - parse a size in lkvm's form
 * @what: the option's name, for the error text
 * @s: a decimal number with an optional suffix B, K, M, G, T or P (either case, powers of 1024);
 *     without a suffix the number counts MiB
 * @out: receives bytes; untouched on error
 * Signs, blanks, fractions, trailing text, zero and anything above 2^64-1 bytes are refused.
 * Return: 0, or -EINVAL with the option and the value in @e
 */
int num_parse_size(const char *what, const char *s, uint64_t *out, struct err *e);

#endif
