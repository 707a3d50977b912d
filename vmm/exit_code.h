/* What the process tells its parent. Guest outcomes and VMM errors never share a code. */
#ifndef VMM_EXIT_CODE_H
#define VMM_EXIT_CODE_H

enum exit_code {
	EXIT_POWEROFF = 0,
	EXIT_VMM_ERROR = 1,
	EXIT_USAGE = 2,
	EXIT_BAD_INPUT = 3,
	EXIT_POLICY = 4,	  /* this host cannot give what the policy demands */
	EXIT_MIGRATE_FAILED = 5,  /* the guest goes on at the source */
	EXIT_MIGRATE_UNKNOWN = 6, /* who has the guest is not known */
	EXIT_GUEST_RESET = 32,
	EXIT_GUEST_CRASH = 33,
	EXIT_GUEST_PANIC = 34,
};

#endif
