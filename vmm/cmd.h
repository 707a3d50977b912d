/* The subcommands of testudo; each gets argv from its own name on and returns an exit code. */
#ifndef VMM_CMD_H
#define VMM_CMD_H

/* What the process tells its parent. Guest outcomes and VMM errors never share a code. */
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

/** cmd_run - boot a guest and wait until it ends; a signal that ended it is raised again */
int cmd_run(int argc, char **argv);

/** cmd_host - print what this host is, for people or as a fact file */
int cmd_host(int argc, char **argv);

/** cmd_policy - look for mistakes in a policy, or tell what it means on a host */
int cmd_policy(int argc, char **argv);

/** cmd_list, cmd_stat - the guests that run; one of them */
int cmd_list(int argc, char **argv);
int cmd_stat(int argc, char **argv);

/** cmd_pause, cmd_resume, cmd_stop - what can be done with a running guest */
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_stop(int argc, char **argv);
/** cmd_migrate - move a running guest to another process */
int cmd_migrate(int argc, char **argv);
/** cmd_save - write a running guest into a file */
int cmd_save(int argc, char **argv);

#endif
