/* How one bit is levelled over several hosts. PURE. */
#ifndef CPUID_MERGE_H
#define CPUID_MERGE_H

enum merge_rule {
	MERGE_AND,     /* good when set: true only if true on every host */
	MERGE_OR,      /* a warning, or harmless and needed somewhere: true if true on any host */
	MERGE_SPECIAL, /* not the hosts' to say: somebody else computes it; 0 in the level */
};

#endif
