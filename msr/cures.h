/*
 * What an operator can do about a rule that warns or refuses, as the last column of the tables. The
 * rules say what is wrong, this what would be right. For msr/rules_*.c and nobody else.
 */
#ifndef MSR_CURES_H
#define MSR_CURES_H

#include "msr/rules.h"

#define OTHER_HOST "use a host on which testudo host lists the bit"

/* the same, whatever is set */
#define CURE(text) CURES(text, text)

/* one for who runs it all the same, another where it is refused */
#define CURES(warned, refused) (&(const struct cure) {warned, {refused, refused, refused, refused}})

/*
 * With it what lets the guest run as it is, told where it is refused: where it runs already, that
 * advice is taken. Of the switches only those that are set are named.
 */
#define STRICT(text, what)      \
	(&(const struct cure) { \
		text, {text, text "; strict: off " what, text, text "; strict: off " what}})
#define LETS(text, other, what)                                                                   \
	(&(const struct cure) {text,                                                              \
			       {text, text "; strict: off " what, text "; " other ": warn " what, \
				text "; " other ": warn with strict: off " what}})
/* for what the operator's own word gives up */
#define TAKE_BACK(text) STRICT(text, "lets it run as it is")
#define RUN(text)	LETS(text, "cannot", "lets it run as it is")
#define COME(text)	LETS(text, "incoming-cannot", "lets it come")

#endif
